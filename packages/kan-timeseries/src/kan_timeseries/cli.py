"""The command line of the time-series package: ``kan-timeseries``, and ``apps/train_timeseries.py`` in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kan_core.errors import KANError
from kan_core.training import ModelTask, run
from kan_core.training.console import report_error
from kan_timeseries.data.activity import ActivityData
from kan_timeseries.data.forecast import ForecastData
from kan_timeseries.tasks import ActivityTask, ForecastTask

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Kind:
    """One kind of training.

    Attributes:
        task: What ``--model`` may name.
        data: What ``--data`` may name.
        facts: What a model must know about its data: read from the data, never typed twice.
    """

    task: type[ModelTask]
    data: type[Any]
    facts: tuple[str, ...]


KINDS = {
    "forecast": Kind(
        ForecastTask,
        ForecastData,
        (
            "input_length",
            "horizon",
            "channels",
            "num_known",
            "num_observed",
            "num_series",
            "season",
            "channel_names",
            "known_names",
        ),
    ),
    "har": Kind(
        ActivityTask, ActivityData, ("num_samples", "channels", "classes", "rate", "channel_mean", "channel_std")
    ),
}


def main(args: Sequence[str] | None = None) -> int:
    """Train, validate, test, predict or export: forecasts, or with ``--task har`` human activities.

    The rest is `kan_core.training.run`: see there for the options and the exit code. Runs of both tasks lie under
    ``outputs/timeseries``.

    Args:
        args: The command line without the program's name; by default that of this process.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        name, words = split_task(words)
    except KANError as error:
        report_error(error, debug=False)
        return 2
    kind = KINDS[name]
    links = [(f"data.{fact}", f"model.init_args.{fact}", "instantiate") for fact in kind.facts]
    return run(kind.task, kind.data, app="timeseries", defaults=CONFIGS / f"{name}.yaml", args=words, links=links)


def split_task(words: Sequence[str]) -> tuple[str, list[str]]:
    """The task that ``--task`` names, and the other words.

    Raises:
        KANError: When it names none.
    """
    rest: list[str] = []
    name = "forecast"
    given = iter(words)
    for word in given:
        if word == "--task" or word.startswith("--task="):
            name = word.partition("=")[2] or next(given, "")
        else:
            rest.append(word)
    if name not in KINDS:
        raise KANError(f"--task must be one of {', '.join(KINDS)}, got {name!r}")
    return name, rest
