"""B-splines in matrix form (MatrixKAN): the k + 1 functions of a cell are [1, u, …, u^k] Ψ, with no recursion over x.

On a uniform grid one Ψ serves all cells, and the planes are one small matrix product. On uneven knots every interval
has its own, made once per grid. Either way the work on a number grows with the degree alone: the number of cells only
sets how many zeros lie around the k + 1 values.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from kan_core.ops.bspline_linear.reference import locate


def power_matrix(order: int) -> list[list[float]]:
    """Ψ_k of the uniform grid: row p holds the factors of u^p in the k + 1 functions of a cell, first to last.

    Ψ_d = ([Ψ_{d−1}; 0] P + [0; Ψ_{d−1}] Q) / d with P[i,i] = i + 1, P[i,i+1] = d − i − 1, Q[i,i] = −1, Q[i,i+1] = 1;
    run over the integers k! Ψ_k, so that every entry is exact up to one rounding.
    """
    rows, factorial = [[1]], 1
    for d in range(1, order + 1):
        factorial *= d
        new = [[0] * (d + 1) for _ in range(d + 1)]
        for p, row in enumerate(rows):
            for i, entry in enumerate(row):
                new[p][i] += (i + 1) * entry
                new[p][i + 1] += (d - i - 1) * entry
                new[p + 1][i] -= entry
                new[p + 1][i + 1] += entry
        rows = new
    return [[entry / factorial for entry in row] for row in rows]


def matrix_planes(x: Tensor, lo: Tensor, step: Tensor, psi: Tensor, num_functions: int, edge: str) -> Tensor:
    """What `bspline_planes` computes, on the same uniform grids, as powers times `psi`.

    Args:
        x: Inputs, shape (..., in).
        lo: Left end of each feature's grid, shape (in,) or (1,).
        step: Width of a cell, likewise.
        psi: :func:`power_matrix` in the dtype of `x`, shape (order + 1, order + 1).
        num_functions: K, the number of cells + order.
        edge: "decay", "clamp" or "linear", see `bspline_planes`.

    Returns:
        Shape (..., K, in). NaN in x gives NaN.
    """
    order = len(psi) - 1
    cell, f = locate(x, lo, step, num_functions - order, order, edge)
    u = f if edge == "decay" else f.clamp(0, 1)
    values = _product(u, psi)
    if edge == "linear":
        power = torch.arange(1, order + 1, dtype=psi.dtype, device=psi.device)
        slopes = _product(u, psi[1:] * power[:, None]) if order else torch.zeros_like(values)
        values = values + (f - u).unsqueeze(-2) * slopes
    return _place(values, cell, num_functions)


def _product(u: Tensor, psi: Tensor) -> Tensor:
    """[1, u, u², …] psi: ``(..., in) -> (..., columns, in)``, in the precision of `u` whatever autocast says."""
    powers = [u * 0 + 1]  # a constant, too, is a function of u: NaN must come through, and a gradient exist
    for _ in range(1, len(psi)):
        powers.append(powers[-1] * u)
    with _without_autocast(u.device.type):
        values: Tensor = torch.tensordot(psi, torch.stack(powers), dims=([0], [0]))
    return values.movedim(0, -2)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    if device != "meta" and torch.is_autocast_enabled(device):  # which raises for meta
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _place(values: Tensor, first: Tensor, num_functions: int) -> Tensor:
    """All K planes ``(..., K, in)``: `values` (..., k + 1, in) from function number `first` (..., in) on, else 0.

    Functions that do not exist, beyond the first and the last, go to one spare plane on either side.
    """
    offset = torch.arange(1, values.shape[-2] + 1, device=values.device).unsqueeze(-1)
    number = (first.long().unsqueeze(-2) + offset).clamp(0, num_functions + 1)
    zeros = (first.detach() * 0).unsqueeze(-2)  # NaN where x is NaN, and its number is then any
    zeros = zeros.expand(*first.shape[:-1], num_functions + 2, first.shape[-1])
    return zeros.scatter(-2, number, values).narrow(-2, 1, num_functions)


def interval_matrices(knots: Tensor, order: int) -> Tensor:
    """One Ψ for every interval of every input's knots, by the Cox-de Boor recursion over polynomials in u.

    Args:
        knots: t_0 … t_{M−1} of each input, increasing, shape (in, M).
        order: Degree k.

    Returns:
        Shape (k + 1 powers, in, M + 1 intervals, k + 1 functions), float64. Interval j lies between t_{j−1} and t_j;
        the first and the last one, beyond all knots, hold zeros, as do functions that the knots do not carry.
    """
    t = knots.double()
    inputs, count = t.shape
    # k + 1 more knots on either side let the recursion run in all intervals; what hangs on them is zeroed at the end.
    more = torch.arange(1, order + 2, dtype=t.dtype, device=t.device) * ((t[:, -1:] - t[:, :1]) / (count - 1))
    t = torch.cat([t[:, :1] - more.flip(0), t, t[:, -1:] + more], dim=1)
    cells = count + 1
    width = (t[:, order + 1 :] - t[:, order:-1])[:, :cells]

    def knot(offset: int) -> Tensor:  # t_{J + offset}, J being the left knot of each interval
        return t[:, order + offset : order + offset + cells]

    psi = t.new_ones(1, 1, inputs, cells)  # (powers, functions J − p … J, in, intervals)
    for p in range(1, order + 1):
        new = t.new_zeros(p + 1, p + 1, inputs, cells)
        for q in range(p):  # function J − p + 1 + q of degree p − 1
            left, right = knot(q - p + 1), knot(q + 1)
            span = right - left
            rising, falling, slope = (knot(0) - left) / span, (right - knot(0)) / span, width / span
            new[:-1, q + 1] += rising * psi[:, q]
            new[1:, q + 1] += slope * psi[:, q]
            new[:-1, q] += falling * psi[:, q]
            new[1:, q] -= slope * psi[:, q]
        psi = new
    number = torch.arange(cells, device=t.device) - 1 - order + torch.arange(order + 1, device=t.device)[:, None]
    exists = (number >= 0) & (number < count - 1 - order)
    return (psi * exists[:, None]).permute(0, 2, 3, 1).contiguous()


def interval_planes(x: Tensor, knots: Tensor, psi: Tensor, edge: str) -> Tensor:
    """B-splines on each input's own knots.

    Args:
        x: Inputs, shape (..., in).
        knots: Shape (in, M), in the dtype of `x`.
        psi: :func:`interval_matrices` in the dtype of `x`.
        edge: "decay", "clamp" or "linear", see `bspline_planes`.

    Returns:
        Shape (..., K, in), K = M − 1 − order. NaN in x gives NaN.
    """
    order = psi.shape[0] - 1
    low, high = knots[:, order], knots[:, -1 - order]
    span = high - low
    # Beyond the extended grid everything is 0; the clamp keeps infinities out of 0 * inf and lets NaN through.
    inside = x.clamp(knots[:, 0] - span, knots[:, -1] + span) if edge == "decay" else x.clamp(low, high)
    interval = _interval(inside.detach(), knots, order)
    ends = torch.cat([knots[:, :1] - span[:, None], knots, knots[:, -1:] + span[:, None]], dim=1)
    row = interval + torch.arange(len(knots), device=x.device) * psi.shape[2]
    left = F.embedding(row, ends[:, :-1].reshape(-1, 1)).squeeze(-1)
    width = F.embedding(row, ends.diff(dim=1).reshape(-1, 1)).squeeze(-1)
    u = ((inside - left) / width).unsqueeze(-1)
    factors = [F.embedding(row, table) for table in psi.flatten(1, 2)]  # of u^p: (..., in, k + 1)
    values = _horner(factors, u)
    if edge == "linear" and order:
        slopes = _horner([p * factor for p, factor in enumerate(factors)][1:], u) / width.unsqueeze(-1)
        values = values + (x - inside).unsqueeze(-1) * slopes
    first = torch.where(inside.isnan(), inside, interval - 1 - order).detach()
    return _place(values.transpose(-1, -2), first, knots.shape[1] - 1 - order)


def _interval(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """How many of its input's knots are not above each x; the grid's right end belongs to its last cell."""
    x = torch.where(x == knots[:, -1 - order], knots[:, -2 - order], x)
    columns = x.reshape(-1, x.shape[-1]).T.contiguous()
    return torch.searchsorted(knots.contiguous(), columns, right=True).T.reshape(x.shape)


def _horner(factors: list[Tensor], u: Tensor) -> Tensor:
    value = factors[-1] + u * 0  # a constant, too, is a function of u
    for factor in reversed(factors[:-1]):
        value = torch.addcmul(factor, value, u)
    return value
