"""Affine calibration: it finds known log-likelihood ratios, stays finite and increasing, and helps held-out trials."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kan_audio.metrics.calibration import Calibration, fit_calibration, llr_from_logits
from kan_audio.metrics.spoofing import act_dcf, cllr, eer, min_cllr
from kan_core.errors import KANError


def normal_trials(bonafide, spoof, seed=0):
    """N(1, 1) against N(-1, 1): the log-likelihood ratio of s is 2s."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(1, 1, bonafide), rng.normal(-1, 1, spoof)])
    return scores, np.array([1] * bonafide + [0] * spoof)


@pytest.mark.parametrize("spoof_prior", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("counts", [(20_000, 20_000), (2_000, 38_000)])
def test_known_log_likelihood_ratios_are_found_at_any_prior_and_any_class_balance(spoof_prior, counts):
    found = fit_calibration(*normal_trials(*counts), spoof_prior=spoof_prior)
    assert found.scale == pytest.approx(2, abs=0.15)
    assert found.offset == pytest.approx(0, abs=0.15)


def test_an_affine_change_of_the_scores_changes_nothing():
    scores, labels = normal_trials(300, 500)
    first = fit_calibration(scores, labels).llr(scores)
    changed = 1e-3 * scores + 40
    np.testing.assert_allclose(fit_calibration(changed, labels).llr(changed), first, atol=1e-5)


def test_held_out_trials_gain_in_cost_and_lose_nothing_in_discrimination():
    dev, labels = normal_trials(500, 2000)
    heard, truth = normal_trials(500, 2000, seed=1)
    raw = 12 * heard + 5  # over-confident and shifted
    llr = fit_calibration(12 * dev + 5, labels).llr(raw)
    assert eer(llr, truth) == eer(raw, truth)
    assert cllr(raw, truth) > 1.5  # worse than saying nothing
    assert cllr(llr, truth) - min_cllr(llr, truth) < 0.03
    assert act_dcf(llr, truth) < act_dcf(raw, truth)


@pytest.mark.parametrize("n", [1, 3, 50])
def test_two_separated_clusters_come_to_the_rule_of_succession(n):
    """n trials at 1 against n at 0: ln(n + 1) is what n trials without an exception are worth."""
    found = fit_calibration([1.0] * n + [0.0] * n, [1] * n + [0] * n)
    np.testing.assert_allclose(found.llr([1.0, 0.0]), [math.log(n + 1), -math.log(n + 1)], atol=1e-5)


@pytest.mark.parametrize("spoof_prior", [1e-4, 0.05, 0.5, 0.9999])
@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([3.0, 4.0, 5.0, -3.0, -4.0, -5.0], [1, 1, 1, 0, 0, 0]),  # separable
        ([-3.0, -4.0, 5.0, 6.0], [1, 1, 0, 0]),  # inverted
        ([2.0, 2.0, 2.0], [1, 0, 0]),  # constant
        ([0.1] * 7, [1, 0, 0, 1, 0, 0, 0]),
        ([1e-12, 0.0], [1, 0]),
        ([1e12, -1e12, 5.0], [1, 0, 0]),
        ([1000.0, 0.0, 0.1, 0.2], [0, 1, 1, 0]),  # an outlier on the wrong side
    ],
)
def test_the_map_is_finite_and_increasing_whatever_the_scores(scores, labels, spoof_prior):
    found = fit_calibration(scores, labels, spoof_prior)
    assert 0 < found.scale < math.inf
    assert np.isfinite(found.llr(scores)).all()


def test_useless_scores_get_ratios_near_zero():
    for scores, labels in (([-3.0, -4.0, 5.0, 6.0], [1, 1, 0, 0]), ([2.0] * 6, [1, 0, 0, 0, 0, 0])):
        np.testing.assert_allclose(fit_calibration(scores, labels).llr(scores), 0, atol=1e-4)


def test_softening_vanishes_with_the_number_of_trials():
    """The plain optimum has slope zero of the unsoftened objective; the found one comes near it as 1/n."""

    def slope(n):
        scores, labels = normal_trials(n, n)
        found = fit_calibration(scores, labels, spoof_prior=0.5)
        posterior = 1 / (1 + np.exp(-found.llr(scores)))
        return abs(((posterior - labels) * scores).mean())

    assert slope(30) < 0.05
    assert slope(30_000) < slope(30) / 200


def test_probability_is_bayes_rule():
    calibration = Calibration(scale=2.0, offset=-1.0)
    np.testing.assert_allclose(calibration.llr([0.5, 1.0]), [0, 1])
    np.testing.assert_allclose(calibration.probability([0.5], spoof_prior=0.05), [0.95])
    np.testing.assert_allclose(calibration.probability([0.5], spoof_prior=0.3), [0.7])
    odds = math.e * 0.95 / 0.05
    np.testing.assert_allclose(calibration.probability(torch.tensor([1.0])), [odds / (1 + odds)])
    np.testing.assert_allclose(calibration.probability([1e6, -1e6]), [1, 0])


def test_log_likelihood_ratios_from_logits():
    logits = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    np.testing.assert_allclose(llr_from_logits(logits), [2, -2])
    # weights that undo the counts leave nothing to correct
    np.testing.assert_allclose(llr_from_logits(logits, (0.1, 0.9), (900, 100)), [2, -2])
    np.testing.assert_allclose(llr_from_logits(logits, class_counts=(900, 100)), [2 + math.log(9), -2 + math.log(9)])
    np.testing.assert_allclose(llr_from_logits(logits.half(), (0.1, 0.9)), [2 - math.log(9), -2 - math.log(9)])


def test_the_logits_of_a_model_trained_unbalanced_are_calibrated_by_their_counts():
    """A posterior learned at 1:9 has the log-odds llr + ln(1/9)."""
    scores, labels = normal_trials(2_000, 18_000)
    llr = 2 * scores
    log_odds = llr + math.log(1 / 9)
    logits = np.stack([np.zeros_like(log_odds), log_odds], axis=1)
    np.testing.assert_allclose(llr_from_logits(logits, class_counts=(18_000, 2_000)), llr)
    assert cllr(llr_from_logits(logits, class_counts=(18_000, 2_000)), labels) < cllr(log_odds, labels)


def test_bad_arguments():
    with pytest.raises(KANError, match="spoof_prior=1"):
        fit_calibration([1, 0], [1, 0], spoof_prior=1)
    with pytest.raises(KANError, match="both classes are needed"):
        fit_calibration([1, 0], [1, 1])
    with pytest.raises(KANError, match="too large or too close"):
        fit_calibration([1e308, -1e308], [1, 0])
    with pytest.raises(KANError, match="score 0 is nan"):
        Calibration(1, 0).llr([math.nan])
    with pytest.raises(KANError, match=r"logits must be \(trials, 2\)"):
        llr_from_logits(np.zeros((3, 3)))
    with pytest.raises(KANError, match="class_counts must be two positive numbers"):
        llr_from_logits(np.zeros((3, 2)), class_counts=(0, 5))
    with pytest.raises(KANError, match="score 1 is inf"):
        llr_from_logits([[0, 0], [0, math.inf]])
    for scale, offset in ((0, 0), (-1, 0), (math.inf, 0), (1, math.nan)):
        with pytest.raises(KANError, match="positive scale"):
            Calibration(scale, offset)
