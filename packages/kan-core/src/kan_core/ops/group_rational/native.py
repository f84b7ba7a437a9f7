"""The C path: one pass over x forward and one backward, vector code for groups of any width, compiled on first use.

The sums have the same bits for every number of threads: the shape of x alone decides how it is cut up.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import gcd
from pathlib import Path

import torch
from torch import Tensor

from kan_core.ops import _native
from kan_core.ops.group_rational._forms import FORMS

KERNELS = _native.Kernels(Path(__file__).with_name("native.c"))
MOST_COEFFICIENTS = 64  # of P and S together, as in native.c
# Narrower rows are joined into lines. Forward at (25216, 192), 8 groups, one thread of an AMD EPYC (Zen 3): 0.72 ns per
# number in lines of 384, 0.63 in 576, 0.48 in 1152, 0.53 in 2112 (a copy: 0.44).
MIN_COLUMNS = 1024
MAX_COLUMNS = 4096  # lines of joined rows are not wider, even where that leaves vectors partly filled
VECTOR = 16  # columns, a multiple of the vectors of all machines
BLOCK_LINES = 64  # as in native.c
MAX_SLABS = 256  # parts that the threads share out
SLAB_SUMS = 1 << 17  # at most this many numbers: many groups have fewer slabs
WIDENED = 1 << 18  # numbers of a half-precision x that are float32 at a time
ONE_THREAD = 1 << 15  # numbers that are not worth a second one


class _Call:
    """The arguments that the passes share."""

    def __init__(self, x: Tensor, a: Tensor, b: Tensor, form_name: str) -> None:
        form = FORMS[form_name]
        s = b.abs() if form.inner_abs else b
        if form.constant is not None:
            s = torch.cat([torch.full_like(s[:, :1], form.constant), s], dim=1)
        self.groups, self.dtype = max(len(a), len(b)), a.dtype
        self.counts = a.shape[1], s.shape[1]
        self.coefficients = torch.cat([c.expand(self.groups, -1) for c in (a, s)], dim=1)
        rows, self.features = x.shape
        self.total = x.numel()
        self.line = self.features * max(1, min(_joined(self.features), rows))
        self.table = a.new_empty((self.line + -self.line % VECTOR) * sum(self.counts))
        self.form = list(FORMS).index(form_name)
        self._run = partial(KERNELS.call, a.dtype)

    def spans(self, dtype: torch.dtype) -> Iterator[slice]:
        """Ranges of the flattened x for one call each: all of it, or as much as is widened at a time."""
        step = self.total if dtype == self.dtype else max(1, WIDENED // self.line) * self.line
        for start in range(0, self.total, max(step, 1)):
            yield slice(start, min(start + step, self.total))

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Fill y, one span."""
        wide = self._room(y)
        self._run("forward", x.to(self.dtype), self.coefficients, wide, self.table, *self._sizes(len(x)))
        if wide is not y:
            y.copy_(wide)

    def backward(self, grad: Tensor, x: Tensor, dx: Tensor | None, sums: Tensor) -> None:
        """Fill dx, one span, if there is one, and add to the sums (groups, coefficients)."""
        wide = None if dx is None else self._room(dx)
        slab_sums = sums.new_zeros(self._slabs(len(x)), *sums.shape)
        tensors = (grad.to(self.dtype), x.to(self.dtype), self.coefficients, wide, sums, slab_sums, self.table)
        self._run("backward", *tensors, *self._sizes(len(x)))
        if dx is not None and wide is not None and wide is not dx:
            dx.copy_(wide)

    def _room(self, result: Tensor) -> Tensor:
        """Where a kernel can write the result: there, when it has the type of the arithmetic."""
        return result if result.dtype == self.dtype else torch.empty_like(result, dtype=self.dtype)

    def _slabs(self, numbers: int) -> int:
        blocks = -(-numbers // (BLOCK_LINES * self.line))
        return max(1, min(blocks, MAX_SLABS, SLAB_SUMS // self.coefficients.numel()))

    def _sizes(self, numbers: int) -> tuple[int, ...]:
        """The integers at the end of the arguments."""
        threads = torch.get_num_threads() if numbers > ONE_THREAD else 1
        shape = (numbers, self.line, self.features, self.groups)
        return (*shape, *self.counts, self.form, self._slabs(numbers), threads)


def _joined(features: int) -> int:
    """Rows in a line."""
    whole = VECTOR // gcd(features, VECTOR)
    rows = whole * -(-MIN_COLUMNS // (whole * features))
    return rows if rows * features <= MAX_COLUMNS else 1


def forward(x: Tensor, a: Tensor, b: Tensor, form_name: str) -> Tensor:
    """F(x) of a contiguous x (rows, features) in the type of x, computed in that of the coefficients."""
    y = torch.empty_like(x)
    call = _Call(x, a, b, form_name)
    for span in call.spans(x.dtype):
        call.forward(x.view(-1)[span], y.view(-1)[span])
    return y


def backward(
    grad: Tensor, x: Tensor, a: Tensor, b: Tensor, form_name: str, need_dx: bool, need_coefficients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, a and b; those that are not needed are empty tensors."""
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    call = _Call(x, a, b, form_name)
    sums = torch.zeros(call.coefficients.shape, dtype=torch.float64)
    for span in call.spans(x.dtype):
        call.backward(grad.view(-1)[span], x.view(-1)[span], dx.view(-1)[span] if need_dx else None, sums)
    if not need_coefficients:
        return dx, a.new_empty(0), b.new_empty(0)
    da, db = sums[:, : a.shape[1]], sums[:, -b.shape[1] :]
    da, db = (s.sum(0, keepdim=True) if len(c) == 1 else s for s, c in ((da, a), (db, b)))
    if FORMS[form_name].inner_abs:
        db = torch.where(b < 0, -db, db)  # the derivative of |b|: +1 at 0
    return dx, da.to(a.dtype, copy=True), db.to(b.dtype, copy=True)  # not two views of the sums
