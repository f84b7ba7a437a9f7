"""Which rows train, validate and test."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from kan_core.errors import KANError
from kan_tabular.data.tables import Table, TaskKind

Rows = NDArray[np.int64]
How = Literal["random", "time"]


class Split(NamedTuple):
    """Positions of rows, ascending; every row is in one part.

    Attributes:
        train: What is learned from.
        val: What the epoch is chosen on.
        test: What is looked at once.
    """

    train: Rows
    val: Rows
    test: Rows


def split_rows(
    table: Table, task: TaskKind, *, how: How, test_fraction: float, val_fraction: float, seed: int
) -> Split:
    """Divide the rows of a table; the official test rows, where there are some, are the test.

    - ``"random"``: shuffled by `seed`, each part with the same share of every class (stratified). Where the table has
      groups, whole groups are drawn instead, so that no group is in two parts.
    - ``"time"``: the rows are in time order, so the last ones are the test, and those before them validate.

    Args:
        table: The rows.
        task: Classes are stratified.
        how: See above.
        test_fraction: Share of all rows, without an official test.
        val_fraction: Share of the rows that are not in the test.
        seed: Of the shuffling, not the run's: every run sees the same split.

    Raises:
        KANError: For groups in time order; when a part would be empty, or a class is too rare to be in every part.
    """
    rows = np.arange(len(table.X))
    if how == "time" and table.groups is not None:
        raise KANError(f"{table.name}: split=time keeps no groups together: give either --data.split time or a group")
    if table.test is None:
        rest, test = _cut(table, task, rows, test_fraction, how, seed, "test")
    else:
        rest, test = rows[~table.test], rows[table.test]
    train, val = _cut(table, task, rest, val_fraction, how, seed, "validation")
    for part, found in (("train", train), ("validate", val), ("test", test)):
        if not len(found):
            raise KANError(f"{table.name}: no row is left to {part}: {len(rows)} rows are too few for this split")
    return Split(train, val, test)


def _cut(
    table: Table, task: TaskKind, rows: Rows, fraction: float, how: How, seed: int, part: str
) -> tuple[Rows, Rows]:
    """The rows that stay, and the share `fraction` of them that goes to `part`."""
    if how == "time":
        at = len(rows) - round(len(rows) * fraction)
        return rows[:at], rows[at:]
    try:
        if table.groups is not None:
            groups = table.groups.iloc[rows]
            ((a, b),) = GroupShuffleSplit(1, test_size=fraction, random_state=seed).split(rows, groups=groups)
            stay, go = rows[a], rows[b]
        else:
            classes: Any = None if task == "regression" else table.targets.iloc[rows, 0]
            stay, go = train_test_split(rows, test_size=fraction, random_state=seed, stratify=classes)
    except ValueError as error:
        raise KANError(f"{table.name}: no {part} rows can be split off: {_reason(table, task, rows, error)}") from None
    return np.sort(stay), np.sort(go)


def _reason(table: Table, task: TaskKind, rows: Rows, error: ValueError) -> str:
    if task != "regression" and table.groups is None:
        counts = table.targets.iloc[rows, 0].value_counts()
        if counts.min() < 2:
            return (
                f"class {counts.idxmin()!r} has {counts.min()} row(s) left, too few to be in every part: leave that "
                "class out, or say --data.task regression if the target is a quantity"
            )
        return f"{len(rows)} rows are too few for {len(counts)} classes in every part"
    if table.groups is not None:
        return f"{table.groups.iloc[rows].nunique()} group(s) are too few to be in every part"
    return str(error)
