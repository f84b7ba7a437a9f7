"""Two ways to expand rows of x into basis planes on the CPU, and to contract the gradient of the planes back onto x.

Both write into buffers that the caller owns and reuses. What they write, times their `scale`, are the basis functions:
the constant factor is left to the GEMM (alpha), where it is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kan_core.ops.bspline_linear.reference import locate, pieces


class Expander(Protocol):
    """Expands one block of rows after the other; made for a forward pass, or with `slopes` for a backward pass."""

    scale: float
    pad: int  # planes of the buffers before and after the K basis planes, for the expander's own use
    num_scratch: int
    scratch: Sequence[Tensor]  # `num_scratch` buffers of shape (rows, K, in), to be set by the owner

    def expand(self, x: Tensor, planes: Tensor) -> None:
        """Write the basis functions of x (rows, in), divided by `scale`, into planes (rows, pad + K + pad, in)."""

    def contract(self, grad: Tensor, dx: Tensor) -> None:
        """Write dx (rows, in) of the block last expanded, from grad (rows, pad + K + pad, in), which is overwritten."""


class CubicExpander:
    """All planes by the cubic's closed form, [t^3 - 4 (t - 1)_+^3] / 6, t = (2 - |u|)_+, u the distance to the centre.

    Every operation is one vector pass over a block: 8 forward; 13 backward, value and slope sharing the squares.
    """

    scale = -1 / 6
    pad = 0
    scratch: Sequence[Tensor]

    def __init__(self, lo: Tensor, step: Tensor, num_functions: int, edge: str, slopes: bool) -> None:
        self.lo, self.step = lo, step
        self.num_cells = num_functions - 3
        self.clamp, self.slopes = edge == "clamp", slopes
        self.centres = torch.arange(-1, num_functions - 1, dtype=lo.dtype, device=lo.device).unsqueeze(-1)
        self.num_scratch = 4 if slopes else 2
        self.slope: Tensor | None = None

    def expand(self, x: Tensor, planes: Tensor) -> None:
        """See `Expander`."""
        s = (x - self.lo).div_(self.step)
        if self.clamp:
            self.inside = (s >= 0) & (s <= self.num_cells)
            s.clamp_(0, self.num_cells)
        t, excess, *more = (buffer[: x.shape[0]] for buffer in self.scratch)
        u = more[0] if self.slopes else t
        torch.sub(s.unsqueeze(1), self.centres, out=u)
        # t and excess = (t - 1)_+ are stored negated: in-place passes take half the time of others
        torch.abs(u, out=t).clamp_(max=2).sub_(2)
        torch.ops.aten.softshrink.out(t, 1, out=excess)
        if self.slopes:
            excess.mul_(excess)
            self.slope = torch.mul(t, t, out=more[1]).sub_(excess, alpha=4)  # 2 |B'|
            t.mul_(self.slope)  # t^3 - 4 (t - 1)_+^3 = t * slope + 4 (t - 1)_+^2
            self.slope.mul_(u.sign_())
        else:
            t.pow_(3)
            excess.pow_(3)
        torch.sub(t, excess, alpha=4, out=planes)

    def contract(self, grad: Tensor, dx: Tensor) -> None:
        """See `Expander`."""
        assert self.slope is not None
        torch.sum(grad.mul_(self.slope), 1, out=dx)
        dx.div_(-2 * self.step)
        if self.clamp:
            dx.mul_(self.inside)


class LocalExpander:
    """Any order and edge policy: the order + 1 pieces in the cell of each x, placed among zeros by a scatter.

    The planes are padded by order + 1 on both sides, so that cells of the extended grid ("decay") need no bounds.
    """

    scale = 1.0
    num_scratch = 0
    scratch: Sequence[Tensor] = ()

    def __init__(self, lo: Tensor, step: Tensor, num_functions: int, order: int, edge: str, slopes: bool) -> None:
        self.lo, self.step, self.order, self.edge = lo, step, order, edge
        self.num_cells = num_functions - order
        self.pad = order + 1
        self.with_slopes = slopes or edge == "linear"

    def expand(self, x: Tensor, planes: Tensor) -> None:
        """See `Expander`."""
        cell, f = locate(x, self.lo, self.step, self.num_cells, self.order, self.edge)
        inside = f if self.edge == "decay" else f.clamp(0, 1)
        values = pieces(inside, self.order)
        self.slopes = pieces(inside, self.order, derivative=True) if self.with_slopes else []
        if self.edge == "linear":
            beyond = f - inside
            values = [v.addcmul_(beyond, d) for v, d in zip(values, self.slopes, strict=True)]
        elif self.edge == "clamp":
            self.slopes = [d.mul_(f == inside) for d in self.slopes]
        # NaN has no cell: the first will do, the pieces are NaN as well
        self.index = cell.nan_to_num_(0.0).add_(self.pad).long().unsqueeze(1)
        planes.zero_()
        for q, value in enumerate(values):
            planes[:, q:].scatter_(1, self.index, value.unsqueeze(1))

    def contract(self, grad: Tensor, dx: Tensor) -> None:
        """See `Expander`."""
        grad[:, : self.pad].zero_()
        grad[:, -self.pad :].zero_()
        dx.zero_()
        for q, slope in enumerate(self.slopes):
            dx.addcmul_(grad[:, q:].gather(1, self.index).squeeze(1), slope)
        dx.div_(self.step)


# The passes grow with K, the scatter does not: about 1 ns for each of the order + 1 pieces. CPU time of forward +
# backward over the bare GEMM's on a busy AMD EPYC (Zen 3), AVX2, one thread, 256 -> 256, passes against scatter:
# 1.37 : 1.86 at K = 8, 1.13 : 1.31 at K = 23, 1.36 : 1.27 at K = 64, 1.25 : 1.10 at K = 128.
MAX_DENSE = 32


def make_expander(lo: Tensor, step: Tensor, num_functions: int, order: int, edge: str, *, slopes: bool) -> Expander:
    """The faster of the two where both apply."""
    if order == 3 and edge != "linear" and num_functions <= MAX_DENSE:
        return CubicExpander(lo, step, num_functions, edge, slopes)
    return LocalExpander(lo, step, num_functions, order, edge, slopes)
