"""The tables of the benchmark and how they are split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from sklearn.model_selection import KFold, StratifiedKFold

from kan_core.errors import KANError
from kan_tabular.data.sets import load_set

Array = NDArray[Any]

BUNDLED = ("breast_cancer", "wine", "digits", "iris", "diabetes")
FILES = ("credit-g", "credit-approval", "telco-churn", "bank-marketing", "adult", "california-housing")
SETS = (*BUNDLED, *FILES)


@dataclass(frozen=True)
class Problem:
    """A table with its target.

    Attributes:
        name: One of `SETS`.
        X: Columns as they are: numbers, text, missing values.
        y: Classes from 0, or the target.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        test: Where the official test rows are, None where there are none.
    """

    name: str
    X: pd.DataFrame
    y: Array
    task: str
    test: Array | None = None

    @property
    def outputs(self) -> int:
        """Outputs of a network: the classes, but one for two of them and for a target."""
        return int(self.y.max()) + 1 if self.task == "multiclass" else 1

    def shuffled(self, seed: int) -> Problem:
        """The same columns with permuted targets: nothing can be learned from it."""
        return replace(self, y=np.random.default_rng(seed).permutation(self.y))


@dataclass(frozen=True)
class Part:
    """Rows of a table."""

    X: pd.DataFrame
    y: Array


def load(name: str, root: str | None) -> Problem:
    """A table by its name.

    Args:
        name: One of `SETS`.
        root: Folder of the tables that do not come with scikit-learn; None: ``$KAN_DATA``, else ``~/.cache/kan``.

    Raises:
        KANError: For an unknown name, or files that are not there.
    """
    table = load_set(name, root)
    assert table.task is not None
    y = np.asarray(table.y)
    return Problem(name, table.X, y if table.task == "regression" else _codes(y), table.task, table.test)


def _codes(y: Array) -> Array:
    """Each class's place in sorted order."""
    return np.unique(y, return_inverse=True)[1]


def split(problem: Problem, seed: int, fold: int, folds: int) -> tuple[Part, Part]:
    """Training and test rows, which share none.

    A table with official test rows has one fold, the same for every seed; any other table `folds`, shuffled anew by
    each seed, stratified by class.

    Raises:
        KANError: For a fold that is not there.
    """
    if not 0 <= fold < folds_of(problem, folds):
        raise KANError(f"{problem.name} has no fold {fold}")
    if problem.test is not None:
        train, test = np.flatnonzero(~problem.test), np.flatnonzero(problem.test)
    else:
        kind = KFold if problem.task == "regression" else StratifiedKFold
        cut = kind(folds, shuffle=True, random_state=seed)
        train, test = list(cut.split(problem.X, problem.y))[fold]
    if np.intersect1d(train, test).size:
        raise KANError(f"{problem.name}: training and test rows overlap")
    return tuple(Part(problem.X.iloc[rows].reset_index(drop=True), problem.y[rows]) for rows in (train, test))  # type: ignore[return-value]


def folds_of(problem: Problem, folds: int) -> int:
    """How many there are."""
    return 1 if problem.test is not None else folds


def share_outside(train: pd.DataFrame, test: pd.DataFrame) -> float:
    """Share of the test table's known values that training has not seen: beyond its range, or another category."""
    outside = known = 0
    for name in train.columns:
        seen, values = train[name].dropna(), test[name].dropna()
        known += len(values)
        if is_numeric_dtype(seen):
            outside += int(((values < seen.min()) | (values > seen.max())).sum())
        else:
            outside += int((~values.isin(seen.unique())).sum())
    return outside / max(known, 1)
