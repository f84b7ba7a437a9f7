"""The implicit matrix product: y = A(x) @ weight, where tiles of A, the basis planes of x, exist in registers only.

The basis is a compile-time argument: jitted functions (`kan_core.ops._triton.launch.Planes`) that the kernels inline.
x is (batch, IN), weight (K, IN, OUT) or (K + 1, IN, OUT) with SILU, y (batch, OUT), all contiguous; `a` and `b` are
two numbers per input, `ratio` is one for all. In this plane-major order a tile of A is an elementwise function of the
tile of x at hand, so that no width needs padding. Sums run in float32. A kernel whose sum is split over the second
grid axis writes one partial result per split, (splits, ...): adding them up in order, later, needs no atomics.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, disable-error-code="import-untyped"
# (the compiler of Triton types these functions, per call)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _raw(x, a, b, K: tl.constexpr, ORDER: tl.constexpr):
    return x


@triton.jit
def _silu(x, c, ratio, K: tl.constexpr, ORDER: tl.constexpr):
    return x * _sigmoid(x)


@triton.jit
def _tile(base, row0, rows, columns, row_mask, COLUMNS: tl.constexpr):
    """Rows row0 + rows and the given columns of a (., COLUMNS) matrix, 0 beyond its ends; 64-bit for the first row."""
    pointers = base + tl.cast(row0, tl.int64) * COLUMNS + rows[:, None] * COLUMNS + columns[None, :]
    return tl.load(pointers, mask=row_mask[:, None] & (columns < COLUMNS)[None, :], other=0.0)


@triton.jit
def _state(a, b, ins, IN: tl.constexpr):
    """The two numbers of each input, as rows; 0 and 1 beyond the last input, where every basis is finite."""
    inside = ins < IN
    return tl.load(a + ins, mask=inside, other=0.0)[None, :], tl.load(b + ins, mask=inside, other=1.0)[None, :]


@triton.jit
def _store(base, value, row0, rows, columns, row_mask, COLUMNS: tl.constexpr):
    pointers = base + tl.cast(row0, tl.int64) * COLUMNS + rows[:, None] * COLUMNS + columns[None, :]
    tl.store(pointers, value, mask=row_mask[:, None] & (columns < COLUMNS)[None, :])


@triton.jit(do_not_specialize=["batch", "ratio"])
def forward_kernel(
    x, weight, a, b, y, batch, ratio,
    IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr, SILU: tl.constexpr,
    LOCATE: tl.constexpr, VALUE: tl.constexpr, PRECISION: tl.constexpr,
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
        lo, step = _state(a, b, ins, IN)
        z = LOCATE(xs, lo, step, K, ORDER)
        for c in tl.range(0, K):
            w = _tile(weight, tl.cast(c, tl.int64) * IN + i0, block, outs, inside, OUT)
            acc = tl.dot(VALUE(z, c, ratio, K, ORDER).to(w.dtype), w, acc, input_precision=PRECISION)
        if SILU:
            w = _tile(weight, tl.cast(K, tl.int64) * IN + i0, block, outs, inside, OUT)
            acc = tl.dot(_silu(xs, 0, ratio, K, ORDER).to(w.dtype), w, acc, input_precision=PRECISION)
    _store(y, acc, tl.cast(split, tl.int64) * batch + m0, rows, outs, row_mask, OUT)


@triton.jit
def _plane_gradient(
    grad, weight, m0, c, i0, rows, block, row_mask, inside,
    IN: tl.constexpr, OUT: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """The gradient of plane c of A: a tile of grad @ weight[c].T."""
    acc = tl.zeros((BM, BI), tl.float32)
    for o0 in tl.range(0, OUT, BO):
        outs = o0 + tl.arange(0, BO)
        g = _tile(grad, m0, rows, outs, row_mask, OUT)
        w = _tile(weight, tl.cast(c, tl.int64) * IN + i0, block, outs, inside, OUT)
        acc = tl.dot(g, tl.trans(w), acc, input_precision=PRECISION)
    return acc


@triton.jit(do_not_specialize=["batch", "ratio"])
def input_gradient_kernel(
    grad, x, weight, a, b, dx, batch, ratio,
    IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr, SILU: tl.constexpr,
    LOCATE: tl.constexpr, SLOPE: tl.constexpr, CHAIN: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One (BM, BI) tile of dx, or of its part over every n-th plane: the gradient of A never leaves the registers."""
    tiles = tl.cdiv(IN, BI)
    m0 = tl.program_id(0) // tiles * BM
    i0 = tl.program_id(0) % tiles * BI
    split = tl.program_id(1)
    rows, block = tl.arange(0, BM), tl.arange(0, BI)
    ins = i0 + block
    row_mask, inside = rows < batch - m0, ins < IN
    xs = _tile(x, m0, rows, ins, row_mask, IN).to(tl.float32)
    lo, step = _state(a, b, ins, IN)
    z = LOCATE(xs, lo, step, K, ORDER)
    dz = tl.zeros((BM, BI), tl.float32)
    for c in tl.range(split, K, tl.num_programs(1)):
        slope = SLOPE(z, c, ratio, K, ORDER)
        dz += slope * _plane_gradient(
            grad, weight, m0, c, i0, rows, block, row_mask, inside, IN, OUT, PRECISION, BM, BI, BO
        )
    total = dz * CHAIN(xs, lo, step, K, ORDER)
    if SILU and split == 0:
        sigmoid = _sigmoid(xs)
        slope = sigmoid * (1.0 + xs * (1.0 - sigmoid))
        total += slope * _plane_gradient(
            grad, weight, m0, K, i0, rows, block, row_mask, inside, IN, OUT, PRECISION, BM, BI, BO
        )
    _store(dx, total, tl.cast(split, tl.int64) * batch + m0, rows, ins, row_mask, IN)


@triton.jit
def _weight_sum(
    grad, x, a, b, batch, ratio, c, split, splits, ins, outs,
    IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr,
    LOCATE: tl.constexpr, VALUE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Plane c of A, transposed, times grad, over every `splits`-th block of rows."""
    rows = tl.arange(0, BM)
    lo, step = _state(a, b, ins, IN)
    acc = tl.zeros((BI, BO), tl.float32)
    for m0 in tl.range(split * BM, batch, splits * BM):
        row_mask = rows < batch - m0
        g = _tile(grad, m0, rows, outs, row_mask, OUT)
        xs = _tile(x, m0, rows, ins, row_mask, IN).to(tl.float32)
        value = VALUE(LOCATE(xs, lo, step, K, ORDER), c, ratio, K, ORDER).to(g.dtype)
        acc = tl.dot(tl.trans(value), g, acc, input_precision=PRECISION)
    return acc


@triton.jit(do_not_specialize=["batch", "ratio"])
def weight_gradient_kernel(
    grad, x, a, b, dw, batch, ratio,
    IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr, SILU: tl.constexpr,
    LOCATE: tl.constexpr, VALUE: tl.constexpr, PRECISION: tl.constexpr,
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
            grad, x, a, b, batch, ratio, c, split, splits, ins, outs,
            IN, OUT, K, ORDER, _raw, _silu, PRECISION, BM, BI, BO,
        )  # fmt: skip
    else:
        acc = _weight_sum(
            grad, x, a, b, batch, ratio, c, split, splits, ins, outs,
            IN, OUT, K, ORDER, LOCATE, VALUE, PRECISION, BM, BI, BO,
        )  # fmt: skip
    row0 = (tl.cast(split, tl.int64) * (K + SILU) + c) * IN + i0
    _store(dw, acc, row0, block, outs, ins < IN, OUT)
