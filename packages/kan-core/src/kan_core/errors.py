"""The one exception that this library raises for a mistake its user can correct."""

from __future__ import annotations


class KANError(ValueError):
    """An input, file or option that cannot be worked with; the message says which, and what to do.

    The training apps print it as one line and exit with code 2 (``--debug`` shows the traceback).
    """
