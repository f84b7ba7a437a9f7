"""RKAN: a residual KAN branch beside whole stages of a convolutional net (arXiv 2410.05500).

:func:`add_rkan` plugs it into any convolutional net of timm; ``rkan_resnet18`` to ``rkan_resnet152`` are timm's ResNets
with it. Nearly all of a branch's parameters sit in its two 1x1 convolutions; its KAN convolutions have 54 and 45. With
``layer="linear"`` these become ordinary shared kernels of 9: the control that tells what the functions add.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal, TypeVar

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.squeeze_excite import SEModule
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kan_core import KANError
from kan_vision.layers.shared_kernel_conv import SharedKernelConv2d
from kan_vision.models._staged import net_cfg

__all__ = ["RKANBlock", "RKANResNet", "RKANStage", "add_rkan"]

Aggregate = Literal["add", "gate", "se"]
Host = TypeVar("Host", bound=nn.Module)


class _Add(nn.Module):
    """S + r."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, stage: Tensor, branch: Tensor) -> Tensor:
        return stage + branch


class _Gate(nn.Module):
    """S g + r (1 − g), g = sigmoid of a 1x1 convolution of S to one number per pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, stage: Tensor, branch: Tensor) -> Tensor:
        return torch.lerp(branch, stage, torch.sigmoid(self.conv(stage)))


class _SqueezeExcite(nn.Module):
    """S + r · SE(r): every channel of the branch by a factor in [0, 1] from its means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.se = SEModule(channels)

    def forward(self, stage: Tensor, branch: Tensor) -> Tensor:
        out: Tensor = stage + self.se(branch)
        return out


_AGGREGATES: dict[str, type[_Add | _Gate | _SqueezeExcite]] = {"add": _Add, "gate": _Gate, "se": _SqueezeExcite}


class RKANBlock(nn.Module):
    r"""The branch beside a stage S: with x the stage's input, it gives S(x) and r(x) together.

    Equation: r = BN(K₂(SiLU(W₂ BN(K₁(SiLU(W₁ x)))))), y = S(x) + r

    W are 1x1 convolutions without bias, C_in → M → C_out; K are 3x3 :class:`SharedKernelConv2d`, K₁ with the stage's
    stride, K₂ in the last stage of a net only.

    Reference: RKAN (arXiv 2410.05500). Not stated there and chosen here: the gate is one number per pixel, the
    squeeze is timm's (1/16), and nothing is applied after the sum, since the stage ends with its own nonlinearity.

    Avoids: the reference's modules that are built and never used.

    Args:
        in_channels: C_in, channels of the stage's input.
        out_channels: C_out, channels of the stage's output.
        stride: The stage's stride; its output must have the size of a padded 3x3 convolution with that stride.
        last: Whether this is the net's last stage: K₂.
        expand: M / C_in (rounded): 0.5 in RKAN; 2, 4 or 6 in its large forms.
        layer: A layer spec for K. A polynomial by its bare name (``"chebyshev"``, ``"legendre"``, ``"jacobi"``,
            ``"hermite"``) gets the paper's degrees, 3 in K₁ and 2 in K₂, and Jacobi its exponents 1/2.
        layer_kwargs: More arguments for K, see :class:`SharedKernelConv2d`.
        aggregate: ``"add"``: S + r. ``"gate"``: S g + r (1 − g) with g = sigmoid of a 1x1 convolution of S.
            ``"se"``: S + r · SE(r).
        zero_init: Start the last normalisation's weight at 0 (ours; the reference starts at 1). With ``"add"`` and
            ``"se"`` the net then starts as its host.

    Raises:
        KANError: For an unknown aggregate or layer, or arguments that it refuses.

    Shape:
        - Input: ``(batch, in_channels, height, width)`` and ``(batch, out_channels, height_out, width_out)``
        - Output: ``(batch, out_channels, height_out, width_out)``

    Parameters: C_in M + M C_out + 2 M + 2 C_out + 54, + 45 in the last stage, for ``"chebyshev"`` and ``"add"``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 2,
        last: bool = False,
        expand: float = 0.5,
        layer: str = "chebyshev",
        layer_kwargs: dict[str, Any] | None = None,
        aggregate: Aggregate = "add",
        zero_init: bool = True,
    ) -> None:
        if aggregate not in _AGGREGATES:
            raise KANError(f"aggregate must be one of {', '.join(_AGGREGATES)}, got {aggregate!r}")
        super().__init__()
        hidden = max(1, round(in_channels * expand))
        kwargs = layer_kwargs or {}
        self.reduce = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.kan1 = SharedKernelConv2d(_spec(layer, degree=3), stride=stride, **kwargs)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.kan2 = SharedKernelConv2d(_spec(layer, degree=2), **kwargs) if last else nn.Identity()
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.aggregate = _AGGREGATES[aggregate](out_channels)
        if zero_init:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor, stage: Tensor) -> Tensor:
        """The stage's input x and output S(x) to the output of both."""
        hidden = self.norm1(self.kan1(F.silu(self.reduce(x))))
        branch = self.norm2(self.kan2(F.silu(self.project(hidden))))
        out: Tensor = self.aggregate(stage, branch)
        return out


def _spec(layer: str, degree: int) -> str:
    """The paper's form of a polynomial family that is given by its bare name; any other spec as it is."""
    if layer == "jacobi":
        return f"jacobi(degree={degree}, alpha=0.5, beta=0.5)"
    return f"{layer}(degree={degree})" if layer in ("chebyshev", "legendre", "hermite") else layer


class RKANStage(nn.Module):
    """A stage and its branch, under the stage's own names: the weights of the host keep their keys.

    The stage's children are registered here as they were there, the branch beside them as ``rkan``; the stage itself
    is only called. Iterating gives this module alone, so that timm's checkpointing, which takes a stage apart into
    its blocks, does not lose the branch.
    """

    def __init__(self, stage: nn.Module, branch: RKANBlock) -> None:
        super().__init__()
        for name, child in stage.named_children():
            self.add_module(name, child)
        self.rkan = branch.train(stage.training)
        self.training = stage.training
        self.grad_checkpointing = False  # set by hosts such as RegNet that ask their stages to do it
        self._stage = (stage,)  # in a tuple, which hides it: its modules and parameters are registered above

    def __iter__(self) -> Iterator[nn.Module]:
        return iter((self,))

    def train(self, mode: bool = True) -> RKANStage:
        """Set the mode, of the hidden stage too."""
        self._stage[0].train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """The stage's input to the output of the stage and its branch."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._both, x, use_reentrant=False)
            return out
        return self._both(x)

    def _both(self, x: Tensor) -> Tensor:
        out: Tensor = self.rkan(x, self._stage[0](x))
        return out


def add_rkan(
    host: Host,
    stages: Sequence[int | str] = (4,),
    *,
    expand: float = 0.5,
    layer: str = "chebyshev",
    layer_kwargs: dict[str, Any] | None = None,
    aggregate: Aggregate = "add",
    zero_init: bool = True,
) -> Host:
    """Put an :class:`RKANBlock` beside stages of a convolutional net, in place.

    The host's parameters keep their names; a branch's are called ``<stage>.rkan.…``. Host weights load strictly
    through :func:`checkpoint_filter_fn`. The shapes are found by one evaluation of a blank 64 x 64 image.

    Args:
        host: A net of timm with ``feature_info`` and ``forward_features``, such as a ResNet, ResNeXt, SENet, RegNet or
            DenseNet. For ``features_only`` wrap the net that this returns, or use the registered models.
        stages: Which: 4 is the host's last feature module, 3 the one before, ...; or a module's name, such as
            ``"features.denseblock4"`` in a DenseNet. Stages 3 and 4 make RKAN-E.
        expand: See :class:`RKANBlock`, as for the following ones.
        layer: The KAN convolutions.
        layer_kwargs: Their further arguments.
        aggregate: How stage and branch are put together.
        zero_init: Whether the net starts as its host.

    Returns:
        `host`.

    Raises:
        KANError: For a stage that the host does not have, that has a branch already or is a single layer, or for
            options that :class:`RKANBlock` refuses.

    Example:
        >>> net = add_rkan(timm.create_model("regnety_032", pretrained=True), stages=(3, 4))
    """
    features = [info["module"] for info in host.feature_info]  # type: ignore[union-attr]
    names = list(dict.fromkeys(_stage_name(host, stage, features) for stage in stages))
    shapes, final = _shapes(host, names)
    for name in names:
        before, after = shapes[name]
        branch = RKANBlock(
            before[1],
            after[1],
            stride=max(1, before[-1] // after[-1]),
            last=name == features[-1] or after == final,
            expand=expand,
            layer=layer,
            layer_kwargs=layer_kwargs,
            aggregate=aggregate,
            zero_init=zero_init,
        )
        parent, _, child = name.rpartition(".")
        weight = next(host.parameters())
        wrapped = RKANStage(host.get_submodule(name), branch.to(weight.device, weight.dtype))
        setattr(host.get_submodule(parent), child, wrapped)
    return host


def _stage_name(host: nn.Module, stage: int | str, features: Sequence[str]) -> str:
    """The name of a module of `host` that can have a branch."""
    if isinstance(stage, int):
        if not max(1, 5 - len(features)) <= stage <= 4:
            raise KANError(f"stages: a number is 1 to 4, the last one of {', '.join(features)}, got {stage}")
        stage = features[stage - 5]
    modules = dict(host.named_modules())
    if stage not in modules:
        raise KANError(f"stages: {type(host).__name__} has no module {stage!r}; its stages are {', '.join(features)}")
    if isinstance(modules[stage], RKANStage):
        raise KANError(f"stages: {stage!r} has an RKAN branch already")
    if not list(modules[stage].children()) or any(True for _ in modules[stage].parameters(recurse=False)):
        near = [name for name in modules if name.count(".") == stage.count(".")][-6:]
        raise KANError(f"stages: {stage!r} is a single layer; give the name of a stage, near it: {', '.join(near)}")
    return stage


Shapes = dict[str, tuple[torch.Size, torch.Size]]


@torch.no_grad()
def _shapes(host: nn.Module, names: Sequence[str]) -> tuple[Shapes, torch.Size]:
    """The shapes of the named stages' inputs and outputs, and of the final feature map, for an image of 64 x 64."""
    seen: Shapes = {}
    stem = next(m for m in host.modules() if isinstance(m, nn.Conv2d))
    image = torch.zeros(1, stem.in_channels, 64, 64, device=stem.weight.device, dtype=stem.weight.dtype)
    with ExitStack() as stack:
        for module in [module for module in host.modules() if module.training]:
            stack.callback(setattr, module, "training", True)
        host.eval()
        for name in names:

            def record(module: nn.Module, args: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
                seen[name] = (args[0].shape, out.shape)

            stack.callback(host.get_submodule(name).register_forward_hook(record).remove)
        final: Tensor = host.forward_features(image)  # type: ignore[operator]
    return seen, final.shape


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a host without branches, completed by the branches of `model`, so that they load strictly.

    A state dict that has branches passes as it is.
    """
    if any(".rkan." in key for key in state_dict):
        return state_dict
    return {**{key: value for key, value in model.state_dict().items() if ".rkan." in key}, **state_dict}


class RKANResNet(ResNet):
    r"""timm's ResNet with :func:`add_rkan`.

    Equation: for every stage of `stages` y = S(x) + r(x), see :class:`RKANBlock`

    Args:
        stages: The stages with a branch, see :func:`add_rkan`: 4 is RKAN, 3 and 4 RKAN-E.
        expand: Hidden channels of a branch per input channel: 0.5 is RKAN; 2, 4 and 6 are RKAN-L.
        width: One more factor on these hidden channels, for parameter- or FLOP-matched twins; the host stays.
        layer: See :class:`RKANBlock`, as for the following ones. ``"linear"`` is the twin.
        layer_kwargs: Further arguments of the KAN convolutions.
        aggregate: How stage and branch are put together.
        zero_init: Whether the net starts as its host.
        img_size: Accepted for the same call as fixed-size models: images of any size work.
        **kwargs: Of timm's ResNet: block, layers, in_chans, num_classes, drop_rate, global_pool, ...

    Raises:
        KANError: For options that :func:`add_rkan` refuses.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``
    """

    def __init__(
        self,
        *,
        stages: Sequence[int | str] = (4,),
        expand: float = 0.5,
        width: float = 1.0,
        layer: str = "chebyshev",
        layer_kwargs: dict[str, Any] | None = None,
        aggregate: Aggregate = "add",
        zero_init: bool = True,
        img_size: int | tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        add_rkan(
            self,
            stages,
            expand=expand * width,
            layer=layer,
            layer_kwargs=layer_kwargs,
            aggregate=aggregate,
            zero_init=zero_init,
        )


default_cfgs = generate_default_cfgs(
    {
        f"rkan_resnet{depth}": net_cfg(
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            crop_pct=0.875,
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            first_conv="conv1",
            classifier="fc",
        )
        for depth in (18, 34, 50, 101, 152)
    }
)


def _build(variant: str, pretrained: bool, **kwargs: Any) -> RKANResNet:
    model: RKANResNet = build_model_with_cfg(
        RKANResNet, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
    return model


@register_model
def rkan_resnet18(pretrained: bool = False, **kwargs: Any) -> RKANResNet:
    """ResNet-18 with a branch beside stage 4."""
    return _build("rkan_resnet18", pretrained, **{"block": BasicBlock, "layers": (2, 2, 2, 2), **kwargs})


@register_model
def rkan_resnet34(pretrained: bool = False, **kwargs: Any) -> RKANResNet:
    """ResNet-34 with a branch beside stage 4."""
    return _build("rkan_resnet34", pretrained, **{"block": BasicBlock, "layers": (3, 4, 6, 3), **kwargs})


@register_model
def rkan_resnet50(pretrained: bool = False, **kwargs: Any) -> RKANResNet:
    """ResNet-50 with a branch beside stage 4."""
    return _build("rkan_resnet50", pretrained, **{"block": Bottleneck, "layers": (3, 4, 6, 3), **kwargs})


@register_model
def rkan_resnet101(pretrained: bool = False, **kwargs: Any) -> RKANResNet:
    """ResNet-101 with a branch beside stage 4."""
    return _build("rkan_resnet101", pretrained, **{"block": Bottleneck, "layers": (3, 4, 23, 3), **kwargs})


@register_model
def rkan_resnet152(pretrained: bool = False, **kwargs: Any) -> RKANResNet:
    """ResNet-152 with a branch beside stage 4."""
    return _build("rkan_resnet152", pretrained, **{"block": Bottleneck, "layers": (3, 8, 36, 3), **kwargs})
