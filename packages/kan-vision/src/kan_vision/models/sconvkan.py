"""S-ConvKAN: a small convolutional net whose layers choose their basis while they train (arXiv 2408.08338).

Every convolution has several candidate bases under softmax gates, see
:class:`kan_vision.layers.select_conv.SelectKANConv2d`. Train with
:class:`kan_vision.tasks.selection.SelectionSchedule`; afterwards :func:`kan_core.layers.select_all` leaves the winners
as plain KAN convolutions. A decided net is saved and loaded as it is, with all candidates, and selected after loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model

from kan_vision.layers.select_conv import SelectKANConv2d
from kan_vision.models._staged import build_net, net_cfg
from kan_vision.models.kan_conv import KANConvNet

__all__ = ["SConvKAN"]

BASES = (
    "bspline(grid_size=3, grid_range=(-2, 2))",
    "rbf(num_centers=4)",
    "chebyshev(degree=3)",
    "wavelet(num_centers=4)",
)


class SConvKAN(KANConvNet):
    r"""A :class:`KANConvNet` (convolution, batch normalisation, pooling in each stage) of selecting convolutions.

    Equation: y = Σ_m α_m f_m(x) in every convolution, α = softmax(θ/T)

    Args:
        bases: The candidates of every layer, as specs.
        layer: ``"s-kan"`` for selecting convolutions; any other layer spec, such as the winner's or ``"linear"``, for
            plain ones of that kind.
        **kwargs: As for :class:`KANConvNet`: in_chans, num_classes, channels, width, layer_kwargs, act, drop_rate,
            global_pool, img_size.

    Raises:
        KANError: For an unknown basis or layer or arguments that it refuses, or for images too small to be pooled.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``
    """

    def __init__(self, bases: Sequence[str] = BASES, layer: str = "s-kan", **kwargs: Any) -> None:
        chosen: Any = partial(SelectKANConv2d, bases=tuple(bases)) if layer == "s-kan" else layer
        super().__init__(layer=chosen, **kwargs)


default_cfgs = generate_default_cfgs({"sconvkan_small": net_cfg(pool_size=(8, 8))})


@register_model
def sconvkan_small(pretrained: bool = False, **kwargs: Any) -> SConvKAN:
    """Three stages of 16, 32 and 64 channels."""
    return build_net(SConvKAN, "sconvkan_small", pretrained, **{"channels": (16, 32, 64), **kwargs})
