"""Parts of panels that a forecaster of long tables works with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kan_timeseries.data.panel import Panel
from kan_timeseries.data.windows import Windows, fill

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def seasonal_naive(panel: Panel, series: Ints, cutoffs: Ints, horizon: int) -> Floats:
    """``(n, horizon)``: the last season before each cutoff, repeated; missing values as `fill` has them."""
    steps = cutoffs[:, None] - panel.season + 1 + np.arange(panel.season)
    rows = panel.offsets[series][:, None] + np.maximum(steps, 0)
    past = np.where((steps >= 0)[..., None], panel.values[rows], np.nan)
    whole = fill(past, panel.values[panel.offsets[series]])[..., 0]
    return whole[:, np.arange(horizon) % panel.season]


def without_covariates(panel: Panel) -> Panel:
    """Its values alone."""
    none = panel.known[:, :0]
    return replace(panel, known=none, observed=none, known_names=[], observed_names=[])


def with_targets(windows: Windows) -> Windows:
    """Without the windows whose horizon has no known value at all."""
    panel = windows.panel
    known = np.concatenate([[0], np.cumsum(np.isfinite(panel.values[:, 0]))])
    begin = panel.offsets[windows.series] + windows.cutoffs + 1
    some = known[begin + windows.horizon] > known[begin]
    return Windows(panel, windows.input_length, windows.horizon, windows.series[some], windows.cutoffs[some])


def first_known(panel: Panel) -> Ints:
    """Row of the first value of each series that is not missing."""
    known = np.isfinite(panel.values[:, 0])
    rows = np.where(known, np.arange(len(known)), len(known))
    return np.asarray(np.minimum.reduceat(rows, panel.offsets[:-1]) - panel.offsets[:-1], dtype=np.int64)


def last_rows(panel: Panel, ends: Ints, count: int) -> Panel:
    """At most `count` rows of each series before `ends`."""
    begins = np.maximum(ends - count, 0)
    lengths = np.maximum(ends, 1) - begins
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.repeat(panel.offsets[:-1] + begins - offsets[:-1], lengths) + np.arange(offsets[-1])
    arrays = {name: getattr(panel, name)[rows] for name in ("values", "known", "observed", "times")}
    return replace(panel, offsets=offsets, **arrays)
