"""Checkpoints: written whole or not at all, read without running what is in them, refused when of another model."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from kan_core.errors import KANError
from kan_core.training.files import atomic_write
from kan_core.training.task import Task

FOLDER = "checkpoints"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name and renames; Lightning's own way passes through another file system's /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save `checkpoint` under `path`."""
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)


class RunCheckpoint(ModelCheckpoint):
    """One checkpoint file, written at the end of an epoch; its folder may be moved between two runs.

    Args:
        folder: Where.
        name: File name without ``.ckpt``.
        monitor: Metric that says whether this epoch is the best so far; ``None``: every epoch replaces the file.
        mode: ``"min"`` or ``"max"``.
    """

    def __init__(self, folder: Path, name: str, monitor: str | None = None, mode: str = "min") -> None:
        super().__init__(
            dirpath=folder,
            filename=name,
            monitor=monitor,
            mode=mode,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the stored scores over, their paths put into the present folder."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        models = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": models, "dirpath": self.dirpath})


def checkpoint_callbacks(run_folder: Path, monitor: str, mode: str) -> list[pl.Callback]:
    """The two checkpoints of a run. ``last.ckpt`` comes second: it then knows the best one of its own epoch.

    Lightning's ``save_last`` would not do: with a monitor it writes only in epochs that improve.
    """
    folder = run_folder / FOLDER
    return [RunCheckpoint(folder, "best", monitor, mode), RunCheckpoint(folder, "last")]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a Lightning checkpoint, on the CPU; only tensors and plain values are accepted.

    Raises:
        KANError: When the file is missing, damaged, holds anything else or is no Lightning checkpoint.
    """
    if not path.is_file():
        raise KANError(f"--ckpt_path {path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of a file that is refused anyway
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise KANError(
            f"--ckpt_path {path}: refused, it holds more than tensors and plain values and could run code when loaded; "
            "use a checkpoint that a training run wrote"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise KANError(f"--ckpt_path {path}: cannot be read, the file is damaged ({_first_line(error)})") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise KANError(
            f"--ckpt_path {path}: not a Lightning checkpoint (it has no state_dict); give best.ckpt or last.ckpt"
        )
    return checkpoint


def check_weights(task: Task, checkpoint: dict[str, Any], path: Path) -> None:
    """Raise a KANError that names what differs when `checkpoint` is not of this task's model."""
    own = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    stored = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    shapes = [f"{n} {stored[n]} instead of {own[n]}" for n in own if n in stored and stored[n] != own[n]]
    findings = [
        _listing("missing", [n for n in own if n not in stored]),
        _listing("not in this model", [n for n in stored if n not in own]),
        _listing("other shapes", shapes),
    ]
    if any(findings):
        config = path.parent.parent / "config.yaml"
        remedy = f"--config {config}" if config.is_file() else "the options it was trained with"
        raise KANError(
            f"--ckpt_path {path}: the checkpoint of another model than {task.model_name}: "
            f"{'; '.join(filter(None, findings))}; use {remedy}"
        )


def load_weights(task: Task, path: Path) -> None:
    """Load the weights of a checkpoint strictly.

    Raises:
        KANError: See :func:`read_checkpoint` and :func:`check_weights`.
    """
    checkpoint = read_checkpoint(path)
    check_weights(task, checkpoint, path)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])


def _listing(what: str, names: list[str], most: int = 3) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
