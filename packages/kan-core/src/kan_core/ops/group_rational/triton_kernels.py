"""The Triton path: one pass over x forward, one backward, no atomics. Imported only when a call chooses it.

A program owns one group of features in a slab of rows. The numbers of a group in consecutive rows form one sequence,
which the program walks in tiles of a power of two: no lane is masked but in the last tile, whatever the group's
width (24, 48, 96, ...), and a group's coefficients are ten numbers in registers. Programs of neighbouring groups run
side by side, so that they share the cache lines at the groups' borders.

The backward pass adds its sums lane by lane along the tiles, then over the lanes as a tree, and writes one row of a
workspace per program; torch adds those in float64. Runs are therefore equal in every bit.
"""

# ruff: noqa: RUF005 - Triton joins tuples, but unpacks none
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, assignment"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kan_core.ops.group_rational._forms import FORMS

TILE = 1024
WARPS = 8  # four numbers per thread: with ten sums each they fit in the registers
MAX_TILES = 64  # tiles per program: the length of the sequential part of a sum
ENOUGH_PROGRAMS = 2048  # a slab has fewer tiles than MAX_TILES when there would be fewer programs than this


@triton.jit
def _coefficients(start, COUNT: tl.constexpr, INNER_ABS: tl.constexpr, CONSTANT: tl.constexpr):
    """The coefficients at `start` as a tuple, lowest power first, after the constant if there is one."""
    values = () if CONSTANT is None else (tl.full((), CONSTANT, start.dtype.element_ty),)
    for i in tl.static_range(COUNT):
        c = tl.load(start + i)
        values = values + ((tl.abs(c) if INNER_ABS else c),)
    return values


@triton.jit
def _horner(coefficients, z, DEGREE: tl.constexpr):
    """The polynomial and its derivative at z."""
    value = tl.zeros_like(z) + coefficients[DEGREE]
    slope = tl.zeros_like(z)
    for i in tl.static_range(DEGREE):
        slope = slope * z + value
        value = value * z + coefficients[DEGREE - 1 - i]
    return value, slope


@triton.jit
def _offsets(tile, count, D: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """Where the numbers of a tile lie, from the slab's and group's first, and which of them exist."""
    e = tile * TILE + tl.arange(0, TILE)
    return (e // WIDTH).to(tl.int64) * D + e % WIDTH, e < count


@triton.jit
def _place(rows, slab_rows, D: tl.constexpr, WIDTH: tl.constexpr):
    """This program's group, its first number, and how many it has."""
    groups: tl.constexpr = D // WIDTH
    group = tl.program_id(0) % groups
    first_row = (tl.program_id(0) // groups).to(tl.int64) * slab_rows
    count = tl.minimum(rows - first_row, slab_rows).to(tl.int32) * WIDTH
    return group, first_row * D + group * WIDTH, count


@triton.jit(do_not_specialize=["rows", "slab_rows", "tiles"])
def _forward(
    x_ptr, a_ptr, b_ptr, y_ptr, rows, slab_rows, tiles,
    D: tl.constexpr, WIDTH: tl.constexpr, A_COUNT: tl.constexpr, B_COUNT: tl.constexpr,
    A_STEP: tl.constexpr, B_STEP: tl.constexpr,
    CONSTANT: tl.constexpr, INNER_ABS: tl.constexpr, OFFSET: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    group, start, count = _place(rows, slab_rows, D, WIDTH)
    a = _coefficients(a_ptr + group * A_STEP, A_COUNT, False, None)
    b = _coefficients(b_ptr + group * B_STEP, B_COUNT, INNER_ABS, CONSTANT)
    tile = 0
    while tile < tiles:  # the interpreter takes no tensor as the end of a range (NumPy >= 2.4)
        offsets, inside = _offsets(tile, count, D, WIDTH, TILE)
        x = tl.load(x_ptr + start + offsets, inside, other=0.0).to(a_ptr.dtype.element_ty)
        p, _ = _horner(a, x, A_COUNT - 1)
        q, _ = _horner(b, tl.abs(x) if INNER_ABS else x, B_COUNT - (CONSTANT is None))
        if OFFSET is not None:
            q = OFFSET + tl.abs(q)
        tl.store(y_ptr + start + offsets, (p / q).to(y_ptr.dtype.element_ty), inside)
        tile += 1


@triton.jit(do_not_specialize=["rows", "slab_rows", "tiles"])
def _backward(
    grad_ptr, x_ptr, a_ptr, b_ptr, dx_ptr, sums_ptr, rows, slab_rows, tiles,
    D: tl.constexpr, WIDTH: tl.constexpr, A_COUNT: tl.constexpr, B_COUNT: tl.constexpr,
    A_STEP: tl.constexpr, B_STEP: tl.constexpr,
    CONSTANT: tl.constexpr, INNER_ABS: tl.constexpr, OFFSET: tl.constexpr, TILE: tl.constexpr,
    NEED_DX: tl.constexpr, NEED_COEFFICIENTS: tl.constexpr,
):  # fmt: skip
    group, start, count = _place(rows, slab_rows, D, WIDTH)
    a = _coefficients(a_ptr + group * A_STEP, A_COUNT, False, None)
    b = _coefficients(b_ptr + group * B_STEP, B_COUNT, INNER_ABS, CONSTANT)
    sums = ()
    for _ in tl.static_range(A_COUNT + B_COUNT):
        sums = sums + (tl.zeros((TILE,), a_ptr.dtype.element_ty),)
    tile = 0
    while tile < tiles:  # the interpreter takes no tensor as the end of a range (NumPy >= 2.4)
        offsets, inside = _offsets(tile, count, D, WIDTH, TILE)
        x = tl.load(x_ptr + start + offsets, inside, other=0.0).to(a_ptr.dtype.element_ty)
        grad = tl.load(grad_ptr + start + offsets, inside, other=0.0).to(a_ptr.dtype.element_ty)
        z = tl.abs(x) if INNER_ABS else x
        p, dp = _horner(a, x, A_COUNT - 1)
        q, dq = _horner(b, z, B_COUNT - (CONSTANT is None))
        if OFFSET is not None:
            sign = tl.where(q < 0, -1.0, 1.0).to(q.dtype)
            q = OFFSET + tl.abs(q)
            dq *= sign
        if INNER_ABS:
            dq = tl.where(x < 0, -dq, tl.where(x > 0, dq, 0.0))
        r = 1 / q
        f = p * r
        w = grad * r
        if NEED_DX:
            tl.store(dx_ptr + start + offsets, (w * (dp - f * dq)).to(dx_ptr.dtype.element_ty), inside)
        if NEED_COEFFICIENTS:
            v = -w * f
            if OFFSET is not None:
                v *= sign
            if CONSTANT is not None:
                v *= z
            terms = ()
            for i in tl.static_range(A_COUNT):
                terms = terms + (sums[i] + w,)
                w *= x
            for i in tl.static_range(B_COUNT):
                terms = terms + (sums[A_COUNT + i] + v,)
                v *= z
            sums = terms
        tile += 1
    if NEED_COEFFICIENTS:
        row = tl.program_id(0).to(tl.int64) * (A_COUNT + B_COUNT)
        for i in tl.static_range(A_COUNT + B_COUNT):
            tl.store(sums_ptr + row + i, tl.sum(sums[i], 0))


class _Launch:
    """How a call is cut into programs, and the constants of its kernels."""

    def __init__(self, x: Tensor, a: Tensor, b: Tensor, form_name: str) -> None:
        form = FORMS[form_name]
        rows, features = x.shape
        self.groups = max(len(a), len(b))
        width = features // self.groups
        tiles = max(1, min(MAX_TILES, triton.cdiv(rows * features, ENOUGH_PROGRAMS * TILE)))
        slab_rows = max(1, tiles * TILE // width)
        self.slabs = triton.cdiv(rows, slab_rows)
        # the number of rows stays an argument: only the features are compiled in
        self.arguments = (rows, slab_rows, triton.cdiv(slab_rows * width, TILE))
        self.constants: dict[str, Any] = {
            "D": features,
            "WIDTH": width,
            "A_COUNT": a.shape[1],
            "B_COUNT": b.shape[1],
            "A_STEP": a.shape[1] if len(a) > 1 else 0,
            "B_STEP": b.shape[1] if len(b) > 1 else 0,
            "CONSTANT": form.constant,
            "INNER_ABS": form.inner_abs,
            "OFFSET": form.offset,
            "TILE": TILE,
            "num_warps": WARPS,
        }

    @property
    def grid(self) -> tuple[int]:
        return (self.slabs * self.groups,)


def forward(x: Tensor, a: Tensor, b: Tensor, form_name: str) -> Tensor:
    """F(x) of a contiguous x (rows, features) in the type of x, computed in that of the coefficients."""
    y = torch.empty_like(x)
    launch = _Launch(x, a, b, form_name)
    if launch.slabs:
        with torch.cuda.device_of(x):
            _forward[launch.grid](x, a.contiguous(), b.contiguous(), y, *launch.arguments, **launch.constants)
    return y


def backward(
    grad: Tensor, x: Tensor, a: Tensor, b: Tensor, form_name: str, need_dx: bool, need_coefficients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, a and b; those that are not needed are empty tensors."""
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    launch = _Launch(x, a, b, form_name)
    sums = a.new_empty(launch.slabs, launch.groups, a.shape[1] + b.shape[1])
    if launch.slabs:
        with torch.cuda.device_of(x):
            _backward[launch.grid](
                grad, x, a.contiguous(), b.contiguous(), dx, sums, *launch.arguments,
                NEED_DX=need_dx, NEED_COEFFICIENTS=need_coefficients, **launch.constants,
            )  # fmt: skip
    if not need_coefficients:
        return dx, a.new_empty(0), b.new_empty(0)
    da, db = torch.split(sums.sum(0, dtype=torch.float64), [a.shape[1], b.shape[1]], dim=1)
    da, db = (s.sum(0, keepdim=True) if len(c) == 1 else s for s, c in ((da, a), (db, b)))
    if FORMS[form_name].inner_abs:
        db = torch.where(b < 0, -db, db)  # the derivative of |b|: +1 at 0
    return dx, da.to(a.dtype), db.to(b.dtype)
