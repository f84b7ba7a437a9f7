"""Gram polynomials: orthogonal on equispaced nodes, with recurrence weights that can be learned (GRAM-KAN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kan_core.bases._base import REGISTRY, check_at_least
from kan_core.bases._polynomial import ThreeTerm
from kan_core.errors import KANError


@REGISTRY.register("gram")
class Gram(ThreeTerm):
    r"""Monic Gram (discrete Chebyshev) polynomials of u = tanh(x), of degrees 0 … degree; K = degree + 1.

    Orthogonal on the m nodes u_j = −1 + (2j−1)/m, j = 1 … m; monic Legendre polynomials in the limit of large m.

    Equation: φ_n(x) = p_n(u), p_0 = 1, p_1 = u, p_{n+1} = u p_n − β_n p_{n−1}, β_n = n²(m²−n²)/(m²(4n²−1))

    Reference: GRAM-KAN (Khochawongwat/GRAMKAN, no paper).

    Avoids: a β_n that divides by m²/(4n²−1), 9 to 1225 times too large for n = 1 … 3, with an m that changes with n,
    and two recurrence weights that never get a gradient.

    Args:
        degree: Highest degree, at least 1.
        squash: Apply tanh. Without it the inputs must already lie in [−1, 1].
        num_nodes: m, above `degree`.
        trainable: Learn β_1 … β_{degree−1}, shared by all inputs, from these values on.

    Raises:
        KANError: When `degree` is below 1, `num_nodes` not above it, or `trainable` with a degree of 1, which has
            nothing to learn.
    """

    def __init__(self, degree: int = 3, squash: bool = True, num_nodes: int = 16, trainable: bool = False) -> None:
        super().__init__(degree, squash)
        self.num_nodes = check_at_least("num_nodes", num_nodes, degree + 1)
        self.betas: nn.Parameter | None = None
        if trainable:
            if degree == 1:
                raise KANError("trainable=True needs a degree of at least 2: degree=1 has no recurrence weight")
            betas = [gram_beta(n, num_nodes) for n in range(1, degree)]
            self.betas = nn.Parameter(torch.tensor(betas, dtype=torch.float64))

    def recurrence(self, n: int) -> tuple[float, float, float | Tensor]:
        """a_n, b_n and c_n of p_{n+1} = (a_n u + b_n) p_n − c_n p_{n−1}."""
        if self.betas is None or n == 0:
            return 1.0, 0.0, gram_beta(n, self.num_nodes)
        return 1.0, 0.0, self.betas[n - 1]  # without dimensions, so it does not change the type of what it multiplies

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{super().extra_repr()}, num_nodes={self.num_nodes}, trainable={self.betas is not None}"


def gram_beta(n: int, num_nodes: int) -> float:
    """β_n = n²(m²−n²)/(m²(4n²−1)): what makes the monic recurrence orthogonal on m equispaced nodes."""
    n2, m2 = n * n, num_nodes * num_nodes
    return n2 * (m2 - n2) / (m2 * (4 * n2 - 1))
