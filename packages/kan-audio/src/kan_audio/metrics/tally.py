"""Detection trials as counts per distinct score: every metric of spoofing detection is read off these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

from kan_core.errors import KANError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
EERMethod = Literal["interp", "reference", "rocch"]


@dataclass(frozen=True)
class Costs:
    """What errors cost, and how often spoofs come; the defaults are those of ASVspoof 5, track 1.

    Attributes:
        miss: Cost of refusing bona fide speech.
        fa: Cost of accepting a spoof (a false alarm).
        spoof_prior: Probability that a trial is a spoof.

    Raises:
        KANError: When a cost is not positive or the prior is not inside (0, 1).
    """

    miss: float = 1.0
    fa: float = 10.0
    spoof_prior: float = 0.05

    def __post_init__(self) -> None:
        for name in ("miss", "fa"):
            if not 0 < getattr(self, name) < math.inf:
                raise KANError(f"{name}={getattr(self, name)}: a cost must be positive and finite")
        check_prior(self.spoof_prior)

    @property
    def weights(self) -> tuple[float, float]:
        """What P_miss and P_fa are multiplied with in the expected cost."""
        return self.miss * (1 - self.spoof_prior), self.fa * self.spoof_prior

    @property
    def bayes_threshold(self) -> float:
        """The log-likelihood ratio above which accepting is the cheaper decision, -ln(w_miss / w_fa)."""
        miss, fa = self.weights
        return -math.log(miss / fa)

    def dcf(self, p_miss: Floats | float, p_fa: Floats | float) -> Floats:
        """Expected cost, divided by that of the better of "accept everything" and "reject everything"."""
        miss, fa = self.weights
        return np.asarray((miss * np.asarray(p_miss) + fa * np.asarray(p_fa)) / min(miss, fa))


def check_prior(spoof_prior: float) -> None:
    """Refuse a prior that leaves one class impossible."""
    if not 0 < spoof_prior < 1:
        raise KANError(f"spoof_prior={spoof_prior}: a prior lies between 0 and 1, both excluded")


class DetCurve(NamedTuple):
    """Error rates at every threshold that decides differently; a trial is accepted iff its score >= threshold.

    Attributes:
        thresholds: ``(points,)`` ascending; the last is +inf (accept nothing).
        p_miss: ``(points,)`` share of bona fide trials below the threshold, from 0 up to 1.
        p_fa: ``(points,)`` share of spoof trials at or above it, from 1 down to 0.
    """

    thresholds: Floats
    p_miss: Floats
    p_fa: Floats


class Rates(NamedTuple):
    """Errors at one threshold.

    Attributes:
        threshold: A trial is accepted iff its score >= threshold.
        p_miss: Share of bona fide trials that are refused.
        p_fa: Share of spoof trials that are accepted.
        hter: Half total error rate, the mean of the two.
        accuracy: Share of all trials decided rightly.
    """

    threshold: float
    p_miss: float
    p_fa: float
    hter: float
    accuracy: float


@dataclass(frozen=True)
class Tally:
    """How many trials of each class have each score. Counts may be zero, as in a bootstrap resample.

    Attributes:
        values: ``(distinct,)`` the scores, ascending; higher means more bona fide.
        bonafide: ``(distinct,)`` bona fide trials of each.
        spoof: ``(distinct,)`` spoof trials of each.
    """

    values: Floats
    bonafide: Floats
    spoof: Floats

    @classmethod
    def of(cls, scores: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> Tally:
        """Count the trials.

        Args:
            scores: ``(trials,)`` finite.
            labels: ``(trials,)`` 1 = bona fide, 0 = spoof.

        Raises:
            KANError: For other shapes or labels, a score that is not finite, or an empty class.
        """
        array, bonafide = check_trials(scores, labels)
        values, rank = np.unique(array, return_inverse=True)
        return cls(values, _count(rank[bonafide], len(values)), _count(rank[~bonafide], len(values)))

    @cached_property
    def det(self) -> DetCurve:
        """The error rates at every distinct score and above the highest."""
        below_bonafide = np.concatenate([[0.0], np.cumsum(self.bonafide)])
        below_spoof = np.concatenate([[0.0], np.cumsum(self.spoof)])
        spoofs = below_spoof[-1]
        thresholds = np.append(self.values, np.inf)
        return DetCurve(thresholds, below_bonafide / below_bonafide[-1], (spoofs - below_spoof) / spoofs)

    def eer(self, method: EERMethod = "interp") -> float:
        """Equal error rate; see `kan_audio.metrics.spoofing.eer`."""
        if method == "reference":
            return self.reference_eer()[0]
        if method == "rocch":
            bonafide, spoof = self.blocks
            misses = np.concatenate([[0.0], np.cumsum(bonafide)])
            kept = np.concatenate([[0.0], np.cumsum(spoof)])
            return _crossing(misses / misses[-1], (kept[-1] - kept) / kept[-1])
        if method != "interp":
            raise KANError(f"method must be one of {', '.join(get_args(EERMethod))}, got {method!r}")
        return _crossing(self.det.p_miss, self.det.p_fa)

    def reference_eer(self) -> tuple[float, float]:
        """What the ASVspoof evaluation package prints; see `kan_audio.metrics.spoofing.reference_eer`."""
        steps = np.stack([self.bonafide, self.spoof], axis=1).ravel().astype(np.int64)  # bona fide first in a tie
        is_bonafide = np.repeat(np.tile([True, False], len(self.values)), steps)
        misses = np.concatenate([[0], np.cumsum(is_bonafide)]).astype(np.float64)
        rejected = np.concatenate([[0], np.cumsum(~is_bonafide)]).astype(np.float64)
        p_miss, p_fa = misses / misses[-1], (rejected[-1] - rejected) / rejected[-1]
        at = int(np.argmin(np.abs(p_miss - p_fa)))
        scores = np.repeat(self.values, (self.bonafide + self.spoof).astype(np.int64))
        threshold = scores[at - 1] if at else scores[0] - 0.001
        return float((p_miss[at] + p_fa[at]) / 2), float(threshold)

    def eer_threshold(self) -> float:
        """Where P_miss and P_fa are nearest to each other; see `kan_audio.metrics.spoofing.eer_threshold`."""
        # accepting everything comes first and is no worse than accepting nothing, so the +inf at the end never wins
        at = int(np.argmin(np.abs(self.det.p_miss - self.det.p_fa)))
        high = float(self.values[at])
        if at == 0:
            return high
        low = float(self.values[at - 1])
        middle = low / 2 + high / 2
        return middle if low < middle <= high else high

    def min_dcf(self, costs: Costs | None = None) -> float:
        """Least normalised detection cost over all thresholds."""
        return float((costs or Costs()).dcf(self.det.p_miss, self.det.p_fa).min())

    def act_dcf(self, costs: Costs | None = None) -> float:
        """Normalised detection cost at the Bayes threshold."""
        costs = costs or Costs()
        rates = self.rates(costs.bayes_threshold)
        return float(costs.dcf(rates.p_miss, rates.p_fa))

    def cllr(self) -> float:
        """Cost of the scores as log-likelihood ratios, bits."""
        bonafide = np.dot(self.bonafide, np.logaddexp(0.0, -self.values)) / self.bonafide.sum()
        spoof = np.dot(self.spoof, np.logaddexp(0.0, self.values)) / self.spoof.sum()
        return float((bonafide + spoof) / (2 * math.log(2)))

    def min_cllr(self) -> float:
        """Cllr after the best non-decreasing map of the scores."""
        bonafide, spoof = (part / part.sum() for part in self.blocks)
        # Within a block the ratio of the classes is the likelihood ratio; a class that is absent there costs nothing.
        mixed = (bonafide > 0) & (spoof > 0)
        llr = np.log(bonafide[mixed] / spoof[mixed])
        cost = np.dot(bonafide[mixed], np.logaddexp(0.0, -llr)) + np.dot(spoof[mixed], np.logaddexp(0.0, llr))
        return float(cost / (2 * math.log(2)))

    def rates(self, threshold: float) -> Rates:
        """Errors when a trial is accepted iff its score >= `threshold`."""
        if math.isnan(threshold):
            raise KANError("the threshold is NaN: give a number")
        accepted = self.values >= threshold
        bonafide, spoof = self.bonafide.sum(), self.spoof.sum()
        misses, alarms = self.bonafide[~accepted].sum(), self.spoof[accepted].sum()
        p_miss, p_fa = float(misses / bonafide), float(alarms / spoof)
        accuracy = 1 - float((misses + alarms) / (bonafide + spoof))
        return Rates(float(threshold), p_miss, p_fa, (p_miss + p_fa) / 2, accuracy)

    @cached_property
    def blocks(self) -> tuple[Floats, Floats]:
        """Bona fide and spoof trials of each block that pool-adjacent-violators merges the scores into.

        The block edges are the vertices of the lower convex hull of the DET points (ROCCH).
        """
        total = self.bonafide + self.spoof
        seen = total > 0
        bonafide, spoof, total = self.bonafide[seen], self.spoof[seen], total[seen]
        starts = isotonic_regression(bonafide / total, weights=total).blocks[:-1]
        return np.add.reduceat(bonafide, starts), np.add.reduceat(spoof, starts)


def check_trials(scores: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores in float64, and which of them are bona fide.

    Raises:
        KANError: As `Tally.of`.
    """
    array, given = check_scores(scores), _array(labels)
    if given.shape != array.shape:
        raise KANError(f"{array.shape[0]:,} scores need as many labels, got labels of shape {given.shape}")
    bonafide = given == 1
    strange = ~(bonafide | (given == 0))
    if strange.any():
        at = int(strange.argmax())
        raise KANError(f"label {at} is {given[at]}: labels are 1 (bona fide) and 0 (spoof)")
    if bonafide.all() or not bonafide.any():
        count = int(bonafide.sum())
        raise KANError(f"trials of both classes are needed, got {count:,} bona fide and {len(array) - count:,} spoof")
    return array, bonafide


def check_scores(scores: ArrayLike | Tensor, name: str = "score") -> Floats:
    """One-dimensional finite scores in float64.

    Raises:
        KANError: For anything else, counting from 0.
    """
    array = _array(scores).astype(np.float64)
    if array.ndim != 1:
        raise KANError(f"{name}s must be one-dimensional, got shape {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        at = int(bad.argmax())
        raise KANError(f"{name} {at} is {array[at]}: scores must be finite numbers ({int(bad.sum()):,} are not)")
    return array


def _array(data: ArrayLike | Tensor) -> NDArray[Any]:
    return data.detach().cpu().double().numpy() if isinstance(data, Tensor) else np.asarray(data)


def _count(rank: NDArray[Any], distinct: int) -> Floats:
    return np.bincount(rank, minlength=distinct).astype(np.float64)


def _crossing(p_miss: Floats, p_fa: Floats) -> float:
    """Where the polyline through the points, from (0, 1) to (1, 0), meets P_miss = P_fa."""
    gap = p_miss - p_fa
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(p_miss[after - 1] + share * (p_miss[after] - p_miss[after - 1]))
