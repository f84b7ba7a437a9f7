"""Chebyshev polynomials of the first kind (ChebyKAN, arXiv 2405.07200)."""

from __future__ import annotations

from kan_core.bases._base import REGISTRY
from kan_core.bases._polynomial import ThreeTerm


@REGISTRY.register("chebyshev")
class Chebyshev(ThreeTerm):
    r"""Chebyshev polynomials T_0 … T_degree of u = tanh(x); K = degree + 1.

    Equation: φ_n(x) = T_n(u), T_0 = 1, T_1 = u, T_{n+1} = 2u T_n − T_{n−1}; T_n = cos(n arccos u)

    Reference: ChebyKAN (arXiv 2405.07200).

    Avoids: the gradient NaN of cos(n arccos u), whose slope is infinite at ±1, which float32 tanh reaches exactly
    beyond |x| ≈ 9; the recurrence has no such point.

    Args:
        degree: Highest degree, at least 1.
        squash: Apply tanh. Without it the inputs must already lie in [−1, 1].

    Raises:
        KANError: When `degree` is below 1.
    """

    def __init__(self, degree: int = 4, squash: bool = True) -> None:
        super().__init__(degree, squash)

    def recurrence(self, n: int) -> tuple[float, float, float]:
        """a_n, b_n and c_n of T_{n+1} = (a_n u + b_n) T_n − c_n T_{n−1}."""
        return (2.0 if n else 1.0), 0.0, 1.0
