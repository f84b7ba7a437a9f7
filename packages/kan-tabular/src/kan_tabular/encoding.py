"""From a table with columns of any kind to one number per column, by statistics of the training rows alone."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from kan_core.errors import KANError
from kan_tabular.models.column_layer import FIRST, MISSING, UNKNOWN

Floats = NDArray[np.float64]
Category = str | int | float | bool
CategoricalFeatures = Literal["from_dtype"] | Sequence[Any] | None

LIMIT = 3.0
"""Scaled values lie in (-LIMIT, LIMIT)."""

ID_LIKE = 0.5
"""A categorical column with more categories than this share of the rows is told to be like an identifier."""


@dataclass(frozen=True)
class Column:
    """What the encoder learned of one column.

    Attributes:
        name: Of the column; ``"x3"`` for the fourth column of an array.
        kind: ``"numeric"`` or ``"categorical"``.
        categories: The categories in the order of their codes, the first of which is 2; 0 is unknown, 1 is missing.
        center: Weighted median, in original units.
        scale: The factor on what is left, 1/(q75 - q25); 0 for a constant column.
        low: The least training value, in original units.
        high: The greatest.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[Category, ...] = ()
    center: float = 0.0
    scale: float = 0.0
    low: float = 0.0
    high: float = 0.0

    @property
    def cardinality(self) -> int:
        """0 for a numeric column, else the number of its codes."""
        return 0 if self.kind == "numeric" else len(self.categories) + FIRST


class TableEncoder:
    r"""Scales numeric columns and numbers categories; what it learns comes from the rows that it is fitted on.

    A numeric value (also a boolean, also nullable) becomes u/√(1 + (u/3)²) with u = (x - median)/(q75 - q25): about
    linear in the middle, within (-3, 3) for every value that will ever come, so that each has support on a grid. When
    the quartiles are equal, half the range takes their place, and a constant column becomes 0. Missing values stay NaN.
    A category becomes its code: 0 when training never saw it, 1 when it is missing, else 2 and more in sorted order.

    Args:
        categorical_features: ``"from_dtype"``: columns of dtype category, str or object are categorical, and no column
            is for its whole numbers. Else the names of the categorical columns, their positions, a boolean mask, or
            None for no column.

    Attributes:
        columns: One `Column` for each.

    Reference: robust scaling and smooth clipping as in RealMLP (Holzmüller et al. 2024, arXiv 2407.04491).
    """

    columns: list[Column]

    def __init__(self, categorical_features: CategoricalFeatures = "from_dtype") -> None:
        self.categorical_features = categorical_features

    @property
    def cardinalities(self) -> list[int]:
        """Per column 0 when it is numeric, else the number of its codes."""
        return [column.cardinality for column in self.columns]

    def fit(self, X: pd.DataFrame | NDArray[Any], sample_weight: NDArray[Any] | None = None) -> TableEncoder:
        """Learn the columns from training rows; rows of weight 0 are not there.

        Raises:
            KANError: For no rows or columns, dates, complex numbers, infinite values, mixed types in a column, or
                `categorical_features` that name no column.
        """
        frame = as_frame(X)
        if frame.shape[0] == 0 or frame.shape[1] == 0:
            raise KANError(f"a table needs rows and columns, got {frame.shape[0]} and {frame.shape[1]}")
        weight = np.ones(len(frame)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        there = weight > 0
        categorical = self._categorical_mask(frame)
        self.columns = [
            _categorical_column(frame.iloc[:, j], there)
            if categorical[j]
            else _numeric_column(frame.iloc[:, j], weight, there)
            for j in range(frame.shape[1])
        ]
        return self

    def transform(self, X: pd.DataFrame | NDArray[Any]) -> Floats:
        """Rows as ``(rows, columns)`` numbers.

        Raises:
            KANError: For another number of columns, or values that do not belong to a column's kind.
        """
        frame = as_frame(X)
        if frame.shape[1] != len(self.columns):
            raise KANError(f"the table has {frame.shape[1]} columns, but {len(self.columns)} were there in training")
        encoded = np.empty(frame.shape, dtype=np.float64)
        for j, column in enumerate(self.columns):
            series = frame.iloc[:, j]
            encoded[:, j] = (
                _codes(series, column) if column.kind == "categorical" else self.scaled(j, numeric_values(series))
            )
        return encoded

    def scaled(self, j: int, x: Any) -> Floats:
        """Values of numeric column `j` in original units, scaled."""
        column = self.columns[j]
        with np.errstate(over="ignore"):
            u = (np.asarray(x, dtype=np.float64) - column.center) * column.scale
        # hypot neither overflows nor loses what is small
        return np.asarray(LIMIT * u / np.hypot(LIMIT, u))

    def original(self, j: int, z: Any) -> Floats:
        """Scaled values of numeric column `j` back in original units; a constant column's value for any."""
        column = self.columns[j]
        z = np.clip(np.asarray(z, dtype=np.float64), -LIMIT * (1 - 1e-12), LIMIT * (1 - 1e-12))
        u = z / np.sqrt(1 - (z / LIMIT) ** 2)
        return np.asarray(column.center + (u / column.scale if column.scale else np.where(np.isnan(u), u, 0.0)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, from which `from_dict` makes an equal encoder."""
        return {"columns": [{**asdict(column), "categories": list(column.categories)} for column in self.columns]}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> TableEncoder:
        """A fitted encoder from what `to_dict` returned."""
        columns = [Column(**{**column, "categories": tuple(column["categories"])}) for column in stored["columns"]]
        encoder = cls([j for j, column in enumerate(columns) if column.kind == "categorical"])
        encoder.columns = columns
        return encoder

    def _categorical_mask(self, frame: pd.DataFrame) -> list[bool]:
        chosen = self.categorical_features
        if isinstance(chosen, str):
            if chosen != "from_dtype":
                raise KANError(f"categorical_features must be 'from_dtype', None or a list of columns, got {chosen!r}")
            return [is_categorical(frame.iloc[:, j]) for j in range(frame.shape[1])]
        listed = [] if chosen is None else list(np.asarray(chosen, dtype=object).ravel())
        if listed and all(isinstance(item, bool | np.bool_) for item in listed):
            if len(listed) != frame.shape[1]:
                raise KANError(
                    f"categorical_features has {len(listed)} entries for a table of {frame.shape[1]} columns"
                )
            return [bool(item) for item in listed]
        names = list(frame.columns)
        mask = [False] * len(names)
        for item in listed:
            by_position = isinstance(item, numbers.Integral) and item not in names
            position = int(item) if by_position else names.index(item) if item in names else -1
            if not 0 <= position < len(names):
                raise KANError(f"categorical_features: there is no column {item!r}")
            mask[position] = True
        return mask


def as_frame(X: Any) -> pd.DataFrame:
    """A table as a data frame; the columns of an array are called x0, x1, ..."""
    if isinstance(X, pd.DataFrame):
        return X
    array = np.asarray(X)
    if array.ndim != 2:
        raise KANError(f"a table has two dimensions, got {array.ndim}")
    return pd.DataFrame(array, columns=[f"x{j}" for j in range(array.shape[1])])


def is_categorical(series: pd.Series) -> bool:
    """Whether the dtype says categories: category, str, or objects that are not all numbers.

    Raises:
        KANError: For dates, differences of dates and complex numbers.
    """
    dtype = series.dtype
    if (
        types.is_datetime64_any_dtype(dtype)
        or types.is_timedelta64_dtype(dtype)
        or isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype)
    ):
        raise KANError(
            f"column {series.name!r} is of dtype {dtype}: make numbers of it first, such as year, month or seconds"
        )
    if types.is_complex_dtype(dtype):
        raise KANError(f"Complex data not supported: column {series.name!r} is of dtype {dtype}")
    if isinstance(dtype, pd.CategoricalDtype):
        return True
    if types.is_object_dtype(dtype):
        return not all(isinstance(value, numbers.Real) or _is_missing(value) for value in series)
    return bool(types.is_string_dtype(dtype))


def numeric_values(series: pd.Series) -> Floats:
    """The numbers of a column as float64, missing ones (nan, None, pd.NA, NaT) as NaN.

    Raises:
        KANError: For values that are no numbers, and for infinite ones.
    """
    try:
        if series.dtype == np.float64:
            values: Floats = series.to_numpy()
        elif types.is_object_dtype(series.dtype):
            values = np.array([np.nan if _is_missing(v) else float(v) for v in series.to_numpy(dtype=object)])
        else:
            values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise KANError(f"column {series.name!r} was numeric in training, but: {error}") from None
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise KANError(
            f"column {series.name!r} has an infinite value (infinity) in row {row}: make it missing or leave it out"
        )
    return values


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _numeric_column(series: pd.Series, weight: Floats, there: NDArray[np.bool_]) -> Column:
    name = str(series.name)
    values = numeric_values(series)
    known = there & ~np.isnan(values)
    if not known.any():
        return Column(name, "numeric")
    values, weight = values[known], weight[known]
    # of the values themselves, so that a weight of 2 is a row twice
    q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf", weights=weight)
    low, high = float(values.min()), float(values.max())
    spread = float(q75 - q25) or (high - low) / 2
    return Column(
        name, "numeric", (), float(median), 1 / spread if spread and math.isfinite(1 / spread) else 0.0, low, high
    )


def _categorical_column(series: pd.Series, there: NDArray[np.bool_]) -> Column:
    name = str(series.name)
    found = {_plain(value) for value in _distinct(series[there].dropna())}
    kinds = {"text" if isinstance(value, str) else "numbers" for value in found}
    if len(kinds) > 1:
        examples = sorted((repr(value) for value in found), key=len)[:4]
        raise KANError(
            f"column {series.name!r} mixes text and numbers (mixed types), such as {', '.join(examples)}: "
            "make it one of them"
        )
    rows = int(there.sum())
    if len(found) > max(20, ID_LIKE * rows):
        warnings.warn(
            f"column {name!r} has {len(found)} categories in {rows} rows: if it is an identifier, leave it out",
            UserWarning,
            stacklevel=4,
        )
    return Column(name, "categorical", tuple(sorted(found)))


def _distinct(series: pd.Series) -> Any:
    try:
        return pd.unique(series)
    except TypeError:  # a value that cannot be hashed, which _plain refuses by its type
        return list(series)


def _codes(series: pd.Series, column: Column) -> Floats:
    index = {category: code for code, category in enumerate(column.categories, start=FIRST)}
    try:
        codes, distinct = pd.factorize(series, use_na_sentinel=True)
    except TypeError:
        raise KANError(f"argument must be a string or a number in every row of column {column.name!r}") from None
    by_value = np.array([index.get(_plain(value), UNKNOWN) for value in distinct] + [MISSING], dtype=np.float64)
    return np.asarray(by_value[codes])  # the sentinel -1 is the last


def _plain(value: Any) -> Category:
    """A category as a value of Python that JSON has.

    Raises:
        KANError: For a value of another kind.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return value
    # the words of scikit-learn's checks
    raise KANError(f"argument must be a string or a number, got a category of type {type(value).__name__}")
