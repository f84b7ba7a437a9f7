"""Columns of a user's table, checked: names, series, time stamps, numbers, labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.frequency import Times

Floats = NDArray[np.float64]


def as_table(frame: Any, what: str) -> pd.DataFrame:
    """A pandas table, or what ``to_pandas()`` makes of another.

    Raises:
        KANError: For anything else; `what` is the argument's name in messages, here and below.
    """
    if not isinstance(frame, pd.DataFrame) and hasattr(frame, "to_pandas"):
        frame = frame.to_pandas()
    if not isinstance(frame, pd.DataFrame):
        raise KANError(f"{what} must be a pandas or polars table, got {type(frame).__name__}")
    return frame


def check_columns(table: pd.DataFrame, what: str, columns: list[str]) -> None:
    """Refuse a table that has not each of `columns` once.

    Raises:
        KANError: In that case.
    """
    for name in columns:
        count = int((table.columns == name).sum())
        if count != 1:
            if count:
                raise KANError(f"{what} has {count} columns called {name!r}: keep one")
            found = ", ".join(map(str, table.columns[:10]))
            raise KANError(f"{what} has no column {name!r}, but {found}: rename it, or say its name")


def series_codes(column: pd.Series, what: str) -> tuple[list[str], NDArray[np.int64], bool]:
    """Names in the order of first rows, the number of each row's series, and whether names are whole numbers.

    Raises:
        KANError: For missing names, and names that are neither text nor whole numbers.
    """
    if column.isna().any():
        raise KANError(
            f"{what}: {column.name} is missing in row {int(column.isna().to_numpy().argmax())}: name its series"
        )
    codes, found = pd.factorize(column)
    kind = pd.api.types.infer_dtype(found, skipna=False)
    if kind == "categorical":
        kind = pd.api.types.infer_dtype(found.astype(found.categories.dtype), skipna=False)
    if len(found) and kind not in ("string", "integer"):
        raise KANError(f"{what}: {column.name} must be text or whole numbers, got {kind}: convert it with astype(str)")
    return [str(name) for name in found], codes.astype(np.int64), kind == "integer"


def stamps_of(column: pd.Series, names: list[str], codes: NDArray[np.int64]) -> Times:
    """Time stamps as ``datetime64`` in micro- or nanoseconds, or ``int64``; text is read as ISO 8601.

    Raises:
        KANError: When one is missing, has a time zone, or is neither a date nor a whole number.
    """
    missing = column.isna().to_numpy()
    if missing.any():
        row = int(missing.argmax())
        raise KANError(f"series {names[codes[row]]!r}: {column.name} is missing in row {row}: give its time stamp")
    if pd.api.types.is_string_dtype(column):
        try:
            column = pd.to_datetime(column, format="ISO8601")
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise KANError(f"{column.name} holds text that is no ISO date ({reason}): use pd.to_datetime") from error
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        raise KANError(
            f"{column.name} has time zone {column.dtype.tz}: remove it with .dt.tz_convert('UTC').dt.tz_localize(None)"
            ", or for days and longer with .dt.tz_localize(None)"
        )
    if pd.api.types.is_datetime64_dtype(column):
        unit = "ns" if column.dtype == "datetime64[ns]" else "us"
        return np.asarray(column.to_numpy().astype(f"datetime64[{unit}]"))
    if pd.api.types.is_integer_dtype(column):
        return np.asarray(column.to_numpy(dtype=np.int64))
    raise KANError(
        f"{column.name} must hold dates or whole numbers, got {column.dtype}: use pd.to_datetime or astype(int)"
    )


def numbers_of(column: pd.Series, what: str) -> Floats:
    """Numbers, NaN where missing.

    Raises:
        KANError: For a column of another type.
    """
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        raise KANError(f"{what}: {column.name} must hold numbers, got {column.dtype}: convert it with pd.to_numeric")
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def labels_of(column: pd.Series) -> list[str]:
    """Categories as text.

    Raises:
        KANError: When one is missing.
    """
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise KANError(f"static_df: {column.name} is missing in row {row}: give its category, such as 'unknown'")
    return [str(label) for label in column]


def where(names: list[str], codes: NDArray[np.int64], times: Times, row: int) -> str:
    """What a message calls a row."""
    return f"series {names[codes[row]]!r} at {stamp_text(times[row])}"


def stamp_text(time: Any) -> str:
    """What a message calls a time stamp."""
    return str(pd.Timestamp(time)) if isinstance(time, np.datetime64) else str(int(time))
