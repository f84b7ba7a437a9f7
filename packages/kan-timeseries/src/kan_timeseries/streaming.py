"""Activities while they happen: samples in, one answer per step out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kan_core.errors import KANError
from kan_core.training.checkpoints import read_checkpoint
from kan_timeseries.tasks.activity import ActivityTask


class Emission(NamedTuple):
    """What a window says.

    Attributes:
        time: Seconds from the start of the stream to the end of the window.
        label: The most probable class.
        probabilities: Of every class, by name.
    """

    time: float
    label: str
    probabilities: dict[str, float]


class ActivityStream:
    """Windows of the last T samples every `step` samples, from a ring buffer of T samples.

    Each answer is that of the task on the same window: a stream says what a batch would say. Memory does not grow.

    Args:
        task: A trained task, or the path of its checkpoint.
        step: Samples from one answer to the next; None for half a window.

    Raises:
        KANError: For a step below 1, or a checkpoint of another task.

    Example:
        >>> stream = ActivityStream("run/checkpoints/best.ckpt")
        >>> for emission in stream.push(samples):  # (n, channels), physical units, at the task's rate
        ...     print(emission.time, emission.label)
    """

    def __init__(self, task: ActivityTask | Path | str, step: int | None = None) -> None:
        self.task = task if isinstance(task, ActivityTask) else load_task(task)
        self.length = int(self.task.hparams["num_samples"])
        self.rate = float(self.task.hparams["rate"])
        self.step = max(1, self.length // 2) if step is None else step
        if self.step < 1:
            raise KANError(f"step must be at least 1 sample, got {step}")
        self._ring = torch.zeros(self.length, len(self.task.channels))
        self.reset()

    def reset(self) -> None:
        """Forget all samples: another recording begins."""
        self.count = 0

    def push(self, samples: ArrayLike | Tensor) -> list[Emission]:
        """Add samples; the answers that became due, in order.

        Args:
            samples: ``(n, C)`` in physical units, the newest last; n may be anything.

        Raises:
            KANError: For another number of channels, or values that are not finite; nothing is added then.
        """
        new = torch.as_tensor(samples, dtype=torch.float32)
        channels = self._ring.shape[1]
        if new.dim() != 2 or new.shape[1] != channels:
            raise KANError(f"expected samples of shape (n, {channels}), got {tuple(new.shape)}")
        bad = (~new.isfinite()).nonzero()
        if len(bad):
            row, channel = bad[0].tolist()
            raise KANError(
                f"sample {self.count + row} of {self.task.channels[channel]} is {float(new[row, channel])}: "
                "fill or leave out what a sensor missed"
            )
        found = []
        while len(new):
            taken = min(len(new), self._until_due())
            self._store(new[:taken])
            new = new[taken:]
            if self.count >= self.length and (self.count - self.length) % self.step == 0:
                found.append(self._answer())
        return found

    def _until_due(self) -> int:
        """Samples until the next answer."""
        if self.count < self.length:
            return self.length - self.count
        return self.step - (self.count - self.length) % self.step

    def _store(self, new: Tensor) -> None:
        """Overwrite the oldest samples."""
        kept = new[-self.length :]
        places = (self.count + len(new) - len(kept) + torch.arange(len(kept))) % self.length
        self._ring[places] = kept
        self.count += len(new)

    @torch.no_grad()
    def _answer(self) -> Emission:
        window = self._ring.roll(-(self.count % self.length), dims=0)
        training = self.task.training
        self.task.eval()
        probabilities = self.task(window[None].to(self.task.device)).float().softmax(dim=1)[0].cpu()
        self.task.train(training)
        shares = dict(zip(self.task.classes, probabilities.tolist(), strict=True))
        return Emission(self.count / self.rate, self.task.classes[int(probabilities.argmax())], shares)


def load_task(path: Path | str) -> ActivityTask:
    """The task of a checkpoint, in evaluation mode on the CPU.

    Raises:
        KANError: When the file is missing, damaged, or of another task.
    """
    stored = read_checkpoint(Path(path))
    known = stored.get("hyper_parameters", {})
    needed = {"num_samples", "channels", "classes", "rate", "channel_mean", "channel_std"}
    if not needed <= set(known):
        raise KANError(f"{path} is not a checkpoint of an ActivityTask: train one with --task har")
    options = {name: value for name, value in known.items() if not name.startswith("_")}
    task = ActivityTask(**options)
    task.load_state_dict(stored["state_dict"])
    return task.eval()


def real_time_factor(stream: ActivityStream, samples: ArrayLike | Tensor, block: int = 8) -> float:
    """Seconds of signal that are handled in one second of computing; above 1 the stream keeps up.

    Args:
        stream: It is reset before and after.
        samples: ``(n, C)``, at least one window.
        block: Samples that arrive at once.

    Raises:
        KANError: When there is less than a window.
    """
    signal = torch.as_tensor(samples, dtype=torch.float32)
    if len(signal) < stream.length:
        raise KANError(f"a real-time factor needs a window of {stream.length} samples, got {len(signal)}")
    stream.reset()
    stream.push(signal[: stream.length])  # what is done once, such as choosing kernels, does not count
    stream.reset()
    start = time.perf_counter()
    for part in torch.split(signal, block):
        stream.push(part)
    seconds = time.perf_counter() - start
    stream.reset()
    return len(signal) / stream.rate / seconds
