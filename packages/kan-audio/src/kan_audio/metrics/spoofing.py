"""Metrics of spoofing detection.

Scores: higher is more bona fide. Labels: 1 = bona fide, 0 = spoof. A trial is accepted iff score >= threshold;
P_miss is the share of bona fide trials refused, P_fa the share of spoof trials accepted. Rates are fractions.
Everything is computed in float64. Arrays, sequences and tensors are accepted. Scores that are not finite, other labels
and an empty class raise `KANError`.

Source: ASVspoof 5 evaluation plan (track 1: C_miss = 1, C_fa = 10, spoof prior 0.05); Brummer and du Preez,
"Application-independent evaluation of speaker detection" (Cllr), 2006; Brummer and de Villiers, "The BOSARIS toolkit"
(ROCCH and PAV), 2013.
"""

from __future__ import annotations

from numpy.typing import ArrayLike
from torch import Tensor

from kan_audio.metrics.tally import Costs, DetCurve, EERMethod, Rates, Tally

__all__ = [
    "Costs",
    "DetCurve",
    "Rates",
    "act_dcf",
    "cllr",
    "det_curve",
    "eer",
    "eer_threshold",
    "min_cllr",
    "min_dcf",
    "rates",
    "reference_eer",
]

Trials = ArrayLike | Tensor


def eer(scores: Trials, labels: Trials, method: EERMethod = "interp") -> float:
    """Equal error rate, a fraction: the common value where P_miss(t) = P_fa(t).

    Args:
        scores: ``(trials,)``.
        labels: ``(trials,)``.
        method: ``"interp"``: linear interpolation between the two neighbouring thresholds, all trials of one score
            moving at once, so ties are exact (a constant scorer has 0.5). ``"reference"``: see `reference_eer`.
            ``"rocch"``: on the lower convex hull of the DET points, never above 0.5 since an upside-down detector can
            be ignored.
    """
    return Tally.of(scores, labels).eer(method)


def reference_eer(scores: Trials, labels: Trials) -> tuple[float, float]:
    """The equal error rate that the ASVspoof evaluation packages print, and its threshold.

    (P_miss + P_fa) / 2 at the first point with the least abs(P_miss - P_fa), trials being rejected one at a time, tied
    bona fide before tied spoof, nothing interpolated. Ties inflate it: a constant scorer has 1. For comparison with
    published numbers only.

    Returns:
        The value, and the highest rejected score: here a trial is accepted iff score > threshold.
    """
    return Tally.of(scores, labels).reference_eer()


def eer_threshold(scores: Trials, labels: Trials) -> float:
    """The threshold at which P_miss and P_fa are nearest to each other, to be found on dev and applied to eval.

    All thresholds between two neighbouring scores decide alike; the middle is returned (the lowest score where
    everything must be accepted). Of equally good places the lowest is taken.
    """
    return Tally.of(scores, labels).eer_threshold()


def det_curve(scores: Trials, labels: Trials) -> DetCurve:
    """P_miss and P_fa at every threshold that decides differently."""
    return Tally.of(scores, labels).det


def min_dcf(scores: Trials, labels: Trials, costs: Costs | None = None) -> float:
    """Least normalised detection cost, in [0, 1].

    min_t [C_miss (1 - pi) P_miss(t) + C_fa pi P_fa(t)] / min(C_miss (1 - pi), C_fa pi), with pi the spoof prior.

    Args:
        scores: ``(trials,)``.
        labels: ``(trials,)``.
        costs: By default those of ASVspoof 5.
    """
    return Tally.of(scores, labels).min_dcf(costs)


def act_dcf(scores: Trials, labels: Trials, costs: Costs | None = None) -> float:
    """The cost of `min_dcf` at the Bayes threshold -ln(C_miss (1 - pi) / (C_fa pi)).

    Args:
        scores: ``(trials,)`` natural-log likelihood ratios; of other scores this says nothing.
        labels: ``(trials,)``.
        costs: By default those of ASVspoof 5.
    """
    return Tally.of(scores, labels).act_dcf(costs)


def cllr(scores: Trials, labels: Trials) -> float:
    """Cost of log-likelihood ratios, bits; 1 for scores that say nothing, unbounded above.

    [mean_bonafide ln(1 + e^-s) + mean_spoof ln(1 + e^s)] / (2 ln 2), without overflow at any finite s.

    Args:
        scores: ``(trials,)`` natural-log likelihood ratios.
        labels: ``(trials,)``.
    """
    return Tally.of(scores, labels).cllr()


def min_cllr(scores: Trials, labels: Trials) -> float:
    """Cllr after the best non-decreasing recalibration (pool adjacent violators), in [0, 1].

    ``cllr - min_cllr`` is what calibration loses.
    """
    return Tally.of(scores, labels).min_cllr()


def rates(scores: Trials, labels: Trials, threshold: float) -> Rates:
    """P_miss, P_fa, their mean (HTER) and accuracy at a given threshold, such as that of the dev set."""
    return Tally.of(scores, labels).rates(threshold)
