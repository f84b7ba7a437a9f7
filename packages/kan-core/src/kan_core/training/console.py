"""What a run shows: one line for a mistake, no chatter, and a table at the end."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jsonargparse import ArgumentError as ParserError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from kan_core.errors import KANError
from kan_core.training.parsing import one_line

USER_ERRORS = (
    KANError,
    ParserError,
    argparse.ArgumentError,
    MisconfigurationException,
    FileNotFoundError,
    PermissionError,
)

# Lightning's and jsonargparse's own chatter, about things that a run of ours means as they are.
_EXPECTED = (
    r"Checkpoint directory .* exists and is not empty",
    r"The number of training batches .* is smaller than the logging interval",
    r".*does not have many workers.*",
    r".*LeafSpec.*is deprecated",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence tips and expected warnings inside the block, and restore what a trainer changes for the whole process."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        warnings.filterwarnings("ignore", module=r"jsonargparse.*|lightning\.pytorch\.cli", category=DeprecationWarning)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def describe(error: BaseException) -> str:
    """The one line that a user's mistake is reported with."""
    if isinstance(error, ParserError | argparse.ArgumentError):
        text = one_line(str(error.message if hasattr(error, "message") else error))
    elif isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        # raised in a loader process, it arrives with the traceback of that process in its text
        text = str(error).rpartition("KANError: ")[2]
    return "error: " + " ".join(text.split())


def report_error(error: BaseException, debug: bool) -> None:
    """Print `error` on stderr: its traceback when `debug`, then the one line."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    print(describe(error), file=sys.stderr)
