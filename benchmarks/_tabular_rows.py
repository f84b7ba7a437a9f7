"""Finished fits, one per line of a JSONL file: what is there is not repeated."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]
KEY = ("set", "model", "track", "seed", "fold", "folds", "trials", "labels")


def key_of(row: Row) -> tuple[Any, ...]:
    """What a fit is known by."""
    return tuple(row[name] for name in KEY)


class Rows:
    """The rows of a file, which several processes may append to.

    A line that cannot be read, such as the last one of an interrupted run, counts as not there.

    Args:
        path: The file; it and its folder are created with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable = 0

    def read(self) -> dict[tuple[Any, ...], Row]:
        """All rows by `key_of`; of two of one key the later."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        rows, self.unreadable = {}, 0
        for line in filter(None, lines):
            try:
                row = json.loads(line)
                rows[key_of(row)] = row
            except (ValueError, KeyError, TypeError):
                self.unreadable += 1
        return rows

    def append(self, row: Row) -> None:
        """One more line, in a single write; behind a torn line it starts a new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(row) + "\n").encode()
        if self._torn():
            line = b"\n" + line
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def _torn(self) -> bool:
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
