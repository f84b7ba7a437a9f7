"""The base of every task: what the shared command line needs to know beyond a LightningModule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.training.optim import adamw_cosine

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Task(pl.LightningModule):
    """One kind of training: a network, its loss, its metrics and its figures.

    A subclass takes plain values only (numbers, strings, lists, dicts: they are stored in checkpoints that load with
    ``weights_only=True``), calls ``save_hyperparameters()``, builds `net`, sets `example_input_array` to one sample
    (batch dimension 1; FLOPs are counted on it) and writes the usual Lightning steps. It logs metrics as ``train/...``,
    ``val/...`` and ``test/...``, once per epoch.

    Attributes:
        net: The network, a plain module.
        monitor: The validation metric that chooses the best checkpoint.
        monitor_mode: ``"min"`` or ``"max"``.
        headline: The metric that is compared with the twin's. ``None``: `monitor` with ``val/`` replaced by ``test/``.
        headline_mode: ``"min"`` or ``"max"``; ``None``: as `monitor_mode`.
        export_dims: Dimensions of the input that stay free in an exported file: the batch.
    """

    net: nn.Module
    monitor: str = "val/loss"
    monitor_mode: str = "min"
    headline: str | None = None
    headline_mode: str | None = None
    export_dims: tuple[int, ...] = (0,)

    @property
    def task_name(self) -> str:
        """What kind of task this is, for reports: the class name without "Task", in lower case."""
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", type(self).__name__.removesuffix("Task"))
        return "-".join(words).lower() or "task"

    @property
    def model_name(self) -> str:
        """What the network is called: the hyper-parameter ``model`` when it is a string, else the class of `net`."""
        name = self.hparams.get("model")
        return name if isinstance(name, str) else type(self.net).__name__

    def make_twin(self, by: str) -> Task:
        """A new, untrained task of this kind whose network has no KAN layer and the same size.

        Args:
            by: What is the same: ``"params"`` (trainable parameters) or ``"flops"`` (FLOPs per sample).

        Raises:
            KANError: When this task has none, which is what this base class says.
        """
        raise KANError(f"--twin {by}: {type(self).__name__} has no matched twin; use --twin none")

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """Test metrics of the answer that looks at no input (the majority class, the mean); ``{}`` when there is none.

        Called after testing, with the datamodule set up for fit and test. It must learn from the training split only.
        """
        return {}

    def other_baselines(self, datamodule: pl.LightningDataModule) -> dict[str, dict[str, float]]:
        """More answers that cost next to nothing, by name, such as a linear one in closed form: their test metrics.

        As `trivial_baseline`; by default there are none.
        """
        return {}

    def figures(self, datamodule: pl.LightningDataModule) -> Iterator[tuple[str, Figure]]:
        """Named figures of the trained task, best weights loaded, in evaluation mode on the CPU.

        The names become files: letters, digits, ``_`` and ``-``. A subclass adds its own before or after
        ``yield from super().figures(datamodule)``, which draws the learned edge functions.
        """
        from kan_core.interpret import plot_edge_functions

        figure = plot_edge_functions(self.net)
        if figure is not None:
            yield "edge_functions", figure

    def prediction_rows(self, batch_outputs: Any) -> Iterable[dict[str, object]]:
        """The rows of predictions.csv for what ``predict_step`` returned for one batch.

        The default takes a tensor of shape ``(batch, ...)`` and writes columns ``output_0``, ``output_1``, ...
        """
        if not isinstance(batch_outputs, Tensor):
            raise TypeError(f"{type(self).__name__}.predict_step returns no tensor: it needs prediction_rows as well")
        for row in batch_outputs.reshape(len(batch_outputs), -1).tolist():
            yield {f"output_{i}": value for i, value in enumerate(row)}

    def write_predictions(self, batch_outputs: Any, folder: Path) -> None:
        """Write files, such as masks, for what ``predict_step`` returned for one batch; by default there are none.

        Called after `prediction_rows`. `folder` becomes ``predictions`` in the run folder when all are written.
        """

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """What the user of an exported file must know, as JSON values: by default the model's name and the task's."""
        return {"task": self.task_name, "model": self.model_name}

    def adamw(self, lr: float, weight_decay: float, warmup_epochs: float = 1.0) -> dict[str, Any]:
        """What ``configure_optimizers`` usually returns here: :func:`~kan_core.training.optim.adamw_cosine`.

        The warm-up lasts `warmup_epochs` epochs, but at most a fifth of the training.
        """
        total = self.trainer.estimated_stepping_batches
        epochs = self.trainer.max_epochs or 1
        warmup = min(total * warmup_epochs / epochs, total / 5) if epochs > 0 else 0
        return adamw_cosine(self, lr=lr, weight_decay=weight_decay, total_steps=total, warmup_steps=int(warmup))
