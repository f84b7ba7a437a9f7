"""MedViTV2: convolution and neighbourhood attention, then pooled attention and a KAN, for medical images.

A four-stage hybrid (arXiv 2502.13693). Local blocks look at a window of pixels and mix channels with an ordinary
convolutional feed-forward; global blocks attend to the whole map and mix channels with a KAN, which holds most of the
parameters. With ``layer="linear"`` the same code has a two-layer MLP there, which is the twin that comparisons use.

What differs from the published code, on purpose: maps are transposed, not reinterpreted, before attention and before
the KAN (so its weights do not transfer); keys are pooled over squares of pixels, not over runs of them, so any height
and width works; every module that is built is used; and the feed-forward of a local block has one skip, not two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from timm.layers.drop import DropPath
from timm.layers.squeeze_excite import SEModule
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import KANError, bases, layers
from kan_core.registry import parse_spec
from kan_vision.layers.neighborhood_attention import NeighborhoodAttention
from kan_vision.models._staged import StagedNet, build_net, net_cfg

__all__ = ["MedViTV2"]

Dilation = Literal["none", "dina"]

FASTERKAN = "rswaf(num_centers=8, grid_range=(-2, 2), width=0.33)"
"""The KAN's functions, RSWAF of width 0.33 at eight fixed nodes from -2 to 2."""

FASTERKAN_KWARGS: dict[str, Any] = {"norm": "layer", "base": None, "bias": False, "init_scale": 0.1}
"""The rest of a FasterKAN layer: z is a LayerNorm of the input, and there is nothing but the functions.

A feed-forward starts as a tenth of its input. Functions this narrow on normalised inputs magnify differences seven
times in two layers, so that stronger branches (the published code's truncated normal of 0.02 is 0.3 to 0.5 in the
smallest preset) make a deep net which float32 computes to three digits only.
"""

POOLING = (8, 4, 2, 1)
"""Per stage, the side of the squares over which global attention pools its keys and values."""

WINDOW = 7
LOCAL_EXPANSION = 3
GLOBAL_SHARE = 0.75


def _conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def _pool(side: int) -> nn.Module:
    """Means over squares; those that stand out of the map are means of what lies in it."""
    return nn.AvgPool2d(side, ceil_mode=True, count_include_pad=False) if side > 1 else nn.Identity()


def _embed(inputs: int, outputs: int, stride: int) -> nn.Module:
    """To another resolution or width; nothing where both stay."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_pool(stride), _conv_norm(inputs, outputs))


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


class _LocalFeedForward(nn.Sequential):
    """Expand, depthwise convolution, squeeze and excitation, project: ``(B, C, H, W)`` to the same shape.

    The squeeze is three channels wide whatever C is, as in the published code, on which the parameter counts rest.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        hidden = LOCAL_EXPANSION * channels
        super().__init__(
            _conv_norm(channels, hidden),
            nn.Hardswish(),
            _conv_norm(hidden, hidden, kernel, groups=hidden),
            nn.Hardswish(),
            SEModule(hidden, rd_channels=LOCAL_EXPANSION),
            _conv_norm(hidden, channels),
        )


class LocalBlock(nn.Module):
    """Local feature perception: y = x + Drop(NA(BN x)); out = y + LFFN(BN y), after a change of width or resolution.

    With `double_skip` the second is y + (y' + LFFN(y')), y' = BN y: the published code's.

    Shape:
        - Input: ``(batch, inputs, height, width)``
        - Output: ``(batch, channels, ceil(height / stride), ceil(width / stride))``
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        *,
        kernel: int,
        head_dim: int,
        dilation: int | None,
        drop_path: float,
        double_skip: bool,
    ) -> None:
        super().__init__()
        self.double_skip = double_skip
        self.embed = _embed(inputs, channels, stride)
        self.attention_norm = nn.BatchNorm2d(channels)
        self.attention = NeighborhoodAttention(channels, channels // head_dim, WINDOW, dilation)
        self.drop_path = DropPath(drop_path)
        self.ffn_norm = nn.BatchNorm2d(channels)
        self.ffn = _LocalFeedForward(channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to ``(batch, channels, height / stride, width / stride)``."""
        x = self.embed(x)
        attended = _channels_first(self.attention(_channels_last(self.attention_norm(x))))
        x = x + self.drop_path(attended)
        normed = self.ffn_norm(x)
        out: Tensor = x + self.ffn(normed)
        return out + normed if self.double_skip else out


class PooledAttention(nn.Module):
    """Multi-head attention of every pixel to means over squares of `pooling` x `pooling` pixels, batch-normalised.

    Without pooling (1) it is ordinary attention, and there is no normalisation.

    Shape:
        - Input: ``(batch, channels, height, width)``
        - Output: the same
    """

    def __init__(self, channels: int, head_dim: int, pooling: int) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.pool = nn.Sequential(_pool(pooling), nn.BatchNorm2d(channels)) if pooling > 1 else nn.Identity()
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)`` to the same shape."""
        pixels, pooled = _channels_last(x), _channels_last(self.pool(x)).flatten(1, 2)
        query = torch.unflatten(self.query(pixels.flatten(1, 2)), -1, (self.heads, -1)).transpose(1, 2)
        key, value = torch.unflatten(self.key_value(pooled), -1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        return _channels_first(self.proj(mixed).view(pixels.shape))


def _attending(channels: int, head_dim: int) -> int:
    """Channels of the global attention: three quarters in whole heads, to the nearest head but not 10 % below.

    At least one head's worth is left for the convolution, which matters in nets narrower than the published ones.
    """
    share = GLOBAL_SHARE * channels
    heads = int(share / head_dim + 0.5)
    return head_dim * min(max(heads + (heads * head_dim < 0.9 * share), 1), channels // head_dim - 1)


class GlobalBlock(nn.Module):
    """Global feature perception: pooled attention on ¾ of the channels, a convolution for the rest, then the KAN.

    a = x + Drop(EMHSA(BN x)) of C_att channels; c = p + MHCA(p) of the other C − C_att, p a projection of a;
    out = y + Drop(KAN(BN y)), y = (a, c). MHCA is a grouped 3 x 3 convolution, BN, ReLU and a 1 x 1 convolution. The
    KAN sees the channels of one pixel at a time.

    Shape:
        - Input: ``(batch, inputs, height, width)``
        - Output: ``(batch, channels, ceil(height / stride), ceil(width / stride))``
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        *,
        pooling: int,
        head_dim: int,
        drop_path: float,
        layer: str,
        layer_kwargs: dict[str, Any],
        hidden: int,
    ) -> None:
        super().__init__()
        attending = _attending(channels, head_dim)
        rest = channels - attending
        self.embed = _embed(inputs, attending, stride)
        self.attention_norm = nn.BatchNorm2d(attending)
        self.attention = PooledAttention(attending, head_dim, pooling)
        self.drop_path = DropPath(drop_path)
        self.projection = _conv_norm(attending, rest)
        self.conv_attention = nn.Sequential(
            _conv_norm(rest, rest, 3, groups=rest // head_dim), nn.ReLU(), nn.Conv2d(rest, rest, 1, bias=False)
        )
        self.ffn_norm = nn.BatchNorm2d(channels)
        make = layers.get(layer)
        self.ffn = nn.Sequential(
            make(channels, hidden, **layer_kwargs),
            layers.activation_before(layer, "gelu"),
            make(hidden, channels, **layer_kwargs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to ``(batch, channels, height / stride, width / stride)``."""
        x = self.embed(x)
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        projected = self.projection(x)
        x = torch.cat([x, projected + self.conv_attention(projected)], dim=1)
        mixed = _channels_first(self.ffn(_channels_last(self.ffn_norm(x))))
        out: Tensor = x + self.drop_path(mixed)
        return out


def _is_local(stage: int, index: int, depth: int) -> bool:
    """The layout: local; local and a last global; two local and a global, repeated; global."""
    return (True, index < depth - 1, index % 3 < 2, False)[stage]


class MedViTV2(StagedNet):
    r"""Stem, then four stages of local and global blocks, batch normalisation, pooling and a linear classifier.

    Local: y = x + NA(BN x), out = y + LFFN(BN y), with a 7 x 7 window. Global: y = (a, c) of attention a and
    convolution c, out = y + L₂(L₁(BN y)) at every pixel, L the layers of `layer`; see :class:`LocalBlock` and
    :class:`GlobalBlock`. FasterKAN's layer is L(x)_o = Σ_i Σ_g W[o,i,g] (1 − tanh²((LN(x)_i − μ_g) / 0.33)).

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs; 0 leaves the pooled features.
        depths: Blocks of each of the four stages.
        dims: Channels of each stage, multiples of `head_dim`, and at least two of them in stages with global blocks
            (all but the first).
        stem: Channels of the stem's four convolutions.
        head_dim: Channels of an attention head, and of a group of the grouped convolution.
        width: Factor on the hidden width of the global blocks' feed-forward (2 C at 1), for parameter-matched twins.
        layer: A layer spec for that feed-forward, see :func:`kan_core.layers.get`; ``"linear"`` has a GELU in between.
        layer_kwargs: More arguments for those layers. By default, for a KAN layer with a basis, those of FasterKAN:
            ``{"norm": "layer", "base": None, "bias": False, "init_scale": 0.1}``; none for other layers.
        dilation: Of the local blocks' windows. ``"none"``: 1, as in the published code. ``"dina"``, the paper's
            wording: in each stage every second local block has the largest that fits the map, ⌊side / 7⌋; the paper's
            own schedule is not stated.
        double_skip: The local feed-forward's second skip, of the published code; one skip otherwise.
        drop_path_rate: Stochastic depth, rising from 0 to this over the blocks.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling before the classifier, as in timm ("avg", "max", "avgmax", "" for none).
        img_size: Accepted for the same call as fixed-size models; any height and width works. Training on images of at
            most 32 pixels needs two per batch: the last map is one pixel, of which there is no variance.

    Raises:
        KANError: For an unknown layer or arguments that it refuses, sizes that do not fit, or another dilation.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``

    Parameters of a KAN feed-forward of width C: 32 C² + 6 C. Weights start as torch's and the KAN layers' own
    constructors draw them, and the tables of relative bias truncated normal with deviation 0.02.

    Reference: arXiv 2502.13693; the layers' sizes are those of its published code.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 6, 1),
        dims: Sequence[int] = (64, 128, 192, 384),
        stem: Sequence[int] = (64, 32, 64, 64),
        head_dim: int = 32,
        width: float = 1.0,
        layer: str = FASTERKAN,
        layer_kwargs: dict[str, Any] | None = None,
        dilation: Dilation = "none",
        double_skip: bool = False,
        drop_path_rate: float = 0.1,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] | None = None,
    ) -> None:
        _check(depths, dims, stem, head_dim, dilation)
        if layer_kwargs is None:
            layer_kwargs = FASTERKAN_KWARGS if parse_spec(layer, kind="layer")[0] in bases.names() else {}
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        inputs = stem[-1]
        stages = []
        for stage, (depth, channels) in enumerate(zip(depths, dims, strict=True)):
            blocks = nn.Sequential()
            local = 0
            for index in range(depth):
                stride = 2 if stage and not index else 1
                common: dict[str, Any] = {"head_dim": head_dim, "drop_path": next(drop_paths)}
                if _is_local(stage, index, depth):
                    block: nn.Module = LocalBlock(
                        inputs,
                        channels,
                        stride,
                        kernel=3 if stage else 7,
                        dilation=None if dilation == "dina" and local % 2 else 1,
                        double_skip=double_skip,
                        **common,
                    )
                    local += 1
                else:
                    block = GlobalBlock(
                        inputs,
                        channels,
                        stride,
                        pooling=POOLING[stage],
                        layer=layer,
                        layer_kwargs=layer_kwargs,
                        hidden=max(1, round(2 * channels * width)),
                        **common,
                    )
                blocks.append(block)
                inputs = channels
            stages.append(blocks)
        stages[0].insert(0, _stem(in_chans, stem))
        stages[-1].append(nn.BatchNorm2d(inputs))
        super().__init__(
            stages,
            channels=list(dims),
            reductions=[4, 8, 16, 32],
            num_classes=num_classes,
            drop_rate=drop_rate,
            global_pool=global_pool,
            img_size=img_size,
        )

    def no_weight_decay(self) -> set[str]:
        """The attentions' bias tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("relative_bias")}


def _stem(in_chans: int, channels: Sequence[int]) -> nn.Sequential:
    """Four 3 x 3 convolutions, the first and the last of which halve the resolution."""
    modules: list[nn.Module] = []
    for inputs, outputs, stride in zip((in_chans, *channels), channels, (2, 1, 1, 2), strict=False):
        modules += [_conv_norm(inputs, outputs, 3, stride), nn.ReLU()]
    return nn.Sequential(*modules)


def _check(depths: Sequence[int], dims: Sequence[int], stem: Sequence[int], head_dim: int, dilation: str) -> None:
    for name, numbers in (("depths", depths), ("dims", dims), ("stem", stem)):
        if len(numbers) != 4 or min(numbers) < 1:
            raise KANError(f"{name} must be four positive numbers, got {tuple(numbers)}")
    if head_dim < 1 or any(c % head_dim for c in dims) or min(dims[1:]) < 2 * head_dim:
        raise KANError(
            f"dims must be multiples of head_dim={head_dim}, and all but the first at least {2 * head_dim}, "
            f"got {tuple(dims)}"
        )
    if dilation not in get_args(Dilation):
        raise KANError(f"dilation must be one of {', '.join(get_args(Dilation))}, got {dilation!r}")


def _cfg() -> dict[str, Any]:
    return net_cfg(input_size=(3, 224, 224), pool_size=(7, 7), first_conv="stages.0.0.0.0")


default_cfgs = generate_default_cfgs({f"medvit_v2_{size}": _cfg() for size in ("tiny", "small", "base", "large")})


@register_model
def medvit_v2_tiny(pretrained: bool = False, **kwargs: Any) -> MedViTV2:
    """11 blocks of up to 384 channels, 10.7 M parameters; 7.6 M of them in the KANs."""
    sizes = {"depths": (2, 2, 6, 1), "dims": (64, 128, 192, 384), "drop_path_rate": 0.1}
    return build_net(MedViTV2, "medvit_v2_tiny", pretrained, **{**sizes, **kwargs})


@register_model
def medvit_v2_small(pretrained: bool = False, **kwargs: Any) -> MedViTV2:
    """12 blocks of up to 512 channels, 27.3 M parameters."""
    sizes = {"depths": (2, 2, 6, 2), "dims": (64, 128, 256, 512), "drop_path_rate": 0.1}
    return build_net(MedViTV2, "medvit_v2_small", pretrained, **{**sizes, **kwargs})


@register_model
def medvit_v2_base(pretrained: bool = False, **kwargs: Any) -> MedViTV2:
    """12 blocks of up to 768 channels, 60.9 M parameters."""
    sizes = {"depths": (2, 2, 6, 2), "dims": (96, 192, 384, 768), "drop_path_rate": 0.2}
    return build_net(MedViTV2, "medvit_v2_base", pretrained, **{**sizes, **kwargs})


@register_model
def medvit_v2_large(pretrained: bool = False, **kwargs: Any) -> MedViTV2:
    """12 blocks of up to 1024 channels, 107.4 M parameters."""
    sizes = {"depths": (2, 2, 6, 2), "dims": (96, 256, 512, 1024), "drop_path_rate": 0.2}
    return build_net(MedViTV2, "medvit_v2_large", pretrained, **{**sizes, **kwargs})
