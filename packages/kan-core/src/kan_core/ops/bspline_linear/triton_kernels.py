"""The uniform B-splines as basis planes of the Triton skeleton; a and b are the grid's left end and cell width."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, disable-error-code="import-untyped"
# (the compiler of Triton types these functions, per call)

from __future__ import annotations

import math

import triton
import triton.language as tl

from kan_core.ops._triton.launch import Planes


@triton.constexpr_function
def _term(order, power, j):
    """The factor of (h - |u| - j)_+^power in the cardinal B-spline of degree `order`, or in its slope."""
    return (-1) ** j * math.comb(order + 1, j) / math.factorial(power)


@triton.jit
def _powers(u, ORDER: tl.constexpr, POWER: tl.constexpr):
    """Sum of the terms, at distances u from the centre of the function in cells; 0 beyond its support, NaN for NaN."""
    reach = (ORDER + 1) / 2 - tl.abs(u)
    total = tl.zeros_like(u)
    for j in tl.static_range((ORDER + 2) // 2):
        t = tl.maximum(reach - j, 0.0, propagate_nan=tl.PropagateNan.ALL)
        power = t
        for _ in tl.static_range(POWER - 1):
            power *= t
        total += power * _term(ORDER, POWER, j)
    return total


@triton.jit
def _distance(z, c, ORDER: tl.constexpr):
    return z - (c + (1 - ORDER) / 2)


@triton.jit
def value(z, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Function c at the position z, in cells from the left end of the grid."""
    return _powers(_distance(z, c, ORDER), ORDER, ORDER)


@triton.jit
def slope(z, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative in z; where that jumps, at a knot, the one from the right, at the grid's end from the left."""
    if ORDER == 1:
        # The cell of z decides: [m, m + 1), and the grid's last cell is closed, also for an x at its end that lands a
        # rounding error above it.
        at_end = (z >= 0.0) & (z <= (K - 1) * (1 + 4 * 2.0**-23))
        m = tl.floor(z)
        m = tl.where(at_end, tl.minimum(m, K - 2.0), m)
        hat = tl.where(m == c - 1, 1.0, 0.0) - tl.where(m == c, 1.0, 0.0)
        return tl.where(z == z, hat, z)
    else:
        u = _distance(z, c, ORDER)
        return tl.where(u > 0.0, -1.0, 1.0) * _powers(u, ORDER, ORDER - 1)


@triton.jit
def _cells(x, a, b):
    return tl.div_rn(x - a, b + tl.zeros_like(x))


@triton.jit
def locate_decay(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """Position in cells; the functions run out by themselves."""
    return _cells(x, a, b)


@triton.jit
def chain_decay(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative."""
    return 1.0 / b + tl.zeros_like(x)


@triton.jit
def locate_clamp(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """Position in cells, of the nearest end for x beyond the grid."""
    s = tl.maximum(_cells(x, a, b), 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(s, K - ORDER + 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def chain_clamp(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative, which is zero beyond the grid."""
    s = _cells(x, a, b)
    return tl.where((s >= 0.0) & (s <= K - ORDER + 0.0), 1.0 / b, 0.0)


PLANES = {
    "bspline-decay": Planes(locate_decay, value, slope, chain_decay),
    "bspline-clamp": Planes(locate_clamp, value, slope, chain_clamp),
}
