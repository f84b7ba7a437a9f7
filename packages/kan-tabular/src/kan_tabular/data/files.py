"""Tables from files: delimited text, also compressed, and Parquet; mistakes in a file are told with their place."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from pandas.api import types
from pandas.errors import DtypeWarning, EmptyDataError, ParserError, ParserWarning

from kan_core.errors import KANError
from kan_tabular.data.tables import UNNAMED, check_names

NA_VALUES = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
"""What means missing in text, unless the user says otherwise: what pandas knows, and ``?``."""

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
PARQUET = (".parquet", ".pq")

_HEAD = 1 << 16
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def read_file(
    path: Path,
    *,
    separator: str | None = None,
    na_values: Sequence[str] | None = None,
    decimal: str = ".",
    text: Collection[str] = (),
    names: Sequence[str] | None = None,
    skip_lines: int = 0,
) -> pd.DataFrame:
    """The table in a file, with columns of numbers, booleans and text only.

    Text may be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zip`` with one member). Blanks around values do not count.
    It is read piece by piece: beside the table itself only a piece of it is in memory.

    Args:
        path: ``.parquet`` or ``.pq``; any other file is delimited text with a header.
        separator: Between the values of a line; None: comma, semicolon, tab or bar, whichever alone divides the first
            lines evenly.
        na_values: All the words that mean missing; None: `NA_VALUES` in text, none but nulls in Parquet.
        decimal: The decimal point of numbers.
        text: Columns to read as text although they look like numbers, so that ``007`` stays what it is.
        names: Of the columns of a file without a header.
        skip_lines: Lines to leave out at the start.

    Raises:
        KANError: For a file that is missing, empty, damaged or no text; a separator that does not divide it; rows with
            too many or too few values (how many, and the line of the first); a column of numbers with some text in it.
    """
    if not path.is_file():
        raise KANError(f"{path}: there is no such file")
    if path.suffix.lower() in PARQUET:
        frame = _read_parquet(path)
    else:
        missing = list(NA_VALUES if na_values is None else dict.fromkeys(["", *na_values]))
        frame = _Text(path, separator, missing, decimal, names, skip_lines).read(set(text))
        _refuse_mixed(frame, path, missing, decimal, text)
        return frame
    return _without(frame, [] if na_values is None else list(na_values))


# Parquet ----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except ImportError:
        raise KANError(f'{path}: Parquet needs pyarrow: pip install "kan-tabular[parquet]"') from None
    except (ValueError, OSError) as error:
        raise KANError(f"{path} cannot be read as Parquet: {error}") from None
    if not frame.shape[1]:
        raise KANError(f"{path} is empty: it has no columns")
    frame = frame.reset_index(drop=frame.index.name is None)
    for column in frame.columns:
        kind = types.infer_dtype(frame[column], skipna=True)
        if kind in ("decimal", "mixed-integer-float"):
            frame[column] = frame[column].astype("float64")
        elif kind == "boolean":
            frame[column] = frame[column].astype("boolean")
        elif isinstance(frame[column].dtype, pd.CategoricalDtype) and types.is_string_dtype(
            frame[column].cat.categories.dtype
        ):
            frame[column] = frame[column].astype("str")
    return frame.rename(columns=str)


# Text -------------------------------------------------------------------------------------------------------------


class _Text:
    """One file of delimited text."""

    def __init__(
        self,
        path: Path,
        separator: str | None,
        missing: list[str],
        decimal: str,
        names: Sequence[str] | None,
        skip_lines: int,
    ) -> None:
        self.path = path
        self.missing = missing
        self.decimal = decimal
        self.skip_lines = skip_lines
        self.has_header = names is None
        with self.open() as file:
            head = file.read(_HEAD)
        if "\0" in head:
            raise KANError(f"{path} is no text: export it as CSV or Parquet")
        if not head.strip():
            raise KANError(f"{path} is empty")
        lines = [line for line in head.splitlines()[skip_lines:] if line.strip()]
        if len(head) == _HEAD and len(lines) > 1:
            lines.pop()  # it may be cut
        self.separator = _separator(lines, path) if separator is None else separator
        if len(self.separator) != 1:
            raise KANError(f"{path}: --data.separator {separator!r} must be one character")
        first = next(csv.reader(lines[:1], delimiter=self.separator, skipinitialspace=True))
        self.names = [name.strip() or f"{UNNAMED}{j}" for j, name in enumerate(first)] if names is None else list(names)
        if len(first) == 1:
            raise KANError(
                f"{path}: 1 column was found with the separator {self.separator!r} (the first line is "
                f"{first[0][:60]!r}): give the right one with --data.separator"
            )
        check_names(self.names, str(path))

    @contextmanager
    def open(self) -> Iterator[IO[str]]:
        """The text, decompressed."""
        try:
            with self._raw() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
                yield file
        except UnicodeDecodeError as error:
            raise KANError(f"{self.path} is no UTF-8 text ({error.reason}): save it with that encoding") from None
        except (*_DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the decompressor
                raise
            raise KANError(f"{self.path} is damaged or not compressed as its name says: {error}") from None

    @contextmanager
    def _raw(self) -> Iterator[IO[bytes]]:
        suffix = self.path.suffix.lower()
        if suffix != ".zip":
            with _OPENERS.get(suffix, open)(self.path, "rb") as file:  # type: ignore[operator]
                yield file
            return
        with zipfile.ZipFile(self.path) as archive:
            members = [member for member in archive.namelist() if not member.endswith("/")]
            if len(members) != 1:
                raise KANError(f"{self.path} holds {len(members)} files: it must be one")
            with archive.open(members[0]) as file:
                yield file

    def read(self, text: set[str]) -> pd.DataFrame:
        """The table; a column that is text in one piece of the file is text in all."""
        frame = self._parse(text)
        mixed = {name for name in frame.columns if _holds_several_types(frame[name])}
        if mixed:
            frame = self._parse(text | mixed)
        for name in frame.columns:
            if types.is_object_dtype(frame[name].dtype):  # True, False and missing
                frame[name] = frame[name].astype("boolean")
        return _without(frame, self.missing)

    def _parse(self, text: set[str]) -> pd.DataFrame:
        try:
            with self.open() as file, warnings.catch_warnings():
                warnings.simplefilter("ignore", DtypeWarning)  # these columns are read again
                warnings.simplefilter("error", ParserWarning)  # surplus values, which would be lost
                frame = pd.read_csv(
                    file,
                    sep=self.separator,
                    header=0 if self.has_header else None,
                    names=self.names,
                    index_col=False,
                    dtype=dict.fromkeys(text, "str"),
                    skiprows=self.skip_lines,
                    skipinitialspace=True,
                    na_values=self.missing,
                    keep_default_na=False,
                    decimal=self.decimal,
                )
        except EmptyDataError:
            raise KANError(f"{self.path} is empty") from None
        except (ParserError, ParserWarning) as error:
            self._refuse_ragged()
            raise KANError(f"{self.path} cannot be read: {' '.join(str(error).split())}") from None
        if frame.iloc[:, -1].isna().any():  # pandas fills short rows with missing values at their end
            self._refuse_ragged()
        if not len(frame):
            raise KANError(f"{self.path} has a header but no rows")
        return frame

    def _refuse_ragged(self) -> None:
        """Count the rows with too many or too few values.

        Raises:
            KANError: When there is one.
        """
        expected, count, first = len(self.names), 0, ""
        with self.open() as file:
            rows = csv.reader(file, delimiter=self.separator, skipinitialspace=True)
            for row in rows:
                if row and len(row) != expected and rows.line_num > self.skip_lines:
                    count += 1
                    first = first or f"line {rows.line_num} has {len(row)} values"
        if count:
            raise KANError(
                f"{self.path}: {count} row(s) do not have the {expected} values of the header: {first}; correct "
                f"or remove them, or give another --data.separator than {self.separator!r}"
            )


def _separator(lines: Sequence[str], path: Path) -> str:
    """The separator that alone divides every line into the same number of values, at least two.

    Raises:
        KANError: When several do.
    """
    usual = "\t" if ".tsv" in path.suffixes else ","
    even = {}
    for candidate in SEPARATORS:
        counts = {len(row) for row in csv.reader(lines, delimiter=candidate, skipinitialspace=True) if row}
        if len(counts) == 1 and counts != {1}:
            even[candidate] = counts.pop()
    if len(even) > 1:
        found = ", ".join(f"{count} with {SEPARATORS[candidate]}" for candidate, count in even.items())
        raise KANError(f"{path}: the separator is not clear, columns found: {found}; give it with --data.separator")
    return next(iter(even), usual)


def _holds_several_types(series: pd.Series) -> bool:
    return bool(types.is_object_dtype(series.dtype) and types.infer_dtype(series, skipna=True) != "boolean")


def _without(frame: pd.DataFrame, missing: Sequence[str]) -> pd.DataFrame:
    """Text without blanks at its ends, the markers in `missing` made missing."""
    for name in frame.columns:
        if types.is_string_dtype(frame[name].dtype) and not isinstance(frame[name].dtype, pd.CategoricalDtype):
            stripped = frame[name].str.strip()
            frame[name] = stripped.mask(stripped.isin(list(missing))) if missing else stripped
    return frame


def _refuse_mixed(frame: pd.DataFrame, path: Path, missing: Sequence[str], decimal: str, text: Collection[str]) -> None:
    """Refuse columns of text where at least half the values are numbers: most likely, some are mistakes or markers.

    Raises:
        KANError: Naming the column and one of the values that are no numbers.
    """
    for name in frame.columns:
        if name in text or not types.is_string_dtype(frame[name].dtype):
            continue
        counts = frame[name].value_counts()
        if not len(counts):
            continue
        numbers = pd.to_numeric(pd.Series(counts.index, dtype="object"), errors="coerce").notna().to_numpy()
        share = counts.to_numpy()[numbers].sum() / counts.to_numpy().sum()
        if share >= 0.5 and not numbers.all():
            odd = counts.index[~numbers][0]
            row = int(np.argmax((frame[name] == odd).to_numpy(dtype=bool, na_value=False))) + 1
            raise KANError(
                f"{path}: column {name!r} mixes numbers and text, such as {odd!r} in row {row}: if that means missing, "
                f"give all such words with --data.na_values (now {', '.join(filter(None, missing))}); if they are "
                "categories, add the column to --data.categorical_features"
            )
        if decimal == "." and not share and counts.index.str.fullmatch(r"[+-]?\d+,\d+").all():
            raise KANError(f"{path}: the numbers of column {name!r} have decimal commas: give --data.decimal ,")
