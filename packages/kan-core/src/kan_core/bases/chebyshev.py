"""Chebyshev polynomials of the first kind (ChebyKAN, arXiv 2405.07200)."""

from __future__ import annotations

import torch
from torch import Tensor

from kan_core.bases._base import REGISTRY, Basis, check_at_least


@REGISTRY.register("chebyshev")
class Chebyshev(Basis):
    r"""T_0 … T_degree at u = tanh(x): T_0 = 1, T_1 = u, T_{n+1} = 2u T_n − T_{n−1}; K = degree + 1.

    The recurrence, not cos(n arccos u): arccos has infinite slope at ±1, which float32 tanh reaches exactly beyond
    |x| ≈ 9, and the reference's gradient is NaN there.

    Args:
        degree: Highest degree, at least 1.
        squash: Apply tanh. Without it the inputs must already lie in [−1, 1].

    Raises:
        KANError: When `degree` is below 1.
    """

    def __init__(self, degree: int = 4, squash: bool = True) -> None:
        super().__init__()
        self.degree = check_at_least("degree", degree, 1)
        self.squash = squash
        self.num_functions = degree + 1
        self.domain = None if squash else (-1.0, 1.0)

    @property
    def flops_per_input(self) -> int:
        """Tanh (6) and three operations for each degree from 2 on."""
        return 6 * self.squash + 3 * (self.degree - 1)

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        u = torch.tanh(x) if self.squash else x
        t = [torch.ones_like(u), u]
        while len(t) <= self.degree:
            t.append(2 * u * t[-1] - t[-2])
        return torch.stack(t, dim=-2)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"degree={self.degree}, squash={self.squash}"
