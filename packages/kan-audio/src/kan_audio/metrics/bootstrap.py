"""How far a metric would move on another sample of the same trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kan_audio.metrics.tally import Floats, Tally, check_trials
from kan_core.errors import KANError

Metric = Callable[[Tally], float]
"""A number read off the trials, such as ``Tally.eer`` or ``lambda tally: tally.rates(0.5).hter``."""


class Estimate(NamedTuple):
    """A value and its interval.

    Attributes:
        value: On the trials themselves.
        low: Lower end, NaN where there is no interval.
        high: Upper end, NaN where there is no interval.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


def bootstrap(
    scores: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    metrics: Mapping[str, Metric],
    speakers: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Metrics with percentile bootstrap intervals; the same seed gives the same intervals.

    Without speakers the trials of each class are drawn with replacement, as many as there are. With speakers whole
    speakers are drawn, each with all of its trials, separately among those who have bona fide trials, spoof trials or
    both, so that no class is ever empty; intervals are then wider, as they should be, since trials of a speaker are
    alike.

    Args:
        scores: ``(trials,)``.
        labels: ``(trials,)`` 1 = bona fide, 0 = spoof.
        metrics: Name -> metric, all computed on the same resamples.
        speakers: Of each trial.
        resamples: How often; with 0 there are values but no intervals.
        level: Coverage.
        seed: Of the draws.

    Raises:
        KANError: As `Tally.of`; for a wrong number of speakers; when a class has trials of fewer than two speakers.
    """
    if resamples < 0 or not 0 < level < 1:
        raise KANError(f"resamples={resamples} must not be negative and level={level} must be between 0 and 1")
    array, bonafide = check_trials(scores, labels)
    values = {name: metric(Tally.of(array, bonafide)) for name, metric in metrics.items()}
    units = _trials_as_units(bonafide) if speakers is None else _speakers_as_units(bonafide, speakers)
    if not resamples:
        return {name: Estimate(value) for name, value in values.items()}
    drawn = np.array(
        [
            [metric(tally) for metric in metrics.values()]
            for tally in _resampled(array, bonafide, units, resamples, np.random.default_rng(seed))
        ]
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: Estimate(value, float(low[at]), float(high[at])) for at, (name, value) in enumerate(values.items())}


class _Units(NamedTuple):
    """What is drawn: the unit of every trial, and the strata that units are drawn within."""

    of_trial: NDArray[np.int64]
    strata: list[NDArray[np.int64]]


def _trials_as_units(bonafide: NDArray[np.bool_]) -> _Units:
    return _Units(np.arange(len(bonafide)), [np.flatnonzero(bonafide), np.flatnonzero(~bonafide)])


def _speakers_as_units(bonafide: NDArray[np.bool_], speakers: Sequence[str]) -> _Units:
    if len(speakers) != len(bonafide):
        raise KANError(f"{len(bonafide):,} trials need as many speakers, got {len(speakers):,}")
    names, of_trial = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    has = [np.bincount(of_trial[part], minlength=len(names)) > 0 for part in (bonafide, ~bonafide)]
    for name, mask in zip(("bona fide", "spoof"), has, strict=True):
        if mask.sum() < 2:
            raise KANError(
                f"the {name} trials are all of one speaker: a bootstrap over speakers needs two, leave the speakers out"
            )
    kind = has[0] + 2 * has[1].astype(np.int64)
    return _Units(of_trial.astype(np.int64), [np.flatnonzero(kind == one) for one in np.unique(kind)])


def _resampled(
    scores: Floats, bonafide: NDArray[np.bool_], units: _Units, resamples: int, rng: np.random.Generator
) -> Iterator[Tally]:
    """Each resample as new counts of the same distinct scores: sorting happens once."""
    order = np.argsort(scores, kind="stable")  # in this order counting walks through memory
    values, rank = np.unique(scores[order], return_inverse=True)
    parts = [(rank[part], units.of_trial[order][part]) for part in (bonafide[order], ~bonafide[order])]
    count = int(units.of_trial.max()) + 1
    for _ in range(resamples):
        times = np.zeros(count)
        for members in units.strata:
            times[members] = np.bincount(rng.integers(len(members), size=len(members)), minlength=len(members))
        drawn = [np.bincount(at, weights=times[unit], minlength=len(values)).astype(np.float64) for at, unit in parts]
        yield Tally(values, drawn[0], drawn[1])
