"""The definition of the B-spline linear op: short, eager, ordinary torch ops, differentiable as often as you like.

Knots are `lo + j * step` for every integer j. In units of a cell, `s = (x - lo) / step`, each cell [m, m + 1) carries
`order + 1` non-zero basis functions, numbers m .. m + order, each a polynomial in `f = s - m`, the same in all cells.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Edge = Literal["decay", "clamp", "linear"]
EDGES: tuple[str, ...] = get_args(Edge)


def piece_coefficients(order: int) -> list[list[float]]:
    """Polynomials of the cardinal B-spline: row j holds, lowest power first, its piece on [j, j + 1] in t = v - j.

    The recursion runs over integers (the pieces times order!), so the coefficients are exact up to one rounding.
    """
    rows = [[1]]
    factorial = 1
    for k in range(1, order + 1):
        factorial *= k
        new = [[0] * (k + 1) for _ in range(k + 1)]
        for j in range(k + 1):
            for p in range(k):
                if j < k:  # (t + j) times piece j of degree k - 1
                    new[j][p] += j * rows[j][p]
                    new[j][p + 1] += rows[j][p]
                if j > 0:  # (k + 1 - j - t) times piece j - 1
                    new[j][p] += (k + 1 - j) * rows[j - 1][p]
                    new[j][p + 1] -= rows[j - 1][p]
        rows = new
    return [[c / factorial for c in row] for row in rows]


def pieces(f: Tensor, order: int, *, derivative: bool = False) -> list[Tensor]:
    """The `order + 1` basis functions of a cell, first to last, or their derivatives, at f in [0, 1] of the cell."""
    coefficients = piece_coefficients(order)
    if derivative:
        coefficients = [[p * c for p, c in enumerate(row)][1:] or [0.0] for row in coefficients]
    g = 1 - f
    values = []
    for q in range(order + 1):
        j = order - q
        # The falling half is evaluated in 1 - f, by symmetry: tiny values stay accurate and are never negative.
        falling = 2 * j > order
        value = _polynomial(coefficients[order - j if falling else j], g if falling else f)
        values.append(-value if falling and derivative else value)
    return values


def _polynomial(coefficients: list[float], t: Tensor) -> Tensor:
    *lower, leading = coefficients
    if not lower:
        return t * 0 + leading  # a constant, too, is a function of t: NaN must come through, and a gradient exist
    value = t * leading
    for c in reversed(lower[1:]):
        value = (value + c) * t if c else value * t
    return value + lower[0] if lower[0] else value


def locate(x: Tensor, lo: Tensor, step: Tensor, num_cells: int, order: int, edge: str) -> tuple[Tensor, Tensor]:
    """Cell number m (in the dtype of x, no gradient) and position f = s - m of each x; the grid's last cell is closed.

    Under "decay" m runs over the extended grid and one cell more on both sides, where every basis function is zero;
    under the other policies m is a cell of the grid, and f leaves [0, 1] when x leaves the grid.
    """
    s = (x - lo) / step
    if edge == "decay":
        s = s.clamp(-order - 1.0, num_cells + order + 0.5)  # two floats: torch 2.11 cannot make ONNX of a mixed pair
    cell = s.detach().floor()
    # x = hi may land a rounding error above the last knot; it still belongs to the last cell.
    at_end = s.detach() <= num_cells * (1 + 4 * torch.finfo(x.dtype).eps)
    clamped = cell.clamp(0, num_cells - 1)
    cell = torch.where(at_end & (s >= 0), clamped, cell) if edge == "decay" else clamped
    return cell, s - cell


def bspline_planes(x: Tensor, lo: Tensor, step: Tensor, num_functions: int, order: int, edge: str = "decay") -> Tensor:
    """Values of all B-splines of one uniform grid per feature, plane-major (the basis axis before the input axis).

    Args:
        x: Inputs, shape (..., in), any floating dtype.
        lo: Left end of the grid of each feature, shape (in,) or scalar. Grid state: no gradient flows to it.
        step: Width of a cell of each feature, shape (in,) or scalar, positive. Grid state: no gradient flows to it.
        num_functions: K, the number of cells + order.
        order: Degree of the splines, >= 0.
        edge: Beyond the grid: "decay" lets the functions run out (all zero beyond the extended grid), "clamp" holds
            the value of the nearest end (zero gradient), "linear" continues with the slope of the nearest end.

    Returns:
        B_c(x), shape (..., K, in). Where a derivative jumps at a knot it is the one of the cell the knot belongs to:
        from the right, and at the right end of the grid from the left. NaN in x gives NaN.
    """
    lo, step = lo.detach(), step.detach()
    if has_closed_form(order, edge):
        return _cubic_planes(x, lo, step, num_functions, edge)
    cell, f = locate(x, lo, step, num_functions - order, order, edge)
    inside = f if edge == "decay" else f.clamp(0, 1)
    values = pieces(inside, order)
    if edge == "linear":
        slopes = pieces(inside, order, derivative=True)
        values = [v + (f - inside) * d for v, d in zip(values, slopes, strict=True)]
    number = torch.arange(num_functions, device=x.device, dtype=x.dtype).unsqueeze(-1)
    planes = values[0].unsqueeze(-2) * (number == cell.unsqueeze(-2))
    for q in range(1, order + 1):
        # a product, not a selection: NaN times 0 is NaN
        planes = planes + values[q].unsqueeze(-2) * (number == cell.unsqueeze(-2) + q)
    return planes


def has_closed_form(order: int, edge: str) -> bool:
    """Whether the planes are a few elementwise operators on all functions at once, which a compiler fuses."""
    return order == 3 and edge != "linear"


def _cubic_planes(x: Tensor, lo: Tensor, step: Tensor, num_functions: int, edge: str) -> Tensor:
    """[(2 - |u|)_+^3 - 4 (1 - |u|)_+^3] / 6, with u the distance to the centre of the function in cells."""
    s = (x - lo) / step
    if edge == "clamp":
        s = s.clamp(0, num_functions - 3)
    centres = torch.arange(-1, num_functions - 1, device=x.device, dtype=x.dtype).unsqueeze(-1)
    outer = (2 - (s.unsqueeze(-2) - centres).abs()).clamp(min=0)
    inner = (outer - 1).clamp(min=0)
    return (outer * outer * outer - 4 * inner * inner * inner) / 6


def bspline_linear_reference(
    x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, *, order: int, edge: str = "decay", silu: bool = False
) -> Tensor:
    """What `kan_core.ops.bspline_linear` computes, by its definition; autograd keeps the expanded planes."""
    planes = bspline_planes(x, lo, step, weight.shape[0] - int(silu), order, edge)
    if silu:
        planes = torch.cat([planes, F.silu(x).unsqueeze(-2)], dim=-2)
    return planes.flatten(-2) @ weight.flatten(0, 1)
