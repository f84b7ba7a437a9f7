"""B-splines on uneven knots as planes of the skeleton; the rows of a plane are the ORDER + 2 knots of its function.

a and b are the ends of each input's grid, where "clamp" holds the value.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# mypy: disable-error-code="import-untyped, assignment, var-annotated"
# (the compiler of Triton types these functions, per call)

from __future__ import annotations

import triton
import triton.language as tl

from kan_core.ops._triton.families import one
from kan_core.ops._triton.launch import Planes


@triton.jit
def _functions(x, c, rows, K: tl.constexpr, ORDER: tl.constexpr, DEGREE: tl.constexpr):
    """The ORDER - DEGREE + 1 B-splines of the given degree on the knots: Cox-de Boor, x held to a distance to each."""
    distances = ()
    for j in tl.static_range(ORDER + 2):
        distances += (x - rows[j],)
    functions = ()
    for j in tl.static_range(ORDER + 1):
        left, right = distances[j], distances[j + 1]
        inside = (left >= 0.0) & (right < 0.0)
        if ORDER == 1:
            # A slope that jumps: the grid's right end, knot number K of all, belongs to the cell before it.
            inside = (inside & ((left > 0.0) | (c + j != K))) | ((right == 0.0) & (left > 0.0) & (c + j + 1 == K))
        functions += (tl.where(inside, 1.0, 0.0),)
    for p in tl.static_range(1, DEGREE + 1):
        scaled = ()
        for j in tl.static_range(ORDER + 2 - p):
            scaled += (functions[j] * (1.0 / (rows[j + p] - rows[j])),)
        functions = ()
        for j in tl.static_range(ORDER + 1 - p):
            functions += (distances[j] * scaled[j] - distances[j + p + 1] * scaled[j + 1],)
    return functions


@triton.jit
def value(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """The B-spline of these knots."""
    return _functions(x, c, rows, K, ORDER, ORDER)[0]


@triton.jit
def slope(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative; where that jumps, at a knot, the one from the right, at the grid's end from the left."""
    lower = _functions(x, c, rows, K, ORDER, ORDER - 1)
    rising, falling = 1.0 / (rows[ORDER] - rows[0]), 1.0 / (rows[ORDER + 1] - rows[1])
    return ORDER * (lower[0] * rising - lower[1] * falling)


@triton.jit
def locate_decay(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """An infinite x is far beyond the grid: distances stay finite, and 0 times them 0."""
    x = tl.maximum(x, -1e30, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, 1e30, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def locate_clamp(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """The nearest point of the grid."""
    x = tl.maximum(x, a, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def chain_clamp(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative, which is zero beyond the grid."""
    return tl.where((x >= a) & (x <= b), 1.0, 0.0)


_HEAVY = ("forward", "input_gradient", "weight_gradient", "expand", "contract")

PLANES = {
    "knots-decay": Planes(locate_decay, value, slope, one, heavy=_HEAVY),
    "knots-clamp": Planes(locate_clamp, value, slope, chain_clamp, heavy=_HEAVY),
}
