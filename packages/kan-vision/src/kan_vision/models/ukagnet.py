"""U-KAGNet: a U-Net of KA-convolutions, from Drokin, "Kolmogorov-Arnold Convolutions" (arXiv 2407.01092).

With ``layer="linear"`` the same code is the plain U-Net (convolution, instance normalisation, SiLU), which is the twin
that comparisons use and the baseline for every other segmentation network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import KANError
from kan_core.registry import parse_spec
from kan_vision.layers.focal import FocalModulation
from kan_vision.layers.ka_conv import BottleneckKAConv, KAConv
from kan_vision.layers.self_attention import ConvSelfAttention
from kan_vision.models._segmenter import Segmenter, register_segmenter

__all__ = ["UKAGNet"]

Mixer = Literal["attention", "focal"]


class UKAGNet(Segmenter):
    r"""E_l = f_l(E_{l−1}), D_l = g_l([E_l, Up(M_l(D_{l+1}))]), logits = W D_0 + b, with D_{depth−1} = E_{depth−1}.

    Level l has C_l = 16 · width · 2^l channels. f_l and g_l are rows of 3 x 3 convolutions; from level 1 on, the first
    of f_l has stride 2, and the first of g_l takes the C_l + 2 C_l = 3 C_l channels of the skip and of the level below.
    Up is bilinear with aligned corners, to the size of E_l, so that odd sizes meet their skip. M_l is the mixer, if
    any: it stands before Up, so that attention never runs at full resolution.

    Args:
        in_chans: Channels of the images.
        num_classes: Channels of the logits: 1 for a binary mask, else one per class.
        depth: Number of levels; the last is 2^(depth − 1) times smaller than the image along each side.
        layers: Convolutions per level, in the encoder and in the decoder.
        width: Factor on the channels (rounded to a multiple of `groups`), for parameter- or FLOP-matched twins.
        layer: ``"linear"`` for ordinary convolutions, or a kind of :class:`~kan_vision.layers.ka_conv.KAConv` such as
            ``"gram(degree=3)"``.
        layer_kwargs: More arguments for the convolutions, such as ``{"norm": "batch", "dropout": 0.1}``.
        bottleneck: Reduction of the channels between which the functions live
            (:class:`~kan_vision.layers.ka_conv.BottleneckKAConv`; 4 in the published nets), or None for full layers.
        groups: Blocks of channels of every convolution that do not see each other; the first convolution and the last
            see all channels.
        mixer: ``"attention"`` (:class:`ConvSelfAttention`), ``"focal"`` (:class:`FocalModulation`) or None.
        mixer_kwargs: More arguments for the mixers; their `layer` is that of the net unless said here.

    Raises:
        KANError: For an unknown kind or mixer, arguments that they refuse, or sizes below 1.

    Shape:
        - Input: ``(batch, in_chans, height, width)``, any size
        - Output: ``(batch, num_classes, height, width)``, raw logits

    Parameters: with Gram polynomials of degree d, 9 · in · out · (d + 2) + (d − 1) + 2 · out per convolution (the
    published layer has two more scalars, which never enter its result), and C_0 · num_classes + num_classes.

    Sides are padded to multiples of 2^depth, so that the smallest map has at least 2 x 2 pixels: the instance
    normalisation of one pixel is zero whatever the pixel, and torch refuses it.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1,
        depth: int = 4,
        layers: int = 2,
        width: float = 1.0,
        layer: str = "gram(degree=3)",
        layer_kwargs: dict[str, Any] | None = None,
        bottleneck: int | None = None,
        groups: int = 1,
        mixer: Mixer | None = None,
        mixer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if min(depth, layers, groups) < 1:
            raise KANError(f"depth, layers and groups must be at least 1, got {depth=}, {layers=}, {groups=}")
        if mixer not in (None, *get_args(Mixer)) or (mixer is None and mixer_kwargs):
            raise KANError(
                f"mixer must be {', '.join(get_args(Mixer))} or, without mixer_kwargs, None, got {mixer!r} and "
                f"mixer_kwargs {mixer_kwargs}"
            )
        super().__init__(in_chans=in_chans, num_classes=num_classes, multiple=2**depth)
        convolution = _convolution(layer, layer_kwargs or {}, bottleneck)
        widths = [groups * max(1, round(16 * width * 2**level / groups)) for level in range(depth)]

        def level(n_in: int, n_out: int, **first: int) -> nn.Sequential:
            rest = (convolution(n_out, n_out, 3, groups=groups) for _ in range(layers - 1))
            return nn.Sequential(convolution(n_in, n_out, 3, **{"groups": groups, **first}), *rest)

        self.encoder = nn.ModuleList([level(in_chans, widths[0], groups=1)])
        self.encoder.extend(level(n_in, n_out, stride=2) for n_in, n_out in pairwise(widths))
        upwards = list(reversed(list(pairwise(widths))))
        self.mixers = nn.ModuleList(
            _mixer(mixer, below, {"layer": layer, **(mixer_kwargs or {})}) for _, below in upwards
        )
        self.decoder = nn.ModuleList(level(skip + below, skip) for skip, below in upwards)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the ordinary twin: the same net and mixers, with ordinary convolutions throughout."""
        mixer_kwargs = model_kwargs.get("mixer_kwargs") or {}
        ordinary = {key: value for key, value in mixer_kwargs.items() if key not in ("layer", "layer_kwargs")}
        return {**model_kwargs, "layer": "linear", "layer_kwargs": None, "mixer_kwargs": ordinary or None}

    def forward_logits(self, x: Tensor) -> Tensor:
        """``(batch, in_chans, H, W) -> (batch, num_classes, H, W)``; any size whose smallest map is no pixel."""
        skips = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        skips.pop()
        for mixer, level, skip in zip(self.mixers, self.decoder, reversed(skips), strict=True):
            x = F.interpolate(mixer(x), size=skip.shape[-2:], mode="bilinear", align_corners=True)
            x = level(torch.cat([skip, x], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _convolution(layer: str, layer_kwargs: dict[str, Any], bottleneck: int | None) -> Callable[..., nn.Module]:
    kind, options = parse_spec(layer, kind="KA-convolution")
    options |= layer_kwargs
    if bottleneck is None:
        return partial(KAConv, kind=kind, **options)
    return partial(BottleneckKAConv, kind=kind, reduction=bottleneck, **options)


def _mixer(mixer: Mixer | None, channels: int, kwargs: dict[str, Any]) -> nn.Module:
    if mixer is None:
        return nn.Identity()
    return (ConvSelfAttention if mixer == "attention" else FocalModulation)(channels, **kwargs)


@register_segmenter("ukagnet_small")
def ukagnet_small(**kwargs: Any) -> UKAGNet:
    """U-KAGNet of four levels, Gram polynomials of degree 3: 2.43 M parameters."""
    return UKAGNet(**{"depth": 4, **kwargs})


@register_segmenter("ukagnet_bottleneck")
def ukagnet_bottleneck(**kwargs: Any) -> UKAGNet:
    """The same with bottlenecks of a quarter of the channels: 0.79 M parameters."""
    return UKAGNet(**{"depth": 4, "bottleneck": 4, **kwargs})


@register_segmenter("unet")
def unet(**kwargs: Any) -> UKAGNet:
    """The plain U-Net of the same shape: 0.49 M parameters."""
    return UKAGNet(**{"depth": 4, "layer": "linear", **kwargs})
