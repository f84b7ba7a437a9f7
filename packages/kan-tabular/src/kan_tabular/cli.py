"""The command line of the tabular package: ``kan-tabular``, and ``apps/train_tabular.py`` in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kan_core.training import run
from kan_core.training.parsing import option_value
from kan_tabular.data.module import TableData
from kan_tabular.tasks.tabular import TabularTask

DEFAULTS = Path(__file__).parent / "configs" / "default.yaml"
FACTS = ("task", "cardinalities", "num_outputs", "num_rows", "classes", "target_center", "target_scale")
# What a model must know about its data is read from the data, never typed twice.
LINKS = [(f"data.{fact}", f"model.init_args.{fact}", "instantiate") for fact in FACTS]


def main(args: Sequence[str] | None = None) -> int:
    """Train, validate, test, predict or export.

    ``predict FILE --ckpt_path RUN/checkpoints/best.ckpt`` predicts the rows of a file and needs no training data;
    without a file it predicts the test rows. The rest is `kan_core.training.run`: see there for the options and the
    exit code.

    Args:
        args: The command line without the program's name; by default that of this process.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] == ["predict"]:
        words = file_as_option(words)
    return run(TabularTask, TableData, app="tabular", defaults=DEFAULTS, args=words, links=LINKS)


def file_as_option(words: Sequence[str]) -> list[str]:
    """``predict new.csv --x y`` as ``predict --x y --data.predict_file new.csv``.

    The checkpoint, where one is named, says how the columns are encoded and what the outputs mean.
    """
    command, *rest = words
    if not rest or rest[0].startswith("-"):
        return [command, *rest]
    file, *options = rest
    checkpoint = option_value(options, "--ckpt_path")
    known = ["--data.checkpoint", checkpoint] if checkpoint else []
    return [command, *options, "--data.predict_file", file, *known]
