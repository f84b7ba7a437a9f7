"""Jacobi polynomials (JacobiKAN)."""

from __future__ import annotations

from kan_core.bases._base import REGISTRY
from kan_core.bases._polynomial import ThreeTerm, check_above


@REGISTRY.register("jacobi")
class Jacobi(ThreeTerm):
    r"""Jacobi polynomials P_n^(α,β) of u = tanh(x), n = 0 … degree; K = degree + 1.

    Orthogonal on [−1, 1] with weight (1−u)^α (1+u)^β, P_n(1) = binom(n+α, n). α = β = 0 is Legendre, α = β = −1/2
    Chebyshev up to a factor for each degree.

    Equation: φ_n(x) = P_n(u), P_0 = 1, P_1 = ((α−β) + (α+β+2) u)/2, P_n = (A_n u + B_n) P_{n−1} − D_n P_{n−2}

    Reference: JacobiKAN (SpaceLearner/JacobiKAN, no paper).

    Avoids: values allocated in torch's default type, which breaks half precision, and the division by zero of the
    general step at n = 1 when α + β = −1 (P_1 is explicit here, α and β are checked).

    Args:
        degree: Highest degree, at least 1.
        squash: Apply tanh. Without it the inputs must already lie in [−1, 1].
        alpha: Exponent α of 1 − u, above −1.
        beta: Exponent β of 1 + u, above −1.

    Raises:
        KANError: When `degree` is below 1, or `alpha` or `beta` is not above −1.
    """

    def __init__(self, degree: int = 3, squash: bool = True, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__(degree, squash)
        self.alpha = check_above("alpha", alpha, -1)
        self.beta = check_above("beta", beta, -1)

    def recurrence(self, n: int) -> tuple[float, float, float]:
        """a_n, b_n and c_n of P_{n+1} = (a_n u + b_n) P_n − c_n P_{n−1}."""
        alpha, beta, total = self.alpha, self.beta, self.alpha + self.beta
        if n == 0:  # the general step divides by 1 + α + β, which may be 0
            return (total + 2) / 2, (alpha - beta) / 2, 0.0
        m = n + 1  # at least 2: with α + β > −2 both factors of the divisor are positive
        even = 2 * m + total
        divisor = m * (m + total) * (even - 2)
        a = even * (even - 1) / (2 * m * (m + total))
        b = (even - 1) * (alpha - beta) * total / (2 * divisor)
        c = (m + alpha - 1) * (m + beta - 1) * even / divisor
        return a, b, c

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{super().extra_repr()}, alpha={self.alpha:g}, beta={self.beta:g}"
