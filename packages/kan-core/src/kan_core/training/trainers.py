"""Building Lightning trainers from the configured options: one that trains, one that evaluates."""

from __future__ import annotations

import importlib.util
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from kan_core.errors import KANError
from kan_core.training.callbacks import OutsideGrid
from kan_core.training.checkpoints import AtomicCheckpointIO, check_weights, checkpoint_callbacks, read_checkpoint
from kan_core.training.history import MetricsLogger
from kan_core.training.runtime import EpochSeed, Stopwatch
from kan_core.training.task import Task

Options = dict[str, Any]


def train(
    task: Task,
    datamodule: pl.LightningDataModule,
    options: Options,
    folder: Path,
    *,
    seed: int | None,
    resume: Path | None,
    own_loggers: bool = True,
) -> tuple[pl.Trainer, Stopwatch]:
    """Fit `task`, its metrics and checkpoints written to `folder`.

    Args:
        task: What to train.
        datamodule: On what.
        options: Arguments of the trainer.
        folder: The run folder.
        seed: Seed of every epoch's random numbers; ``None`` leaves them alone.
        resume: Checkpoint to go on from.
        own_loggers: Whether loggers in `options` take part; the twin's run must not write into the KAN's.

    Raises:
        KANError: When `resume` cannot be loaded into `task`.
        KeyboardInterrupt: After Ctrl-C.
    """
    step = None
    if resume is not None:
        checkpoint = read_checkpoint(resume)
        check_weights(task, checkpoint, resume)
        step = int(checkpoint["global_step"])
    stopwatch = Stopwatch()
    callbacks = [*options["callbacks"], stopwatch]
    if not any(isinstance(callback, OutsideGrid) for callback in callbacks):
        callbacks.append(OutsideGrid())
    if seed is not None:
        callbacks.append(EpochSeed(seed))
    callbacks += checkpoint_callbacks(folder, task.monitor, task.monitor_mode)
    loggers: list[Logger] = [MetricsLogger(folder, resume_step=step)]
    if importlib.util.find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False))
    if own_loggers:
        loggers += options["logger"]
    plugins = [*options["plugins"], AtomicCheckpointIO()]
    trainer = _trainer(options, logger=loggers, callbacks=callbacks, plugins=plugins, default_root_dir=folder)
    _fit(trainer, task, datamodule, resume)
    return trainer, stopwatch


def _fit(trainer: pl.Trainer, task: Task, datamodule: pl.LightningDataModule, resume: Path | None) -> None:
    on_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C, which it also disables for good
        if not trainer.interrupted:
            raise
        if on_main_thread:
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def evaluation_trainer(options: Options) -> pl.Trainer:
    """A trainer for validate, test and predict, on one device: there every sample counts exactly once."""
    logger = options["logger"] or False
    return _trainer(options, logger=logger, strategy="auto", devices=1, num_nodes=1, enable_checkpointing=False)


def _trainer(options: Options, **ours: Any) -> pl.Trainer:
    try:
        return pl.Trainer(**{**options, **ours})
    except ValueError as error:  # an accelerator, strategy or limit that Lightning does not know
        raise KANError(f"--trainer options: {error}") from error


def normalised(options: Options) -> Options:
    """`options` with callbacks, plugins and loggers as lists."""

    def listed(value: Any) -> list[Any]:
        if value is None or value is True:
            return []
        return list(value) if isinstance(value, Sequence) else [value]

    return {**options, **{key: listed(options.get(key)) for key in ("callbacks", "plugins", "logger")}}


def leave_process_group(trainer: pl.Trainer) -> bool:
    """End distributed work after training; whether this process goes on alone (rank 0) or is done."""
    if trainer.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return trainer.global_rank == 0
