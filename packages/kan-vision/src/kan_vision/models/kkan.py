"""Convolutional KANs of Bodner et al. (arXiv 2406.13155): two small convolutions and a flat head.

Every edge of a KAN layer has a base weight, spline coefficients and one scaler, and nothing has a bias; there is no
normalisation and nothing between KAN layers. Which part is a KAN is said by two layer specs: `layer` for the
convolutions and `head_layer` for the classifier. With ``layer="linear"`` the same code is the ordinary net (convolution
with bias, ReLU), which is the twin that comparisons use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import KANError, layers
from kan_vision.models._staged import StagedNet, build_net, net_cfg

__all__ = ["KKAN"]


class _FlatHead(nn.Module):
    """The flattened feature map through hidden linear layers and a classifier; no activation between them."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        hidden: Sequence[int],
        num_classes: int,
        make: layers.LayerFactory,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.drop_rate = drop_rate
        self._make = make
        widths = [shape[0] * shape[1] * shape[2], *hidden]
        self.num_features = widths[-1]
        self.hidden = nn.Sequential(*(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)))
        self.reset(num_classes)

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier; 0 leaves the features."""
        _no_pool(global_pool)
        self.fc = self._make(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if x.shape[1:] != self.shape:
            raise KANError(
                f"the head takes feature maps of shape {self.shape}, got {tuple(x.shape[1:])}: "
                "make the model with img_size set to the images' size"
            )
        x = F.dropout(self.hidden(x.flatten(1)), self.drop_rate, self.training)
        out: Tensor = x if pre_logits else self.fc(x)
        return out


def _no_pool(global_pool: str | None) -> None:
    if global_pool:
        raise KANError(f"global_pool must be empty, a KKAN flattens its feature map, got {global_pool!r}")


class KKAN(StagedNet):
    r"""3x3 convolutions without padding, each before a 2x2 maximum, then the flattened map to a classifier.

    Equation: y_c(u) = Σ_i Σ_a φ_{c,i,a}(x_i(u + a)), φ(x) = w_b SiLU(x) + w_s Σ_g c_g B_g(x)

    Reference: Convolutional KANs (arXiv 2406.13155).

    Avoids: one small layer and a Python loop for each pair of channels; the convolutions here are computed basis first.

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs; 0 leaves the features.
        channels: Output channels of each convolution at ``width=1``.
        hidden: Linear layers between the flattened map and the classifier, at ``width=1``.
        width: Factor on channels and hidden layers (rounded), for parameter- or FLOP-matched twins.
        layer: The convolutions: ``"linear"`` or a basis spec, see :func:`kan_core.layers.get`. The paper's grids are
            ``"bspline(grid_size=10)"`` and 20 over [-1, 1].
        head_layer: The classifier: likewise, or None for the kind of `layer`. The paper's head has the grid [0, 1].
        layer_kwargs: More arguments for the KAN layers, over ``{"bias": False, "edge_scale": True}``.
        drop_rate: Dropout before the classifier.
        global_pool: Accepted values are ``""`` and None: the map is flattened, not pooled.
        img_size: Height and width of the images, one number or two, at least 10; the size is fixed.

    Raises:
        KANError: For an unknown layer, images that are too small or of another size, or a `global_pool`.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``

    Parameters: 9 · in · out · (G + 5) for a KAN convolution with cubic splines, in · out · (G + 5) for a KAN head.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        channels: tuple[int, ...] = (5, 5),
        hidden: tuple[int, ...] = (),
        width: float = 1.0,
        layer: str = "bspline(grid_size=10)",
        head_layer: str | None = None,
        layer_kwargs: dict[str, Any] | None = None,
        drop_rate: float = 0.0,
        global_pool: str | None = None,
        img_size: int | tuple[int, int] = 28,
    ) -> None:
        _no_pool(global_pool)
        head_layer = layer if head_layer is None else head_layer
        kan = {"bias": False, "edge_scale": True, **(layer_kwargs or {})}
        make_conv = layers.get(layer, conv=2)
        widths = [in_chans, *(max(1, round(c * width)) for c in channels)]
        stages = [
            nn.Sequential(
                make_conv(n_in, n_out, kernel_size=3, **({} if layer == "linear" else kan)),
                layers.activation_before(layer, "relu"),
                nn.MaxPool2d(2),
            )
            for n_in, n_out in pairwise(widths)
        ]
        super().__init__(
            stages,
            channels=widths[1:],
            reductions=[2 ** (index + 1) for index in range(len(stages))],
            num_classes=0,
            drop_rate=drop_rate,
            img_size=img_size,
            smallest=3 * 2 ** len(stages) - 2,  # one pixel, n -> 2 n + 2 for each stage on the way back
        )
        size = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
        for _ in stages:
            size = [(side - 2) // 2 for side in size]
        self.head = _FlatHead(  # type: ignore[assignment]  # StagedNet's own head pools
            (widths[-1], size[0], size[1]),
            [max(1, round(n * width)) for n in hidden],
            num_classes,
            partial(layers.get(head_layer), **({} if head_layer == "linear" else kan)),
            drop_rate,
        )
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.head.num_features

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one asked for, and the head's layers; returns the stages' indices."""
        chosen = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.head.hidden = nn.Sequential()
        return chosen

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the ordinary net: linear convolutions and a linear head."""
        return {**model_kwargs, "layer": "linear", "head_layer": "linear", "layer_kwargs": None}


_NAMES = (
    "kanc_mlp_small",
    "kanc_mlp_medium",
    "kanc_mlp_big",
    "kkan_small",
    "kkan_medium",
    "conv_kan_small",
    "cnn_small",
)
default_cfgs = generate_default_cfgs(
    {name: net_cfg(input_size=(3, 28, 28), fixed_input_size=True, pool_size=(5, 5)) for name in _NAMES}
)


@register_model
def kanc_mlp_small(pretrained: bool = False, **kwargs: Any) -> KKAN:
    """KAN convolutions of 5 and 5 channels, linear classifier ("KANC MLP Small")."""
    return build_net(KKAN, "kanc_mlp_small", pretrained, **{"head_layer": "linear", **kwargs})


@register_model
def kanc_mlp_medium(pretrained: bool = False, **kwargs: Any) -> KKAN:
    """KAN convolutions of 5 and 10 channels, linear classifier ("KANC MLP Medium")."""
    own = {"channels": (5, 10), "head_layer": "linear"}
    return build_net(KKAN, "kanc_mlp_medium", pretrained, **{**own, **kwargs})


@register_model
def kanc_mlp_big(pretrained: bool = False, **kwargs: Any) -> KKAN:
    """KAN convolutions of 5 and 10 channels, a linear layer of 100, linear classifier ("KANC MLP Big")."""
    own = {"channels": (5, 10), "hidden": (100,), "head_layer": "linear"}
    return build_net(KKAN, "kanc_mlp_big", pretrained, **{**own, **kwargs})


@register_model
def kkan_small(pretrained: bool = False, **kwargs: Any) -> KKAN:
    """KAN convolutions of 5 and 5 channels, KAN classifier ("KKAN Small")."""
    return build_net(KKAN, "kkan_small", pretrained, **kwargs)


@register_model
def kkan_medium(pretrained: bool = False, **kwargs: Any) -> KKAN:
    """KAN convolutions of 5 and 10 channels, KAN classifier ("KKAN Medium")."""
    return build_net(KKAN, "kkan_medium", pretrained, **{"channels": (5, 10), **kwargs})


@register_model
def conv_kan_small(pretrained: bool = False, **kwargs: Any) -> KKAN:
    """Ordinary convolutions of 5 and 5 channels with ReLU, KAN classifier ("Conv & KAN Small")."""
    own = {"layer": "linear", "head_layer": "bspline(grid_size=10)"}
    return build_net(KKAN, "conv_kan_small", pretrained, **{**own, **kwargs})


@register_model
def cnn_small(pretrained: bool = False, **kwargs: Any) -> KKAN:
    """Ordinary convolutions of 5 and 5 channels with ReLU, linear classifier ("CNN Small")."""
    return build_net(KKAN, "cnn_small", pretrained, **{"layer": "linear", **kwargs})
