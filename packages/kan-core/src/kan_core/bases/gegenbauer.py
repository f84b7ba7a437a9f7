"""Gegenbauer (ultraspherical) polynomials: what the "Gottlieb" code of the polynomial study resembles."""

from __future__ import annotations

from kan_core.bases._base import REGISTRY, check_positive
from kan_core.bases._polynomial import ThreeTerm


@REGISTRY.register("gegenbauer")
class Gegenbauer(ThreeTerm):
    r"""Gegenbauer polynomials C_n^(α) of u = tanh(x), n = 0 … degree; K = degree + 1.

    Orthogonal on [−1, 1] with weight (1−u²)^(α−1/2), C_n(1) = binom(n+2α−1, n). α = 1/2 is Legendre, α = 1 Chebyshev
    of the second kind. For α in (−1/2, 0] take :class:`Jacobi` with both exponents α − 1/2: the same up to scale.

    Equation: φ_n(x) = C_n(u), C_0 = 1, C_1 = 2αu, n C_n = 2(n+α−1) u C_{n−1} − (n+2α−2) C_{n−2}

    Reference: the "Gottlieb" basis of the polynomial study (arXiv 2406.02583), made into the family that it resembles.

    Avoids: a recurrence that lacks the 1/n and swaps n with α, so nothing is orthogonal, evaluated by a recursion of
    exponentially many calls, with α drawn at random.

    Args:
        degree: Highest degree, at least 1.
        squash: Apply tanh. Without it the inputs must already lie in [−1, 1].
        alpha: α, above 0.

    Raises:
        KANError: When `degree` is below 1 or `alpha` not above 0.
    """

    def __init__(self, degree: int = 3, squash: bool = True, alpha: float = 1.0) -> None:
        super().__init__(degree, squash)
        self.alpha = check_positive("alpha", alpha)

    def recurrence(self, n: int) -> tuple[float, float, float]:
        """a_n, b_n and c_n of C_{n+1} = (a_n u + b_n) C_n − c_n C_{n−1}."""
        return 2 * (n + self.alpha) / (n + 1), 0.0, (n + 2 * self.alpha - 1) / (n + 1)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{super().extra_repr()}, alpha={self.alpha:g}"
