"""Self-attention between the pixels of a map whose queries, keys and values are KA-convolutions ("KAGNtention")."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError
from kan_core.registry import parse_spec
from kan_vision.layers.instance_norm import instance_norm
from kan_vision.layers.ka_conv import KAConv

GammaOn = Literal["attention", "skip"]


class ConvSelfAttention(nn.Module):
    r"""y = Norm(x + γ A(x)), or Norm(γ x + A(x)): one head of attention over all pairs of pixels.

    A(x) = W_out · softmax(Qᵀ K / √d) V, with Q, K, V = three convolutions of W_in x and the softmax over the pixels
    attended to. γ is one learned number that starts at 0.

    Args:
        channels: Channels of the input and of the output.
        layer: ``"linear"`` for ordinary convolutions, or a kind of :class:`~kan_vision.layers.ka_conv.KAConv` such as
            ``"gram(degree=3)"``; either brings its norm and activation.
        kernel_size: Odd kernel size of the three convolutions.
        inner: d, the channels inside; W_in and W_out are then 1 x 1 convolutions. None for d = channels without them.
        gamma_on: ``"attention"``: γ multiplies A (as in SAGAN), so the block starts as Norm(x). ``"skip"``: γ
            multiplies x, as the published code has it, so the block starts without its input's own values.
        layer_kwargs: More arguments for the convolutions, such as ``{"norm": "batch"}``.

    Raises:
        KANError: For an unknown kind or arguments that it refuses, an even kernel or another `gamma_on`.

    Shape:
        - Input: ``(batch, channels, height, width)``
        - Output: the same

    Reference: Drokin, arXiv 2407.01092; Zhang et al., arXiv 1805.08318 (SAGAN). The published code does not divide
    by √d: with d channels of unit variance its softmax saturates at the start, so here the products are scaled. Norm is
    an instance normalisation with a factor and an offset per channel.
    """

    def __init__(
        self,
        channels: int,
        *,
        layer: str = "gram(degree=3)",
        kernel_size: int = 3,
        inner: int | None = None,
        gamma_on: GammaOn = "attention",
        layer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if gamma_on not in get_args(GammaOn):
            raise KANError(f"gamma_on must be one of {', '.join(get_args(GammaOn))}, got {gamma_on!r}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise KANError(f"kernel_size must be odd, got {kernel_size}")
        kind, options = parse_spec(layer, kind="KA-convolution")
        options |= layer_kwargs or {}
        width = channels if inner is None else inner
        self.gamma_on = gamma_on
        self.enter = nn.Identity() if inner is None else nn.Conv2d(channels, width, 1, bias=False)
        self.query, self.key, self.value = (KAConv(width, width, kernel_size, kind=kind, **options) for _ in range(3))
        self.leave = nn.Identity() if inner is None else nn.Conv2d(width, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.norm = instance_norm(channels)

    def attention(self, x: Tensor) -> Tensor:
        """A(x): ``(batch, channels, height, width)`` to the same shape."""
        inside = self.enter(x)
        # Pixels as tokens, channels last. Moved before they are flattened: a view of one image's channels-last
        # gradient loses its batch stride, which makes torch's batch normalisation return a wrong gradient.
        query, key, value = (f(inside).movedim(1, -1).flatten(1, 2) for f in (self.query, self.key, self.value))
        # one head: the kernels behind this function want (batch, heads, pixels, d)
        mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        out: Tensor = self.leave(torch.unflatten(mixed, 1, inside.shape[-2:]).movedim(-1, 1))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)`` to the same shape."""
        attended = self.attention(x)
        mixed = x + self.gamma * attended if self.gamma_on == "attention" else self.gamma * x + attended
        out: Tensor = self.norm(mixed)
        return out
