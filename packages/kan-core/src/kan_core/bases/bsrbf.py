"""B-splines and Gaussians, summed (BSRBF-KAN)."""

from __future__ import annotations

from torch import Tensor

from kan_core.bases._base import REGISTRY, Basis, check_at_least
from kan_core.bases.bspline import BSpline
from kan_core.bases.rbf import GaussianRBF


@REGISTRY.register("bsrbf")
class BSRBF(Basis):
    r"""A B-spline plus a Gaussian under one coefficient: K = grid_size + order functions on a fixed grid.

    The Gaussians' K centres are spread over `grid_range` and their width is the spacing of the centres. BSRBF-KAN
    normalises first (``norm="layer"``). Its base branch sees the normalised input; in our layers it sees the input.

    Equation: φ_k(x) = B_k(x) + exp(−((x − g_k)/h)²)

    Reference: BSRBF-KAN (2406.11173).

    Avoids: the reference chooses its best epoch on the test set; our experiments select on validation data.

    Args:
        grid_size: Number of intervals G.
        order: Degree k of the spline, at least 1.
        grid_range: The grid's ends; beyond them the functions run out to 0.

    Raises:
        KANError: For an argument out of its range.
    """

    def __init__(self, grid_size: int = 5, order: int = 3, grid_range: tuple[float, float] = (-1.5, 1.5)) -> None:
        super().__init__()
        # of degree 0 with one interval there would be one centre, and no spacing
        self.spline = BSpline(grid_size, check_at_least("order", order, 1), grid_range)
        self.num_functions = self.spline.num_functions
        self.gaussians = GaussianRBF(self.num_functions, grid_range)
        self.domain = self.gaussians.domain

    @property
    def flops_per_input(self) -> int:
        """Both families, and their sum."""
        return self.spline.flops_per_input + self.gaussians.flops_per_input + self.num_functions

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        return self.spline.planes(x) + self.gaussians.planes(x)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"grid_size={self.spline.grid_size}, order={self.spline.order}, grid_range={self.domain}"
