"""Parsing for the commands of this app that are no training."""

from __future__ import annotations

import argparse
from typing import NoReturn

from kan_core.errors import KANError


class CommandParser(argparse.ArgumentParser):
    """Leaves it to `kan_core.training.run` to report a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise.

        Raises:
            KANError: Always.
        """
        raise KANError(f"{message} (see {self.prog} --help)")
