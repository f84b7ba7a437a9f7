"""Bases that need no more than a few lines as planes of the skeleton: bumps, recurrences, waves."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, disable-error-code="import-untyped"
# (the compiler of Triton types these functions, per call)

from __future__ import annotations

import math

import triton
import triton.language as tl

from kan_core.ops._triton.launch import Planes


@triton.jit
def itself(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """The functions' argument is x."""
    return x


@triton.jit
def one(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative."""
    return 1.0 + tl.zeros_like(x)


# --- bumps φ((x − g) / h): rows are the centre g and 1 / h, and both have gradients


@triton.jit
def _scaled_slopes(slope, x, rows):
    """Slopes of a bump in its centre and inverse width, from its slope in the distance (x − g) / h."""
    return (-slope * rows[1], slope * (x - rows[0]))


@triton.jit
def _gaussian_prime(v):
    return -2.0 * v * tl.exp(-v * v)


@triton.jit
def gaussian(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Value of exp(-v^2), v the distance from the centre in widths."""
    v = (x - rows[0]) * rows[1]
    return tl.exp(-v * v)


@triton.jit
def gaussian_slope(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative in x."""
    return _gaussian_prime((x - rows[0]) * rows[1]) * rows[1]


@triton.jit
def gaussian_table_slopes(x, c, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivatives in centre and inverse width."""
    return _scaled_slopes(_gaussian_prime((x - rows[0]) * rows[1]), x, rows)


@triton.jit
def _one_minus_tanh_squared(v):
    e = tl.exp(-2.0 * tl.abs(v))  # nothing cancels and nothing overflows
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    far = tl.where(x < 0.0, -1.0, 1.0) * (1.0 - e) / (1.0 + e)
    square = x * x  # near 0, where 1 - e cancels, the series, whose next term is below a rounding error
    near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    return tl.where(tl.abs(x) < 0.2, near, far)


@triton.jit
def _switch_prime(v):
    return -2.0 * _tanh(v) * _one_minus_tanh_squared(v)


@triton.jit
def switch(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Value of 1 - tanh(v)^2."""
    return _one_minus_tanh_squared((x - rows[0]) * rows[1])


@triton.jit
def switch_slope(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative in x."""
    return _switch_prime((x - rows[0]) * rows[1]) * rows[1]


@triton.jit
def switch_table_slopes(x, c, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivatives in centre and inverse width."""
    return _scaled_slopes(_switch_prime((x - rows[0]) * rows[1]), x, rows)


@triton.jit
def _inside(v):
    """relu(1 - v^2)."""
    return tl.maximum(1.0 - v * v, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def rectified(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Value of relu(1 - v^2)^2."""
    inside = _inside((x - rows[0]) * rows[1])
    return inside * inside


@triton.jit
def rectified_slope(x, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative in x."""
    v = (x - rows[0]) * rows[1]
    return -4.0 * v * _inside(v) * rows[1]


@triton.jit
def rectified_table_slopes(x, c, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivatives in centre and inverse width."""
    v = (x - rows[0]) * rows[1]
    return _scaled_slopes(-4.0 * v * _inside(v), x, rows)


# --- polynomials: rows are a_c, b_c, c_c of p_{c+1} = (a_c u + b_c) p_c - c_c p_{c-1}; `offset` is the middle of u


@triton.jit
def locate_tanh(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """The argument u."""
    return _tanh(x) + offset


@triton.jit
def chain_tanh(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative."""
    return _one_minus_tanh_squared(x)


@triton.jit
def begin(u, SLOPES: tl.constexpr):
    """p_0 and p_{-1}, and their derivatives."""
    zero = tl.zeros_like(u)
    if SLOPES:
        return (zero + 1.0, zero, zero, zero)
    else:
        return (zero + 1.0, zero)


@triton.jit
def follow(u, state, rows, SLOPES: tl.constexpr):
    """The same, one degree higher."""
    factor = rows[0] * u + rows[1]
    p = factor * state[0] - rows[2] * state[1]
    if SLOPES:
        slope = rows[0] * state[0] + (factor * state[2] - rows[2] * state[3])
        return (p, state[0], slope, state[2])
    else:
        return (p, state[0])


@triton.jit
def polynomial(u, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Value of p_c(u)."""
    return state[0]


@triton.jit
def polynomial_slope(u, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative in u."""
    return state[2]


# --- waves cos(kx), then sin(kx), k = 1 .. K / 2, over k^ORDER

_TURN = tl.constexpr(2 * math.pi)
# 2π in three parts: the first two have so few bits that whole turns up to 2^12 times them are exact in float32.
_TURN_1 = tl.constexpr(round(2 * math.pi * 2**9) / 2**9)
_TURN_2 = tl.constexpr(round((2 * math.pi - round(2 * math.pi * 2**9) / 2**9) * 2**21) / 2**21)
_TURN_3 = tl.constexpr(2 * math.pi - _TURN_1.value - _TURN_2.value)


@triton.jit
def locate_turns(x, a, b, offset, K: tl.constexpr, ORDER: tl.constexpr):
    """Turns of the phase x beyond whole ones: only of these does a multiple keep the digits of a phase."""
    turns = tl.floor(x * (1.0 / _TURN) + 0.5)
    return (((x - turns * _TURN_1) - turns * _TURN_2) - turns * _TURN_3) * (1.0 / _TURN)


@triton.constexpr_function
def _sine_term(j):
    """The factor of g^(2j + 1) in sin(2π g)."""
    return (-1) ** j * (2 * math.pi) ** (2 * j + 1) / math.factorial(2 * j + 1)


@triton.jit
def _cosine_of_turns(t):
    """cos(2π t) as the sine of the distance to the next quarter: a series that ends below a rounding error."""
    g = 0.25 - tl.abs(t - tl.floor(t + 0.5))
    square = g * g
    total = tl.zeros_like(t) + _sine_term(6)
    for j in tl.static_range(6):
        total = total * square + _sine_term(5 - j)
    return g * total


@triton.jit
def _frequency_and_phase(c, K: tl.constexpr):
    G: tl.constexpr = K // 2
    return tl.cast(c % G + 1, tl.float32), tl.where(c < G, 0.0, 0.25)


@triton.jit
def wave(t, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Value, a sine being a cosine a quarter of a turn later."""
    k, phase = _frequency_and_phase(c, K)
    value = _cosine_of_turns(t * k - phase)
    for _ in tl.static_range(ORDER):
        value *= 1.0 / k
    return value


@triton.jit
def wave_slope(t, c, state, rows, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative in x."""
    k, phase = _frequency_and_phase(c, K)
    slope = _cosine_of_turns(t * k - phase + 0.25) * k
    for _ in tl.static_range(ORDER):
        slope *= 1.0 / k
    return slope


_HEAVY = ("input_gradient", "contract")  # a recurrence carries four tiles there

PLANES = {
    "rbf": Planes(itself, gaussian, gaussian_slope, one, table_slopes=gaussian_table_slopes),
    "rswaf": Planes(itself, switch, switch_slope, one, table_slopes=switch_table_slopes),
    "relu-kan": Planes(itself, rectified, rectified_slope, one, table_slopes=rectified_table_slopes),
    "polynomial": Planes(itself, polynomial, polynomial_slope, one, begin, follow, heavy=_HEAVY),
    "polynomial-tanh": Planes(locate_tanh, polynomial, polynomial_slope, chain_tanh, begin, follow, heavy=_HEAVY),
    "fourier": Planes(locate_turns, wave, wave_slope, one),
}
