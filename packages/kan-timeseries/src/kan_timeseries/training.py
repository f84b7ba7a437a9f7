"""Fitting a forecaster to windows in memory: Lightning's loop, the best weights kept, no trace left in the process."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from kan_core.errors import KANError
from kan_core.training.console import quiet
from kan_timeseries.data.batches import ForecastBatch
from kan_timeseries.data.windows import Windows
from kan_timeseries.tasks.forecast import ForecastTask

CHUNK = 1024
"""Windows that exist at a time outside training."""


def chunks(windows: Windows) -> Iterator[ForecastBatch]:
    """All windows in order, `CHUNK` at a time, without the random number that a DataLoader draws."""
    for start in range(0, len(windows), CHUNK):
        yield windows[range(start, min(start + CHUNK, len(windows)))]


@dataclass(frozen=True)
class FitOptions:
    """How a network is fitted.

    Attributes:
        max_steps: Optimiser steps at most; the learning rate reaches its end there.
        check_every: Steps from one look at the validation windows to the next.
        patience: End after this many looks in a row without a lower validation loss.
        batch_size: Windows per step at most.
        seed: Of the order of windows and of dropout.
        accelerator: Lightning's: ``"cpu"``, ``"gpu"``, ``"auto"``, ...
        verbose: Show a progress bar.
    """

    max_steps: int
    check_every: int
    patience: int
    batch_size: int
    seed: int
    accelerator: str = "cpu"
    verbose: bool = False


class RandomBatches(Sampler[NDArray[Any]]):
    """Windows in random order, a fixed number of batches at a time, going on where the last time ended.

    All windows have been in a batch before one is for the second time, and no batch is a small rest.

    Args:
        windows: How many there are.
        batch_size: At most so many in a batch.
        batches: How many batches one pass gives.
    """

    def __init__(self, windows: int, batch_size: int, batches: int) -> None:
        self.windows, self.batches = windows, batches
        self.parts = math.ceil(windows / batch_size)
        self._queue: list[Tensor] = []

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for _ in range(self.batches):
            if not self._queue:
                self._queue = list(torch.randperm(self.windows).tensor_split(self.parts))
            yield self._queue.pop().numpy()


class BestWeights(pl.Callback):
    """Evaluates held-out windows after every pass, stops when they improve no more, puts the best weights back.

    Attributes:
        history: ``step``, ``train_loss`` and ``val_loss`` of every look.
        best_step: After how many steps the weights were those that are kept.
    """

    def __init__(self, val: Windows | None, patience: int) -> None:
        self.val, self.patience = val, patience
        self.history: list[dict[str, float]] = []
        self.best_step = 0
        self._losses: list[Tensor] = []
        self._best, self._since = math.inf, 0
        self._state: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The loss before the first step: of the ridge line alone, which may not be beaten."""
        if self.val is not None:
            self._look(trainer, pl_module, {})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the loss of the step."""
        self._losses.append(outputs["loss"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line of history; keep the weights when they are the best so far."""
        loss = {"train_loss": float(torch.stack(self._losses).mean())}
        self._losses.clear()
        if self.val is None:
            self.best_step = trainer.global_step
            self.history.append({"step": float(trainer.global_step), **loss})
        else:
            self._look(trainer, pl_module, loss)
            trainer.should_stop = self._since >= self.patience

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to the best weights."""
        if self._state:
            task: Any = pl_module
            task.net.load_state_dict(self._state)

    def _look(self, trainer: pl.Trainer, task: Any, record: dict[str, float]) -> None:
        loss = self._evaluate(task)
        self.history.append({"step": float(trainer.global_step), **record, "val_loss": loss})
        self._since += 1
        if loss < self._best:
            self._best, self._since, self.best_step = loss, 0, trainer.global_step
            self._state = {name: value.detach().clone() for name, value in task.net.state_dict().items()}

    @torch.no_grad()
    def _evaluate(self, task: ForecastTask) -> float:
        """Mean loss over all known targets of the held-out windows."""
        assert self.val is not None
        task.eval()
        total, count = 0.0, 0
        for batch in chunks(self.val):
            batch = ForecastBatch(*(tensor.to(task.device) for tensor in batch))
            known = int(batch.target.isfinite().sum())
            total += float(task.loss(task(batch), batch.target)) * known
            count += known
        task.train()
        return total / max(count, 1)


def fit_task(task: ForecastTask, train: Windows, val: Windows | None, options: FitOptions) -> BestWeights:
    """Fit the ridge line of `task`, then train it, in place; it is left on the CPU in evaluation mode.

    Torch's global generator is as before afterwards, and nothing is written.

    Args:
        task: Untrained.
        train: Training windows.
        val: Held-out windows that choose the weights; None: the last ones are kept.
        options: How.

    Returns:
        The history and the best step.

    Raises:
        KANError: When the weights are not finite at the end.
    """
    best = BestWeights(val, options.patience)
    task.forecaster.fit_line(chunks(train))
    every = min(options.check_every, options.max_steps)
    if any(parameter.requires_grad for parameter in task.net.parameters()):
        with quiet(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
            torch.manual_seed(options.seed)
            trainer = pl.Trainer(
                accelerator=options.accelerator,
                devices=1,
                max_steps=options.max_steps,
                max_epochs=math.ceil(options.max_steps / every),
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=options.verbose,
                num_sanity_val_steps=0,
                limit_val_batches=0,
                callbacks=[best],
            )
            batches = RandomBatches(len(train), options.batch_size, every)
            trainer.fit(task, DataLoader(train, sampler=batches, batch_size=None))
        task.trainer = None
    task.cpu().eval()
    if not all(torch.isfinite(parameter).all() for parameter in task.net.parameters()):
        raise KANError(f"training diverged: lower lr, which is {task.hparams['lr']}")
    return best


def refit_line(task: ForecastTask, windows: Windows) -> None:
    """Fit the ridge line of a trained `task` once more, to these windows, and leave its model as it is."""
    backbone = task.forecaster.backbone
    learned = {} if backbone is None else {name: value.clone() for name, value in backbone.state_dict().items()}
    task.forecaster.fit_line(chunks(windows))  # which starts the model's last layer anew
    if backbone is not None:
        backbone.load_state_dict(learned)
