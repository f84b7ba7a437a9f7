"""summary.json and the table on the console: the KAN, its twin, and the answer that needs no model."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from kan_core.training.files import atomic_write
from kan_core.training.runtime import Stopwatch
from kan_core.training.task import Task

MATCHED = {"params": "parameters", "flops": "FLOPs"}


@dataclass(frozen=True)
class Outcome:
    """What one trained task came to."""

    task: str
    dataset: str
    model: str
    seed: int | None
    parameters: int
    flops_per_sample: int | None
    train_seconds: float
    samples_per_second: float | None
    metrics: dict[str, float]
    epoch_seconds: float | None
    headline: str
    higher_is_better: bool

    @classmethod
    def of(
        cls, task: Task, dataset: str, seed: int | None, stopwatch: Stopwatch, metrics: dict[str, float], stage: str
    ) -> Outcome:
        """The outcome of `task`, evaluated on `stage` (``"test"`` or ``"validate"``)."""
        from kan_core.compare import count_flops, count_parameters

        example = task.example_input_array
        split = "test/" if stage == "test" else "val/"
        headline = task.headline or task.monitor
        return cls(
            task=task.task_name,
            dataset=dataset,
            model=task.model_name,
            seed=seed,
            parameters=count_parameters(task.net),
            flops_per_sample=count_flops(task.net, example) if isinstance(example, torch.Tensor) else None,
            train_seconds=stopwatch.train_seconds,
            samples_per_second=stopwatch.samples_per_second,
            metrics=metrics,
            epoch_seconds=stopwatch.epoch_seconds,
            headline=split + headline.partition("/")[2] if "/" in headline else headline,
            higher_is_better=(task.headline_mode or task.monitor_mode) == "max",
        )

    def as_json(self) -> dict[str, Any]:
        """The keys of summary.json."""
        keys = ("task", "dataset", "model", "seed", "parameters", "flops_per_sample", "train_seconds")
        return {
            **{key: getattr(self, key) for key in keys},
            "samples_per_second": self.samples_per_second,
            "metrics": self.metrics,
        }


def write_summary(
    path: Path,
    outcome: Outcome,
    twin: Outcome | None,
    baselines: Mapping[str, Mapping[str, float]],
    task: Task,
    device: str,
) -> dict[str, Any]:
    """Write summary.json and return its content. Numbers that are not finite become null."""
    summary = {
        **outcome.as_json(),
        "twin": twin.as_json() if twin else None,
        "baseline": dict(baselines.get("trivial", {})),
        "other_baselines": {name: dict(metrics) for name, metrics in baselines.items() if name != "trivial"},
        "versions": versions(task),
        "device": device,
    }
    summary = {key: _finite(value) for key, value in summary.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions(task: Task) -> dict[str, str]:
    """Versions of Python, of what training rests on, and of the package that the task comes from."""
    own = packages_distributions().get(type(task).__module__.partition(".")[0], [])
    found = {"python": platform.python_version()}
    for name in ("torch", "lightning", "numpy", "kan-core", *own):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """What the training ran on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"
    return str(device)


def verdict(outcome: Outcome, twin: Outcome | None) -> str:
    """One sentence: who is ahead on the headline metric, and by how much."""
    name = outcome.headline
    mine = outcome.metrics.get(name)
    if mine is None:
        return f"No {name} was measured."
    if twin is None or name not in twin.metrics:
        return f"{outcome.model} reaches {name} {mine:.4f}; no twin was trained to compare it with."
    other = twin.metrics[name]
    if mine == other:
        return f"The KAN and its twin are level: {name} {mine:.4f} both (one seed)."
    if not (math.isfinite(mine) and math.isfinite(other)):
        return f"No comparison: {name} is {mine} for the KAN and {other} for its twin."
    ahead = (mine > other) == outcome.higher_is_better
    words = "is ahead of" if ahead else "loses to"
    gap = abs(mine - other)
    return f"The KAN {words} its twin: {name} {mine:.4f} against {other:.4f}, a difference of {gap:.4f} (one seed)."


def result_table(
    outcome: Outcome, twin: Outcome | None, baselines: Mapping[str, Mapping[str, float]], matched_by: str
) -> tuple[list[str], list[list[str]]]:
    """Column heads, and rows of a label and one cell per column: metrics, the headline first, then sizes and times.

    Metrics called ``<name>_low`` and ``<name>_high`` are the interval of ``<name>`` and stand in its row.
    """
    results = [outcome, twin] if twin else [outcome]
    heads = [outcome.model, f"twin (equal {MATCHED[matched_by]})"] if twin else [outcome.model]
    ends = {f"{name}_{end}" for name in outcome.metrics for end in ("low", "high")}
    names = sorted(set(outcome.metrics) - ends, key=lambda name: (name != outcome.headline, name))
    rows = [[name, *(_with_interval(result.metrics, name) for result in results)] for name in names]
    rows.append(["parameters", *(_number(result.parameters, ",") for result in results)])
    rows.append(["FLOPs per sample", *(_number(result.flops_per_sample, ",") for result in results)])
    rows.append(["seconds per epoch", *(_number(result.epoch_seconds, ".3g") for result in results)])
    rows.append(["training samples/s", *(_number(result.samples_per_second, ",.0f") for result in results)])
    for name, metrics in baselines.items():
        heads.append(name)
        rows = [[*row, _number(metrics.get(row[0]), ".4f")] for row in rows]
    return heads, rows


def print_outcome(folder: Path, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], sentence: str) -> None:
    """The table, the verdict and where everything was written."""
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for line in (sentence, f"Everything is in {folder}; open {folder / 'report.html'}"):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    value, low, high = _number(metrics.get(name), ".4f"), metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return value if low is None or high is None else f"{value} [{low:.3f}, {high:.3f}]"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def print_metrics(title: str, metrics: Mapping[str, float]) -> None:
    """A table of metrics under one another."""
    table = Table(title=title, box=box.SIMPLE_HEAD, show_header=False)
    for name, value in sorted(metrics.items()):
        table.add_row(name, _number(value, ".4f"))
    Console().print(table)
