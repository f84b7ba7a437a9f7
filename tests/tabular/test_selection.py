"""The selector: scikit-learn's contract, the rules of what is kept, no leak, and the card's facts that need training.

Networks here are small and trained for a few passes: what is tested is the selection, not how well a network predicts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.feature_selection import mutual_info_regression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from kan_core.errors import KANError
from kan_tabular.estimators import KANClassifier, KANRegressor
from kan_tabular.scores import SCORES, column_scores, normalised
from kan_tabular.selection import (
    ALPHAS,
    KANSelector,
    TrainedFolds,
    _folds,
    _own_estimator,
    _strongest_prior,
    number_to_keep,
    ranking,
    train_folds,
)

FAST = {"hidden": (), "max_epochs": 20, "random_state": 0}
LINEAR = {"hidden": (), "layer": "linear", "max_epochs": 20}


def regression_table(rows=150, columns=6, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, columns))
    return x, np.sin(2 * x[:, 1]) + x[:, 4] + 0.1 * random.normal(size=rows)


def scores_of(x, y, **options):
    """Every score of one regressor on its training rows."""
    fitted = KANRegressor(random_state=0, **options).fit(x, y)
    target = (y - fitted.target_center_) / fitted.target_scale_
    encoded = fitted.encoder_.transform(x)
    return {name: column_scores(fitted.module_, encoded, score=name, y=target) for name in SCORES}


# scikit-learn's contract ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "criterion",
    [name if name == KANSelector().criterion else pytest.param(name, marks=pytest.mark.slow) for name in SCORES],
)
def test_check_estimator_passes_without_exceptions(criterion):
    # one short pass of the smallest network: the checks are about the contract, and fit it a hundred times
    estimator = KANRegressor(hidden=(), layer="linear", optimizer="adam", max_epochs=1, batch_size=1_000_000)
    selector = KANSelector(criterion=criterion, estimator=estimator, folds=2)
    results = check_estimator(selector, expected_failed_checks={}, on_skip=None)
    assert len(results) >= 45
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= {"check_array_api_input"}  # skipped: off


def test_the_same_seed_gives_the_same_scores_and_no_global_generator_moves():
    x, y = regression_table()
    state, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    selector = KANSelector(estimator=KANRegressor(**FAST), folds=2, random_state=3)
    first, second = selector.fit(x, y).scores_, clone(selector).fit(x, y).scores_
    assert (first == second).all()
    assert (clone(selector).set_params(random_state=4).fit(x, y).scores_ != first).any()
    assert torch.equal(state, torch.random.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()


# What is kept ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_features", "columns", "kept"),
    [
        (1, 10, 1),
        (10, 10, 10),
        (0.2, 10, 2),
        (0.4, 9, 4),
        (0.1, 30, 3),
        (0.01, 10, 1),
        (0.6, 13, 8),
        (np.int64(3), 5, 3),
    ],
)
def test_a_fraction_keeps_the_next_whole_number_of_columns(n_features, columns, kept):
    assert number_to_keep(n_features, columns) == kept


def test_ties_are_broken_by_column_order():
    assert ranking(np.array([0.2, 0.3, 0.2, 0.3, 0.0])).tolist() == [3, 1, 4, 2, 5]


def test_columns_that_matter_are_kept_by_every_rule():
    x, y = regression_table()
    for n_features in (2, 0.3, "mean", "shadow"):
        options = {"criterion": "knockout", "folds": 2, "random_state": 0, "estimator": KANRegressor(**FAST)}
        selector = KANSelector(n_features=n_features, **options).fit(x, y)
        assert selector.get_support(indices=True).tolist() == [1, 4], n_features
        assert selector.scores_.sum() == pytest.approx(1)
        assert selector.raw_scores_.shape == (2, 6)
        assert sorted(selector.ranking_[[1, 4]]) == [1, 2]
        assert (selector.threshold_ is None) == (n_features != "shadow")
        assert len(selector.estimators_) == 2


def test_a_shadow_column_is_the_least_that_a_kept_column_beats():
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 5))
    options = {"estimator": KANRegressor(**FAST), "folds": 2, "random_state": 0, "n_features": "shadow"}
    selector = KANSelector(**options).fit(x, random.normal(size=80))
    mean = selector.raw_scores_.mean(axis=0)
    assert (selector.support_ == (mean > selector.threshold_)).all()
    assert selector.support_.sum() <= 3  # a target that knows nothing of the columns
    assert selector.estimators_[0].n_features_in_ == 10


def test_an_empty_selection_warns_and_leaves_no_column():
    x = np.ones((20, 3))
    selector = KANSelector(estimator=KANRegressor(**LINEAR), folds=2).fit(x, np.arange(20.0))
    assert (selector.scores_ == 0).all()
    with pytest.warns(UserWarning, match="No features were selected"):
        assert selector.transform(x).shape == (20, 0)
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    with pytest.warns(UserWarning, match="No features were selected"):
        assert clone(selector).fit(frame, np.arange(20.0)).transform(frame).shape == (20, 0)


# Tables ---------------------------------------------------------------------------------------------------------------


def messy(rows=120):
    random = np.random.default_rng(0)
    colour = random.choice(["red", "green", "blue"], rows)
    size = random.normal(10, 3, rows)
    frame = pd.DataFrame(
        {
            "noise": random.normal(size=rows),
            "colour": pd.Series(colour).mask(random.random(rows) < 0.1),
            "size": pd.Series(size).mask(random.random(rows) < 0.1),
            "flag": pd.array(random.random(rows) < 0.5, dtype="boolean"),
            "kind": pd.Categorical(random.choice(["a", "b"], rows)),
        }
    )
    return frame, pd.Series(np.where((colour == "red") ^ (size > 10), "yes", "no"), name="target")


def test_a_data_frame_with_categories_and_gaps_goes_in_and_a_data_frame_comes_out():
    frame, y = messy()
    selector = KANSelector(n_features=2, folds=2, random_state=0, estimator=KANClassifier(hidden=(6,), alpha=0.3))
    pipeline = make_pipeline(selector, KANClassifier(hidden=(6,), alpha=0.3, random_state=0)).fit(frame, y)
    assert pipeline[-1].feature_names_in_.tolist() == ["colour", "size"]
    assert pipeline.score(frame, y) > 0.8
    assert selector.get_feature_names_out().tolist() == ["colour", "size"]
    pd.testing.assert_frame_equal(selector.transform(frame), frame[["colour", "size"]])
    named = selector.set_output(transform="pandas").transform(frame)
    pd.testing.assert_frame_equal(named, frame[["colour", "size"]])
    with pytest.raises(ValueError, match="feature names should match"):
        selector.transform(frame[["colour", "noise", "size", "flag", "kind"]])


def test_shadows_of_categories_that_are_listed_are_categories():
    random = np.random.default_rng(0)
    x = np.column_stack([random.integers(0, 3, 60), random.normal(size=60)])
    estimator = KANRegressor(categorical_features=[0], **LINEAR)
    trained = train_folds(estimator, x, x[:, 1], folds=2, random_state=0, shadow=True)
    assert [column.kind for column in trained.estimators[0].encoder_.columns] == ["categorical", "numeric"] * 2
    assert estimator.categorical_features == [0]


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        (["no", "yes"] * 20, KANClassifier),
        ([3, 7] * 20, KANClassifier),
        ([0, 1, 2, 3] * 10, KANClassifier),
        ([True, False] * 20, KANClassifier),
        (list(range(40)), KANRegressor),
        ([0.5, 1.25, 3.0, 2.0] * 10, KANRegressor),
        (np.arange(80.0).reshape(40, 2), KANRegressor),
    ],
)
def test_the_target_says_whether_it_is_classes(y, kind):
    assert type(_own_estimator(y)) is kind
    assert type(_own_estimator(pd.Series(y) if np.ndim(y) == 1 else pd.DataFrame(y))) is kind


def test_without_an_estimator_the_prior_is_chosen_as_well():
    x, y = make_regression(60, 2, noise=5, random_state=0)
    selector = KANSelector(folds=2, random_state=0).fit(x, y)
    assert {type(estimator) for estimator in selector.estimators_} == {KANRegressor}
    assert len({estimator.alpha for estimator in selector.estimators_} & set(ALPHAS)) == 1


# Folds and the prior --------------------------------------------------------------------------------------------------


def test_held_out_rows_are_all_rows_once_with_each_class_in_every_part():
    labels = np.array(["a"] * 11 + ["b"] * 4 + ["c"])
    parts = _folds(labels, 16, 4, np.random.RandomState(0))
    assert sorted(np.concatenate(parts)) == list(range(15))  # the only row of its class is always trained on
    assert all((labels[part] == "b").sum() == 1 for part in parts)
    assert sorted(np.concatenate(_folds(None, 7, 10, np.random.RandomState(0)))) == list(range(7))


def test_scores_come_from_rows_that_were_not_trained_on():
    x, y = regression_table(60)
    trained = train_folds(KANRegressor(**LINEAR), x, y, folds=3, random_state=0)
    together = np.concatenate(
        [e.encoder_.original(0, rows[:, 0]) for e, rows in zip(trained.estimators, trained.rows, strict=True)]
    )
    np.testing.assert_allclose(np.sort(together), np.sort(x[:, 0]), rtol=1e-6)
    for estimator, rows in zip(trained.estimators, trained.rows, strict=True):
        low, high = x[:, 0].min(), x[:, 0].max()
        held = estimator.encoder_.original(0, rows[:, 0])
        column = estimator.encoder_.columns[0]
        assert column.low == pytest.approx(low) or np.isclose(held, low).any()
        assert column.high == pytest.approx(high) or np.isclose(held, high).any()


class Losses(TrainedFolds):
    """Folds whose held-out losses are given."""

    def __init__(self, values):
        super().__init__([], [], [])
        object.__setattr__(self, "values", np.array(values))

    def losses(self):
        return self.values


@pytest.mark.parametrize(
    ("centres", "chosen", "tried"),
    [
        ({1: 1.0, 4: 1.0, 16: 1.0, 64: 1.0}, 64, 4),
        ({1: 1.0, 4: 0.5, 16: 0.55, 64: 9.0}, 16, 4),  # within one standard error, 0.1, of 0.5
        ({1: 1.0, 4: 1.2, 16: 1.0, 64: 1.0}, 1, 2),
        ({1: 1.0, 4: 1.05, 16: 0.5, 64: 0.65}, 16, 4),
    ],
)
def test_the_strongest_prior_within_one_standard_error_is_taken(centres, chosen, tried):
    assert tuple(centres) == ALPHAS
    made = []

    def train(alpha):
        made.append(Losses(centres[alpha] + np.array([-1.0, 1.0] * 50)))  # deviation 1 of 100 rows
        return made[-1]

    taken = _strongest_prior(train)
    assert ALPHAS[made.index(taken)] == chosen
    assert len(made) == tried


# No leak --------------------------------------------------------------------------------------------------------------


def test_a_selector_inside_a_pipeline_leaves_noise_at_chance_where_selection_before_does_not():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 100)), random.permutation(np.arange(80) % 2)
    selector = KANSelector(n_features=10, folds=3, random_state=0, estimator=KANClassifier(alpha=100.0, **LINEAR))
    predictor = LogisticRegression()
    inside = cross_val_score(make_pipeline(selector, predictor), x, y, cv=3)
    outside = cross_val_score(predictor, clone(selector).fit(x, y).transform(x), y, cv=3)
    error = 0.5 / np.sqrt(80)
    assert abs(inside.mean() - 0.5) < 3 * error
    assert outside.mean() > 0.5 + 3 * error  # the mistake that the pipeline prevents


# The facts of spline-feature-selection.md, section 8: 1 to 4, and 6 (the others are in test_scores.py) ----------------


def test_additive_importance_is_recovered():
    x = np.random.default_rng(0).uniform(-1, 1, (400, 3))
    y = x[:, 0] ** 2 + 0.3 * x[:, 1] ** 2
    additive, full = scores_of(x, y, hidden=(), alpha=1.0), scores_of(x, y, alpha=1.0)
    for name in SCORES:
        share = normalised(additive[name])
        assert share[0] > share[1] > share[2], name
        assert share[2] < 0.01, name
        assert (np.diff(full[name]) < 0).all(), name
    for name in ("sensitivity", "knockout"):  # the others count first-layer edges that hidden units do not pass on
        assert normalised(full[name])[2] < 0.01, name


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_informative_columns_are_found(kind):
    if kind == "regression":
        x, y = make_regression(200, 12, n_informative=4, noise=10, shuffle=False, random_state=0)
    else:
        options = {"n_redundant": 0, "n_clusters_per_class": 1, "class_sep": 2, "shuffle": False, "random_state": 0}
        x, y = make_classification(200, 12, n_informative=4, **options)
    trained = train_folds(KANRegressor(**FAST) if kind == "regression" else KANClassifier(**FAST), x, y, folds=2)
    for name in SCORES:
        ranks = ranking(normalised(trained.scores(name).mean(axis=0)))
        precision = (ranks[:4] <= 4).mean()  # and recall, as many being kept as there are
        assert precision >= 0.75, name


def test_a_pure_interaction_is_found_where_marginal_information_is_none():
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (300, 6))
    y = x[:, 0] * x[:, 1] + 0.2 * random.normal(size=300)
    for name, score in scores_of(x, y, hidden=(8,), alpha=0.3).items():
        assert score[:2].min() > score[2:].max(), name
    information = mutual_info_regression(x, y, random_state=0)
    assert information[0] < 0.1


def test_the_copies_of_a_duplicated_column_share_its_score():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 5))
    y = x[:, 0] + np.sin(2 * x[:, 1]) + 0.5 * x[:, 2] ** 2 + 0.3 * random.normal(size=300)
    once = scores_of(x, y, hidden=(), alpha=1.0)
    twice = scores_of(np.column_stack([x, x[:, 1]]), y, hidden=(), alpha=1.0)
    for name in SCORES:
        copies = twice[name][[1, 5]] / once[name][1]
        if name == "knockout":  # a loss is quadratic: each copy does without the other at less than half the price
            assert (copies < 0.4).all()
        else:
            assert copies.sum() == pytest.approx(1, abs=0.2), name
        assert (np.argsort(once[name][[0, 2]]) == np.argsort(twice[name][[0, 2]])).all(), name
        assert once[name][[0, 2]].min() > once[name][[3, 4]].max(), name
        assert twice[name][[0, 2]].min() > twice[name][[3, 4]].max(), name


def test_rescaling_a_raw_column_by_1000_leaves_all_scores_unchanged():
    x, y = regression_table(100)
    scaled = x.copy()
    scaled[:, 1] *= 1000
    straight, other = (scores_of(table, y, hidden=(), alpha=3.0) for table in (x, scaled))
    for name in SCORES:
        np.testing.assert_allclose(other[name], straight[name], rtol=0.02, atol=0.002, err_msg=name)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "kan-l1"}, "criterion must be one of coef_l1.*got 'kan-l1'"),
        ({"n_features": 0}, "n_features must be .* a whole number from 1 to 3"),
        ({"n_features": 4}, "n_features must be .* a whole number from 1 to 3"),
        ({"n_features": 1.0}, "fraction between 0 and 1, got 1.0"),
        ({"n_features": True}, "n_features must be"),
        ({"n_features": "median"}, "n_features must be 'mean', 'shadow'"),
        ({"folds": 1}, "folds must be a whole number of at least 2, got 1"),
        ({"folds": 2.5}, "folds must be"),
        ({"estimator": LogisticRegression()}, "estimator must be a KANClassifier or KANRegressor"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(options, message):
    with pytest.raises(KANError, match=message):
        KANSelector(**options).fit(np.random.default_rng(0).normal(size=(12, 3)), np.arange(12.0))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((1, 2)), [1.0], "a minimum of 2 is required"),
        (np.ones((4, 2)), [1.0, 2.0], "inconsistent numbers of samples"),
        (np.ones((4, 2)), None, "requires y to be passed"),
        ([[1.0, np.inf], [1.0, 2.0], [0.0, 1.0]], [1.0, 2.5, 3.0], "infinity"),
        (np.ones((6, 2)), ["a"] * 6, "class"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        KANSelector(folds=2).fit(x, y)
