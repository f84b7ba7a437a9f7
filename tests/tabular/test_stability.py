"""Overlap of selections, frequencies and redundancy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif, f_regression

from kan_core.errors import KANError
from kan_tabular.estimators import KANRegressor
from kan_tabular.selection import KANSelector
from kan_tabular.stability import jaccard, redundancy, selection_stability


def test_jaccard_is_the_mean_overlap_of_all_pairs():
    masks = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]]
    mean, spread = jaccard(masks)
    assert mean == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    assert spread == pytest.approx(np.std([1 / 3, 1, 1 / 3]))


def test_equal_selections_overlap_fully_and_disjoint_ones_not_at_all():
    assert jaccard([[1, 0, 1]] * 4) == (1.0, 0.0)
    assert jaccard([[1, 0, 0], [0, 1, 1]]) == (0.0, 0.0)
    assert jaccard([[0, 0], [0, 0]])[0] == 1.0
    assert jaccard([[0, 0], [0, 1]])[0] == 0.0


def test_redundancy_is_the_mean_correlation_of_pairs():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 50))
    table = np.column_stack([a, -2 * a, b])
    c = abs(np.corrcoef(a, b)[0, 1])
    assert redundancy(table) == pytest.approx((1 + 2 * c) / 3)
    assert redundancy(table, [True, True, False]) == pytest.approx(1)
    assert math.isnan(redundancy(table, [True, False, False]))


def test_redundancy_skips_what_has_no_correlation():
    random = np.random.default_rng(0)
    a = random.normal(size=40)
    frame = pd.DataFrame({"a": a, "constant": 1.0, "text": ["x", "y"] * 20, "b": a, "empty": np.nan, "flag": a > 0})
    frame["b"] = frame["b"].mask(a < -1)
    expected = [1.0, np.corrcoef(a, a > 0)[0, 1], np.corrcoef(a[a >= -1], a[a >= -1] > 0)[0, 1]]
    assert redundancy(frame) == pytest.approx(np.mean(expected))
    x, _ = load_digits(n_class=3, return_X_y=True)  # 8 constant pixels: no warning, no NaN
    assert 0 < redundancy(x) < 1


def test_a_selector_that_always_keeps_the_same_is_stable():
    x = np.random.default_rng(0).normal(size=(50, 4)) * [1, 0.01, 1, 1]
    found = selection_stability(VarianceThreshold(0.1), x, np.arange(50.0), n_resamples=4, random_state=0)
    assert (found.jaccard, found.jaccard_std) == (1.0, 0.0)
    assert found.frequency.tolist() == [1, 0, 1, 1]
    assert found.supports.shape == (4, 4)
    assert 0 < found.redundancy < 1
    assert found.redundancy_all == pytest.approx(redundancy(x))


def test_selection_from_noise_is_unstable_and_frequencies_say_so():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 30)), random.integers(0, 2, 60)
    x[:, 7] += 4 * y
    found = selection_stability(SelectKBest(f_classif, k=6), x, y, fraction=0.5, random_state=0)
    assert found.frequency[7] == 1
    assert found.frequency.sum() == pytest.approx(6)
    assert found.jaccard < 0.7
    assert (found.jaccard, found.frequency.tolist()) == (
        jaccard(found.supports)[0],
        found.supports.mean(axis=0).tolist(),
    )


def test_a_seed_repeats_the_resamples_and_the_selector_stays_unfitted():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 10)), random.normal(size=60)
    selector = SelectKBest(f_regression, k=3)
    first, second, other = (selection_stability(selector, x, y, fraction=0.5, random_state=s) for s in (1, 1, 2))
    assert (first.supports == second.supports).all()
    assert (first.supports != other.supports).any()
    assert not hasattr(selector, "scores_")


def test_classes_keep_their_proportions_in_every_part():
    seen = []

    class Recorder(SelectKBest):
        def fit(self, x, y):
            seen.append(np.bincount(y).tolist())
            return super().fit(x, y)

    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.repeat([0, 1], [30, 10])
    selection_stability(Recorder(f_classif, k=1), x, y, n_resamples=3, fraction=0.5)
    assert seen == [[15, 5]] * 3


def test_the_kan_selector_on_a_data_frame():
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": random.normal(size=80), "kind": random.choice(["x", "y"], 80), "c": random.normal(size=80)}
    )
    y = frame["a"] + (frame["kind"] == "x")
    estimator = KANRegressor(hidden=(), max_epochs=20)
    selector = KANSelector(n_features=2, folds=2, estimator=estimator, random_state=0)
    found = selection_stability(selector, frame, y, n_resamples=2, random_state=0)
    assert found.jaccard == 1
    assert found.frequency.tolist() == [1, 1, 0]
    assert math.isnan(found.redundancy)  # one numeric column


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_resamples": 1}, "n_resamples must be at least 2, got 1"),
        ({"fraction": 1.0}, "fraction must lie between 0 and 1, got 1.0"),
        ({"fraction": 0.0}, "fraction must lie between 0 and 1"),
    ],
)
def test_resamples_that_cannot_be_compared_are_refused(options, message):
    with pytest.raises(KANError, match=message):
        selection_stability(VarianceThreshold(), np.ones((4, 2)), np.arange(4.0), **options)


def test_one_mask_has_no_pairs():
    with pytest.raises(KANError, match="supports must be at least two masks"):
        jaccard([[1, 0]])
