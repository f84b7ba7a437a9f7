"""The command line of the vision package: ``kan-vision``, and ``apps/train_vision.py`` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kan_core.training import run
from kan_vision.data import VisionDataModule
from kan_vision.tasks import VisionTask

DEFAULTS = Path(__file__).parent / "configs" / "default.yaml"
# What a model must know about its data is read from the data, never typed twice.
LINKS = [
    (f"data.{fact}", f"model.init_args.{fact}", "instantiate")
    for fact in ("num_classes", "in_chans", "img_size", "class_names")
]


def main(args: Sequence[str] | None = None) -> int:
    """Train, validate, test, predict or export; see `kan_core.training.run` for the options and the exit code.

    Args:
        args: The command line without the program's name; by default that of this process.
    """
    return run(VisionTask, VisionDataModule, app="vision", defaults=DEFAULTS, args=args, links=LINKS)
