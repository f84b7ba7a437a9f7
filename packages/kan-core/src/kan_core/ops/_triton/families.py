"""Bases that need no more than a few lines as planes of the skeleton: Gaussians, RSWAF, Chebyshev polynomials.

The radial ones have K evenly spaced centres: a is the first, b the width of each function, `ratio` the spacing over b.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, disable-error-code="import-untyped"
# (the compiler of Triton types these functions, per call)

from __future__ import annotations

import triton
import triton.language as tl

from kan_core.ops._triton.launch import Planes


@triton.jit
def locate_scaled(x, a, b, K: tl.constexpr, ORDER: tl.constexpr):
    """Distance from the first centre in widths."""
    return (x - a) / b


@triton.jit
def chain_scaled(x, a, b, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative."""
    return 1.0 / b + tl.zeros_like(x)


@triton.jit
def gaussian(z, c, ratio, K: tl.constexpr, ORDER: tl.constexpr):
    """Value of exp(-v^2), v the distance from centre c in widths."""
    v = z - c * ratio
    return tl.exp(-v * v)


@triton.jit
def gaussian_slope(z, c, ratio, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative."""
    v = z - c * ratio
    return -2.0 * v * tl.exp(-v * v)


@triton.jit
def switch(z, c, ratio, K: tl.constexpr, ORDER: tl.constexpr):
    """Value of 1 - tanh(v)^2, by exp(-2 |v|): nothing cancels and nothing overflows."""
    e = tl.exp(-2.0 * tl.abs(z - c * ratio))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def switch_slope(z, c, ratio, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative, -2 tanh(v) (1 - tanh(v)^2)."""
    v = z - c * ratio
    return -2.0 * _tanh(v) * switch(z, c, ratio, K, ORDER)


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    return tl.where(x < 0.0, -1.0, 1.0) * (1.0 - e) / (1.0 + e)


@triton.jit
def locate_tanh(x, a, b, K: tl.constexpr, ORDER: tl.constexpr):
    """The polynomials' argument."""
    return _tanh(x)


@triton.jit
def chain_tanh(x, a, b, K: tl.constexpr, ORDER: tl.constexpr):
    """Its derivative, 1 - tanh(x)^2."""
    return switch(x, 0, 0.0, K, ORDER)


@triton.jit
def chebyshev(u, c, ratio, K: tl.constexpr, ORDER: tl.constexpr):
    """T_c(u): the recurrence runs through all degrees, so that planes need no state of each other, and picks one."""
    older, newer = 1.0 + tl.zeros_like(u), u
    value = tl.where(c == 0, older, newer)
    for n in tl.static_range(2, K):
        older, newer = newer, 2.0 * u * newer - older
        value = tl.where(c == n, newer, value)
    return value


@triton.jit
def chebyshev_slope(u, c, ratio, K: tl.constexpr, ORDER: tl.constexpr):
    """T_c'(u) = c U_{c-1}(u), by the recurrence of the second kind."""
    older, newer = tl.zeros_like(u), 1.0 + tl.zeros_like(u)
    value = tl.where(c == 0, older, newer)
    for n in tl.static_range(2, K):
        older, newer = newer, 2.0 * u * newer - older
        value = tl.where(c == n, n * newer, value)
    return value


PLANES = {
    "rbf": Planes(locate_scaled, gaussian, gaussian_slope, chain_scaled),
    "rswaf": Planes(locate_scaled, switch, switch_slope, chain_scaled),
    "chebyshev": Planes(locate_tanh, chebyshev, chebyshev_slope, chain_tanh),
}
