"""The implicit matrix product: y = A(x) @ weight, where tiles of A, the basis planes of x, exist in registers only.

The basis is a compile-time argument: jitted functions (`kan_core.ops._triton.launch.Planes`) that the kernels inline.
x is (batch, IN), weight (K, IN, OUT) or (K + 1, IN, OUT) with SILU, y (batch, OUT), all contiguous. `a` and `b` are
two numbers per input or None, `offset` is one for all; `table` (K, ROWS, IN), or (K, ROWS, 1) when it is SHARED, holds
ROWS numbers per plane and input. In this plane-major order a tile of A is an elementwise function of the tile of x at
hand, so that no width needs padding. Sums run in float32. A kernel whose sum is split over the second grid axis writes
one partial result per split, (splits, ...): adding them up in order, later, needs no atomics.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# mypy: disable-error-code="import-untyped, assignment, var-annotated"
# (the compiler of Triton types these functions, per call)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _raw(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    return x


@triton.jit
def _silu(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    return x * _sigmoid(x)


@triton.jit
def _tile(base, row0, rows, columns, row_mask, COLUMNS: tl.constexpr, PITCH: tl.constexpr = 1):
    """Rows row0 + rows and the given columns of a (., COLUMNS) matrix, 0 beyond its ends; 64-bit for the first row.

    Rows are PITCH times COLUMNS numbers apart.
    """
    pointers = base + tl.cast(row0, tl.int64) * (COLUMNS * PITCH) + rows[:, None] * (COLUMNS * PITCH) + columns[None, :]
    return tl.load(pointers, mask=row_mask[:, None] & (columns < COLUMNS)[None, :], other=0.0)


@triton.jit
def _store(base, value, row0, rows, columns, row_mask, COLUMNS: tl.constexpr, PITCH: tl.constexpr = 1):
    pointers = base + tl.cast(row0, tl.int64) * (COLUMNS * PITCH) + rows[:, None] * (COLUMNS * PITCH) + columns[None, :]
    tl.store(pointers, value, mask=row_mask[:, None] & (columns < COLUMNS)[None, :])


@triton.jit
def _pair(a, b, ins, IN: tl.constexpr):
    """The two numbers of each input, as rows; 0 and 1 beyond the last input, where every basis is finite."""
    if a is None:
        return 0.0, 1.0
    else:
        inside = ins < IN
        return tl.load(a + ins, mask=inside, other=0.0)[None, :], tl.load(b + ins, mask=inside, other=1.0)[None, :]


@triton.jit
def _table_rows(table, c, ins, IN: tl.constexpr, ROWS: tl.constexpr, SHARED: tl.constexpr):
    """The numbers of plane c: a tuple of ROWS rows, or of scalars; the last input's again beyond it."""
    rows = ()
    for r in tl.static_range(ROWS):
        if SHARED:
            rows += (tl.load(table + c * ROWS + r),)
        else:
            first = tl.cast(c * ROWS + r, tl.int64) * IN
            rows += (tl.load(table + first + tl.minimum(ins, IN - 1))[None, :],)
    return rows


@triton.jit
def _state_of(
    c, z, table, ins,
    IN: tl.constexpr, ROWS: tl.constexpr, SHARED: tl.constexpr,
    BEGIN: tl.constexpr, FOLLOW: tl.constexpr, SLOPES: tl.constexpr,
):  # fmt: skip
    """What a recurrence carries when it has come to plane c; nothing for planes that need no state."""
    if BEGIN is None:
        return ()
    else:
        state = BEGIN(z, SLOPES)
        for n in tl.range(0, c):
            state = FOLLOW(z, state, _table_rows(table, n, ins, IN, ROWS, SHARED), SLOPES)
        return state


@triton.jit(do_not_specialize=["batch", "offset"])
def forward_kernel(
    x, weight, a, b, table, y, batch, offset,
    IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, SHARED: tl.constexpr,
    LOCATE: tl.constexpr, VALUE: tl.constexpr, BEGIN: tl.constexpr, FOLLOW: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One (BM, BO) tile of y, or of its part over every n-th block of inputs, n the number of splits."""
    tiles = tl.cdiv(OUT, BO)
    m0 = tl.program_id(0) // tiles * BM
    split = tl.program_id(1)
    rows, outs = tl.arange(0, BM), tl.program_id(0) % tiles * BO + tl.arange(0, BO)
    row_mask = rows < batch - m0
    block = tl.arange(0, BI)
    acc = tl.zeros((BM, BO), tl.float32)
    for i0 in tl.range(split * BI, IN, tl.num_programs(1) * BI):
        ins = i0 + block
        inside = ins < IN
        xs = _tile(x, m0, rows, ins, row_mask, IN).to(tl.float32)
        lo, step = _pair(a, b, ins, IN)
        z = LOCATE(xs, lo, step, offset, K, ORDER)
        state = _state_of(0, z, table, ins, IN, ROWS, SHARED, BEGIN, FOLLOW, False)
        for c in tl.range(0, K):
            w = _tile(weight, tl.cast(c, tl.int64) * IN + i0, block, outs, inside, OUT)
            numbers = _table_rows(table, c, ins, IN, ROWS, SHARED)
            acc = tl.dot(VALUE(z, c, state, numbers, K, ORDER).to(w.dtype), w, acc, input_precision=PRECISION)
            if BEGIN is not None:
                state = FOLLOW(z, state, numbers, False)
        if SILU:
            w = _tile(weight, tl.cast(K, tl.int64) * IN + i0, block, outs, inside, OUT)
            acc = tl.dot(_silu(xs, 0, (), (), K, ORDER).to(w.dtype), w, acc, input_precision=PRECISION)
    _store(y, acc, tl.cast(split, tl.int64) * batch + m0, rows, outs, row_mask, OUT)


@triton.jit
def _plane_gradient(
    grad, weight, m0, c, i0, rows, block, row_mask, inside,
    IN: tl.constexpr, OUT: tl.constexpr, PLANES: tl.constexpr, EXPANDED: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """The gradient of plane c of A: a tile of grad @ weight[c].T, or of that product as (batch, PLANES, IN)."""
    if EXPANDED:
        return _tile(grad + c * IN, m0, rows, i0 + block, row_mask, IN, PLANES).to(tl.float32)
    else:
        acc = tl.zeros((BM, BI), tl.float32)
        for o0 in tl.range(0, OUT, BO):
            outs = o0 + tl.arange(0, BO)
            g = _tile(grad, m0, rows, outs, row_mask, OUT)
            w = _tile(weight, tl.cast(c, tl.int64) * IN + i0, block, outs, inside, OUT)
            acc = tl.dot(g, tl.trans(w), acc, input_precision=PRECISION)
        return acc


@triton.jit
def _planes_of_split(K: tl.constexpr):
    """First and one beyond last of the planes that this program of the second grid axis takes."""
    split, splits = tl.program_id(1), tl.num_programs(1)
    return split * K // splits, (split + 1) * K // splits


@triton.jit(do_not_specialize=["batch", "offset"])
def input_gradient_kernel(
    grad, x, weight, a, b, table, dx, dtable, batch, offset,
    IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, SHARED: tl.constexpr, EXPANDED: tl.constexpr,
    LOCATE: tl.constexpr, SLOPE: tl.constexpr, CHAIN: tl.constexpr, BEGIN: tl.constexpr, FOLLOW: tl.constexpr,
    TABLE_SLOPES: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One (BM, BI) tile of dx, or of its part over some of the planes: the gradient of A never leaves the registers.

    With EXPANDED `grad` is that gradient, (batch, K or K + 1, IN), made by another kernel, and `weight` is not used.
    Unless it is None, dtable (row tiles, K, ROWS, IN) receives this row tile's part of the gradient of the table.
    """
    tiles = tl.cdiv(IN, BI)
    tile = tl.program_id(0) // tiles
    m0 = tile * BM
    i0 = tl.program_id(0) % tiles * BI
    rows, block = tl.arange(0, BM), tl.arange(0, BI)
    ins = i0 + block
    row_mask, inside = rows < batch - m0, ins < IN
    xs = _tile(x, m0, rows, ins, row_mask, IN).to(tl.float32)
    lo, step = _pair(a, b, ins, IN)
    z = LOCATE(xs, lo, step, offset, K, ORDER)
    first, beyond = _planes_of_split(K)
    state = _state_of(first, z, table, ins, IN, ROWS, SHARED, BEGIN, FOLLOW, True)
    dz = tl.zeros((BM, BI), tl.float32)
    for c in tl.range(first, beyond):
        numbers = _table_rows(table, c, ins, IN, ROWS, SHARED)
        slope = SLOPE(z, c, state, numbers, K, ORDER)
        plane = _plane_gradient(
            grad, weight, m0, c, i0, rows, block, row_mask, inside,
            IN, OUT, K + SILU, EXPANDED, PRECISION, BM, BI, BO,
        )  # fmt: skip
        dz += slope * plane
        if dtable is not None:
            slopes = TABLE_SLOPES(z, c, numbers, K, ORDER)
            for r in tl.static_range(ROWS):
                row = (tl.cast(tile, tl.int64) * K + c) * ROWS + r
                tl.store(dtable + row * IN + ins, tl.sum(plane * slopes[r], 0), mask=inside)
        if BEGIN is not None:
            state = FOLLOW(z, state, numbers, True)
    total = dz * CHAIN(xs, lo, step, offset, K, ORDER)
    split = tl.program_id(1)
    if SILU and split == 0:
        sigmoid = _sigmoid(xs)
        slope = sigmoid * (1.0 + xs * (1.0 - sigmoid))
        total += slope * _plane_gradient(
            grad, weight, m0, K, i0, rows, block, row_mask, inside,
            IN, OUT, K + SILU, EXPANDED, PRECISION, BM, BI, BO,
        )  # fmt: skip
    _store(dx, total, tl.cast(split, tl.int64) * batch + m0, rows, ins, row_mask, IN)


@triton.jit
def _weight_sum(
    grad, x, a, b, table, batch, offset, c, split, splits, ins, outs,
    IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr,
    ROWS: tl.constexpr, SHARED: tl.constexpr,
    LOCATE: tl.constexpr, VALUE: tl.constexpr, BEGIN: tl.constexpr, FOLLOW: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Plane c of A, transposed, times grad, over every `splits`-th block of rows."""
    rows = tl.arange(0, BM)
    lo, step = _pair(a, b, ins, IN)
    numbers = _table_rows(table, c, ins, IN, ROWS, SHARED)
    acc = tl.zeros((BI, BO), tl.float32)
    for m0 in tl.range(split * BM, batch, splits * BM):
        row_mask = rows < batch - m0
        g = _tile(grad, m0, rows, outs, row_mask, OUT)
        z = LOCATE(_tile(x, m0, rows, ins, row_mask, IN).to(tl.float32), lo, step, offset, K, ORDER)
        state = _state_of(c, z, table, ins, IN, ROWS, SHARED, BEGIN, FOLLOW, False)
        value = VALUE(z, c, state, numbers, K, ORDER).to(g.dtype)
        acc = tl.dot(tl.trans(value), g, acc, input_precision=PRECISION)
    return acc


@triton.jit(do_not_specialize=["batch", "offset"])
def weight_gradient_kernel(
    grad, x, a, b, table, dw, batch, offset,
    IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, SHARED: tl.constexpr,
    LOCATE: tl.constexpr, VALUE: tl.constexpr, BEGIN: tl.constexpr, FOLLOW: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One (BI, BO) tile of one plane of dw, or of its part over every n-th block of rows."""
    tiles_o, tiles_i = tl.cdiv(OUT, BO), tl.cdiv(IN, BI)
    tile = tl.program_id(0)
    block = tl.arange(0, BI)
    i0 = tile // tiles_o % tiles_i * BI
    c = tile // (tiles_o * tiles_i)
    outs = tile % tiles_o * BO + tl.arange(0, BO)
    ins = i0 + block
    split, splits = tl.program_id(1), tl.num_programs(1)
    if SILU and c == K:
        acc = _weight_sum(
            grad, x, a, b, table, batch, offset, c, split, splits, ins, outs,
            IN, OUT, K, ORDER, 0, SHARED, _raw, _silu, None, None, PRECISION, BM, BI, BO,
        )  # fmt: skip
    else:
        acc = _weight_sum(
            grad, x, a, b, table, batch, offset, c, split, splits, ins, outs,
            IN, OUT, K, ORDER, ROWS, SHARED, LOCATE, VALUE, BEGIN, FOLLOW, PRECISION, BM, BI, BO,
        )  # fmt: skip
    row0 = (tl.cast(split, tl.int64) * (K + SILU) + c) * IN + i0
    _store(dw, acc, row0, block, outs, ins < IN, OUT)


@triton.jit(do_not_specialize=["batch", "offset"])
def expand_kernel(
    x, a, b, table, planes, batch, offset,
    IN: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, SHARED: tl.constexpr,
    LOCATE: tl.constexpr, VALUE: tl.constexpr, BEGIN: tl.constexpr, FOLLOW: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """A itself, (batch, K or K + 1, IN), for another matrix product: a (BM, BI) tile of some of its planes."""
    tiles = tl.cdiv(IN, BI)
    m0 = tl.program_id(0) // tiles * BM
    rows, ins = tl.arange(0, BM), tl.program_id(0) % tiles * BI + tl.arange(0, BI)
    row_mask = rows < batch - m0
    xs = _tile(x, m0, rows, ins, row_mask, IN).to(tl.float32)
    lo, step = _pair(a, b, ins, IN)
    z = LOCATE(xs, lo, step, offset, K, ORDER)
    first, beyond = _planes_of_split(K)
    state = _state_of(first, z, table, ins, IN, ROWS, SHARED, BEGIN, FOLLOW, False)
    for c in tl.range(first, beyond):
        numbers = _table_rows(table, c, ins, IN, ROWS, SHARED)
        value = VALUE(z, c, state, numbers, K, ORDER)
        _store(planes + c * IN, value, m0, rows, ins, row_mask, IN, K + SILU)
        if BEGIN is not None:
            state = FOLLOW(z, state, numbers, False)
    if SILU and tl.program_id(1) == 0:
        _store(planes + K * IN, _silu(xs, 0, (), (), K, ORDER), m0, rows, ins, row_mask, IN, K + SILU)
