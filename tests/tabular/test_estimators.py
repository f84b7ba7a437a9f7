"""Both estimators keep scikit-learn's contract with no exception, and the acceptance facts of the conventions' card."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_linnerud
from sklearn.inspection import permutation_importance
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kan_tabular import KANClassifier, KANRegressor

RNG = np.random.default_rng


@pytest.mark.filterwarnings("default")
@parametrize_with_checks([KANClassifier(), KANRegressor()])
def test_scikit_learns_checks_pass_with_no_exception(estimator, check):
    check(estimator)


def mixed_table(rows=120, seed=0):
    """Every dtype that a data frame brings along, each with gaps, and a target that depends on three columns."""
    rng = RNG(seed)
    number, city = rng.normal(50, 10, rows), rng.choice(["Rome", "Oslo", "Lima"], rows)
    flag = rng.random(rows) < 0.5
    gap = rng.random((rows, 6)) < 0.1
    frame = pd.DataFrame(
        {
            "number": np.where(gap[:, 0], np.nan, number),
            "nullable": pd.array(np.where(gap[:, 1], None, rng.integers(0, 9, rows)), dtype="Int64"),
            "boolean": pd.array(np.where(gap[:, 2], None, flag), dtype="boolean"),
            "text": pd.Series(np.where(gap[:, 3], None, city), dtype="str"),
            "category": pd.Categorical(np.where(gap[:, 4], None, rng.choice(["s", "m", "l"], rows))),
            "object": pd.Series(np.where(gap[:, 5], None, rng.choice(["a", "b"], rows)), dtype=object),
            "empty": np.full(rows, np.nan),
            "constant": 7.0,
            "one_category": pd.Series(["only"] * rows, dtype="str"),
        }
    )
    return frame, number / 10 + 3 * (city == "Oslo") + 2 * flag + rng.normal(0, 0.3, rows)


QUICK = {"max_epochs": 20, "random_state": 0}


def test_a_data_frame_and_an_array_of_the_same_numbers_give_the_same_predictions():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    from_frame = KANRegressor(**QUICK).fit(X, y).predict(X)
    from_array = KANRegressor(**QUICK).fit(X.to_numpy(), y.to_numpy()).predict(X.to_numpy())
    np.testing.assert_array_equal(from_frame, from_array)


@pytest.mark.parametrize(
    "change",
    [lambda X: X[X.columns[::-1]], lambda X: X.rename(columns={"bmi": "BMI"}), lambda X: X.drop(columns="bmi")],
    ids=["order", "name", "left out"],
)
def test_columns_in_another_order_renamed_or_left_out_are_refused_at_predict(change):
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    estimator = KANRegressor(**QUICK).fit(X, y)
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(change(X))


def test_unknown_categories_and_gaps_in_every_dtype_give_finite_answers():
    X, y = mixed_table()
    estimator = KANRegressor(**QUICK).fit(X, y)
    new = X.head(3).copy()
    new["text"] = ["Atlantis", None, "Rome"]
    new["category"] = pd.Categorical(["xl", None, "s"])
    new = new.assign(number=np.nan, nullable=pd.array([pd.NA] * 3, dtype="Int64"), boolean=pd.NA, object=None)
    assert np.isfinite(estimator.predict(new)).all()
    assert estimator.score(X, y) > 0.8
    assert estimator.feature_importances_[[6, 7, 8]].tolist() == [0, 0, 0]


def test_an_all_missing_column_may_have_values_at_predict():
    X, y = mixed_table()
    estimator = KANRegressor(**QUICK).fit(X, y)
    assert np.isfinite(estimator.predict(X.assign(empty=1e12))).all()


@pytest.mark.parametrize(
    "labels",
    [["no", "yes"], [False, True], [3, 7], ["a", "b", "c"], [-1, 0, 4]],
    ids=["str", "bool", "int", "3 str", "3 int"],
)
def test_labels_of_any_kind_come_back_and_probabilities_sum_to_one(labels):
    X, y = load_iris(return_X_y=True)
    X, y = X[y < len(labels)], np.array(labels)[y[y < len(labels)]]
    estimator = KANClassifier(**QUICK).fit(X, y)
    assert estimator.classes_.tolist() == sorted(labels)
    assert estimator.predict(X).dtype == y.dtype
    assert estimator.score(X, y) > 0.9
    np.testing.assert_allclose(estimator.predict_proba(X).sum(axis=1), 1, atol=1e-6)
    chosen = estimator.predict_proba(X).argmax(axis=1)
    np.testing.assert_array_equal(estimator.classes_[chosen], estimator.predict(X))


def test_pickled_and_copied_estimators_predict_the_same():
    X, y = mixed_table()
    estimator = KANClassifier(**QUICK).fit(X, y > y.mean())
    expected = estimator.predict_proba(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).predict_proba(X), expected)
    np.testing.assert_array_equal(copy.deepcopy(estimator).predict_proba(X), expected)


def test_two_workers_of_joblib_give_what_one_gives():
    X, y = load_iris(return_X_y=True)
    jobs = [delayed(_proba)(seed, X, y) for seed in range(2)]
    serial, parallel = Parallel(n_jobs=1)(jobs), Parallel(n_jobs=2, backend="threading")(jobs)
    np.testing.assert_array_equal(serial[0], parallel[0])
    np.testing.assert_array_equal(serial[1], parallel[1])


def _proba(seed, X, y):
    return KANClassifier(max_epochs=20, random_state=seed, optimizer="lbfgs").fit(X, y).predict_proba(X)


def test_a_target_in_other_units_gives_predictions_in_those_units():
    X, y = load_diabetes(return_X_y=True)
    plain = KANRegressor(**QUICK).fit(X, y).predict(X)
    other = KANRegressor(**QUICK).fit(X, 1000 * y + 5).predict(X)
    np.testing.assert_allclose(other, 1000 * plain + 5, rtol=1e-3)


def test_a_column_in_other_units_leaves_the_predictions_alone():
    X, y = load_diabetes(return_X_y=True)
    plain = KANRegressor(**QUICK).fit(X, y).predict(X)
    other = KANRegressor(**QUICK).fit(X * 1000 + 3, y).predict(X * 1000 + 3)
    np.testing.assert_allclose(other, plain, rtol=1e-4)


def test_a_training_set_twice_changes_neither_scaler_nor_knots():
    X, y = load_diabetes(return_X_y=True)
    once = KANRegressor(**QUICK).fit(X, y)
    twice = KANRegressor(**QUICK).fit(np.tile(X, (2, 1)), np.tile(y, 2))
    assert once.encoder_.columns == twice.encoder_.columns
    torch.testing.assert_close(once.module_.additive.numeric.basis.knots, twice.module_.additive.numeric.basis.knots)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass", "two targets"])
def test_contributions_of_an_additive_model_and_the_intercept_are_the_answer(kind):
    X, y = mixed_table()
    if kind == "regression":
        estimator = KANRegressor(hidden=(), **QUICK).fit(X, y)
        answer = estimator.predict(X)
    elif kind == "two targets":
        estimator = KANRegressor(hidden=(), **QUICK).fit(X, np.column_stack([y, -3 * y]))
        answer = estimator.predict(X)
    else:
        labels = np.digitize(y, np.quantile(y, [0.5] if kind == "binary" else [0.3, 0.6]))
        estimator = KANClassifier(hidden=(), **QUICK).fit(X, labels)
        answer = estimator.decision_function(X)
    terms = estimator.contributions(X)
    np.testing.assert_allclose(terms.sum(axis=1) + estimator.intercept_, answer, atol=1e-5)
    np.testing.assert_allclose(terms.mean(axis=0), 0, atol=1e-5)


def test_contributions_of_a_model_with_hidden_units_are_refused():
    X, y = load_diabetes(return_X_y=True)
    estimator = KANRegressor(max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="additive"):
        estimator.contributions(X)
    assert not hasattr(estimator, "intercept_")


def test_scikit_learns_tools_accept_the_estimators():
    X, y = load_iris(return_X_y=True)
    estimator = KANClassifier(max_epochs=20, hidden=(), random_state=0)
    search = GridSearchCV(make_pipeline(StandardScaler(), estimator), {"kanclassifier__alpha": [0.1, 1]}, cv=2)
    assert search.fit(X, y).best_score_ > 0.9
    assert cross_val_score(estimator, X, y, cv=2).mean() > 0.9
    assert CalibratedClassifierCV(estimator, cv=2).fit(X, y).score(X, y) > 0.9
    fitted = clone(estimator).fit(X, y)
    measured = permutation_importance(fitted, X, y, n_repeats=2, random_state=0).importances_mean
    assert measured.argmax() in (2, 3)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_the_column_that_decides_is_the_important_one(hidden):
    X = RNG(0).normal(size=(200, 4))
    fitted = KANRegressor(hidden=hidden, **QUICK).fit(X, np.sin(2 * X[:, 2]))
    assert fitted.feature_importances_[2] > 0.7
    assert fitted.feature_importances_.min() >= 0
    assert fitted.feature_importances_.sum() == pytest.approx(1)


def test_training_leaves_the_global_generators_alone():
    X, y = load_iris(return_X_y=True)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    KANClassifier(max_epochs=2, early_stopping=True, optimizer="adam", random_state=0).fit(X, y)
    assert torch.equal(before[0], torch.random.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


def test_held_out_rows_choose_the_epoch_and_the_temperature():
    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
    # without a prior it learns the training rows by heart
    options = {"optimizer": "adam", "alpha": 0.0, "max_epochs": 30, "random_state": 0, "validation_fraction": 0.25}
    held = KANClassifier(early_stopping=True, patience=5, **options).fit(X, y)
    losses = [record["val_loss"] for record in held.history_]
    assert held.best_epoch_ == int(np.argmin(losses)) + 1
    assert held.n_iter_ == len(losses) == min(30, held.best_epoch_ + 5)
    free = KANClassifier(early_stopping=False, **options).fit(X, y)
    assert free.temperature_ == 1
    assert log_loss(y_test, held.predict_proba(X_test)) < log_loss(y_test, free.predict_proba(X_test))


def test_an_eval_set_takes_the_place_of_a_share_of_the_rows():
    X, y = load_breast_cancer(return_X_y=True)
    estimator = KANClassifier(max_epochs=40, random_state=0).fit(X[:400], y[:400], eval_set=(X[400:], y[400:]))
    assert all("val_loss" in record for record in estimator.history_)
    with pytest.raises(ValueError, match="eval_set has labels that are not in y: 2"):
        KANClassifier().fit(X[:400], y[:400], eval_set=(X[400:], y[400:] + 1))


def test_several_targets_are_learned_at_once():
    X, y = load_linnerud(return_X_y=True)
    prediction = KANRegressor(random_state=0).fit(X, y).predict(X)
    assert prediction.shape == y.shape
    one = KANRegressor(random_state=0).fit(X, y[:, 0])
    assert one.predict(X).shape == (20,)


def test_balanced_class_weights_find_more_of_the_rare_class():
    rng = RNG(0)
    y = (rng.random(600) < 0.1).astype(int)
    X = rng.normal(size=(600, 3)) + y[:, None]
    plain = KANClassifier(random_state=0, hidden=()).fit(X, y).predict(X)
    balanced = KANClassifier(random_state=0, hidden=(), class_weight="balanced").fit(X, y).predict(X)
    assert balanced[y == 1].mean() > plain[y == 1].mean() + 0.2


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_a_monotone_column_never_turns(hidden):
    rng = RNG(0)
    X = rng.normal(size=(200, 3))
    y = np.sin(3 * X[:, 0]) + X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=200)
    estimator = KANRegressor(hidden=hidden, monotone={"x0": 1, "x2": -1}, **QUICK).fit(X, y)
    places = np.repeat(RNG(1).normal(size=(5, 3)), 200, axis=0)
    for column, sign in ((0, 1), (2, -1)):
        moved = places.copy()
        moved[:, column] = np.tile(np.linspace(-20, 20, 200), 5)
        steps = np.diff(estimator.predict(moved).reshape(5, 200), axis=1)
        assert (sign * steps).min() > -1e-9
    assert estimator.predict(X).std() > 0.1


@pytest.mark.parametrize("layer", ["rbf", "chebyshev", "fourier", "wavelet", "relu-kan", "gr-kan", "linear"])
def test_any_layer_of_kan_core_serves(layer):
    X, y = load_iris(return_X_y=True)
    assert KANClassifier(layer=layer, hidden=(8,), random_state=0, max_epochs=40).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_epochs": 0}, "max_epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"alpha": -1.0}, "alpha"),
        ({"smoothness": -1.0}, "smoothness"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"early_stopping": "yes"}, "early_stopping"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"patience": 0}, "patience"),
        ({"model": "kann"}, "did you mean kan"),
        ({"layer": "splines"}, "unknown"),
        ({"monotone": {"x9": 1}}, "there is no column 'x9'"),
        ({"monotone": [1, 0]}, "2 entries"),
        ({"categorical_features": ["x9"]}, "there is no column 'x9'"),
    ],
)
def test_a_parameter_out_of_its_range_is_named(parameters, message):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        KANClassifier(**parameters).fit(X, y)


def table_with(**columns):
    return pd.DataFrame({"a": np.arange(6.0), "b": list("xyxyxy"), **columns})


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (table_with(), [1] * 6, "one class"),
        (table_with(), [0, 1, 0, 1, 0, None], "missing label"),
        (table_with(c=[1, 2, np.inf, 4, 5, 6]), [0, 1] * 3, "column 'c' has an infinite value"),
        (table_with(c=["a", 1, "b", 2, "c", 3]), [0, 1] * 3, "column 'c' mixes text and numbers"),
        (table_with(c=pd.date_range("2026-01-01", periods=6)), [0, 1] * 3, "column 'c' is of dtype datetime64"),
        (table_with(c=np.arange(6) * 1j), [0, 1] * 3, "Complex data not supported"),
        (table_with().set_axis(["a", "a"], axis=1), [0, 1] * 3, "'a' occurs more than once"),
        (table_with().head(0), [], "found 0 rows"),
        (table_with()[[]], [0, 1] * 3, "rows and columns"),
        (table_with(), [0, 1], "inconsistent numbers of samples"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_the_column_named(X, y, message):
    with pytest.raises(ValueError, match=message):
        KANClassifier().fit(X, np.array(y, dtype=object) if None in y else y)
