"""The CPU path: blocks of rows that stay in the cache, in-place vector passes over each.

Eager autograd has 15 tensors of the size of x alive at once. Here only the result and the gradient of x are that large:
the backward pass computes P and Q again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kan_core.ops.group_rational._forms import FORMS, Form

# Small enough that the buffers of a block stay in the last cache, large enough that starting a pass costs little.
# Backward at (12608, 768), 8 groups, one thread of an AMD EPYC (Zen 3): 19.0 ns per number in blocks of 2^16, 15.9 in
# 2^17, 14.3 in 2^18, 15.0 in 2^19 (least of three on a busy machine).
BLOCK_ELEMENTS = 1 << 18
MIN_COLUMNS = 512  # narrower rows are joined: the loop over the columns is the vectorised one


class _Blocks:
    """x (rows, features) as flat blocks of equally wide lines, and the coefficients of one line.

    A line is one row, or several narrow ones side by side; the rows left over are a shorter line of their own.
    """

    def __init__(self, x: Tensor, a: Tensor, b: Tensor, form: Form, buffers: int) -> None:
        rows, features = x.shape
        self.features = features
        self.joined = max(1, min(MIN_COLUMNS // features, rows))
        self.line = self.joined * features
        self.lines, self.left_over = divmod(rows, self.joined)
        self.height = min(max(BLOCK_ELEMENTS // self.line, 1), self.lines)
        self.numerator = self._columns(a)
        # |b| has derivative +1 at 0, like reference.magnitude; adding 0 turns −0 into +0 for the same sake
        self.signs = torch.where(b < 0, -1, 1) if form.inner_abs else None
        self.denominator = self._columns(b.abs() if form.inner_abs else b + 0.0)
        if form.constant is not None:
            constant = torch.full_like(self.denominator[0], form.constant)
            self.denominator = [constant, *self.denominator]
        self.workspace = a.new_empty(buffers, self.height * self.line)

    def _columns(self, coefficients: Tensor) -> list[Tensor]:
        """By power: one number, or one per column of a line."""
        powers = coefficients.T
        if powers.shape[1] > 1:
            powers = powers.repeat_interleave(self.features // powers.shape[1], dim=1).repeat(1, self.joined)
        return [*powers]

    def __iter__(self) -> Iterator[tuple[slice, tuple[int, int]]]:
        """Ranges of the flattened x, and their shape (lines, columns)."""
        for start in range(0, self.lines, max(self.height, 1)):
            stop = min(start + self.height, self.lines)
            yield slice(start * self.line, stop * self.line), (stop - start, self.line)
        if self.left_over:
            start = self.lines * self.line
            columns = self.left_over * self.features
            yield slice(start, start + columns), (1, columns)

    def buffers(self, shape: tuple[int, int]) -> list[Tensor]:
        size = shape[0] * shape[1]
        return [buffer[:size].view(shape) for buffer in self.workspace]


def _cut(coefficients: Sequence[Tensor], columns: int) -> list[Tensor]:
    """The coefficients of a line that may be shorter."""
    return [c[:columns] for c in coefficients]


def _horner(coefficients: list[Tensor], z: Tensor, value: Tensor, slope: Tensor | None = None) -> Tensor:
    """Fill `value` with the polynomial and return its derivative, in `slope` if that has at least degree 1."""
    *lower, second, highest = coefficients
    derivative = highest
    torch.addcmul(second, highest, z, out=value)
    for c in reversed(lower):
        if slope is not None:
            derivative = torch.addcmul(value, derivative, z, out=slope)
        torch.addcmul(c, value, z, out=value)
    return derivative


def forward(x: Tensor, a: Tensor, b: Tensor, form_name: str) -> Tensor:
    """F(x) of a contiguous x (rows, features) in the type of x, computed in that of the coefficients."""
    form = FORMS[form_name]
    y = torch.empty_like(x)
    widen = x.dtype != a.dtype
    blocks = _Blocks(x, a, b, form, buffers=2 + form.inner_abs + widen)
    for span, shape in blocks:
        p, q, *others = blocks.buffers(shape)
        here = x.view(-1)[span].view(shape)
        if widen:
            here = others.pop().copy_(here)
        _horner(_cut(blocks.numerator, shape[1]), here, p)
        z = torch.abs(here, out=others.pop()) if form.inner_abs else here
        _horner(_cut(blocks.denominator, shape[1]), z, q)
        if form.offset is not None:
            q.abs_().add_(form.offset)
        torch.div(p, q, out=y.view(-1)[span].view(shape))
    return y


def backward(
    grad: Tensor, x: Tensor, a: Tensor, b: Tensor, form_name: str, need_dx: bool, need_coefficients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, a and b; those that are not needed are empty tensors.

    With w = grad/Q and v = w P/Q they are w P' − v Q', Σ w xⁱ and −Σ v zⁱ (v with the sign of S where Q has |S|). A
    block's sums run in pieces, those of the blocks are added in float64.
    """
    form = FORMS[form_name]
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    widen = x.dtype != a.dtype
    blocks = _Blocks(x, a, b, form, buffers=5 + form.inner_abs + (form.offset is not None) + 2 * widen)
    first = 1 if form.constant is not None else 0
    powers = a.shape[1] + b.shape[1]
    partial = a.new_empty(powers, blocks.line)
    groups = max(len(a), len(b))
    sums = torch.zeros(powers, groups, dtype=torch.float64)
    for span, shape in blocks:
        p, dp, q, dq, w, *others = blocks.buffers(shape)
        here, g = x.view(-1)[span].view(shape), grad.view(-1)[span].view(shape)
        if widen:
            here, g = others.pop().copy_(here), others.pop().copy_(g)
        p_slope = _horner(_cut(blocks.numerator, shape[1]), here, p, dp)
        z = torch.abs(here, out=others.pop()) if form.inner_abs else here
        q_slope = _horner(_cut(blocks.denominator, shape[1]), z, q, dq)
        sign = None
        if form.offset is not None:
            sign = torch.copysign(q.new_ones(()), q, out=others.pop())
            q.abs_().add_(form.offset)
        torch.div(g, q, out=w)
        v = p.div_(q).mul_(w)
        if sign is not None:
            v.mul_(sign)
        if need_dx:
            if form.inner_abs:
                q_slope = torch.mul(q_slope, torch.sign(here, out=q), out=dq)
            torch.mul(w, p_slope, out=dp)
            torch.addcmul(dp, v, q_slope, value=-1, out=dx.view(-1)[span].view(shape))
        if need_coefficients:
            sums_here = partial[:, : shape[1]]
            for i, (factor, term) in enumerate([(here, w)] * a.shape[1] + [(z, v)] * b.shape[1]):
                if i != 0 and (i != a.shape[1] or first):
                    term.mul_(factor)
                torch.sum(term, 0, out=sums_here[i])
            sums += sums_here.view(powers, -1, groups, blocks.features // groups).sum((1, 3), dtype=torch.float64)
    if not need_coefficients:
        return dx, a.new_empty(0), b.new_empty(0)
    da, db = torch.split(sums.T, [a.shape[1], b.shape[1]], dim=1)
    da, db = (s.sum(0, keepdim=True) if len(c) == 1 else s for s, c in ((da, a), (-db, b)))
    if blocks.signs is not None:
        db = db * blocks.signs
    return dx, da.to(a.dtype), db.to(b.dtype)
