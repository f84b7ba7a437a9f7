"""B-splines on any knots by the recursion of Cox and de Boor, in ordinary torch ops."""

from __future__ import annotations

import torch
from torch import Tensor


def recursion_planes(x: Tensor, knots: Tensor, order: int, edge: str) -> Tensor:
    """Cox-de Boor on each input's own knots: ``(..., in) -> (..., K, in)``, with the edge policies of `BSpline`."""
    t = knots.T  # (G + 2k + 1, in)
    low, high = t[order], t[-1 - order]
    inside = x.clamp(low, high)
    if edge == "clamp":
        return _cox_de_boor(inside, t, order, order)
    if edge == "linear":
        return _cox_de_boor(inside, t, order, order) + (x - inside).unsqueeze(-2) * _derivative(inside, t, order)
    # Beyond the extended grid everything is 0; the clamp keeps infinities out of 0 * inf and lets NaN through.
    width = high - low
    return _cox_de_boor(x.clamp(t[0] - width, t[-1] + width), t, order, order)


def _cox_de_boor(x: Tensor, t: Tensor, degree: int, order: int) -> Tensor:
    """B_{i,p} = (x − t_i)/(t_{i+p} − t_i) B_{i,p−1} + (t_{i+p+1} − x)/(t_{i+p+1} − t_{i+1}) B_{i+1,p−1}, p = degree.

    The grid ends `order` knots before the last one, and its right end belongs to its last cell.
    """
    at = torch.where(x == t[-1 - order], t[-2 - order], x).unsqueeze(-2)
    x = x.unsqueeze(-2)
    b = ((at >= t[:-1]) & (at < t[1:])).to(t.dtype)
    if degree == 0:
        return b + x * 0  # a constant, too, is a function of x: NaN must come through, and a gradient exist
    for p in range(1, degree + 1):
        rising = (x - t[: -p - 1]) / (t[p:-1] - t[: -p - 1]) * b[..., :-1, :]
        falling = (t[p + 1 :] - x) / (t[p + 1 :] - t[1:-p]) * b[..., 1:, :]
        b = rising + falling
    return b


def _derivative(x: Tensor, t: Tensor, order: int) -> Tensor:
    """B'_i = k/(t_{i+k} − t_i) B_{i,k−1} − k/(t_{i+k+1} − t_{i+1}) B_{i+1,k−1}; x is held constant."""
    if order == 0:
        return torch.zeros((), dtype=t.dtype, device=t.device)
    lower = _cox_de_boor(x.detach(), t, order - 1, order)
    scaled = lower * (order / (t[order:] - t[:-order]))
    return scaled[..., :-1, :] - scaled[..., 1:, :]
