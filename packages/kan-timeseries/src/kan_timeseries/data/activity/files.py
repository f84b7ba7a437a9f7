"""The files of a set, in a folder or in zip archives, and rows of numbers that may be malformed."""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError

_SMALL = 1 << 16
"""Bytes up to which numpy is faster: pandas needs a millisecond to begin, and then half the time per number."""

MAX_MALFORMED = 0.05
"""Share of malformed rows above which a recording is left out as a whole."""


class SetFiles:
    """The files below a folder, and in the zip archives there, by their relative names.

    Args:
        where: The folder, or one archive.
        page: Where the set is to be had, for messages.
        licence: What its owners allow, for messages.
    """

    def __init__(self, where: Path, page: str, licence: str) -> None:
        self.where = where
        self.source = f"fetch it from {page} (licence: {licence})"
        if not where.exists():
            raise KANError(f"{where} is missing: {self.source}, or name another data root with --data.root or KAN_DATA")

    def matching(self, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
        """Names that end in `pattern`, sorted, with the files' content; archives count where no file has such a name.

        Args:
            pattern: A regular expression for the end of the name, such as ``/sub_([0-9]+)[.]csv``.

        Raises:
            KANError: When there is none, or an archive is damaged.
        """
        regex, found = re.compile(f"(?:.*/)?{pattern}"), False
        for source in (self._loose, self._archived):
            for match, content in source(regex):
                found = True
                yield match, content
            if found:
                return
        raise KANError(f"{self.where} holds no file named like {pattern}: {self.source}")

    @property
    def _files(self) -> list[Path]:
        if self.where.is_file():
            return [self.where]
        return sorted(path for path in self.where.rglob("*") if path.is_file())

    def _loose(self, regex: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
        for path in self._files:
            match = _match(regex, path.relative_to(self.where).as_posix())
            if match:
                yield match, path.read_bytes()

    def _archived(self, regex: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
        for path in self._files:
            if path.suffix.lower() == ".zip" and not path.name.startswith("."):
                yield from self._members(path, regex)

    def _members(self, path: Path, regex: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
        try:
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    match = _match(regex, name)
                    if match:
                        yield match, archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise KANError(f"{path} is damaged ({error}): {self.source}") from None


def _match(regex: re.Pattern[str], name: str) -> re.Match[str] | None:
    """Hidden files, which archivers of other systems add, do not match."""
    hidden = any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)
    return None if hidden else regex.fullmatch(name)


def number_rows(content: bytes, columns: int, separator: str) -> tuple[NDArray[np.float64], int]:
    r"""Lines of `columns` numbers each; empty lines do not count.

    Args:
        content: The text, without header.
        columns: Numbers per line.
        separator: Between them, as pandas knows it (``\s+`` for blanks).

    Returns:
        ``(lines, columns)``, where a malformed line (too few, too many, no numbers) is a row of NaN, and how many are.
    """
    rows = _strict(content, separator)
    if rows is not None and rows.shape[1] == columns and np.isfinite(rows).all():
        return rows, 0
    return _tolerant(content, columns, separator)


def _strict(content: bytes, separator: str) -> NDArray[np.float64] | None:
    """The table, or None when lines differ or hold something else than numbers."""
    if not content.strip():
        return None
    try:
        if len(content) < _SMALL:
            blank = separator == r"\s+"
            return np.loadtxt(io.BytesIO(content), delimiter=None if blank else separator, comments=None, ndmin=2)
        frame = pd.read_csv(io.BytesIO(content), sep=separator, header=None, quoting=csv.QUOTE_NONE)
    except ValueError:  # pandas' own errors are of this kind too
        return None
    if all(dtype.kind in "iuf" for dtype in frame.dtypes):
        return np.asarray(frame, dtype=np.float64)
    return None


def _tolerant(content: bytes, columns: int, separator: str) -> tuple[NDArray[np.float64], int]:
    lines = [line for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    rows = np.full((len(lines), columns), np.nan)
    for row, line in zip(rows, lines, strict=True):
        words = re.split(separator, line.strip())
        if len(words) == columns:
            try:
                row[:] = [float(word) for word in words]
            except ValueError:
                row[:] = np.nan
    rows[~np.isfinite(rows).all(axis=1)] = np.nan
    return rows, int(np.isnan(rows).all(axis=1).sum())
