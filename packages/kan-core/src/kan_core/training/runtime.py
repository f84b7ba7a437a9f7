"""Callbacks that every run has: random numbers that depend on the epoch alone, and a clock."""

from __future__ import annotations

import random
import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.data import extract_batch_size


class EpochSeed(pl.Callback):
    """Seed Python, numpy and torch from (seed, epoch, rank) at the start of every training epoch.

    Shuffling, augmentation and dropout of epoch e then depend on e and not on what was drawn before: a run resumed
    after epoch e - 1 continues with the numbers of the uninterrupted one, and a datamodule needs nothing but
    ``shuffle=True``. Worker processes that live on from epoch to epoch (``persistent_workers``) keep their own state;
    they are not covered.

    Args:
        seed: The seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._first = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that the data iterator of the coming epoch exists already."""
        self._first = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed, and make the epoch's data iterator anew where Lightning made it before seeding."""
        sequence = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank])
        first, second, third = (int(word) for word in sequence.generate_state(3))
        random.seed(first)
        np.random.seed(second)  # the legacy generator: the one that other people's data code draws from
        torch.manual_seed(third)
        if self._first:
            # Lightning makes the iterator of an ordinary epoch right after this hook, but that of the first epoch of a
            # process (a resumed one too) before it, when neither the seed nor the sampler's epoch was set.
            fetcher: Any = trainer.fit_loop._data_fetcher
            iter(fetcher)
            self._first = False


class Stopwatch(pl.Callback):
    """Measure the time spent in training epochs, validation and what happens between epochs left out.

    The measurements are stored in checkpoints: a resumed run reports the time of all its epochs.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.samples: list[int] = []
        self._start = 0.0
        self._paused = 0.0
        self._count = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._count = 0
        self._start = self._now(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the samples."""
        self._count += extract_batch_size(batch)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hold the clock."""
        self._paused = self._now(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock go on."""
        self._start += self._now(trainer) - self._paused

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch; checkpoints are written after this hook."""
        self.seconds.append(self._now(trainer) - self._start)
        self.samples.append(self._count * trainer.world_size)

    @staticmethod
    def _now(trainer: pl.Trainer) -> float:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def train_seconds(self) -> float:
        """Seconds of all training epochs."""
        return sum(self.seconds)

    @property
    def epoch_seconds(self) -> float | None:
        """Mean seconds of an epoch; the first, which warms up, is left out when there are more."""
        steady = self.seconds[1:] or self.seconds
        return sum(steady) / len(steady) if steady else None

    @property
    def samples_per_second(self) -> float | None:
        """Training samples per second in the epochs that :attr:`epoch_seconds` counts, over all processes."""
        steady = sum(self.seconds[1:] or self.seconds)
        return sum(self.samples[1:] or self.samples) / steady if steady else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": list(self.seconds), "samples": list(self.samples)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the lists of the interrupted run."""
        self.seconds = list(state_dict["seconds"])
        self.samples = list(state_dict["samples"])
