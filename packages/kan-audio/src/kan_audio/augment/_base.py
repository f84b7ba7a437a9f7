"""What all augmentations share: a probability, the guard for silence, and how ranges are drawn from."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from kan_audio.data.audio import SUFFIXES
from kan_core.errors import KANError
from kan_core.registry import Registry

log = logging.getLogger("kan_audio.augment")
"""The drawn parameters are logged here, at level DEBUG."""

Range = tuple[float, float]
T = TypeVar("T")


class Augmentation(ABC):
    """A random change of one recording.

    Args:
        p: Probability that a recording is changed.
    """

    def __init__(self, p: float = 1.0) -> None:
        if not 0 <= p <= 1:
            raise KANError(f"p must be a probability, 0 to 1, got {p}")
        self.p = p

    def __call__(self, wave: Tensor, sample_rate: int) -> Tensor:
        """The changed recording, or `wave` itself.

        Silence stays as it is: it has no level to which noise or echoes could be set.

        Args:
            wave: ``(frames,)`` samples; never changed in place.
            sample_rate: Samples per second.
        """
        if (self.p < 1 and torch.rand(()) >= self.p) or not wave.any():
            return wave
        return self.change(wave, sample_rate)

    @abstractmethod
    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """The change, always made; `wave` is not silent."""


REGISTRY: Registry[Augmentation] = Registry("augmentation", "kan_audio.augment")


def checked(name: str, limits: Sequence[float], lowest: float = -float("inf")) -> Range:
    """Two ascending numbers, none below `lowest`.

    Raises:
        KANError: Naming the option.
    """
    if not isinstance(limits, Sequence) or len(limits) != 2 or not lowest <= limits[0] <= limits[1]:
        at_least = "" if lowest == -float("inf") else f" from {lowest:g} on"
        raise KANError(f"{name} must be (low, high){at_least}, got {limits!r}")
    return float(limits[0]), float(limits[1])


def uniform(limits: Range) -> float:
    """One draw between the limits; they may be the same, infinity included."""
    low, high = limits
    return low if low == high else low + (high - low) * float(torch.rand(()))


def choice(options: Sequence[T]) -> T:
    """One of the options, each with the same probability."""
    return options[int(torch.randint(len(options), ()))]


def add_at_snr(wave: Tensor, noise: Tensor, snr: float) -> Tensor:
    """``x + n * |x| / |n| * 10^(-snr / 20)`` with Euclidean norms; `wave` itself where the noise is silent."""
    level = noise.norm()
    return wave + noise * (wave.norm() / level * 10 ** (-snr / 20)) if level > 0 else wave


@lru_cache(maxsize=32)
def audio_files(folder: str) -> tuple[Path, ...]:
    """The audio files below a folder, sorted.

    Raises:
        KANError: When there are none.
    """
    files = tuple(sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES))
    if not files:
        raise KANError(f"{folder} holds no audio files ({', '.join(sorted(SUFFIXES))})")
    return files
