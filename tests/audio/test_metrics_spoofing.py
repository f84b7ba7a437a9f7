"""EER, DCF and Cllr: golden values, definitions by brute force, and what the reference implementations get wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from kan_audio.metrics.spoofing import (
    Costs,
    act_dcf,
    cllr,
    det_curve,
    eer,
    eer_threshold,
    min_cllr,
    min_dcf,
    rates,
    reference_eer,
)
from kan_audio.metrics.tables import POOLED, breakdown, print_ready
from kan_core.errors import KANError

SETS = {
    "A": ([2, 1, 0.5, -0.5], [-2, -1, 0, 1.5]),
    "B": ([3, 2.5, 1, 0.2, -1], [-4, -2, -1.5, 0.1, 0.8, -0.3, -3, -2.2]),
    "perfect": ([3, 4, 5], [-3, -4, -5]),
    "inverted": ([-3, -4, -5], [3, 4, 5]),
    "constant": ([0] * 5, [0] * 7),
    "one each": ([1], [0]),
    "ties": ([0, 0, 1, 1], [0, 0, -1, -1]),
}


few = settings(max_examples=40, deadline=None)


def trials(bonafide, spoof):
    scores = np.array([*bonafide, *spoof], dtype=np.float64)
    return scores, np.array([1] * len(bonafide) + [0] * len(spoof))


def normal_trials(bonafide=400, spoof=900, shift=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return trials(rng.normal(shift, 1, bonafide), rng.normal(0, 1, spoof))


@st.composite
def any_trials(draw):
    """Small sets with many ties: whole-number scores."""
    numbers = st.lists(st.integers(-6, 6), min_size=1, max_size=15)
    return trials(draw(numbers), draw(numbers))


# --- golden values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reference", "interp", "dcf", "bits", "actual"),
    [
        ("A", 0.25, 0.25, 0.5, 0.8517480047, 0.5),
        ("B", 0.225, 0.2, 0.375, 0.6071435454, 0.755),
        ("perfect", 0, 0, 0, 0.0353232474, 0),
        ("inverted", 1, 1, 1, 5.8061034109, 2.9),
        ("constant", 1, 0.5, 1, 1, 1),
        ("one each", 0, 0, 0, 0.7259705415, 1),
        ("ties", 0.5, 0.25, 0.5, 0.7259705415, 0.5),
    ],
)
def test_golden_values(name, reference, interp, dcf, bits, actual):
    scored = trials(*SETS[name])
    assert eer(*scored, method="reference") == pytest.approx(reference, abs=1e-12)
    assert eer(*scored) == pytest.approx(interp, abs=1e-12)
    assert min_dcf(*scored) == pytest.approx(dcf, abs=1e-12)
    assert cllr(*scored) == pytest.approx(bits, abs=5e-11)
    assert act_dcf(*scored) == pytest.approx(actual, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "hull"), [("A", 0.25), ("B", 1 / 6), ("perfect", 0), ("constant", 0.5), ("ties", 0.25)]
)
def test_golden_hull_eer(name, hull):
    assert eer(*trials(*SETS[name]), method="rocch") == pytest.approx(hull, abs=1e-12)


@pytest.mark.parametrize(("name", "threshold"), [("A", 0.0), ("B", -0.3)])
def test_golden_reference_threshold(name, threshold):
    assert reference_eer(*trials(*SETS[name]))[1] == threshold


def test_the_reference_threshold_below_all_scores():
    """Two equally bad points: the first is taken, which rejects nothing; its threshold is the least score - 0.001."""
    assert reference_eer(*trials([0.0, 0.0], [1.0]))[0] == 1.0
    assert reference_eer([5.0, 5.0], [1, 0]) == (1.0, 5.0)


def test_bayes_threshold_and_normaliser_of_asvspoof_5():
    costs = Costs()
    assert (costs.miss, costs.fa, costs.spoof_prior) == (1, 10, 0.05)
    assert costs.bayes_threshold == pytest.approx(-0.641854, abs=5e-7)
    assert costs.weights == pytest.approx((0.95, 0.5))
    assert float(costs.dcf(0, 1)) == pytest.approx(1)  # accept everything
    assert float(costs.dcf(1, 0)) == pytest.approx(1.9)  # reject everything
    assert float(costs.dcf(1, 1)) == pytest.approx(2.9)  # the worst actDCF


def test_other_costs_are_used():
    """Equal costs and priors: minDCF is twice the least mean of both error rates."""
    scored = normal_trials()
    curve = det_curve(*scored)
    even = Costs(miss=1, fa=1, spoof_prior=0.5)
    assert even.bayes_threshold == 0
    assert min_dcf(*scored, even) == pytest.approx((curve.p_miss + curve.p_fa).min())
    assert act_dcf(*scored, even) == pytest.approx(2 * rates(*scored, threshold=0).hter)


# --- the definitions, by brute force ---------------------------------------------------------------------------------


def brute_force_eer(scores, labels):
    """Walk the thresholds upwards and interpolate where P_miss overtakes P_fa."""
    before = (0.0, 1.0)
    for threshold in [*sorted(set(scores.tolist())), math.inf]:
        now = ((scores[labels == 1] < threshold).mean(), (scores[labels == 0] >= threshold).mean())
        if now[0] >= now[1]:
            rise, fall = now[0] - before[0], before[1] - now[1]
            return before[0] + rise * (before[1] - before[0]) / (rise + fall)
        before = now
    raise AssertionError("the last point has P_miss 1 and P_fa 0")


@few
@given(any_trials())
def test_interpolated_eer_is_its_definition(scored):
    assert eer(*scored) == pytest.approx(brute_force_eer(*scored), abs=1e-12)


@few
@given(any_trials())
def test_hull_eer_is_the_minimax_of_the_weighted_errors(scored):
    curve = det_curve(*scored)
    weight = np.linspace(0, 1, 2001)[:, None]
    minimax = (weight * curve.p_miss + (1 - weight) * curve.p_fa).min(axis=1).max()
    assert minimax <= eer(*scored, method="rocch") + 1e-12
    assert eer(*scored, method="rocch") == pytest.approx(minimax, abs=1e-3)


@few
@given(any_trials())
def test_reference_eer_is_one_rejection_after_another(scored):
    scores, labels = scored
    pairs = sorted(zip(scores, -labels, strict=True))  # bona fide first within a tie
    misses = alarms = 0
    bonafide, spoof = int(labels.sum()), int((1 - labels).sum())
    best = (1.0, 0.5)
    for _, negated in pairs:
        misses, alarms = misses - negated, alarms + (negated == 0)
        miss, fa = misses / bonafide, (spoof - alarms) / spoof
        best = min(best, (abs(miss - fa), (miss + fa) / 2), key=lambda point: point[0])
    assert eer(*scored, method="reference") == pytest.approx(best[1], abs=1e-12)


@few
@given(any_trials())
def test_det_curve_and_rates_agree(scored):
    scores, labels = scored
    curve = det_curve(scores, labels)
    assert (curve.p_miss[0], curve.p_fa[0]) == (0, 1)
    assert (curve.p_miss[-1], curve.p_fa[-1], curve.thresholds[-1]) == (1, 0, math.inf)
    for threshold, miss, fa in zip(*curve, strict=True):
        found = rates(scores, labels, threshold)
        assert (found.p_miss, found.p_fa) == (miss, fa)
        assert found.accuracy == pytest.approx(((scores >= threshold) == labels).mean())
        assert found.hter == (miss + fa) / 2


@few
@given(any_trials())
def test_eer_threshold_balances_best(scored):
    found = rates(*scored, threshold=eer_threshold(*scored))
    curve = det_curve(*scored)
    assert abs(found.p_miss - found.p_fa) == np.abs(curve.p_miss - curve.p_fa).min()


def test_eer_threshold_lies_between_the_classes_when_they_separate():
    assert eer_threshold([0, 1, 3, 5], [0, 0, 1, 1]) == 2
    close = np.nextafter(1.0, 2.0)
    assert eer_threshold([1.0, close], [0, 1]) == close  # nothing lies between these two


@few
@given(any_trials())
def test_min_cllr_is_cllr_after_isotonic_regression(scored):
    scores, labels = scored
    balanced = np.where(labels == 1, 1 / labels.sum(), 1 / (1 - labels).sum())
    posterior = IsotonicRegression().fit(scores, labels, sample_weight=balanced).predict(scores)
    with np.errstate(divide="ignore"):
        llr = np.log(posterior) - np.log1p(-posterior)
    cost = np.where(labels == 1, np.logaddexp(0, -llr), np.logaddexp(0, llr))
    assert min_cllr(scores, labels) == pytest.approx((balanced * cost).sum() / (2 * math.log(2)), abs=1e-9)


# --- invariants ------------------------------------------------------------------------------------------------------


@few
@given(any_trials())
def test_an_increasing_map_changes_only_calibration(scored):
    scores, labels = scored
    mapped = scores**3 + scores + 7
    for metric in (eer, min_dcf, min_cllr):
        assert metric(mapped, labels) == metric(scores, labels)
    for method in ("reference", "rocch"):
        assert eer(mapped, labels, method) == eer(scores, labels, method)


def test_a_shift_moves_cllr_and_act_dcf():
    scores, labels = normal_trials()
    assert cllr(scores + 3, labels) > cllr(scores, labels) + 0.1
    assert act_dcf(scores - 3, labels) > act_dcf(scores, labels) + 0.1


@few
@given(any_trials())
def test_negated_scores_have_the_complementary_eer(scored):
    scores, labels = scored
    assert eer(scores, labels) + eer(-scores, labels) == pytest.approx(1, abs=1e-12)


@few
@given(any_trials())
def test_bounds(scored):
    assert 0 <= min_dcf(*scored) <= min(1, act_dcf(*scored)) <= 2.9
    assert -1e-12 <= min_cllr(*scored) <= min(1, cllr(*scored)) + 1e-12
    assert 0 <= eer(*scored, method="rocch") <= min(0.5, eer(*scored)) + 1e-12


@few
@given(any_trials(), st.randoms(use_true_random=False))
def test_neither_order_nor_duplication_matters(scored, random):
    scores, labels = scored
    order = list(range(len(scores)))
    random.shuffle(order)
    for metric in (eer, min_dcf, act_dcf, cllr, min_cllr, eer_threshold):
        value = metric(scores, labels)
        assert metric(scores[order], labels[order]) == pytest.approx(value, abs=1e-12)
        assert metric(np.tile(scores, 3), np.tile(labels, 3)) == pytest.approx(value, abs=1e-12)


def test_a_random_scorer():
    scores, labels = normal_trials(5000, 5000, shift=0.0)
    assert eer(scores, labels) == pytest.approx(0.5, abs=0.02)
    assert 0.97 < min_dcf(scores, labels) <= 1
    assert cllr(scores, labels) > 1


def test_normal_scores_have_the_analytic_eer_and_cllr_calibration():
    """N(2, 1) against N(0, 1): EER is Phi(-1), the log-likelihood ratio is 2s - 2."""
    scores, labels = normal_trials(40_000, 40_000)
    assert eer(scores, labels) == pytest.approx(0.158655, abs=0.003)
    llr = 2 * scores - 2
    assert cllr(llr, labels) - min_cllr(llr, labels) < 0.002
    assert cllr(scores, labels) - min_cllr(scores, labels) > 0.05


# --- traps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [710.0, 1e4, 1e300])
def test_cllr_does_not_overflow(size):
    """ln(1 + e^s) is s there; the reference gives inf."""
    assert cllr([-size, size], [1, 0]) == pytest.approx(size / math.log(2))
    assert cllr([size, -size], [1, 0]) == pytest.approx(0, abs=1e-300)


def test_saturated_scores_are_ties_which_inflate_the_reference():
    """Everything from 0.5 up became 0.5: the DET curve ends in a straight line, the reference in a corner."""
    scores, labels = normal_trials(40_000, 40_000)
    saturated = torch.tensor(scores).clamp(max=0.5)
    miss, fa = 0.066807, 0.308538  # Phi(-1.5), Phi(-0.5): at the last threshold that rejects something
    assert eer(saturated, labels) == pytest.approx(fa / (1 - miss + fa), abs=0.005)
    assert eer(saturated, labels, method="reference") == pytest.approx(fa, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_every_precision(dtype):
    scores, labels = trials(*SETS["A"])
    given = torch.tensor(scores, dtype=dtype, requires_grad=True)
    assert eer(given, torch.tensor(labels)) == 0.25
    assert cllr(given, torch.tensor(labels == 1)) == pytest.approx(0.8517480047)


def test_sums_are_in_float64():
    scores = torch.full((200_000,), 1e-4, dtype=torch.float32)
    labels = torch.arange(200_000) % 2
    assert cllr(scores, labels) == pytest.approx(1, abs=1e-8)


METRICS = (eer, eer_threshold, reference_eer, det_curve, min_dcf, act_dcf, cllr, min_cllr)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, math.nan, 2.0], [1, 0, 1], r"score 1 is nan: .*\(1 are not\)"),
        ([1.0, 2.0, -math.inf], [1, 0, 1], "score 2 is -inf"),
        ([1.0, 2.0], [1, 1], "both classes are needed, got 2 bona fide and 0 spoof"),
        ([1.0, 2.0], [0, 0], "both classes are needed, got 0 bona fide and 2 spoof"),
        ([], [], "both classes are needed, got 0 bona fide and 0 spoof"),
        ([1.0, 2.0], [1, 2], "label 1 is 2: labels are 1"),
        ([1.0, 2.0], [1, 0, 0], "2 scores need as many labels"),
        ([[1.0], [2.0]], [[1], [0]], "one-dimensional"),
    ],
)
def test_bad_trials_are_refused(metric, scores, labels, message):
    with pytest.raises(KANError, match=message) as error:
        metric(scores, labels)
    assert "\n" not in str(error.value)


def test_other_bad_arguments():
    scored = trials(*SETS["A"])
    with pytest.raises(KANError, match="method must be one of interp, reference, rocch, got 'median'"):
        eer(*scored, method="median")
    with pytest.raises(KANError, match="threshold is NaN"):
        rates(*scored, threshold=math.nan)
    for options in ({"miss": 0}, {"fa": -1}, {"fa": math.inf}, {"spoof_prior": 0}, {"spoof_prior": 1}):
        with pytest.raises(KANError, match=next(iter(options))):
            Costs(**options)


# --- per attack ------------------------------------------------------------------------------------------------------


def attack_table(**options):
    scores = [3.0, 2.0, 1.0, 0.0, -1.0, -2.0, 1.5, 2.5, -3.0]
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0]
    attacks = ["-"] * 4 + ["A01", "A01", "A02", "A02", "A02"]
    return breakdown(scores, labels, attacks, resamples=0, **options)


def test_an_attack_stands_against_all_bona_fide():
    cells = attack_table()
    assert [(cell.attack, cell.bonafide, cell.spoof) for cell in cells] == [
        (POOLED, 4, 5),
        ("A01", 4, 2),
        ("A02", 4, 3),
    ]
    values = [cell.metrics["eer"].value for cell in cells]
    assert values[0] == eer([3, 2, 1, 0, -1, -2, 1.5, 2.5, -3], [1, 1, 1, 1, 0, 0, 0, 0, 0])
    assert values[1] == 0
    assert values[2] == eer([3, 2, 1, 0, 1.5, 2.5, -3], [1, 1, 1, 1, 0, 0, 0])
    assert values[0] != pytest.approx((values[1] + values[2]) / 2)  # pooled is not the mean


def test_bona_fide_is_filtered_by_codec_and_a_cell_without_a_class_is_nan():
    codecs = ["c1", "c1", "c2", "c2", "c1", "c1", "c2", "c2", "c2"]
    cells = {(cell.attack, cell.codec): cell for cell in attack_table(codecs=codecs)}
    assert len(cells) == 9
    assert (cells["A01", "c1"].bonafide, cells["A01", "c1"].spoof) == (2, 2)
    assert (cells["A02", "c1"].bonafide, cells["A02", "c1"].spoof) == (2, 0)
    assert math.isnan(cells["A02", "c1"].metrics["eer"].value)
    assert cells["A02", "c1"].as_json()["metrics"]["eer"] == {"value": None, "low": None, "high": None}
    assert cells["A02", "c2"].metrics["eer"].value == eer([1, 0, 1.5, 2.5, -3], [1, 1, 0, 0, 0])


def test_a_cell_of_one_speaker_has_a_value_and_no_interval():
    scores, labels = [3.0, 2.0, 1.0, -1.0, -2.0, 1.5], [1, 1, 1, 0, 0, 0]
    cells = breakdown(scores, labels, ["-"] * 3 + ["A01", "A02", "A02"], speakers=list("abcabc"), resamples=20)
    assert [math.isnan(cell.metrics["eer"].low) for cell in cells] == [False, True, False]
    assert not any(math.isnan(cell.metrics["eer"].value) for cell in cells)


def test_the_printed_table_has_counts_beside_percent(capsys):
    from rich.console import Console

    Console(width=100).print(print_ready(attack_table(), "title"))
    lines = capsys.readouterr().out.splitlines()
    assert any("EER %" in line and "minDCF" in line for line in lines)
    assert next(line for line in lines if "A02" in line).split()[:4] == ["A02", "4", "3", "50.00"]


def test_attacks_of_another_length():
    with pytest.raises(KANError, match="3 trials need as many attacks, got 2"):
        breakdown([1, 2, 3], [1, 0, 0], ["-", "A01"])
