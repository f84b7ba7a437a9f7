"""Equal rows as one row that weighs more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def merge_rows(x: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """The distinct rows of ``[x | y]`` with the sum of their weights, in an order that only their values decide.

    A row of weight 2 is then the same as the row twice, a row of weight 0 as none; the order of a table does not
    matter, and no copy of a training row can be on the other side of a split. NaN counts as equal to NaN.

    Args:
        x: ``(rows, columns)``.
        y: ``(rows, targets)``.
        weight: ``(rows,)``, not negative.

    Returns:
        `x`, `y` and `weight` of the distinct rows.
    """
    there = weight > 0
    x, y, weight = x[there], y[there], weight[there]
    rows = np.concatenate([x, y], axis=1) + 0.0  # no negative zero
    rows[np.isnan(rows)] = np.nan  # one pattern of bits
    bits = rows.view(np.uint64)
    order = np.argsort(_hash(bits), kind="stable")
    bits = bits[order]
    new = np.ones(len(bits), dtype=bool)
    new[1:] = (bits[1:] != bits[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    first = order[starts]
    return x[first], y[first], np.add.reduceat(weight[order], starts)


def _hash(bits: NDArray[np.uint64]) -> NDArray[Any]:
    """One number per row that depends on every bit (a multiply and shift for each column)."""
    state = np.full(len(bits), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in bits.T:
        state = (state ^ column) * np.uint64(0xFF51AFD7ED558CCD)
        state ^= state >> np.uint64(33)
    return state
