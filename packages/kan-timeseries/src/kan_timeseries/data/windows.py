"""Windows of a panel, cut when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from kan_core.errors import KANError
from kan_timeseries.data.batches import ForecastBatch
from kan_timeseries.data.panel import Panel


class Windows(Dataset[ForecastBatch]):
    """The windows of a panel whose cutoffs are given; only the windows of a batch exist at a time.

    A cutoff c is a row of its series: the past is c − L + 1 … c, the horizon c + 1 … c + H. A past that begins before
    the series repeats its first value there; a horizon that ends after it has NaN targets, and needs its covariates.

    Args:
        panel: The series.
        input_length: L.
        horizon: H.
        series: ``(n,)`` the series of each window.
        cutoffs: ``(n,)`` row of the last value of the past, counted in its series.

    Raises:
        KANError: When a length is below 1, or known covariates do not reach to the end of a horizon.
    """

    def __init__(
        self,
        panel: Panel,
        input_length: int,
        horizon: int,
        series: NDArray[np.int64],
        cutoffs: NDArray[np.int64],
    ) -> None:
        if input_length < 1 or horizon < 1:
            raise KANError(f"input_length and horizon must be at least 1, got {input_length} and {horizon}")
        self.panel, self.input_length, self.horizon = panel, input_length, horizon
        self.series, self.cutoffs = np.asarray(series, dtype=np.int64), np.asarray(cutoffs, dtype=np.int64)
        if panel.known.shape[1]:
            missing = np.flatnonzero(self.cutoffs + horizon >= panel.lengths[self.series])
            if len(missing):
                name = panel.ids[self.series[missing[0]]]
                raise KANError(
                    f"series {name!r}: {', '.join(panel.known_names)} must be known for {horizon} steps ahead"
                )

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int | Sequence[int]) -> ForecastBatch:
        """A batch of the windows of these numbers."""
        chosen = np.atleast_1d(np.asarray(index, dtype=np.int64))
        panel, series = self.panel, self.series[chosen]
        first = panel.offsets[series]
        start = self.cutoffs[chosen] - self.input_length + 1
        steps = start[:, None] + np.arange(self.input_length + self.horizon)  # in the series
        inside = (steps >= 0) & (steps < panel.lengths[series][:, None])
        rows = first[:, None] + np.clip(steps, 0, (panel.lengths[series] - 1)[:, None])
        values = np.where(inside[..., None], panel.values[rows], np.nan)
        past = values[:, : self.input_length]
        mask = np.isfinite(past)
        return ForecastBatch(
            past=_float(fill(past, panel.values[first])),
            mask=torch.from_numpy(mask),
            known=_float(panel.known[rows]),
            observed=_float(panel.observed[rows[:, : self.input_length]]),
            target=_float(values[:, self.input_length :]),
            series=torch.from_numpy(series),
            start=torch.from_numpy(start),
        )

    def loader(
        self, batch_size: int, shuffle: bool = False, generator: torch.Generator | None = None
    ) -> DataLoader[Any]:
        """Batches of `batch_size` windows, and of what is left: no window is left out."""
        sampler = RandomSampler(self, generator=generator) if shuffle else SequentialSampler(self)
        return DataLoader(self, sampler=BatchSampler(sampler, batch_size, drop_last=False), batch_size=None)


def every_window(
    panel: Panel,
    input_length: int,
    horizon: int,
    begin: NDArray[np.int64] | int = 0,
    end: NDArray[np.int64] | None = None,
    step: int = 1,
) -> Windows:
    """All windows whose horizon lies in the rows ``[begin, end)`` of its series and whose past is whole.

    Args:
        panel: The series.
        input_length: L.
        horizon: H.
        begin: First row that may be forecast, of all or of each series; the past may reach back before it.
        end: Row after the last one that may be forecast, of each series; by default its length.
        step: Rows from one cutoff to the next, counted back from the last.
    """
    ends = panel.lengths if end is None else np.asarray(end)
    begins = np.maximum(np.broadcast_to(np.asarray(begin), ends.shape), input_length)
    counts = np.maximum((ends - begins - horizon) // step + 1, 0)
    series = np.repeat(np.arange(len(panel.ids)), counts)
    order = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    last = ends - horizon - 1
    cutoffs = last[series] - step * (counts[series] - 1 - order)
    return Windows(panel, input_length, horizon, series, cutoffs)


def fill(past: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN replaced by the last value before it in the window, else by the first after it, else by `before`, else by 0.

    Args:
        past: ``(B, L, C)``.
        before: ``(B, C)`` the series' first values, for windows that lie before all values.
    """
    if np.isfinite(past).all():
        return past
    steps = np.arange(past.shape[1])[:, None]
    known = np.isfinite(past)
    latest = np.maximum.accumulate(np.where(known, steps, -1), axis=1)
    earliest = np.where(known.any(axis=1), known.argmax(axis=1), 0)[:, None]
    filled = np.take_along_axis(past, np.where(latest < 0, earliest, latest), axis=1)
    return np.nan_to_num(np.where(np.isfinite(filled), filled, before[:, None]), nan=0.0)


def _float(array: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
