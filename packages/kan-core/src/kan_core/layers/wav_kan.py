"""Wav-KAN: one wavelet with its own translation and scale on every edge."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kan_core.bases.wavelet import MOTHERS, check_mother, mother_flops
from kan_core.errors import KANError
from kan_core.layers._edges import EdgeLinear
from kan_core.layers._norm import LastDimBatchNorm
from kan_core.layers._registry import register


@register("wav-kan")
class WavKANLinear(EdgeLinear):
    r"""Edges that are one wavelet each: y_o = Σ_i W[o,i] ψ((x_i − t[o,i]) / s[o,i]) + bias_o.

    The scale is learned as log s, so it stays positive, and weight decay draws it to 1 instead of 0. The paper puts a
    batch normalisation on the outputs (``norm="batch"``); the default has none, because batch statistics make every
    row of a training batch depend on all others.

    Equation: φ(x) = W ψ((x − t)/s), s > 0

    Reference: Wav-KAN (arXiv 2405.12832).

    Avoids: the reference's unused second weight matrix (in · out idle parameters) and its scale, which can cross 0.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        mother: ψ: ``"mexican-hat"``, ``"morlet"``, ``"dog"``, ``"meyer"`` or ``"shannon"``.
        norm: ``"batch"`` to normalise the outputs over the samples, or None.
        bias: Add one constant per output. With a norm its shift is that constant, and there is no second one.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an unknown mother or norm, a size below 1, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``
        - weight, translation, log_scale: ``(out_features, in_features)``

    Parameters: 3 in · out, + out with bias, or + 2 out with ``norm="batch"``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        mother: str = "mexican-hat",
        norm: Literal["batch"] | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if norm not in (None, "batch"):
            raise KANError(f"norm must be None or 'batch', got {norm!r}")
        super().__init__(in_features, out_features, bias=bias and norm is None, device=device, dtype=dtype)
        self.mother = check_mother(mother)
        self.norm = LastDimBatchNorm(out_features, device=device, dtype=dtype) if norm else None
        shape = (out_features, in_features)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.translation = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start at t = 0 and s = 1, with normal weights with which outputs have variance about 1 for x ~ N(0, 1)."""
        share = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
        mean_square = MOTHERS[self.mother](torch.special.ndtri(share)).square().mean().item()
        self.weight.normal_(0.0, 1 / math.sqrt(self.in_features * mean_square))
        self.translation.zero_()
        self.log_scale.zero_()
        if self.norm is not None:
            self.norm.reset_parameters()
        super().reset_parameters()

    @property
    def kept(self) -> int:
        """How many numbers :meth:`edges` leaves for its backward pass per edge and row."""
        return 14 if self.mother == "meyer" else 7

    def edge_parameters(self) -> tuple[Tensor, ...]:
        """W, t and log s."""
        return self.weight, self.translation, self.log_scale

    def edges(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """W ψ((x − t)/s): ``(rows, 1, in) -> (rows, out, in)``."""
        weight, translation, log_scale = parameters
        return weight * MOTHERS[self.mother]((x - translation) * torch.exp(-log_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        y = super().forward(x)
        return y if self.norm is None else self.norm(y)

    def elementwise_flops(self, numel: int) -> int:
        """Operations for an input of `numel` numbers: shift, scale, ψ, weight and sum on each of their edges."""
        return numel * self.out_features * (mother_flops(self.mother) + 4)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{super().extra_repr()}, mother={self.mother!r}"
