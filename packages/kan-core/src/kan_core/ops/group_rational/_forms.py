"""What tells the forms of the denominator apart: Q = offset + |S| or S itself, with a polynomial S."""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """S = constant + Σ b_i zⁱ over i = 1..n; without a constant the sum starts at b_0."""

    constant: float | None
    inner_abs: bool = False
    """Whether z is |x| and the coefficients count by their size; else z is x."""
    offset: float | None = None
    """Q is offset + |S|; without one Q is S."""


FORMS = {
    "sum_of_abs": Form(1.0, inner_abs=True),
    "abs_of_sum": Form(0.0, offset=1.0),
    "floor": Form(None, offset=0.1),
    "free": Form(1.0),
}
