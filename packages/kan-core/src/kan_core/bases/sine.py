"""Sines of learned frequencies and fixed phases (SineKAN)."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from kan_core.bases._base import REGISTRY, Basis, check_at_least

# r_i = A i^−K + C, fitted once by the paper's authors: the summed output hardly changes when the grid grows by one
_AMPLITUDE, _DECAY, _OFFSET = 0.9724108095811765, 0.9884401790754128, 0.999449553483052


@REGISTRY.register("sine")
class Sine(Basis):
    r"""Sines with trainable frequencies ω_k, shared by all inputs, and phases p_ik of their own for every input.

    The phases are a buffer, p_ik = (k/(G+1) + π (i−1)/(in−1)) r_1 … r_{G−1} with r_j = A j^−K + C. Gradients of ω grow
    like |x|: normalise the inputs.

    Equation: φ_k(x_i) = sin(ω_k x_i + p_ik)

    Reference: SineKAN (2407.04149).

    Avoids: the reference makes its phases on a hard-coded CUDA device; here they are a buffer that moves and is saved.

    Args:
        num_frequencies: Number of functions G.
        integer_frequencies: Start from ω_k = k, which the paper uses in the first layer, instead of k/(G+1).

    Raises:
        KANError: When `num_frequencies` is below 1.
    """

    def __init__(self, num_frequencies: int = 8, integer_frequencies: bool = False) -> None:
        super().__init__()
        self.num_functions = check_at_least("num_frequencies", num_frequencies, 1)
        self.integer_frequencies = integer_frequencies
        k = torch.arange(1, num_frequencies + 1, dtype=torch.float64)
        self.frequencies = nn.Parameter(k if integer_frequencies else k / (num_frequencies + 1))
        self.phases: Tensor  # (in_features, G); a prototype has one row for all
        self.register_buffer("phases", sine_phases(1, num_frequencies))

    @property
    def flops_per_input(self) -> int:
        """A product, a sum and a sine for each function."""
        return 3 * self.num_functions

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        return torch.addcmul(
            self.phases.T.contiguous().to(x.dtype), x.unsqueeze(-2), self.frequencies.unsqueeze(-1).to(x.dtype)
        ).sin()

    def bind(
        self, in_features: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """A fresh copy with one row of phases for each input."""
        bound = super().bind(in_features, device, dtype)
        bound.phases = sine_phases(in_features, self.num_functions).to(bound.frequencies)
        return bound

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"num_frequencies={self.num_functions}, integer_frequencies={self.integer_frequencies}"


def sine_phases(in_features: int, num_frequencies: int) -> Tensor:
    """p_ik as a float64 tensor ``(in_features, num_frequencies)``."""
    ratios: list[float] = [_AMPLITUDE * i**-_DECAY + _OFFSET for i in range(1, num_frequencies)]
    k = torch.arange(1, num_frequencies + 1, dtype=torch.float64)[:, None]
    along_inputs = torch.linspace(0, math.pi, in_features, dtype=torch.float64)
    phases: Tensor = (k / (num_frequencies + 1) + along_inputs) * math.prod(ratios)
    return phases.T.contiguous()
