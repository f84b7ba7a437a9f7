"""Spoofing detection (the countermeasure, CM) and speaker verification (ASV) judged together.

Scores are higher for what should be accepted, accepted iff score >= threshold; rates are fractions. Spoof trials come
beside target and nontarget ones, each with a prior and a cost. Sources: Kinnunen et al., "Tandem assessment of spoofing
countermeasures and automatic speaker verification: fundamentals" (t-DCF), TASLP 2020; Shim et al., "a-DCF", 2024;
Kinnunen et al., "t-EER: parameter-free tandem evaluation", TIFS 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kan_audio.metrics.tally import DetCurve, Floats, Tally, check_scores
from kan_core.errors import KANError

Form = Literal["2021", "2019"]
Scores = ArrayLike | Tensor


@dataclass(frozen=True)
class TandemCosts:
    """Priors and costs of the three classes; the defaults are those of ASVspoof 2019, 2021 and 5.

    Attributes:
        target: Prior of bona fide trials of the claimed speaker.
        nontarget: Prior of bona fide trials of another speaker.
        spoof: Prior of spoofs.
        miss: Cost of refusing a target.
        fa: Cost of accepting a nontarget.
        fa_spoof: Cost of accepting a spoof.

    Raises:
        KANError: When the priors do not sum to 1 within 1e-10, or something is negative or not finite.
    """

    target: float = 0.9405
    nontarget: float = 0.0095
    spoof: float = 0.05
    miss: float = 1.0
    fa: float = 10.0
    fa_spoof: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise KANError(f"{name}={value}: priors and costs are finite and not negative")
        total = self.target + self.nontarget + self.spoof
        if abs(total - 1) > 1e-10:
            raise KANError(f"target, nontarget and spoof are priors and must sum to 1, got {total:.12g}")


@dataclass(frozen=True)
class AsvRates:
    """Error rates of the speaker verification system at its fixed threshold.

    Attributes:
        p_miss: Share of targets refused.
        p_fa: Share of nontargets accepted.
        p_fa_spoof: Share of spoofs accepted.

    Raises:
        KANError: When a rate is outside [0, 1].
    """

    p_miss: float
    p_fa: float
    p_fa_spoof: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise KANError(f"{name}={value}: an error rate lies in [0, 1]")


ASVSPOOF5_RATES = AsvRates(p_miss=0.01880141010575793, p_fa=0.01881016557566423, p_fa_spoof=0.4607082907604729)
"""The rates that the organisers of ASVspoof 5 fixed for everyone."""


def asv_rates(target: Scores, nontarget: Scores, spoof: Scores, threshold: float | None = None) -> AsvRates:
    """Error rates of a speaker verification system from its scores.

    Args:
        target: ``(n,)`` scores of target trials.
        nontarget: ``(m,)``.
        spoof: ``(k,)``.
        threshold: By default that of the system's own equal error rate of target against nontarget, found as
            `kan_audio.metrics.spoofing.reference_eer` does so that published t-DCFs are met.

    Raises:
        KANError: When a class is empty or a score is not finite.
    """
    groups = _groups(target, nontarget, spoof)
    if threshold is None:
        threshold = _tally(groups[0], groups[1]).reference_eer()[1]
    p_accept = [float((group >= threshold).mean()) for group in groups]
    return AsvRates(1 - p_accept[0], p_accept[1], p_accept[2])


def tdcf_terms(asv: AsvRates, costs: TandemCosts | None = None, form: Form = "2021") -> tuple[float, float, float]:
    """C0, C1 and C2 of ``t-DCF(t) = [C0 + C1 P_miss(t) + C2 P_fa(t)] / [C0 + min(C1, C2)]``.

    ``"2021"`` (also ASVspoof 5): C0 = pi_tar C_miss P_miss,asv + pi_non C_fa P_fa,asv; C1 = pi_tar C_miss - C0;
    C2 = pi_spoof C_fa,spoof P_fa,spoof,asv.
    ``"2019"`` (legacy): C0 = 0; C1 = pi_tar (C_miss - C_miss P_miss,asv) - pi_non C_fa P_fa,asv;
    C2 = pi_spoof C_fa,spoof P_fa,spoof,asv. The miss cost of CM and ASV is one, as in every published use.

    Raises:
        KANError: For another form, or when a term is negative, or C1 or C2 is zero in both: the speaker verification
            system is then too bad to judge a countermeasure with.
    """
    costs = costs or TandemCosts()
    if form not in get_args(Form):
        raise KANError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
    verification = costs.target * costs.miss * asv.p_miss + costs.nontarget * costs.fa * asv.p_fa
    c1 = costs.target * costs.miss - verification
    c2 = costs.spoof * costs.fa_spoof * asv.p_fa_spoof
    c0 = verification if form == "2021" else 0.0
    if min(c0, c1, c2) < 0 or c0 + min(c1, c2) <= 0:
        raise KANError(
            f"t-DCF has the terms C0={c0:.6g}, C1={c1:.6g}, C2={c2:.6g}, of which none may be negative and the "
            "normaliser C0 + min(C1, C2) must be positive: check the ASV rates and the costs"
        )
    return c0, c1, c2


class CostCurve(NamedTuple):
    """Normalised cost at every threshold.

    Attributes:
        thresholds: ``(points,)`` ascending, the last +inf.
        cost: ``(points,)``.
    """

    thresholds: Floats
    cost: Floats


def tdcf_curve(
    scores: Scores, labels: Scores, asv: AsvRates, costs: TandemCosts | None = None, form: Form = "2021"
) -> CostCurve:
    """The normalised t-DCF of countermeasure scores; see `tdcf_terms`.

    Args:
        scores: ``(trials,)`` of the countermeasure.
        labels: ``(trials,)`` 1 = bona fide, 0 = spoof.
        asv: Rates of the speaker verification system behind it.
        costs: By default those of ASVspoof.
        form: See `tdcf_terms`.

    Raises:
        KANError: As `tdcf_terms`; for scores of fewer than three distinct values (these are decisions, which have no
            curve); as `Tally.of`.
    """
    c0, c1, c2 = tdcf_terms(asv, costs, form)
    tally = Tally.of(scores, labels)
    if len(tally.values) < 3:
        raise KANError(
            f"t-DCF needs soft scores, got only {len(tally.values)} distinct value(s): these are hard decisions"
        )
    curve = tally.det
    return CostCurve(curve.thresholds, (c0 + c1 * curve.p_miss + c2 * curve.p_fa) / (c0 + min(c1, c2)))


def min_tdcf(
    scores: Scores, labels: Scores, asv: AsvRates, costs: TandemCosts | None = None, form: Form = "2021"
) -> float:
    """The least value of `tdcf_curve`. A perfect countermeasure has C0 / (C0 + min(C1, C2)), a useless one 1."""
    return float(tdcf_curve(scores, labels, asv, costs, form).cost.min())


def adcf_curve(target: Scores, nontarget: Scores, spoof: Scores, costs: TandemCosts | None = None) -> CostCurve:
    """The normalised a-DCF of a system that gives one score for "the claimed speaker, and not a spoof".

    a-DCF(t) = [C_miss pi_tar P_miss + C_fa pi_non P_fa,non + C_fa,spoof pi_spoof P_fa,spoof]
    / min(C_fa pi_non + C_fa,spoof pi_spoof, C_miss pi_tar).

    Args:
        target: ``(n,)`` scores of target trials.
        nontarget: ``(m,)``.
        spoof: ``(k,)``.
        costs: By default those of ASVspoof 5.

    Raises:
        KANError: When a class is empty, a score is not finite, or the normaliser is zero.
    """
    costs = costs or TandemCosts()
    groups = _groups(target, nontarget, spoof)
    accept_all = costs.fa * costs.nontarget + costs.fa_spoof * costs.spoof
    reject_all = costs.miss * costs.target
    if min(accept_all, reject_all) <= 0:
        raise KANError("a-DCF needs a positive cost of accepting everything and of refusing everything")
    thresholds = np.append(np.unique(np.concatenate(groups)), np.inf)
    p_target, p_nontarget, p_spoof = (_accepted(group, thresholds) for group in groups)
    cost = (
        reject_all * (1 - p_target) + costs.fa * costs.nontarget * p_nontarget + costs.fa_spoof * costs.spoof * p_spoof
    )
    return CostCurve(thresholds, cost / min(accept_all, reject_all))


def min_adcf(target: Scores, nontarget: Scores, spoof: Scores, costs: TandemCosts | None = None) -> float:
    """The least value of `adcf_curve`."""
    return float(adcf_curve(target, nontarget, spoof, costs).cost.min())


class TandemEER(NamedTuple):
    """The concurrent tandem equal error rate.

    Attributes:
        value: The false alarm rate of spoofs through both systems at the two thresholds, a fraction.
        asv_threshold: Of the speaker verification system.
        cm_threshold: Of the countermeasure.
    """

    value: float
    asv_threshold: float
    cm_threshold: float


def tandem_eer(
    asv_target: Scores, asv_nontarget: Scores, asv_spoof: Scores, cm_scores: Scores, cm_labels: Scores
) -> TandemEER:
    """Concurrent t-EER: the two thresholds at which targets, nontargets and spoofs meet the same tandem error rate.

    With P_m and P_f of the countermeasure and a share rho = 1/2 of spoofs among what must be refused, each ASV
    threshold with P_miss,asv < (1 - rho) P_fa,non + rho P_fa,spoof is paired with the CM threshold that best balances
    P_m + (1 - P_m) P_miss,asv and (1 - rho) (1 - P_m) P_fa,non + rho P_f P_fa,spoof. Of these pairs the one is taken
    where rho matters least, P_fa,non (1 - P_m) nearest to P_fa,spoof P_f, the first of equals. Every ASV threshold is
    tried; the balance is monotone in the CM threshold, so bisection finds it.

    Args:
        asv_target: ``(n,)`` scores of the speaker verification system on targets.
        asv_nontarget: ``(m,)``.
        asv_spoof: ``(k,)``.
        cm_scores: ``(trials,)`` of the countermeasure.
        cm_labels: ``(trials,)`` 1 = bona fide, 0 = spoof.

    Raises:
        KANError: When a class is empty or a score is not finite.
    """
    groups = _groups(asv_target, asv_nontarget, asv_spoof)
    thresholds = np.unique(np.concatenate(groups))
    p_target, p_fa, p_fa_spoof = (_accepted(group, thresholds) for group in groups)
    p_miss = 1 - p_target
    allowed = p_miss < (p_fa + p_fa_spoof) / 2  # accepting everything always is
    thresholds, p_miss, p_fa, p_fa_spoof = (part[allowed] for part in (thresholds, p_miss, p_fa, p_fa_spoof))
    cm = Tally.of(cm_scores, cm_labels).det
    at = _balanced(p_miss, p_fa, p_fa_spoof, cm)
    through = p_fa_spoof * cm.p_fa[at]
    best = int(np.argmin(np.abs(p_fa * (1 - cm.p_miss[at]) - through)))
    return TandemEER(float(through[best]), float(thresholds[best]), float(cm.thresholds[at[best]]))


def _balanced(p_miss: Floats, p_fa: Floats, p_fa_spoof: Floats, cm: DetCurve) -> NDArray[np.int64]:
    """For each ASV threshold the index of the CM threshold at which tandem miss and false alarm differ least."""

    def gap(at: NDArray[np.int64]) -> Floats:
        passed = 1 - cm.p_miss[at]
        miss = cm.p_miss[at] + passed * p_miss
        return np.asarray(miss - (passed * p_fa + cm.p_fa[at] * p_fa_spoof) / 2)

    # The gap grows from negative (accept everything) to 1 (refuse everything); `high` ends at the first that is >= 0.
    low = np.zeros(len(p_miss), np.int64)
    high = np.full(len(p_miss), len(cm.p_miss) - 1, np.int64)
    while (high - low > 1).any():
        middle = (low + high) // 2
        above = gap(middle) >= 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(np.abs(gap(low)) <= np.abs(gap(high)), low, high)


def _groups(target: Scores, nontarget: Scores, spoof: Scores) -> tuple[Floats, Floats, Floats]:
    def group(name: str, scores: Scores) -> Floats:
        array = check_scores(scores, f"{name} score")
        if not len(array):
            raise KANError(f"there is no {name} score: trials of all three classes are needed")
        return array

    return group("target", target), group("nontarget", nontarget), group("spoof", spoof)


def _tally(accept: Floats, refuse: Floats) -> Tally:
    labels = np.concatenate([np.ones(len(accept)), np.zeros(len(refuse))])
    return Tally.of(np.concatenate([accept, refuse]), labels)


def _accepted(group: Floats, thresholds: Floats) -> Floats:
    """Share of `group` at or above each threshold."""
    below = np.searchsorted(np.sort(group), thresholds, side="left")
    return np.asarray((len(group) - below) / len(group))
