"""Hermite polynomials, orthonormal under the standard normal distribution."""

from __future__ import annotations

import math

from kan_core.bases._base import REGISTRY
from kan_core.bases._polynomial import ThreeTerm


@REGISTRY.register("hermite")
class Hermite(ThreeTerm):
    r"""Probabilists' Hermite polynomials over their norm, h_n = He_n/√(n!), of u = tanh(x); K = degree + 1.

    Orthonormal under N(0, 1) when the inputs are not squashed, so that all degrees have one scale. They grow as xⁿ,
    without a bound: the squash is on by default, and without it the inputs should be normalised first.

    Equation: φ_n(x) = h_n(u), h_0 = 1, h_1 = u, √(n+1) h_{n+1} = u h_n − √n h_{n−1}

    Reference: the polynomial form of arXiv 2406.02583, whose 18 families do not include this one.

    Avoids: the missing squash (Meixner-Pollaczek) and the exploding values (Fermat) of that study's code.

    Args:
        degree: Highest degree, at least 1.
        squash: Apply tanh. Without it the inputs may be any numbers.

    Raises:
        KANError: When `degree` is below 1.
    """

    interval = None

    def __init__(self, degree: int = 4, squash: bool = True) -> None:
        super().__init__(degree, squash)

    def recurrence(self, n: int) -> tuple[float, float, float]:
        """a_n, b_n and c_n of h_{n+1} = (a_n u + b_n) h_n − c_n h_{n−1}."""
        return 1 / math.sqrt(n + 1), 0.0, math.sqrt(n / (n + 1))
