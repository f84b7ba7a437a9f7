"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, and rename it to `path` when the block ends well.

    A reader sees the old file or the whole new one, whatever happens to the writer in between. When the block raises,
    the temporary file is removed and `path` stays as it was.

    Args:
        path: The final name. Its folder is created when missing.

    Yields:
        The temporary name. It keeps the suffix of `path`, since writers look at it.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}-{os.getpid()}.part{final.suffix}")
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left of :func:`atomic_write` anywhere below `folder`."""
    for leftover in folder.rglob(".*-*.part*"):
        leftover.unlink(missing_ok=True)
