"""False-alarm rates and detection rates with the uncertainty that their counts leave."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, genpareto
from sklearn.metrics import roc_auc_score, roc_curve

from kan_core.errors import KANError

Floats = NDArray[np.float64]

TAIL = 0.05  # share of the scores that a tail is fitted to


class Calibration(NamedTuple):
    """A threshold for scores, and how well its false-alarm rate is known.

    Attributes:
        threshold: An alarm is a score above it.
        pfa: The rate that was asked for.
        alarms: Calibration segments above the threshold.
        trials: Calibration segments.
        low: Lower end of the 95 % Clopper-Pearson interval of the false-alarm rate.
        high: Its upper end.
        extrapolated: The threshold lies on a fitted tail, beyond what the counts can show.
    """

    threshold: float
    pfa: float
    alarms: int
    trials: int
    low: float
    high: float
    extrapolated: bool


def calibrate(scores: Floats, pfa: float, extrapolate: bool = False) -> Calibration:
    """The threshold of a false-alarm rate, from scores of held-out segments without a target.

    With n scores the threshold is the k-th greatest, k = ⌊pfa (n + 1)⌋: the expected rate on fresh segments is
    k / (n + 1) and never more. A rate below 3/n cannot be shown even by n trials without an alarm (95 % bound), so
    it is refused, or with `extrapolate` taken from a generalised Pareto law fitted to the upper 5 % of the scores.

    Args:
        scores: ``(n,)``, of independent segments; segments that overlap are worth fewer than they are.
        pfa: False-alarm rate per segment, in (0, 1).
        extrapolate: Fit the tail where the counts do not reach.

    Raises:
        KANError: When `pfa` is out of its range or of reach, or the scores hold a NaN.
    """
    scores = np.asarray(scores, dtype=np.float64).ravel()
    if not 0 < pfa < 1:
        raise KANError(f"pfa must lie in (0, 1), got {pfa}")
    if np.isnan(scores).any():
        raise KANError(f"{int(np.isnan(scores).sum())} of {len(scores)} calibration scores are NaN")
    enough = len(scores) * pfa >= 3 * (1 - 1e-12)
    if not enough and not extrapolate:
        raise KANError(
            f"a false-alarm rate of {pfa:g} needs at least {math.ceil(3 / pfa)} held-out segments without a target, "
            f"got {len(scores)}: give more, ask for {3 / max(len(scores), 3):.2g}, or set extrapolate=True"
        )
    if enough:
        k = int(pfa * (len(scores) + 1))
        threshold = float(np.partition(scores, len(scores) - k)[len(scores) - k])
    else:
        threshold = _tail_quantile(scores, pfa)
    alarms = int((scores > threshold).sum())
    return Calibration(threshold, pfa, alarms, len(scores), *clopper_pearson(alarms, len(scores)), not enough)


def _tail_quantile(scores: Floats, pfa: float) -> float:
    start = float(np.quantile(scores, 1 - TAIL))
    excess = scores[scores > start] - start
    if len(excess) < 50 or not np.isfinite(excess).all():
        raise KANError(
            f"a tail is fitted to 50 scores or more, the upper {TAIL:.0%}; got {len(excess)} of {len(scores)}"
        )
    shape, _, scale = genpareto.fit(excess, floc=0)
    return start + float(genpareto.isf(pfa * len(scores) / len(excess), shape, scale=scale))


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of a rate: zero successes in n trials give an upper end of about 3.7/n at 95 %.

    Args:
        successes: Of the trials.
        trials: At least 1.
        level: Coverage, in (0, 1).

    Raises:
        KANError: For counts that cannot be.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise KANError(f"successes must lie in 0 ... trials, and trials be 1 or more, got {successes} of {trials}")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.isf(tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def segment_pfa(cell_pfa: float, cells: int) -> float:
    """1 − (1 − PFA_cell)^cells: the rate of at least one alarm among independent cells."""
    return -math.expm1(cells * math.log1p(-cell_pfa))


def cell_pfa(pfa: float, cells: int) -> float:
    """The inverse of `segment_pfa`."""
    return -math.expm1(math.log1p(-pfa) / cells)


class Roc(NamedTuple):
    """A receiver operating characteristic; draw it with a logarithmic axis of `pfa`.

    Attributes:
        pfa: Increasing, ``(points,)``.
        pd: Detection rates there, ``(points,)``.
        area: Under the curve, of all rates.
    """

    pfa: Floats
    pd: Floats
    area: float


def roc(scores_h0: Any, scores_h1: Any) -> Roc:
    """The curve of two sets of scores."""
    truth = np.repeat([0, 1], [len(scores_h0), len(scores_h1)])
    # −inf is the score of a flat segment, and scikit-learn takes finite ones only
    scores = np.nan_to_num(np.concatenate([scores_h0, scores_h1]))
    pfa, pd, _ = roc_curve(truth, scores)
    return Roc(pfa, pd, float(roc_auc_score(truth, scores)))
