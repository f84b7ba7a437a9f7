"""Where data sets are looked for."""

from __future__ import annotations

import os
from pathlib import Path


def data_root(root: str | None = None) -> Path:
    """The folder that holds the data sets: `root`, else ``$KAN_DATA``, else ``~/.cache/kan``.

    Nothing is created or checked: whoever reads a file knows what is missing and where it can be fetched.

    Args:
        root: What the user gave as ``--data.root``; ``None`` or an empty string when not given. ``~`` is expanded.
    """
    return Path(root or os.environ.get("KAN_DATA") or "~/.cache/kan").expanduser()
