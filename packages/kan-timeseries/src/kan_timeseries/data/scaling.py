"""Scaling of series by their training rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.panel import Panel

SeriesScale = Literal["standard", "seasonal", "none"]


@dataclass(frozen=True, eq=False)
class PanelScaler:
    """Center and scale of every series and channel, and the range of every covariate, from training rows alone.

    Attributes:
        center: ``(S, C)``.
        scale: ``(S, C)``, above 0.
        known_range: ``(2, K)`` least and greatest training value, mapped to -1 and 1.
        observed_range: ``(2, P)``.
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    known_range: NDArray[np.float64]
    observed_range: NDArray[np.float64]

    @classmethod
    def fit(cls, panel: Panel, train_end: NDArray[np.int64], kind: SeriesScale = "standard") -> PanelScaler:
        """Learn from the first `train_end` rows of each series.

        Args:
            panel: The series.
            train_end: ``(S,)``.
            kind: ``"standard"``: mean and standard deviation; ``"seasonal"``: mean, and what MASE divides by, so that
                the absolute error of a scaled forecast is its scaled error; ``"none"``: 0 and 1. What is 0 or unknown
                becomes 1.

        Raises:
            KANError: For another kind.
        """
        if kind not in get_args(SeriesScale):
            raise KANError(f"scale must be one of {', '.join(get_args(SeriesScale))}, got {kind!r}")
        center = np.zeros((len(panel.ids), panel.channels))
        scale = np.ones_like(center)
        train = np.zeros(len(panel.values), dtype=bool)
        for s, end in enumerate(train_end):
            rows = slice(panel.offsets[s], panel.offsets[s] + int(end))
            train[rows] = True
            if kind == "none":
                continue
            y = panel.values[rows]
            some = np.isfinite(y).any(axis=0)
            center[s, some] = np.nanmean(y[:, some], axis=0)
            scale[s, some] = np.nanstd(y[:, some], axis=0)
        if kind == "seasonal":
            scale = panel.scales(train_end)
        scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
        return cls(center, scale, value_range(panel.known[train]), value_range(panel.observed[train]))

    def apply(self, panel: Panel) -> Panel:
        """The panel in scaled units; covariates beyond their training range lie beyond [-1, 1]."""
        of = np.repeat(np.arange(len(panel.ids)), panel.lengths)
        values = (panel.values - self.center[of]) / self.scale[of]
        known, observed = to_unit(panel.known, self.known_range), to_unit(panel.observed, self.observed_range)
        return replace(panel, values=values, known=known, observed=observed)


def value_range(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(2, K)`` least and greatest of each column; -1 and 1 without rows."""
    if not len(columns):
        return np.stack([-np.ones(columns.shape[1]), np.ones(columns.shape[1])])
    return np.stack([columns.min(axis=0), columns.max(axis=0)])


def to_unit(columns: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """`ends` mapped to -1 and 1; a constant column to 0."""
    low, high = ends
    width = np.where(high > low, high - low, 1.0)
    return np.where(high > low, 2 * (columns - low) / width - 1, 0.0)
