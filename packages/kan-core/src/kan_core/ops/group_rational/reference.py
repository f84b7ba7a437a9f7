"""The definition of the group-rational op: short, eager, ordinary torch ops, differentiable as often as you like.

Both polynomials run by Horner's rule in x. P reaches |a_m x^m|, so with m = 5, n = 4 and coefficients up to 1 float32
is finite, gradients included, for |x| ≤ 1e7 (x⁵ overflows at 5e7, in float64 at 1e61). Horner in 1/x beyond |x| = 1 has
no such bound, but every element then chooses among coefficients: measured 6 to 10 times slower forward and 4 to 12
times backward (eager, one CPU thread), so it is not done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def magnitude(x: Tensor) -> Tensor:
    """|x| with derivative +1 at 0, where that of ``abs`` is 0: denominators that start at zero could never move."""
    # faster than a selection by x >= 0; relu has derivative 0 at 0
    return torch.add(x, torch.relu(-x), alpha=2)


def _horner(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    *lower, value = coefficients
    for c in reversed(lower):
        value = (value * x).add_(c)  # in place, for one fresh tensor less per degree; addcmul's backward makes four
    return value


def _sum_of_abs(b: Tensor, x: Tensor) -> Tensor:
    return _horner([torch.ones_like(b[0]), *magnitude(b)], x.abs())


def _abs_of_sum(b: Tensor, x: Tensor) -> Tensor:
    return 1 + magnitude(x * _horner([*b], x))


def _floor(b: Tensor, x: Tensor) -> Tensor:
    return 0.1 + magnitude(_horner([*b], x))


def _free(b: Tensor, x: Tensor) -> Tensor:
    return _horner([torch.ones_like(b[0]), *b], x)


DENOMINATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum_of_abs": _sum_of_abs,
    "abs_of_sum": _abs_of_sum,
    "floor": _floor,
    "free": _free,
}
"""Q by form, from coefficients ``(powers, features or 1)``, lowest power first, and x ``(..., features)``."""


def _by_power(coefficients: Tensor, features: int) -> Tensor:
    """``(groups, powers)`` to ``(powers, features)``; a single row stays ``(powers, 1)``."""
    rows = coefficients.T
    groups = rows.shape[1]
    return rows if groups == 1 else rows.unsqueeze(-1).expand(-1, -1, features // groups).flatten(-2)


def group_rational_reference(x: Tensor, numerator: Tensor, denominator: Tensor, *, form: str) -> Tensor:
    r"""F(x) = P(x) / Q(x) with coefficients per contiguous group of features, P = Σ_{i=0..m} a_i xⁱ.

    Q is by `form`: ``"sum_of_abs"`` 1 + Σ |b_i| |x|ⁱ, ``"abs_of_sum"`` 1 + |Σ b_i xⁱ|, ``"floor"``
    0.1 + |b_0 + Σ b_i xⁱ|, ``"free"`` 1 + Σ b_i xⁱ, sums over i = 1..n. The derivatives of |b_i| and of |Σ| at 0 are
    +1, that of |x| is 0, the mean of both sides.

    Args:
        x: Inputs, shape (..., features), float32 or float64.
        numerator: a_0 … a_m, shape (g, m + 1) or (1, m + 1), g a divisor of features.
        denominator: b_1 … b_n, shape (g, n) or (1, n); b_0 … b_n for ``"floor"``.
        form: A key of :data:`DENOMINATORS`.

    Returns:
        F(x), the shape of x.
    """
    features = x.shape[-1]
    p = _horner([*_by_power(numerator, features)], x)
    return p / DENOMINATORS[form](_by_power(denominator, features), x)
