"""Whether a later file has the columns that training had: their names, their order, their kinds."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from pandas.api import types

from kan_core.errors import KANError
from kan_tabular.data.tables import check_names


def check_same_columns(frame: pd.DataFrame, expected: Sequence[str], path: Path) -> None:
    """Refuse columns that are missing, renamed, new or in another order.

    Args:
        frame: What was read, without the columns that do not matter.
        expected: The names in training, in order.
        path: The file, for the message.

    Raises:
        KANError: Naming the first column that differs.
    """
    found = [str(name) for name in frame.columns]
    check_names(found, str(path))
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    if missing:
        near = difflib.get_close_matches(missing[0], surplus, n=1)
        hint = f"is it {near[0]!r}, renamed?" if near else f"{len(missing)} of {len(expected)} columns are"
        raise KANError(f"{path}: column {missing[0]!r} of the training table is missing: {hint}")
    if surplus:
        raise KANError(f"{path}: column {surplus[0]!r} was not in the training table: leave it out")
    for position, (name, other) in enumerate(zip(expected, found, strict=True), start=1):
        if name != other:
            raise KANError(
                f"{path}: the columns are in another order: column {position} is {other!r}, in training it was {name!r}"
            )


def check_same_kinds(frame: pd.DataFrame, numeric: Mapping[str, bool], path: Path) -> None:
    """Refuse text where training had numbers.

    Args:
        frame: What was read.
        numeric: Of columns, whether they were numbers in training.
        path: The file, for the message.

    Raises:
        KANError: Naming the column and a value.
    """
    for name, was_numeric in numeric.items():
        series = frame[name]
        if was_numeric and not types.is_numeric_dtype(series.dtype):
            numbers = pd.to_numeric(series, errors="coerce").notna()
            odd = (~numbers & series.notna()).to_numpy()
            row = int(odd.argmax())
            raise KANError(
                f"{path}: column {name!r} holds numbers in training, but {series.iloc[row]!r} in row {row + 1}: "
                "correct it, or name all words that mean missing with --data.na_values"
            )
