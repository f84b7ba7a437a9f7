"""Splits that keep an alloy, a chemical system or an element on one side.

Tables of alloys hold the same alloy many times, at several temperatures and after several treatments. Random folds put
it on both sides, and every model looks good. What these functions yield goes into ``cv=`` of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from kan_core.errors import KANError

Rows = NDArray[np.int64]


class Fold(NamedTuple):
    """Positions of rows."""

    train: Rows
    test: Rows


class ElementFold(NamedTuple):
    """The rows without and with an element."""

    element: str
    train: Rows
    test: Rows


def grouped_folds(
    groups: ArrayLike, n_splits: int = 5, *, seed: int | None = None, stratify: ArrayLike | None = None
) -> Iterator[Fold]:
    """K folds in which no group is on both sides; that is asserted for every fold.

    Args:
        groups: ``(rows,)``, such as ``groups["formula"]`` or ``groups["system"]`` of a table.
        n_splits: Folds.
        seed: Shuffles the groups, for repeated cross-validation; None: folds balanced by size, without chance.
        stratify: ``(rows,)`` classes whose shares the folds are to have, as far as whole groups can.

    Raises:
        KANError: For fewer groups than folds, or missing groups.
    """
    names = np.asarray(groups)
    if pd.isna(names).any():
        raise KANError(f"groups: row {int(pd.isna(names).argmax())} has no group")
    found = len(np.unique(names))
    if not 2 <= n_splits <= found:
        raise KANError(f"{n_splits} folds of {found} groups: n_splits must be 2 to {found}")
    shuffled = {"shuffle": seed is not None, "random_state": seed}
    kind = GroupKFold if stratify is None else StratifiedGroupKFold
    classes = np.zeros(len(names)) if stratify is None else np.asarray(stratify)
    for train, test in kind(n_splits, **shuffled).split(classes, classes, names):
        check_disjoint(names, train, test)
        yield Fold(train, test)


def leave_one_element_out(fractions: pd.DataFrame, min_rows: int = 1) -> Iterator[ElementFold]:
    """For every element: test on the alloys that have it, train on those that do not.

    This is extrapolation: nothing in training says what the element does.

    Args:
        fractions: One column per element.
        min_rows: Elements with fewer rows on either side are left out.
    """
    for element in sorted(fractions.columns):
        has = fractions[element].to_numpy() > 0
        train, test = np.flatnonzero(~has), np.flatnonzero(has)
        if min(len(train), len(test)) >= max(min_rows, 1):
            check_disjoint(has, train, test)
            yield ElementFold(element, train, test)


def check_disjoint(groups: ArrayLike, train: ArrayLike, test: ArrayLike) -> None:
    """Assert that no group is on both sides of a split.

    Args:
        groups: ``(rows,)``.
        train: Positions of training rows.
        test: Positions of test rows.

    Raises:
        KANError: Naming a group that is on both sides.
    """
    names = np.asarray(groups)
    both = np.intersect1d(names[np.asarray(train)], names[np.asarray(test)])
    if len(both):
        raise KANError(f"groups: {both[0]!s} is on both sides of the split, and {len(both) - 1} more are")
