"""Prediction intervals from errors on held-out windows: split conformal prediction per step of the horizon."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError

Floats = NDArray[np.float64]

_SMALLEST = 1e-8


@dataclass(frozen=True, eq=False)
class ConformalIntervals:
    """Intervals around point forecasts, which cover as often as they say when errors to come are like those seen.

    A step's errors in calibration windows are divided by the size of each window, `window_sizes`, so that series of
    all magnitudes can be pooled. With n errors, the interval of level 1 − α reaches from the ⌊(n + 1) α/2⌋-th smallest
    of them to the ⌈(n + 1)(1 − α/2)⌉-th: exchangeable errors are in it with probability 1 − α at least (Vovk, Gammerman
    and Shafer 2005; Lei et al. 2018; two-sided as in Romano, Patterson and Candès 2019, section 4). Windows of one
    series overlap and follow each other, hence are not exchangeable: there the level is approximate.

    Attributes:
        errors: ``(n, H)`` y − forecast in units of the window's size, each column ascending with NaN (unknown targets)
            at its end.
    """

    errors: Floats

    @classmethod
    def of(cls, errors: Floats, sizes: Floats) -> Self:
        """Calibrate.

        Args:
            errors: ``(n, H)`` y − forecast, NaN where y is unknown.
            sizes: ``(n,)`` of the windows.
        """
        return cls(np.sort(errors / sizes[:, None], axis=0))

    @property
    def count(self) -> int:
        """Errors of the step that has the fewest."""
        return int(np.isfinite(self.errors).sum(axis=0).min()) if len(self.errors) else 0

    def bounds(self, level: float) -> tuple[Floats, Floats]:
        """What is added to a forecast, in units of its window's size: lower and upper end, ``(H,)`` each.

        Args:
            level: Per cent.

        Raises:
            KANError: When the level is not between 0 and 100, or needs more calibration windows than there were.
        """
        if not 0 < level < 100:
            raise KANError(f"level must lie between 0 and 100 per cent, got {level!r}")
        needed = windows_needed(level)
        if self.count < needed:
            raise KANError(
                f"an interval of level {level:g} needs {needed} calibration windows, but there were {self.count}: "
                "raise val_size in fit, lower the level, or use loss='quantile'"
            )
        half = (100 - level) / 200
        n = np.isfinite(self.errors).sum(axis=0)
        # the count from the top is the same as from the bottom; the tiny number is for what 0.1 is in binary
        rank = np.floor((n + 1) * half + 1e-9).astype(np.int64)
        steps = np.arange(self.errors.shape[1])
        return self.errors[rank - 1, steps], self.errors[n - rank, steps]


def windows_needed(level: float) -> int:
    """The fewest errors that an interval of this level, in per cent, can be read from: 9 for 80, 39 for 95."""
    return math.ceil(200 / (100 - level) - 1 - 1e-9)


def window_sizes(past: Floats, mask: NDArray[np.bool_], season: int) -> Floats:
    r"""``(n,)``: how much the values of each window change, in the units of the series.

    The mean of \|y_t − y_{t−season}\| over observed pairs; where that is 0 or unknown, of \|y_t − y_{t−1}\|; where
    that is too, the mean \|y\|, at last 1.

    Args:
        past: ``(n, L)`` values, filled where missing.
        mask: ``(n, L)`` whether observed.
        season: Steps.
    """
    result = np.zeros(len(past))
    for lag in (season, 1):
        if lag < past.shape[1]:
            pairs = mask[:, lag:] & mask[:, :-lag]
            change = np.where(pairs, np.abs(past[:, lag:] - past[:, :-lag]), 0).sum(axis=1)
            result = np.where(result > 0, result, change / np.maximum(pairs.sum(axis=1), 1))
    level = np.abs(past).mean(axis=1)
    negligible = result <= _SMALLEST * level
    return np.where(~negligible, result, np.where(level > 0, level, 1.0))
