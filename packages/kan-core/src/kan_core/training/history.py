"""metrics.csv: Lightning's CSV logger, with the file always whole and a resumed run's earlier rows kept."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from kan_core.training.files import atomic_write

FILE = "metrics.csv"


class _Rows:
    """The rows so far, all in memory: what one training logs per epoch is small."""

    def __init__(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self.path = path
        self.metrics = rows

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        row = {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        row["step"] = step
        last = self.metrics[-1] if self.metrics else {}
        # what validation and training say about one epoch comes separately; it makes one row
        if (last.get("epoch"), last.get("step")) == (row.get("epoch"), step):
            last.update(row)
        else:
            self.metrics.append(row)

    def save(self) -> None:
        if not self.metrics:
            return
        names = sorted({name for row in self.metrics for name in row} - {"epoch", "step"})
        with atomic_write(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["epoch", "step", *names])
            writer.writeheader()
            writer.writerows(self.metrics)


class MetricsLogger(CSVLogger):
    """Writes `folder`/metrics.csv, one row per epoch (and per logged step, if a task logs steps).

    Args:
        folder: The run folder.
        resume_step: Optimiser steps done in the checkpoint that training goes on from: rows of an existing file that
            were logged up to there are kept, later ones dropped. ``None``: start with an empty file.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        super().__init__(folder, name="", version="")
        self.folder = folder
        self.resume_step = resume_step

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        """The rows."""
        if self._experiment is None:
            kept: list[dict[str, Any]] = []
            if self.resume_step is not None:
                kept = [row for row in read_metrics(self.folder) if row["step"] < self.resume_step]
            self._experiment = _Rows(self.folder / FILE, kept)  # type: ignore[assignment]
        return self._experiment  # type: ignore[return-value]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `folder`/metrics.csv, empty cells left out, ``epoch`` and ``step`` as int; none without a file."""
    path = folder / FILE
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{key: int(value) if key in ("epoch", "step") else value for key, value in row.items()} for row in rows]
