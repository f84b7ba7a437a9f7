"""The Triton path: circuits run in registers, sums over the inputs in the program. Imported only when chosen.

Three kernels, none with atomics. Forward, a program owns rows x outputs and walks over the inputs. For the gradient of
x it owns rows x inputs and walks over the outputs. For those of the parameters it owns edges, one per lane, whose sums
stay in its registers while it walks over a part of the rows; the parts are partial results that torch adds in order.
The backward kernels run a circuit forward, keep the sine and cosine of every upload, and turn the state back together
with the adjoint vector.
"""

# ruff: noqa: RUF005 - Triton joins tuples, but unpacks none
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, assignment"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kan_core.ops._triton import interpreter
from kan_core.ops.daruan._table import edge_table, split_sums

INTERPRETED: bool = triton.knobs.runtime.interpret
interpreter.repair()

# Rows and columns of a program's tile, and its warps: 8, 4 and 1 circuits per thread.
FORWARD_TILE = (16, 16) if INTERPRETED else (32, 32)
INPUT_TILE = (16, 16) if INTERPRETED else (16, 32)
EDGES = 16 if INTERPRETED else 128
WARPS = 4
# Enough programs for two on every multiprocessor of an H100. A constant, not a property of the device: the parts, and
# with them the rounding, are the same everywhere.
PROGRAMS = 264
MIN_ROWS = 64  # of a part


@triton.jit
def _wave(w, shift, x):
    """Cosine and sine of w x + shift. The angle is reduced in float64, where w x is exact and n π nearly so.

    Beyond 1e15, where neighbouring float32 angles lie millions of turns apart, it counts as 0; NaN and infinity become
    NaN.
    """
    angle = w.to(tl.float64) * x.to(tl.float64) + shift.to(tl.float64)
    angle = tl.where(tl.abs(angle) < 1e15, angle, angle - angle)
    if x.dtype == tl.float64:
        cosine = tl.cos(angle)
        sine = tl.sin(angle)
    else:
        rounded = angle * 0.3183098861837907 + 6755399441055744.0  # 1.5 2^52: units become whole
        n = rounded - 6755399441055744.0
        r = (angle - n * 3.141592653589793).to(tl.float32)  # in [-pi/2, pi/2]
        u = r * r
        s = ((2.599449474e-06 * u - 1.9806342769e-04) * u + 8.333013541e-03) * u - 1.6666656944e-01
        c = (-2.6071331368e-07 * u + 2.4761573278e-05) * u - 1.3888397733e-03
        c = (c * u + 4.1666640315e-02) * u - 4.9999999541e-01
        odd = (rounded.to(tl.int64, bitcast=True) & 1) != 0
        sine = r + s * u * r
        cosine = 1.0 + c * u
        sine = tl.where(odd, -sine, sine)
        cosine = tl.where(odd, -cosine, cosine)
    return cosine, sine


@triton.jit
def _number(table, which, edge, inside, COUNT: tl.constexpr):
    """Plane `which` of the table at some edges."""
    return tl.load(table + which * COUNT + edge, inside, other=0.0)


@triton.jit
def _root(p):
    """√p, 0 where rounding leaves p ≤ 0, and half its slope, 0 there too; NaN stays NaN."""
    vanishes = p <= 0
    root = tl.sqrt(tl.where(vanishes, 1.0, p))
    return tl.where(vanishes, 0.0, root), tl.where(vanishes, 0.0, 0.25 / root)


@triton.jit
def _readout(z, FAST: tl.constexpr):
    """What is read of ⟨Z⟩ = z, and its slope."""
    value = z
    slope = tl.full(z.shape, 1.0, z.dtype)
    if FAST:
        up, up_slope = _root((1 + z) * 0.5)
        down, down_slope = _root((1 - z) * 0.5)
        value = up - down
        slope = up_slope + down_slope
    return value, slope


@triton.jit
def _run(x, zero, table, edge, inside, COUNT: tl.constexpr, REPS: tl.constexpr):
    """The Bloch vector at the end, in the shape of `zero`, and cosine and sine of every upload."""
    vx = zero + _number(table, 0, edge, inside, COUNT)
    vy = zero + _number(table, 1, edge, inside, COUNT)
    vz = zero + _number(table, 2, edge, inside, COUNT)
    waves = ()
    for n in tl.static_range(REPS):
        w = _number(table, 3 + n, edge, inside, COUNT)
        shift = _number(table, 3 + REPS + n, edge, inside, COUNT)
        cosine, sine = _wave(w, shift, x)
        waves = waves + (cosine, sine)
        turned = vx * cosine - vy * sine
        vy = vx * sine + vy * cosine
        c = _number(table, 3 + 2 * REPS + n, edge, inside, COUNT)
        s = _number(table, 3 + 3 * REPS + n, edge, inside, COUNT)
        vx = vz * s + turned * c
        vz = vz * c - turned * s
    return vx, vy, vz, waves


@triton.jit
def _back(adjoint, vx, vy, vz, waves, table, edge, inside, COUNT: tl.constexpr, REPS: tl.constexpr):
    """The derivatives by all shifts and tilts, last first, and the adjoint of the start vector.

    The derivative by an angle is a component of state x adjoint: that along the axis.
    """
    az = adjoint
    ax = adjoint * 0
    ay = adjoint * 0
    turns = ()
    tilts = ()
    for n in tl.static_range(REPS - 1, -1, -1):
        c = _number(table, 3 + 2 * REPS + n, edge, inside, COUNT)
        s = _number(table, 3 + 3 * REPS + n, edge, inside, COUNT)
        before = ax * c - az * s
        az = az * c + ax * s
        turned = vx * c - vz * s
        vz = vz * c + vx * s
        tilts = tilts + (before * vz - az * turned,)
        turns = turns + (ay * turned - before * vy,)
        cosine = waves[2 * n]
        sine = waves[2 * n + 1]
        vx = turned * cosine + vy * sine
        vy = vy * cosine - turned * sine
        ax = before * cosine + ay * sine
        ay = ay * cosine - before * sine
    return turns, tilts, ax, ay, az


@triton.jit(do_not_specialize=["rows"])
def _forward(
    x_ptr, table, y_ptr, rows,
    IN: tl.constexpr, OUT: tl.constexpr, REPS: tl.constexpr, FAST: tl.constexpr,
    BM: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Write y (rows, OUT) of x (IN, rows) and the table (planes, IN, OUT)."""
    tiles: tl.constexpr = (OUT + BO - 1) // BO
    row = (tl.program_id(0) // tiles).to(tl.int64) * BM + tl.arange(0, BM)
    o = tl.program_id(0) % tiles * BO + tl.arange(0, BO)
    zero = tl.zeros((BM, BO), table.dtype.element_ty)
    total = zero
    for i in range(IN):
        x = tl.load(x_ptr + tl.cast(i, tl.int64) * rows + row, row < rows, other=0.0)[:, None]
        edge = (tl.cast(i, tl.int64) * OUT + o)[None, :]
        inside = (o < OUT)[None, :]
        _vx, _vy, z, _waves = _run(x, zero, table, edge, inside, IN * OUT, REPS)
        value, _slope = _readout(z, FAST)
        total += _number(table, 3 + 4 * REPS, edge, inside, IN * OUT) * value
    target = y_ptr + row[:, None] * OUT + o[None, :]
    tl.store(target, total, (row < rows)[:, None] & (o < OUT)[None, :])


@triton.jit(do_not_specialize=["rows"])
def _input_gradient(
    grad_ptr, x_ptr, table, dx_ptr, rows,
    IN: tl.constexpr, OUT: tl.constexpr, REPS: tl.constexpr, FAST: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """Write dx (rows, IN) of grad (OUT, rows), x (rows, IN) and the table with outputs first, (planes, OUT, IN)."""
    tiles: tl.constexpr = (IN + BI - 1) // BI
    row = (tl.program_id(0) // tiles).to(tl.int64) * BM + tl.arange(0, BM)
    i = tl.program_id(0) % tiles * BI + tl.arange(0, BI)
    here = (row < rows)[:, None] & (i < IN)[None, :]
    place = row[:, None] * IN + i[None, :]
    x = tl.load(x_ptr + place, here, other=0.0).to(table.dtype.element_ty)
    zero = tl.zeros((BM, BI), table.dtype.element_ty)
    dx = zero
    for o in range(OUT):
        grad = tl.load(grad_ptr + tl.cast(o, tl.int64) * rows + row, row < rows, other=0.0)[:, None]
        edge = (tl.cast(o, tl.int64) * IN + i)[None, :]
        inside = (i < IN)[None, :]
        vx, vy, vz, waves = _run(x, zero, table, edge, inside, IN * OUT, REPS)
        _value, slope = _readout(vz, FAST)
        adjoint = grad * _number(table, 3 + 4 * REPS, edge, inside, IN * OUT) * slope
        turns, _tilts, _ax, _ay, _az = _back(adjoint, vx, vy, vz, waves, table, edge, inside, IN * OUT, REPS)
        for back in tl.static_range(REPS):
            dx += turns[back] * _number(table, 2 + REPS - back, edge, inside, IN * OUT)
    tl.store(dx_ptr + place, dx.to(dx_ptr.dtype.element_ty), here)


@triton.jit(do_not_specialize=["rows", "part"])
def _parameter_gradients(
    grad_ptr, x_ptr, table, sums_ptr, rows, part,
    IN: tl.constexpr, OUT: tl.constexpr, REPS: tl.constexpr, FAST: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Write the sums (parts, 3 REPS + 4, IN, OUT) of grad (rows, OUT), x (rows, IN) and the table, `part` rows each."""
    tiles: tl.constexpr = (IN * OUT + BE - 1) // BE
    edge = (tl.program_id(0) % tiles).to(tl.int64) * BE + tl.arange(0, BE)
    number = tl.program_id(0) // tiles
    inside = edge < IN * OUT
    zero = tl.zeros((BE,), table.dtype.element_ty)
    factor = _number(table, 3 + 4 * REPS, edge, inside, IN * OUT)
    sums = (zero, zero, zero)
    for _ in tl.static_range(3 * REPS + 1):
        sums = sums + (zero,)
    row = number.to(tl.int64) * part
    end = tl.minimum(row + part, rows)
    while row < end:  # the interpreter takes no tensor as the end of a range (NumPy >= 2.4)
        x = tl.load(x_ptr + row * IN + edge // OUT, inside, other=0.0).to(table.dtype.element_ty)
        grad = tl.load(grad_ptr + row * OUT + edge % OUT, inside, other=0.0)
        vx, vy, vz, waves = _run(x, zero, table, edge, inside, IN * OUT, REPS)
        value, slope = _readout(vz, FAST)
        turns, tilts, ax, ay, az = _back(
            grad * factor * slope, vx, vy, vz, waves, table, edge, inside, IN * OUT, REPS
        )  # fmt: skip
        terms = (sums[0] + ax, sums[1] + ay, sums[2] + az)
        for n in tl.static_range(REPS):
            terms = terms + (sums[3 + n] + turns[REPS - 1 - n],)
        for n in tl.static_range(REPS):
            terms = terms + (sums[3 + REPS + n] + tilts[REPS - 1 - n],)
        for n in tl.static_range(REPS):
            terms = terms + (sums[3 + 2 * REPS + n] + turns[REPS - 1 - n] * x,)
        sums = terms + (sums[3 + 3 * REPS] + grad * value,)
        row += 1
    target = sums_ptr + number.to(tl.int64) * (3 * REPS + 4) * (IN * OUT) + edge
    for n in tl.static_range(3 * REPS + 4):
        tl.store(target + n * (IN * OUT), sums[n], inside)


def _constants(gates: Tensor, fast: bool) -> dict[str, Any]:
    return {
        "IN": gates.shape[2],
        "OUT": gates.shape[3],
        "REPS": gates.shape[0] - 1,
        "FAST": fast,
        "num_warps": WARPS,
    }


def forward(x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool) -> Tensor:
    """Return y (rows, out) in the type of the gates."""
    rows, outputs = len(x), gates.shape[3]
    y = gates.new_empty(rows, outputs)
    if rows:
        columns = x.to(gates.dtype).T.contiguous()
        grid = (triton.cdiv(rows, FORWARD_TILE[0]) * triton.cdiv(outputs, FORWARD_TILE[1]),)
        with torch.cuda.device_of(x):
            _forward[grid](
                columns, edge_table(gates, frequency, factor), y, rows,
                BM=FORWARD_TILE[0], BO=FORWARD_TILE[1], **_constants(gates, fast),
            )  # fmt: skip
    return y


def backward(
    grad: Tensor, x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, gates, frequency and factor."""
    rows, (features, outputs) = len(x), factor.shape
    x, grad = x.contiguous(), grad.to(gates.dtype)
    table = edge_table(gates, frequency, factor)
    dx = torch.empty_like(x)
    tiles = triton.cdiv(features * outputs, EDGES)
    parts = max(min(triton.cdiv(PROGRAMS, tiles), rows // MIN_ROWS), 1)
    part = triton.cdiv(rows, parts)
    sums = gates.new_empty(parts, 3 * len(frequency) + 4, features, outputs)
    constants = _constants(gates, fast)
    if rows:
        grid = (triton.cdiv(rows, INPUT_TILE[0]) * triton.cdiv(features, INPUT_TILE[1]),)
        outputs_first = table.transpose(1, 2).contiguous()
        with torch.cuda.device_of(x):
            _input_gradient[grid](
                grad.T.contiguous(), x, outputs_first, dx, rows, BM=INPUT_TILE[0], BI=INPUT_TILE[1], **constants
            )
            _parameter_gradients[(tiles * parts,)](
                grad.contiguous(), x, table, sums, rows, part, BE=EDGES, **constants
            )  # fmt: skip
    else:
        sums.zero_()
    return dx, *split_sums(sums.sum(0) if parts > 1 else sums[0], gates)
