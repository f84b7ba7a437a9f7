"""Loudness and sign."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kan_audio.augment._base import REGISTRY, Augmentation, checked, log, uniform


@REGISTRY.register("gain")
class Gain(Augmentation):
    """Louder or quieter; nothing is clipped.

    Args:
        db: Range of the gain in dB.
        p: Probability that a recording is changed.
    """

    def __init__(self, db: Sequence[float] = (-6, 6), p: float = 1.0) -> None:
        super().__init__(p)
        self.db = checked("db", db)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """``x * 10^(db / 20)``."""
        db = uniform(self.db)
        log.debug("gain: %.1f dB", db)
        return wave * 10 ** (db / 20)


@REGISTRY.register("polarity")
class Polarity(Augmentation):
    """The sign turned, as a swapped cable does; the ear does not notice.

    Args:
        p: Probability that a recording is changed.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """``-x``."""
        return -wave
