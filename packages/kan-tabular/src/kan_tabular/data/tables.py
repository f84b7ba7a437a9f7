"""A table and the roles of its columns; which task a target is; what cannot be learned from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from kan_core.errors import KANError

TaskKind = Literal["binary", "multiclass", "regression"]

MAX_CLASSES = 20
"""Whole numbers with more distinct values than this are a quantity."""

MIN_ROWS_PER_CLASS = 10
"""Whole numbers are classes only where a value has at least this many rows on average."""

UNNAMED = "Unnamed: "
"""How pandas calls a column without a name, before its number."""


@dataclass(frozen=True)
class Table:
    """Rows to learn from; every part has the index 0, 1, 2, ...

    Attributes:
        X: One column per feature.
        y: The target, or a frame of several targets.
        name: What the table is called in messages and reports.
        task: What the target is, where that is known; None: `infer_task` says it.
        weight: What each row counts, not negative.
        test: ``(rows,)`` booleans: the rows that belong to the official test; None when there is none.
        groups: Rows of equal value belong together: no split divides them.
        positive: The class that is called positive where there are two; None: the last one in sorted order.
    """

    X: pd.DataFrame
    y: pd.Series | pd.DataFrame
    name: str
    task: TaskKind | None = None
    weight: pd.Series | None = None
    test: NDArray[np.bool_] | None = None
    groups: pd.Series | None = None
    positive: str | None = None

    @property
    def targets(self) -> pd.DataFrame:
        """The target or targets as a frame."""
        return self.y if isinstance(self.y, pd.DataFrame) else self.y.to_frame()


def make_table(
    frame: pd.DataFrame,
    name: str,
    target: Sequence[str],
    *,
    weights: str | None = None,
    group: str | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    test: NDArray[np.bool_] | None = None,
    task: TaskKind | None = None,
    positive: str | None = None,
) -> Table:
    """A table from a frame by the roles of its columns; what has no role is a feature.

    Booleans become 0 and 1. Weights and groups are no features.

    Args:
        frame: All columns.
        name: For messages: the file or the set.
        target: The columns to predict.
        weights: The column that says what a row counts.
        group: The column whose equal values belong together.
        drop: Columns to leave out.
        categorical: Features that are categories although they are numbers.
        test: The rows of an official test.
        task: What the target is, where that is known.
        positive: The positive class, where that is known.

    Raises:
        KANError: For a column that is not there, is named twice, or has two roles, and as `check_table`.
    """
    check_names(frame.columns, name)
    roles = {"target": target, "weights": [weights or ""], "group": [group or ""], "drop": drop}
    used: dict[str, str] = {}
    for role, names in roles.items():
        for column in filter(None, names):
            need_column(column, frame.columns, f"{name} ({role})")
            if column in used:
                raise KANError(f"{name}: column {column!r} cannot be both {used[column]} and {role}: choose one")
            used[column] = role
    X = frame.drop(columns=list(used))
    for column in categorical:
        need_column(column, X.columns, f"{name} (categorical_features)")
    for column in X.columns:
        if column.startswith(UNNAMED):
            raise KANError(
                f"{name}: column {int(column.removeprefix(UNNAMED)) + 1} has no name in the header: name it, "
                f"or leave it out with --data.drop '[\"{column}\"]'"
            )
        if column in categorical and not types.is_string_dtype(X[column].dtype):
            X[column] = X[column].map(label, na_action="ignore").astype("str")
        elif types.is_bool_dtype(X[column].dtype):
            X[column] = X[column].astype("Float64").astype("float64")
    table = Table(
        X.reset_index(drop=True),
        _target(frame, target),
        name,
        task=task,
        positive=positive,
        weight=frame[weights].reset_index(drop=True) if weights else None,
        groups=frame[group].reset_index(drop=True) if group else None,
        test=test,
    )
    check_table(table)
    return table


def _target(frame: pd.DataFrame, target: Sequence[str]) -> pd.Series | pd.DataFrame:
    y = frame[list(target)].reset_index(drop=True)
    return y[target[0]] if len(target) == 1 else y


def need_column(column: str, columns: Iterable[str], where: str) -> None:
    """Refuse a column that is not there.

    Raises:
        KANError: Naming the closest ones, or all when there are few.
    """
    known = list(columns)
    if column not in known:
        near = difflib.get_close_matches(column, known, n=3) or difflib.get_close_matches(column.lower(), known, n=3)
        if near:
            hint = f"did you mean {' or '.join(map(repr, near))}?"
        else:
            hint = f"the columns are {', '.join(known[:20])}{' ...' if len(known) > 20 else ''}"
        raise KANError(f"{where}: there is no column {column!r}: {hint}")


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse two columns of one name.

    Raises:
        KANError: Naming the column.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise KANError(f"{where}: two columns are called {name!r}: give every column a name of its own")
        seen.add(name)


def check_table(table: Table) -> None:
    """Refuse what no model can be trained on; a column that is constant or wholly missing is fine.

    Raises:
        KANError: For no rows or no features, two columns of one name, infinite values, several types in one column, a
            target with missing values or one value only, and weights that are no weights.
    """
    where = table.name
    if not len(table.X):
        raise KANError(f"{where}: the table has no rows")
    if not table.X.shape[1]:
        raise KANError(f"{where}: no column is left to predict from")
    check_names(table.X.columns, where)
    for name in table.X.columns:
        _check_values(table.X[name], where)
    for name in table.targets.columns:
        _check_values(table.targets[name], where)
        _check_target(table.targets[name], where)
    if table.weight is not None:
        _check_weights(table.weight, where)


def _check_values(series: pd.Series, where: str) -> None:
    kind = series.dtype
    if types.is_numeric_dtype(kind) and not types.is_complex_dtype(kind):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isinf(values).any():
            row = int(np.isinf(values).argmax()) + 1
            raise KANError(f"{where}: column {series.name!r} is infinite in row {row}: make it a number or missing")
    elif types.is_object_dtype(kind):
        present = series.dropna()
        kinds = sorted({"number" if isinstance(v, int | float | np.number) else type(v).__name__ for v in present})
        if len(kinds) > 1:
            raise KANError(
                f"{where}: column {series.name!r} holds mixed types ({', '.join(kinds)}): make it one of them"
            )
        if not set(kinds) <= {"number", "str", "bool"}:
            raise KANError(
                f"{where}: column {series.name!r} holds values of type {kinds[0]}: make numbers or text of them"
            )
    elif not (types.is_string_dtype(kind) or isinstance(kind, pd.CategoricalDtype) or types.is_bool_dtype(kind)):
        raise KANError(
            f"{where}: column {series.name!r} is of dtype {kind}: make numbers of it, such as year, month or seconds, "
            f"or leave it out with --data.drop '[\"{series.name}\"]'"
        )


def _check_target(y: pd.Series, where: str) -> None:
    missing = y.isna().to_numpy()
    if missing.any():
        raise KANError(
            f"{where}: the target {y.name!r} is missing in {missing.sum()} of {len(y)} rows (first in row "
            f"{int(missing.argmax()) + 1}): leave these rows out"
        )
    if y.nunique() < 2:
        raise KANError(
            f"{where}: the target {y.name!r} has one value only, {label(y.iloc[0])!r}: there is nothing to learn"
        )


def _check_weights(weight: pd.Series, where: str) -> None:
    if not types.is_numeric_dtype(weight.dtype):
        raise KANError(f"{where}: the weights {weight.name!r} are no numbers but {weight.dtype}")
    values = weight.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise KANError(f"{where}: the weight {weight.name!r} of row {row + 1} is {values[row]}: it must be 0 or more")


def infer_task(y: pd.Series | pd.DataFrame) -> TaskKind:
    """What kind of task a target is, by a rule that looks at its values only.

    Two values: binary. Text, categories: multiclass. Numbers with a fraction: regression. Whole numbers: multiclass
    when there are at most 20 distinct values with at least 10 rows each on average (ours), else regression. Several
    targets: regression.

    Raises:
        KANError: For several targets that are not all numbers.
    """
    return _task(y)[0]


def task_reason(y: pd.Series | pd.DataFrame) -> str:
    """Why `infer_task` says what it says, such as ``"2 values: no, yes"``."""
    return _task(y)[1]


def _task(y: pd.Series | pd.DataFrame) -> tuple[TaskKind, str]:
    if isinstance(y, pd.DataFrame):
        for name in y.columns:
            if not is_number(y[name]):
                raise KANError(f"target {name!r} is no number: several targets at once must all be numbers")
        return "regression", f"{y.shape[1]} targets"
    values = y.dropna().unique()
    if len(values) == 2:
        return "binary", f"2 values: {', '.join(label(value) for value in sort_values(values))}"
    if not is_number(y):
        return "multiclass", f"{len(values)} values that are no numbers"
    numbers = np.asarray(values, dtype=np.float64)
    if (numbers != np.floor(numbers)).any():
        return "regression", "numbers with a fraction"
    if len(values) <= min(MAX_CLASSES, len(y) / MIN_ROWS_PER_CLASS):
        return "multiclass", f"{len(values)} distinct whole numbers"
    return "regression", f"{len(values)} distinct whole numbers in {len(y)} rows"


def is_number(y: pd.Series) -> bool:
    """Whether the values are numbers; booleans are not."""
    return types.is_numeric_dtype(y.dtype) and not types.is_bool_dtype(y.dtype)


def sort_values(values: Iterable[Any]) -> list[Any]:
    """Class values in order: as numbers where they are numbers, else as text."""
    found = list(values)
    as_numbers = all(isinstance(value, int | float | np.number) for value in found)
    return sorted(found) if as_numbers else sorted(found, key=str)


def label(value: Any) -> str:
    """A class value as text; a whole number has no fraction: ``3.0`` is ``"3"``."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value)
