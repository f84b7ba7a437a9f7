"""The two-stage search: card `hea.md`, facts 7, 8 and 12."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, root_mean_squared_error

from kan_core.errors import KANError
from kan_tabular import KANClassifier, KANRegressor
from kan_tabular.alloys import AlloyCascade, alloy_descriptors, is_hea_by_rule, out_of_range, synthetic_alloys

ALLOYS = synthetic_alloys(300, seed=5)
X, Y, HEA = ALLOYS.X, ALLOYS.bulk_modulus, ALLOYS.single_phase.to_numpy()
TRAIN, TEST = np.arange(200), np.arange(200, 300)


@pytest.fixture(scope="module")
def cascade():
    model = AlloyCascade(RandomForestClassifier(50, random_state=0), RandomForestRegressor(50, random_state=0))
    return model.fit(X.iloc[TRAIN], Y.iloc[TRAIN], HEA[TRAIN])


def report(cascade, **options):
    return cascade.report(X.iloc[TEST], Y.iloc[TEST], HEA[TEST], **options)


def at(cascade, threshold):
    """The same fitted stages with another threshold."""
    return clone(cascade).set_params(threshold=threshold).fit(X.iloc[TRAIN], Y.iloc[TRAIN], HEA[TRAIN])


def test_fact_7_all_negative_predictions_have_f1_0_and_no_warning(cascade):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = report(at(cascade, 1.01))
    assert found.f1 == 0
    assert found.accepted == 0


def test_fact_7_f1_is_that_of_the_accepted_class(cascade):
    found = report(cascade)
    assert found.f1 == f1_score(HEA[TEST], cascade.predict_hea(X.iloc[TEST]) >= 0.5, pos_label=True)
    assert found.f1 > 0.7
    rule = np.zeros(100, dtype=bool)
    assert report(cascade, rule=rule).rule_f1 == 0
    assert report(cascade, rule=HEA[TEST]).rule_f1 == 1
    assert np.isnan(found.rule_f1)


def test_fact_8_threshold_0_is_plain_regression(cascade):
    open_gate = at(cascade, 0)
    plain = RandomForestRegressor(50, random_state=0).fit(X.iloc[TRAIN][HEA[TRAIN]], Y.iloc[TRAIN][HEA[TRAIN]])
    np.testing.assert_array_equal(open_gate.predict(X.iloc[TEST]), plain.predict(X.iloc[TEST]))
    found = report(open_gate)
    assert found.accepted == found.model.rows == 100
    assert found.model.rmse == root_mean_squared_error(Y.iloc[TEST], plain.predict(X.iloc[TEST]))


def test_fact_8_threshold_above_1_masks_everything(cascade):
    closed = at(cascade, 1.01)
    assert np.isnan(closed.predict(X.iloc[TEST])).all()
    found = report(closed)
    assert (found.accepted, found.model.rows) == (0, 0)
    assert np.isnan(found.model.rmse)
    # the regressor itself is as good as ever
    assert found.oracle == report(cascade).oracle


def test_fact_12_a_composition_outside_training_is_flagged():
    low_nickel = ALLOYS.fractions["Ni"] < 0.3
    fractions = ALLOYS.fractions
    model = AlloyCascade(LogisticRegression(max_iter=500), LinearRegression())
    model.fit(fractions[low_nickel], Y[low_nickel], HEA[low_nickel])
    assert (model.out_of_grid(fractions[low_nickel]) == 0).all()
    outside = model.out_of_grid(fractions[~low_nickel])
    assert (outside > 0).all()
    assert outside.max() == pytest.approx(1 / 15)


def test_values_that_are_missing_or_categories_are_not_outside():
    train = pd.DataFrame({"a": [0.0, 1.0], "b": ["x", "y"], "c": [5.0, np.nan]})
    rows = pd.DataFrame({"a": [2.0, np.nan, -1.0], "b": ["z", "x", "x"], "c": [np.nan, 5.0, 6.0]})
    numbers = train[["a", "c"]]
    assert out_of_range(rows, numbers.min(), numbers.max()).tolist() == [0.5, 0, 1]


def test_errors_are_judged_on_the_rows_each_gate_lets_through(cascade):
    found = report(cascade)
    predicted = cascade.regressor_.predict(X.iloc[TEST])
    accepted = cascade.predict_hea(X.iloc[TEST]) >= 0.5
    for gate, rows in ((found.oracle, HEA[TEST]), (found.model, accepted)):
        assert gate.rows == rows.sum()
        assert gate.rmse == root_mean_squared_error(Y.iloc[TEST][rows], predicted[rows])
        assert gate.r2 < 1
    assert np.isnan(cascade.predict(X.iloc[TEST])).tolist() == (~accepted).tolist()


def test_a_target_that_only_heas_have_is_enough(cascade):
    partial = Y.where(HEA)
    model = clone(cascade).fit(X.iloc[TRAIN], partial.iloc[TRAIN], HEA[TRAIN])
    np.testing.assert_array_equal(model.predict(X.iloc[TEST]), cascade.predict(X.iloc[TEST]))
    found = model.report(X.iloc[TEST], partial.iloc[TEST], HEA[TEST])
    accepted = model.predict_hea(X.iloc[TEST]) >= 0.5
    assert found.model.rows == (accepted & HEA[TEST]).sum()


def test_the_best_are_ranked_by_probability_times_prediction(cascade):
    score = cascade.predict_hea(X.iloc[TEST]) * cascade.regressor_.predict(X.iloc[TEST])
    order = cascade.rank(X.iloc[TEST])
    assert (np.diff(score[order]) <= 0).all()
    found = report(cascade, top_k=7)
    assert (found.top_k, found.top_k_true) == (7, HEA[TEST][order[:7]].sum())
    assert report(cascade, top_k=1000).top_k == 100


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [
        ([0.2] * 5, True),
        ([0.25] * 4, False),
        ([0.35, 0.35, 0.1, 0.1, 0.1], True),
        ([0.36, 0.34, 0.1, 0.1, 0.1], False),
        ([0.2, 0.2, 0.2, 0.2, 0.16, 0.04], True),
        ([0.2, 0.2, 0.2, 0.2, 0.04, 0.16], True),
        ([0.24, 0.24, 0.24, 0.24, 0.04], False),
    ],
)
def test_the_rule_wants_five_elements_of_5_to_35_percent(fractions, expected):
    assert is_hea_by_rule([fractions]).tolist() == [expected]


def test_where_the_class_is_the_definition_the_rule_is_perfect():
    truth = is_hea_by_rule(ALLOYS.fractions)
    model = AlloyCascade(RandomForestClassifier(20, random_state=0), LinearRegression())
    found = model.fit(X.iloc[TRAIN], Y.iloc[TRAIN], truth[TRAIN]).report(
        X.iloc[TEST], Y.iloc[TEST], truth[TEST], rule=is_hea_by_rule(ALLOYS.fractions)[TEST]
    )
    assert found.rule_f1 == 1 > found.f1


def test_kans_in_both_stages():
    model = AlloyCascade(
        KANClassifier(hidden=(), max_epochs=15, random_state=0),
        KANRegressor(hidden=(), max_epochs=15, random_state=0),
    )
    model.fit(X.iloc[TRAIN], Y.iloc[TRAIN], HEA[TRAIN])
    found = report(model)
    baseline = AlloyCascade(DummyClassifier(), LinearRegression()).fit(X.iloc[TRAIN], Y.iloc[TRAIN], HEA[TRAIN])
    assert found.f1 > report(baseline).f1
    assert found.oracle.r2 > 0.5
    assert found.top_k == 10


def test_extrapolation_shows_in_descriptors_too(cascade):
    rhenium = alloy_descriptors([[1.0, 0.0], [0.5, 0.5]], ["Re", "W"])
    rows = pd.DataFrame(np.column_stack([rhenium, [[40.0, 50.0], [90.0, 50.0]]]), columns=X.columns)
    outside = cascade.out_of_grid(rows)
    assert outside[1] >= 1 / 11


@pytest.mark.parametrize(
    ("y", "hea", "message"),
    [
        (Y, np.ones(300, dtype=bool), "300 of 300 rows are HEA"),
        (Y, np.zeros(300, dtype=bool), "0 of 300 rows are HEA"),
        (Y.where(~HEA), HEA, "missing in .* HEA rows"),
        (Y, HEA.astype(int), "are booleans"),
        (Y, HEA[:5], r"shape \(300,\), got bool of shape \(5,\)"),
    ],
)
def test_bad_input(y, hea, message):
    with pytest.raises(KANError, match=message):
        AlloyCascade(LogisticRegression(), LinearRegression()).fit(X, y, hea)
