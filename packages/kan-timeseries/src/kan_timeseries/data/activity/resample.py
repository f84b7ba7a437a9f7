"""From samples at any times to samples at a declared rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.activity.recordings import Recording

Floats = NDArray[np.float64]


def regular(recording: Recording, rate: float, max_gap: float, counts: Counter[str]) -> list[Recording]:
    """The recording at `rate`, by linear interpolation of each channel; gaps longer than `max_gap` split it.

    The samples of a piece begin at the first time at which all channels are known and end before the last. There is no
    low-pass filter: a rate far below that of the sensor folds higher frequencies into the band. A label holds until the
    next sample's.

    Args:
        recording: Its times must not descend; NaN values count as not measured.
        rate: Samples per second.
        max_gap: Seconds between neighbours of one channel, at most.
        counts: Counts gaps and pieces of a single sample, which are left out.

    Returns:
        The pieces, with `t` None and `begin` set.

    Raises:
        KANError: When times descend.
    """
    gaps = np.isnan(recording.x)
    if recording.t is None and rate == recording.rate and not gaps.any():
        return [recording]
    t = np.arange(len(recording.x)) / recording.rate if recording.t is None else recording.t
    if (np.diff(t) < 0).any():
        at = t[1:][np.diff(t) < 0][0]
        raise KANError(
            f"subject {recording.subject}, trial {recording.trial}: time {at:g} comes after a later one: sort by t"
        )
    pieces = []
    spans = _spans(t, gaps, max_gap)
    counts[f"gaps longer than {max_gap:g} s (the trial is split)"] += max(len(spans) - 1, 0)
    if not spans:
        counts["recordings without a time at which all channels are known (left out)"] += 1
    for first, last in spans:
        grid = first + np.arange(int((last - first) * rate + 1e-6) + 1) / rate
        if len(grid) < 2:
            counts["pieces of a single sample (left out)"] += 1
            continue
        x = np.stack([_channel(grid, t, recording.x[:, c], gaps[:, c]) for c in range(gaps.shape[1])], axis=1)
        labels = recording.labels
        if labels is not None:
            labels = labels[np.searchsorted(t, grid + 1e-9, side="right") - 1]
        begin = recording.begin + first - t[0]
        pieces.append(replace(recording, t=None, x=x, rate=rate, labels=labels, begin=float(begin)))
    return pieces


def spread_ties(t: Floats) -> Floats:
    """Times of samples that were handed over in bursts: k samples of one time stamp are spread over the time before it.

    A burst holds what was measured since the time stamp before, so that sample j of k lies at
    ``before + (stamp - before) j / k``, j = 1 to k. The first burst is spread at the mean spacing of the others.

    Args:
        t: ``(n,)`` seconds, not descending.
    """
    stamps, sizes = np.unique(t, return_counts=True)
    if len(stamps) == len(t) or len(stamps) < 2:
        return t
    spacing = (stamps[-1] - stamps[0]) / (len(t) - sizes[0])
    before = np.concatenate([[stamps[0] - sizes[0] * spacing], stamps[:-1]])
    place = np.arange(len(t)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    return np.repeat(before, sizes) + np.repeat((stamps - before) / sizes, sizes) * place


def on_one_clock(sensors: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, NDArray[np.float32]]:
    """The samples of sensors that are not synchronous as the rows of one array.

    Args:
        sensors: Each with times ``(n,)`` and values ``(n, c)``.

    Returns:
        All times, ascending, and ``(times, channels)`` with NaN where a sensor has no sample.
    """
    if len(sensors) == 1:
        return sensors[0][0], sensors[0][1].astype(np.float32)
    t = np.unique(np.concatenate([times for times, _ in sensors]))
    x = np.full((len(t), sum(values.shape[1] for _, values in sensors)), np.nan, dtype=np.float32)
    first = 0
    for times, values in sensors:
        x[np.searchsorted(t, times), first : first + values.shape[1]] = values
        first += values.shape[1]
    return t, x


def _spans(t: Floats, gaps: NDArray[np.bool_], max_gap: float) -> list[tuple[float, float]]:
    """From when to when every channel is known without a gap."""
    spans = [(-np.inf, np.inf)]
    patterns = np.unique(gaps, axis=1) if gaps.any() else gaps[:, :1]
    for missing in patterns.T:
        own = t[~missing]
        if not len(own):
            return []
        breaks = np.flatnonzero(np.diff(own) > max_gap + 1e-9)
        firsts, lasts = own[np.concatenate([[0], breaks + 1])], own[np.concatenate([breaks, [-1]])]
        spans = [
            (max(a, first), min(b, last))
            for a, b in spans
            for first, last in zip(firsts, lasts, strict=True)
            if max(a, first) <= min(b, last)
        ]
    return spans


def _channel(grid: Floats, t: Floats, x: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    if missing.any():
        t, x = t[~missing], x[~missing]
    return np.interp(grid, t, x).astype(np.float32)
