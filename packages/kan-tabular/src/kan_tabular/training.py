"""Fitting a network to rows in memory: Lightning's loop, the best epoch kept, and no trace left in the process."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from kan_core.errors import KANError
from kan_core.training.console import quiet
from kan_tabular.batches import TableBatch, loader
from kan_tabular.tasks.tabular import LBFGS_STEPS, TabularTask


@dataclass(frozen=True)
class FitOptions:
    """How a network is fitted.

    Attributes:
        max_epochs: Passes over the rows at most; Adam's learning rate reaches its end there, LBFGS takes so many
            iterations.
        batch_size: Rows per step of Adam at most.
        patience: End after this many epochs in a row without a lower validation loss.
        seed: Of the order of the rows and of dropout.
        accelerator: Lightning's: ``"cpu"``, ``"gpu"``, ``"auto"``, ...
        verbose: Show a progress bar.
    """

    max_epochs: int
    batch_size: int
    patience: int
    seed: int
    accelerator: str = "cpu"
    verbose: bool = False


class BestEpoch(pl.Callback):
    """Evaluates held-out rows after every epoch, stops when they improve no more, and puts the best weights back."""

    def __init__(self, val: TableBatch | None, patience: int) -> None:
        self.val = val
        self.patience = patience
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self._losses: list[Tensor] = []
        self._best = math.inf
        self._state: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the loss of the step."""
        self._losses.append(outputs["loss"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line of history; keep the weights when they are the best so far."""
        task: Any = pl_module
        record = {
            "epoch": float(trainer.current_epoch + 1),
            "train_loss": float(torch.stack(self._losses).mean()),
        }
        self._losses.clear()
        if self.val is None:
            self.best_epoch = trainer.current_epoch + 1
        else:
            record["val_loss"] = self._evaluate(task)
            if record["val_loss"] < self._best:
                self._best, self.best_epoch = record["val_loss"], trainer.current_epoch + 1
                self._state = {name: value.detach().clone() for name, value in task.net.state_dict().items()}
            trainer.should_stop = trainer.current_epoch + 1 - self.best_epoch >= self.patience
        self.history.append(record)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to the best weights."""
        if self._state:
            task: Any = pl_module
            task.net.load_state_dict(self._state)

    @torch.no_grad()
    def _evaluate(self, task: TabularTask) -> float:
        assert self.val is not None
        task.eval()
        rows = TableBatch(*(tensor.to(task.device) for tensor in self.val))
        parts = zip(*(torch.split(tensor, 65_536) for tensor in rows), strict=True)
        total = sum(float(task.loss(task(x), y, weight)) * len(x) for x, y, weight in parts)
        task.train()
        return total / len(rows.x)


def fit_task(task: TabularTask, train: TableBatch, val: TableBatch | None, options: FitOptions) -> BestEpoch:
    """Train `task` on `train`, in place; it is left on the CPU in evaluation mode.

    Torch's global generator is as before afterwards, and nothing is written.

    Args:
        task: Untrained, or to be trained on.
        train: Encoded training rows.
        val: Held-out rows that choose the epoch; None: the last epoch is kept.
        options: How.

    Returns:
        The history and the best epoch.

    Raises:
        KANError: When the loss is not finite at the end.
    """
    best = BestEpoch(val, options.patience)
    with quiet(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        torch.manual_seed(options.seed)
        epochs, batch_size = options.max_epochs, options.batch_size
        if task.hparams["optimizer"] == "lbfgs":
            epochs, batch_size = math.ceil(epochs / LBFGS_STEPS), len(train.x)
        trainer = pl.Trainer(
            accelerator=options.accelerator,
            devices=1,
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=options.verbose,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            callbacks=[best],
        )
        trainer.fit(task, loader(train, batch_size, shuffle=True))
    task.cpu().eval()
    task.trainer = None
    if not all(torch.isfinite(parameter).all() for parameter in task.parameters()):
        raise KANError(f"training diverged: lower lr, which is {task.hparams['lr']}, or raise alpha")
    return best
