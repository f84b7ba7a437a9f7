"""Focal modulation: a global mixer without attention, its contexts from ordinary or KA-convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError
from kan_core.registry import parse_spec
from kan_vision.layers.instance_norm import instance_norm
from kan_vision.layers.ka_conv import KAConv


class FocalModulation(nn.Module):
    r"""y = P(q ⊙ H(Σ_l g_l ⊙ c_l + g_L ⊙ mean(c_{L−1}))), with (q, c, g_0, …, g_L) = F(x).

    F, H and P are 1 x 1 convolutions; q and c have as many channels as x, each gate g_l has one. The contexts are made
    one from the other by depthwise convolutions D_l of growing windows: c_l = GELU(D_l(c_{l−1})), c_{−1} = c. So every
    pixel sees its surroundings at L scales and the mean of the whole image, at a cost linear in the pixels.

    Args:
        channels: Channels of the input and of the output.
        levels: L, the number of contexts besides the image's mean.
        window: Odd kernel size of the first context; each further one is larger by 2.
        layer: ``"linear"`` for ordinary depthwise convolutions (with GELU, the form of Yang et al.), or a kind of
            :class:`~kan_vision.layers.ka_conv.KAConv` for depthwise KA-convolutions, such as ``"gram(degree=3)"``.
        full: Make F, H and P of that kind too; without it, and for ``"linear"``, they are ordinary with a bias.
        normalize: Divide the modulator by L + 1, so that its size does not grow with the levels.
        post_norm: Instance normalisation, with a factor and an offset per channel, of the output.
        layer_kwargs: More arguments for the KA-convolutions, such as ``{"norm": "batch"}``.

    Raises:
        KANError: For an unknown kind or arguments that it refuses, an even window, or no level.

    Shape:
        - Input: ``(batch, channels, height, width)``
        - Output: the same

    Reference: Yang et al., arXiv 2203.11926; with KA-convolutions, Drokin, arXiv 2407.01092. The mean of the last
    context passes no further activation, and a KA-convolution's own norm and activation precede the GELU.
    """

    def __init__(
        self,
        channels: int,
        levels: int = 2,
        window: int = 3,
        *,
        layer: str = "linear",
        full: bool = False,
        normalize: bool = False,
        post_norm: bool = False,
        layer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if levels < 1 or window < 1 or window % 2 == 0:
            raise KANError(f"levels must be at least 1 and window odd, got levels={levels}, window={window}")
        kind, options = parse_spec(layer, kind="KA-convolution")
        options |= layer_kwargs or {}
        if kind == "linear" and options:
            raise KANError(f"the layer 'linear' of focal modulation takes no arguments, got {', '.join(options)}")
        self.channels = channels
        self.levels = levels
        self.normalize = normalize

        def pointwise(n_out: int) -> nn.Module:
            if full and kind != "linear":
                return KAConv(channels, n_out, 1, kind=kind, **options)
            return nn.Conv2d(channels, n_out, 1)

        def depthwise(size: int) -> nn.Module:
            if kind == "linear":
                return nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, bias=False)
            return KAConv(channels, channels, size, groups=channels, kind=kind, **options)

        self.split = pointwise(2 * channels + levels + 1)
        self.contexts = nn.ModuleList(depthwise(window + 2 * level) for level in range(levels))
        self.mix = pointwise(channels)
        self.project = pointwise(channels)
        self.norm = instance_norm(channels) if post_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)`` to the same shape."""
        query, context, gates = torch.split(self.split(x), [self.channels, self.channels, self.levels + 1], dim=1)
        modulator = torch.zeros_like(query)
        for level, convolution in enumerate(self.contexts):
            context = F.gelu(convolution(context))
            modulator = modulator + gates[:, level : level + 1] * context
        modulator = modulator + gates[:, self.levels :] * context.mean((-2, -1), keepdim=True)
        if self.normalize:
            modulator = modulator / (self.levels + 1)
        out: Tensor = self.norm(self.project(query * self.mix(modulator)))
        return out
