"""Equal rows as one row that weighs more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def merge_rows(x: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """The distinct rows of ``[x | y]`` with the sum of their weights, in lexicographic order.

    A row of weight 2 is then the same as the row twice, a row of weight 0 as none; the order of a table does not
    matter, nor do the units of its columns, and no copy of a training row can be on the other side of a split. NaN
    counts as equal to NaN.

    Args:
        x: ``(rows, columns)``.
        y: ``(rows, targets)``.
        weight: ``(rows,)``, not negative.

    Returns:
        `x`, `y` and `weight` of the distinct rows.
    """
    there = weight > 0
    x, y, weight = x[there], y[there], weight[there]
    rank = np.zeros(len(x), dtype=np.int64)
    for column in [*x.T, *y.T]:
        if len(rank) and rank.max() == len(rank) - 1:
            break  # all rows differ already
        values, codes = np.unique(column, return_inverse=True)
        rank = np.unique(rank * len(values) + codes, return_inverse=True)[1]
    distinct, first = np.unique(rank, return_index=True)
    total = np.zeros(len(distinct))
    np.add.at(total, rank, weight)
    return x[first], y[first], total
