"""Legendre polynomials (KAL-Net)."""

from __future__ import annotations

from kan_core.bases._base import REGISTRY
from kan_core.bases._polynomial import ThreeTerm


@REGISTRY.register("legendre")
class Legendre(ThreeTerm):
    r"""Legendre polynomials P_0 … P_degree of u = tanh(x), orthogonal on [−1, 1]; K = degree + 1.

    Equation: φ_n(x) = P_n(u), P_0 = 1, P_1 = u, (n+1) P_{n+1} = (2n+1) u P_n − n P_{n−1}; P_n(1) = 1

    Reference: KAL-Net (1ssb/torchkan, no paper); the polynomials also of JacobiKAN with α = β = 0.

    Avoids: scaling by the least and greatest value of the whole batch, which couples rows and is 0/0 for a constant
    batch, and a cache of the basis keyed on tensors, which holds memory and reuses stale gradients.

    Args:
        degree: Highest degree, at least 1.
        squash: Apply tanh. Without it the inputs must already lie in [−1, 1].

    Raises:
        KANError: When `degree` is below 1.
    """

    def __init__(self, degree: int = 4, squash: bool = True) -> None:
        super().__init__(degree, squash)

    def recurrence(self, n: int) -> tuple[float, float, float]:
        """a_n, b_n and c_n of P_{n+1} = (a_n u + b_n) P_n − c_n P_{n−1}."""
        return (2 * n + 1) / (n + 1), 0.0, n / (n + 1)
