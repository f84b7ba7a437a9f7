"""t-DCF, a-DCF and t-EER: golden values, definitions by brute force, guards."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kan_audio.metrics.tandem import (
    ASVSPOOF5_RATES,
    AsvRates,
    TandemCosts,
    adcf_curve,
    asv_rates,
    min_adcf,
    min_tdcf,
    tandem_eer,
    tdcf_curve,
    tdcf_terms,
)
from kan_core.errors import KANError

B_SCORES = [3, 2.5, 1, 0.2, -1, -4, -2, -1.5, 0.1, 0.8, -0.3, -3, -2.2]
B_LABELS = [1] * 5 + [0] * 8
TARGET, NONTARGET, SPOOF = [2, 1, 3], [-1, 0, 0.5], [1.5, -2, -3]


def test_terms_with_the_rates_of_asvspoof_5():
    c0, c1, c2 = tdcf_terms(ASVSPOOF5_RATES)
    assert (c0, c1, c2) == pytest.approx((0.0194697, 0.9210303, 0.2303541), abs=5e-8)
    assert c0 + min(c1, c2) == pytest.approx(0.2498238, abs=5e-8)
    assert c0 / (c0 + min(c1, c2)) == pytest.approx(0.0779337, abs=5e-8)


def test_golden_min_tdcf():
    curve = tdcf_curve(B_SCORES, B_LABELS, ASVSPOOF5_RATES)
    assert min_tdcf(B_SCORES, B_LABELS, ASVSPOOF5_RATES) == pytest.approx(0.4237085524, abs=5e-11)
    # The card's threshold, -1.5, is the highest score refused; here a threshold is the lowest score accepted.
    assert curve.thresholds[curve.cost.argmin()] == min(score for score in B_SCORES if score > -1.5)


def test_golden_adcf():
    assert min_adcf(TARGET, NONTARGET, SPOOF) == pytest.approx(0.2801120448, abs=5e-11)


def test_a_perfect_countermeasure_reaches_the_floor_and_a_useless_one_costs_1():
    separated = [3, 4, 5, -3, -4, -5]
    assert min_tdcf(separated, [1, 1, 1, 0, 0, 0], ASVSPOOF5_RATES) == pytest.approx(0.0779337, abs=5e-8)
    assert min_tdcf(separated, [1, 1, 1, 0, 0, 0], ASVSPOOF5_RATES, form="2019") == 0
    for form in ("2021", "2019"):
        assert min_tdcf(separated, [0, 0, 0, 1, 1, 1], ASVSPOOF5_RATES, form=form) == pytest.approx(1)


def test_legacy_form_is_its_formula():
    asv = AsvRates(p_miss=0.05, p_fa=0.04, p_fa_spoof=0.6)
    c0, c1, c2 = tdcf_terms(asv, form="2019")
    assert c0 == 0
    assert c1 == pytest.approx(0.9405 * (1 - 0.05) - 0.0095 * 10 * 0.04)
    assert c2 == pytest.approx(10 * 0.05 * 0.6)
    curve = tdcf_curve(B_SCORES, B_LABELS, asv, form="2019")
    scores, labels = np.array(B_SCORES), np.array(B_LABELS)
    for threshold, cost in zip(*curve, strict=True):
        p_miss, p_fa = (scores[labels == 1] < threshold).mean(), (scores[labels == 0] >= threshold).mean()
        assert cost == pytest.approx((c1 * p_miss + c2 * p_fa) / min(c1, c2))


def test_both_forms_differ_by_the_cost_of_the_verification():
    """The two forms share C1 and C2: only the constant C0 is new, in the numerator and in the normaliser."""
    old, new = tdcf_terms(ASVSPOOF5_RATES, form="2019"), tdcf_terms(ASVSPOOF5_RATES)
    assert old[1:] == pytest.approx(new[1:])
    assert (old[0], new[0] > 0) == (0, True)


def test_costs_matter():
    costs = TandemCosts(0.9, 0.05, 0.05, miss=1, fa=1, fa_spoof=2)
    _, c1, c2 = tdcf_terms(ASVSPOOF5_RATES, costs)
    c0 = 0.9 * ASVSPOOF5_RATES.p_miss + 0.05 * ASVSPOOF5_RATES.p_fa
    assert (c1, c2) == pytest.approx((0.9 - c0, 0.05 * 2 * ASVSPOOF5_RATES.p_fa_spoof))


def test_adcf_is_its_formula_with_the_costs_of_its_paper():
    costs = TandemCosts(target=0.9, nontarget=0.05, spoof=0.05, miss=1, fa=10, fa_spoof=20)
    groups = [np.array(group) for group in (TARGET, NONTARGET, SPOOF)]
    for threshold, cost in zip(*adcf_curve(*groups, costs), strict=True):
        p_target, p_nontarget, p_spoof = ((group >= threshold).mean() for group in groups)
        expected = 0.9 * (1 - p_target) + 10 * 0.05 * p_nontarget + 20 * 0.05 * p_spoof
        assert cost == pytest.approx(expected / min(10 * 0.05 + 20 * 0.05, 0.9))


def test_increasing_maps_change_nothing():
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 1, 50) for mean in (3, 0, 1)]
    labels = [1] * 50 + [0] * 50
    scores = np.concatenate([groups[0], groups[2]])
    assert min_adcf(*(np.exp(group) for group in groups)) == min_adcf(*groups)
    assert min_tdcf(np.exp(scores), labels, ASVSPOOF5_RATES) == min_tdcf(scores, labels, ASVSPOOF5_RATES)
    mapped = tandem_eer(*(np.exp(group) for group in groups), np.exp(scores), labels)
    assert mapped.value == tandem_eer(*groups, scores, labels).value


def test_asv_rates_accept_at_the_threshold():
    rates = asv_rates([1, 2, 3, 4], [-1, 0, 2], [2, 5], threshold=2)
    assert (rates.p_miss, rates.p_fa, rates.p_fa_spoof) == pytest.approx((0.25, 1 / 3, 1))


def test_asv_threshold_is_that_of_its_own_eer():
    rng = np.random.default_rng(0)
    target, nontarget = rng.normal(2, 1, 4000), rng.normal(0, 1, 4000)
    rates = asv_rates(target, nontarget, rng.normal(1, 1, 4000))
    assert rates.p_miss == pytest.approx(rates.p_fa, abs=1e-3)
    assert rates.p_fa == pytest.approx(0.1587, abs=0.01)  # Phi(-1)
    assert rates.p_fa_spoof == pytest.approx(0.5, abs=0.03)


# --- t-EER -----------------------------------------------------------------------------------------------------------


def brute_force_tandem_eer(target, nontarget, spoof, cm_bonafide, cm_spoof):
    """Every ASV threshold with every CM threshold."""
    cm_points = [
        ((cm_bonafide < t).mean(), (cm_spoof >= t).mean())
        for t in [*np.unique(np.concatenate([cm_bonafide, cm_spoof])), math.inf]
    ]
    pairs = []
    for threshold in np.unique(np.concatenate([target, nontarget, spoof])):
        asv_miss = (target < threshold).mean()
        fa, fa_spoof = (nontarget >= threshold).mean(), (spoof >= threshold).mean()
        if asv_miss < (fa + fa_spoof) / 2:
            balance = [abs(m + (1 - m) * asv_miss - ((1 - m) * fa + f * fa_spoof) / 2) for m, f in cm_points]
            m, f = cm_points[int(np.argmin(balance))]
            pairs.append((abs(fa * (1 - m) - fa_spoof * f), fa_spoof * f))
    return min(pairs, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("seed", range(8))
def test_tandem_eer_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    target, nontarget, spoof = rng.normal(2.5, 1, 31), rng.normal(0, 1, 37), rng.normal(2, 1, 23)
    cm_bonafide, cm_spoof = rng.normal(2, 1, 29), rng.normal(0, 1, 41)
    labels = [1] * 29 + [0] * 41
    found = tandem_eer(target, nontarget, spoof, np.concatenate([cm_bonafide, cm_spoof]), labels)
    assert found.value == pytest.approx(brute_force_tandem_eer(target, nontarget, spoof, cm_bonafide, cm_spoof))


def test_at_the_concurrent_point_all_three_tandem_errors_are_equal():
    rng = np.random.default_rng(0)
    target, nontarget, spoof = rng.normal(3, 1, 3001), rng.normal(0, 1, 3003), rng.normal(2, 1, 3007)
    cm = np.concatenate([rng.normal(2, 1, 3011), rng.normal(0, 1, 3013)])
    labels = np.array([1] * 3011 + [0] * 3013)
    value, asv_threshold, cm_threshold = tandem_eer(target, nontarget, spoof, cm, labels)
    passed = (cm[labels == 1] >= cm_threshold).mean()
    miss = 1 - passed * (target >= asv_threshold).mean()
    false_nontarget = passed * (nontarget >= asv_threshold).mean()
    false_spoof = (cm[labels == 0] >= cm_threshold).mean() * (spoof >= asv_threshold).mean()
    assert false_spoof == value
    assert miss == pytest.approx(value, abs=2e-3)
    assert false_nontarget == pytest.approx(value, abs=2e-3)


def test_tandem_eer_of_perfect_systems_is_zero():
    assert tandem_eer([2, 3], [-2, -3], [2.5, -2], [1, 2, -1, -2], [1, 1, 0, 0]).value == 0


# --- guards ----------------------------------------------------------------------------------------------------------


def test_priors_must_sum_to_1():
    TandemCosts(0.3, 0.3, 0.4 + 5e-11)
    with pytest.raises(ValueError, match="must sum to 1"):
        TandemCosts(0.3, 0.3, 0.4 + 2e-10)
    for options in ({"target": -0.1}, {"miss": -1}, {"fa": math.inf}, {"fa_spoof": math.nan}):
        with pytest.raises(KANError, match=f"{next(iter(options))}="):
            TandemCosts(**options)


@pytest.mark.parametrize("form", ["2021", "2019"])
def test_a_verification_system_that_is_too_bad(form):
    with pytest.raises(KANError, match=r"C1=-0\.0\d+, C2=0\.05, of which none may be negative"):
        tdcf_terms(AsvRates(p_miss=1.0, p_fa=0.9, p_fa_spoof=0.1), form=form)


def test_a_verification_system_that_never_accepts_spoofs_leaves_nothing_to_weigh_in_the_legacy_form():
    with pytest.raises(KANError, match="normaliser"):
        tdcf_terms(AsvRates(p_miss=0.0, p_fa=0.0, p_fa_spoof=0.0), form="2019")


def test_hard_decisions_are_refused():
    with pytest.raises(KANError, match=r"only 2 distinct value\(s\): these are hard decisions"):
        min_tdcf([0, 1, 1, 0], [0, 1, 0, 1], ASVSPOOF5_RATES)


def test_bad_scores_are_refused():
    with pytest.raises(KANError, match="score 1 is nan"):
        min_tdcf([1, math.nan, 2], [1, 0, 1], ASVSPOOF5_RATES)
    with pytest.raises(KANError, match="nontarget score 0 is inf"):
        min_adcf([1], [math.inf], [0])
    with pytest.raises(KANError, match="there is no spoof score"):
        tandem_eer([1], [0], [], [1, 0], [1, 0])
    with pytest.raises(KANError, match=r"p_fa=1\.5: an error rate lies in"):
        AsvRates(0, 1.5, 0)
    with pytest.raises(KANError, match="form must be one of 2021, 2019, got '2020'"):
        tdcf_terms(ASVSPOOF5_RATES, form="2020")
