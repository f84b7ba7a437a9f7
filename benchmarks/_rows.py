"""Finished fits as lines of a file: an interrupted benchmark goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """What is there; a line that a killed process left half is skipped, and its fit repeated."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append_row(path: Path, row: Row) -> None:
    """One more line; it begins with the line break, so that what a killed process left stays a line of its own."""
    with path.open("a") as file:
        file.write("\n" + json.dumps(row))
