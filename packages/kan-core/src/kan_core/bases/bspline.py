"""B-splines on a grid: the basis of the original KAN (arXiv 2404.19756, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from kan_core.bases._base import REGISTRY, Basis, check_at_least, check_interval
from kan_core.errors import KANError
from kan_core.ops._dispatch import wants_reference
from kan_core.ops.basis_linear.form import PlaneForm
from kan_core.ops.bspline_linear.matrix import interval_matrices, interval_planes, matrix_planes, power_matrix
from kan_core.ops.bspline_linear.recursion import recursion_planes
from kan_core.ops.bspline_linear.reference import bspline_planes, has_closed_form

Edge = Literal["decay", "clamp", "linear"]
Evaluator = Literal["auto", "recursion", "matrix"]


@REGISTRY.register("bspline")
class BSpline(Basis):
    r"""B-splines of degree `order` on `grid_size` intervals: K = grid_size + order functions.

    The knots of an input are t_0 … t_{G+2k}: the grid and k more on either side. On a uniform grid the functions are
    shifted copies of the cardinal B-spline; after a data-adaptive :meth:`update_grid` each input has its own, uneven
    knots. `evaluator` says how values are computed, never what they are.

    Equation: φ_i(x) = B_{i,k}(x), B_{i,p} = (x − t_i)/(t_{i+p} − t_i) B_{i,p−1} + (t_{i+p+1} − x)/(t_{i+p+1} − t_{i+1})
    B_{i+1,p−1}, B_{i,0} = 1 on [t_i, t_{i+1})

    Reference: KAN (2404.19756), section 2.2; in matrix form MatrixKAN (2502.07176).

    Avoids: MatrixKAN's reference assumes even knots after an adaptive update, with errors above 2 in function values.

    Args:
        grid_size: Number of intervals G.
        order: Polynomial degree k; 3 is cubic.
        grid_range: The grid's ends. Inputs should lie inside: see `edge`, and the layers' ``outside_fraction``.
        edge: What an input beyond the grid sees. ``"decay"``: the functions run out, to exactly 0 (value and
            gradient) after k more intervals, as in the KAN paper. ``"clamp"``: the value at the grid's end.
            ``"linear"``: the tangent at the grid's end.
        grid_eps: Share of the uniform grid in an updated grid: 1 keeps it uniform, and with it the fast kernels; 0
            follows the quantiles alone.
        evaluator: ``"auto"``: the layers' fused kernels on a uniform grid, and where planes are needed the matrix form
            or, when a compiler fuses it, a closed form; the Cox-de Boor recursion on uneven knots. ``"recursion"``:
            Cox-de Boor always. ``"matrix"``: powers of the position in the interval times a constant matrix, one for
            each interval of uneven knots: the fastest planes at high degree.

    Raises:
        KANError: For an argument out of its range.
    """

    adaptive = True

    def __init__(
        self,
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        edge: Edge = "decay",
        grid_eps: float = 0.02,
        evaluator: Evaluator = "auto",
    ) -> None:
        super().__init__()
        self.grid_size = check_at_least("grid_size", grid_size, 1)
        self.order = check_at_least("order", order, 0)
        low, high = check_interval("grid_range", grid_range)
        if edge not in get_args(Edge):
            raise KANError(f"edge must be one of {', '.join(get_args(Edge))}, got {edge!r}")
        if not 0 <= grid_eps <= 1:
            raise KANError(f"grid_eps must lie in [0, 1], got {grid_eps!r}")
        if evaluator not in get_args(Evaluator):
            raise KANError(f"evaluator must be one of {', '.join(get_args(Evaluator))}, got {evaluator!r}")
        self.edge: Edge = edge
        self.grid_eps = grid_eps
        self.evaluator: Evaluator = evaluator
        self.uniform = True
        grid = torch.linspace(low, high, grid_size + 1, dtype=torch.float64)
        self.knots: Tensor  # (in_features, G + 2k + 1); a prototype has one row for all
        self.register_buffer("knots", extend_grid(grid[None], order))
        # What follows from the knots: the left end of each input's grid and the mean width of its intervals, shape
        # (in,), and the constants of the matrix form.
        self.low: Tensor
        self.step: Tensor
        self.matrices: Tensor | None
        for name in ("low", "step", "matrices"):
            self.register_buffer(name, None, persistent=False)
        self._update_derived()

    @property
    def num_functions(self) -> int:  # type: ignore[override]
        """K = G + k."""
        return self.grid_size + self.order

    @property
    def flops_per_input(self) -> int:
        """Of the evaluator in use; the matrix form's product on a uniform grid is counted as a matrix product."""
        degree = self.order
        if self.evaluator == "matrix":
            return 4 + degree if self.uniform else 3 + 2 * degree * (degree + 1)
        if self.fused:  # the closed form: (k+1)/2 truncated powers of degree k for each function
            return self.num_functions * ((degree + 2) // 2) * (degree + 2)
        return sum(9 * (self.num_functions + degree - p) for p in range(1, degree + 1))

    @property
    def fused(self) -> bool:
        """Whether a layer may compute itself by the fused op for uniform grids."""
        return self.uniform and self.evaluator == "auto"

    def plane_form(self) -> PlaneForm | None:
        """The knots of each function, or where they are even the grid; None for an evaluator that is asked for."""
        if self.evaluator != "auto" or self.edge == "linear" or not 1 <= self.order <= 5:
            return None
        if self.uniform:
            return PlaneForm(f"bspline-{self.edge}", self.order, a=self.low, b=self.step)
        own = self.knots.T.unfold(0, self.order + 2, 1).transpose(1, 2)  # (K, k + 2, in)
        return PlaneForm(f"knots-{self.edge}", self.order, a=self.low, b=self.grid[:, -1], table=own)

    @property
    def grid(self) -> Tensor:
        """The knots inside the domain, ends included, shape ``(in_features, G + 1)``."""
        return self.knots[:, self.order : self.order + self.grid_size + 1]

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        if self.matrices is None:
            return recursion_planes(x, _column_major(self.knots.to(x.dtype)), self.order, self.edge)
        if not self.uniform:
            return interval_planes(x, self.knots.to(x.dtype), self.matrices.to(x.dtype), self.edge)
        low, step = self.low.to(x.dtype), self.step.to(x.dtype)
        fuses = has_closed_form(self.order, self.edge)
        if self.evaluator == "auto" and wants_reference(x, fuses=fuses):
            return bspline_planes(x, low, step, self.num_functions, self.order, self.edge)
        return matrix_planes(x, low, step, self.matrices.to(x.dtype), self.num_functions, self.edge)

    def bind(
        self, in_features: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """A fresh copy with one row of knots for each input."""
        bound = super().bind(in_features, device, dtype)
        bound.knots = bound.knots[:1].repeat(in_features, 1)  # rows of their own: safetensors refuses views
        bound._update_derived()
        return bound

    def outside(self, x: Tensor) -> Tensor:
        """Boolean mask, shape of `x`: where an input lies outside its own grid."""
        return (x < self.grid[:, 0]) | (x > self.grid[:, -1])

    @torch.no_grad()
    def update_grid(self, x: Tensor) -> None:
        """Spread each input's grid over its samples: quantiles, blended with a uniform grid of the same ends.

        The ends lie 1 % of the range beyond the extreme samples. An input whose samples are all equal keeps its grid.

        Args:
            x: Samples, shape ``(samples, in_features)``.

        Raises:
            KANError: When `x` is empty or holds a NaN or an infinity.
        """
        if x.numel() == 0 or not torch.isfinite(x).all():
            raise KANError(
                f"update_grid needs finite samples, got shape {tuple(x.shape)} with NaN, infinity or no rows"
            )
        ordered = x.double().sort(dim=0).values
        least, greatest = ordered[0], ordered[-1]
        margin = 0.01 * (greatest - least)
        share = torch.linspace(0, 1, self.grid_size + 1, dtype=torch.float64, device=x.device)[:, None]
        even = (least - margin) + share * (greatest - least + 2 * margin)
        rank = share * (len(ordered) - 1)
        below = rank.floor().long().squeeze(1)
        above = (below + 1).clamp_max(len(ordered) - 1)
        quantiles = torch.lerp(ordered[below], ordered[above], rank - rank.floor())
        quantiles[0], quantiles[-1] = even[0], even[-1]
        grid = (self.grid_eps * even + (1 - self.grid_eps) * quantiles).T  # (in, G + 1)
        # Rounding to the knots' own precision must leave every interval open, or the recursion divides by zero.
        gaps = grid.to(self.knots.dtype).double().diff(dim=1).amin(dim=1)
        resolution = 16 * torch.finfo(self.knots.dtype).eps * grid.abs().amax(dim=1)
        usable = gaps > resolution
        knots = torch.where(usable[:, None], extend_grid(grid, self.order), self.knots.double())
        self.knots.copy_(knots)
        self.uniform = _is_uniform(self.knots)
        self._update_derived()

    @torch.no_grad()
    def refine(self, grid_size: int) -> None:
        """Give every input `grid_size` intervals over the same range; knots interpolate the old ones linearly."""
        check_at_least("grid_size", grid_size, 1)
        old = self.grid.double()
        position = torch.linspace(0, self.grid_size, grid_size + 1, dtype=torch.float64, device=old.device)
        below = position.floor().long().clamp_max(self.grid_size - 1)
        grid = torch.lerp(old[:, below], old[:, below + 1], (position - below).expand(len(old), -1))
        self.grid_size = grid_size
        self.knots = extend_grid(grid, self.order).to(self.knots.dtype)
        self._update_derived()

    def fit_points(self) -> Tensor:
        """K + 1 points in every interval, the grid's ends included: shape ``(points, in_features)``, float64."""
        grid = self.grid.double()
        share = torch.linspace(0, 1, self.order + 2, dtype=torch.float64, device=grid.device)
        points = grid[:, :-1, None] + share * grid.diff(dim=1)[..., None]
        return points.flatten(1).T

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The knots decide which evaluator is right, so that a state dict alone restores the function.
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not self.knots.is_meta:
            self.uniform = _is_uniform(self.knots)
        self._update_derived()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._update_derived()  # made again, not cast: a module that becomes float64 is exact to float64
        return self

    def _update_derived(self) -> None:
        self.low = self.knots[:, self.order].contiguous()
        self.step = (self.knots[:, self.order + self.grid_size] - self.low) / self.grid_size
        self.matrices = None
        if self.evaluator == "matrix" or (self.evaluator == "auto" and self.uniform):
            dtype = torch.promote_types(self.knots.dtype, torch.float32)
            psi = power_matrix(self.order) if self.uniform else interval_matrices(self.knots, self.order)
            self.matrices = torch.as_tensor(psi, dtype=dtype, device=self.knots.device)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        ends = f"({self.knots[:, self.order].min():.4g}, {self.knots[:, -1 - self.order].max():.4g})"
        evaluator = "" if self.evaluator == "auto" else f", evaluator={self.evaluator!r}"
        return f"grid_size={self.grid_size}, order={self.order}, grid_range={ends}, edge={self.edge!r}{evaluator}"


def extend_grid(grid: Tensor, order: int) -> Tensor:
    """Knots ``(rows, G + 2k + 1)``: the grid ``(rows, G + 1)`` and k more on either side, at its mean spacing."""
    step = (grid[:, -1:] - grid[:, :1]) / (grid.shape[1] - 1)
    more = torch.arange(1, order + 1, dtype=grid.dtype, device=grid.device)
    return torch.cat([grid[:, :1] - step * more.flip(0), grid, grid[:, -1:] + step * more], dim=1)


def _column_major(knots: Tensor) -> Tensor:
    """The same knots with those of one number side by side in memory: compiled code then loads them as vectors."""
    return knots.T.contiguous().T


def _is_uniform(knots: Tensor) -> bool:
    """Whether every row is evenly spaced, up to the rounding of float32, where float64 knots may come from."""
    gaps = knots.double().diff(dim=1)
    rounding = (
        4
        * max(torch.finfo(knots.dtype).eps, torch.finfo(torch.float32).eps)
        * knots.double().abs().amax(dim=1, keepdim=True)
    )
    return bool((gaps - gaps.mean(dim=1, keepdim=True)).abs().le(rounding).all())
