"""What ``predict`` writes, batch by batch: a table, and the files of tasks that predict more than numbers."""

from __future__ import annotations

import csv
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden

from kan_core.training.files import atomic_write
from kan_core.training.task import Task


class PredictionWriter(pl.Callback):
    """Writes each batch as it comes, under temporary names until the ``with`` block has ended well.

    Args:
        folder: The run folder, for ``predictions.csv`` and the folder ``predictions``.

    Attributes:
        count: Rows written.
        written: The file, and the folder where the task writes files.
    """

    def __init__(self, folder: Path) -> None:
        self.table = folder / "predictions.csv"
        self.files = folder / "predictions"
        self.count = 0
        self.written = [self.table]
        self._stack = ExitStack()
        self._partial = folder / f".{self.files.name}.partial"

    def __enter__(self) -> Self:
        temporary = self._stack.enter_context(atomic_write(self.table))
        self._rows = self._stack.enter_context(temporary.open("w", newline=""))
        self._csv: csv.DictWriter[str] | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if self._partial.exists():
            if kind is None:
                shutil.rmtree(self.files, ignore_errors=True)
                self._partial.rename(self.files)
                self.written.append(self.files)
            else:
                shutil.rmtree(self._partial)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Write the rows and the files of one batch."""
        task = cast(Task, pl_module)
        for row in task.prediction_rows(outputs):
            if self._csv is None:
                self._csv = csv.DictWriter(self._rows, fieldnames=list(row))
                self._csv.writeheader()
            self._csv.writerow(row)
            self.count += 1
        if is_overridden("write_predictions", task, Task):
            self._partial.mkdir(exist_ok=True)
            task.write_predictions(outputs, self._partial)
