"""Laguerre polynomials on the half line."""

from __future__ import annotations

import torch
from torch import Tensor

from kan_core.bases._base import REGISTRY
from kan_core.bases._polynomial import ThreeTerm


@REGISTRY.register("laguerre")
class Laguerre(ThreeTerm):
    r"""Laguerre polynomials L_0 … L_degree of u = 1 + tanh(x); K = degree + 1.

    Orthonormal on [0, ∞) with weight exp(−u). The squash maps the line into [0, 2], where they are bounded; softplus
    would reach the whole half line, and values would grow as xⁿ.

    Equation: φ_n(x) = L_n(u), L_0 = 1, L_1 = 1 − u, (n+1) L_{n+1} = (2n+1−u) L_n − n L_{n−1}; L_n(0) = 1

    Reference: the polynomial form of arXiv 2406.02583, whose 18 families do not include this one.

    Avoids: arguments outside the family's domain, where values are not bounded, as in that study's families that
    leave [0, 1].

    Args:
        degree: Highest degree, at least 1.
        squash: Apply 1 + tanh. Without it the inputs must already lie in [0, ∞), best in [0, 4 degree + 2], where all
            zeros are: beyond, values grow as xⁿ.

    Raises:
        KANError: When `degree` is below 1.
    """

    interval = None
    middle = 1.0
    squash_flops = 7

    def __init__(self, degree: int = 4, squash: bool = True) -> None:
        super().__init__(degree, squash)
        if not squash:  # all zeros of all functions; beyond them they only grow
            self.domain = (0.0, 4.0 * degree + 2)

    def argument(self, x: Tensor) -> Tensor:
        """u, shape of `x`: 1 + tanh(x), or x itself without a squash."""
        return self.middle + torch.tanh(x) if self.squash else x

    def recurrence(self, n: int) -> tuple[float, float, float]:
        """a_n, b_n and c_n of L_{n+1} = (a_n u + b_n) L_n − c_n L_{n−1}."""
        return -1 / (n + 1), (2 * n + 1) / (n + 1), n / (n + 1)
