"""tabkan.md section 7: transfer between tables, without the reference's defect over seeds."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from kan_core import KANError
from kan_tabular import models
from kan_tabular.estimators import KANClassifier, KANRegressor
from kan_tabular.transfer import align, last_layers, transfer

SMALL = {"hidden": (6,), "random_state": 0}
QUICK = {"lr": 0.05, "max_epochs": 2}


def table(rows: int, seed: int, scale: float = 1.0) -> tuple[pd.DataFrame, np.ndarray]:
    """A binary task on two numbers and a category; `scale` changes the unit of the first number."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=rows), rng.normal(size=rows)
    city = rng.choice(["bern", "rome", "oslo"], size=rows)
    logit = 2 * np.sin(2 * a) + 1.5 * b * (city == "rome") - 0.5
    X = pd.DataFrame({"a": a * scale + 5 * (scale != 1), "b": b, "city": city})
    return X, np.where(rng.random(rows) < 1 / (1 + np.exp(-logit)), "yes", "no")


@pytest.fixture(scope="module")
def source() -> KANClassifier:
    return KANClassifier(**SMALL, max_epochs=20).fit(*table(400, 0))


@pytest.fixture(scope="module")
def moved(source) -> KANClassifier:
    """To a table of other units, with gaps."""
    X, y = table(80, 1, scale=100.0)
    X.loc[::7, ["a", "b"]] = np.nan
    return transfer(source, X, y, **QUICK)


def state(estimator) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in estimator.module_.state_dict().items()}


def test_it_starts_from_the_source_and_leaves_it_as_it_is(source):
    before, score = state(source), source.decision_function(table(50, 3)[0])
    target = transfer(source, *table(60, 1), lr=1e-12, max_epochs=1)
    assert type(target) is KANClassifier
    assert target is not source
    for key, value in target.module_.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)
    transfer(source, *table(60, 1), freeze="nothing", **QUICK)
    assert all(torch.equal(value, before[key]) for key, value in source.module_.state_dict().items())
    assert np.array_equal(source.decision_function(table(50, 3)[0]), score)
    assert all(not parameter.requires_grad for parameter in target.module_.parameters())


def test_defect_of_the_reference_later_seeds_start_from_the_same_pretrained_weights(source):
    X, y = table(60, 1)
    alone = transfer(source, X, y, **{**QUICK, "random_state": 7})
    transfer(source, X, y, freeze="nothing", **{**QUICK, "random_state": 1})
    after_others = transfer(source, X, y, **{**QUICK, "random_state": 7})
    assert all(torch.equal(a, b) for a, b in zip(state(alone).values(), state(after_others).values(), strict=True))
    assert after_others.n_iter_ == alone.n_iter_ == 2


def test_all_but_the_last_layers_are_frozen(source, moved):
    trained = {id(p) for layer in last_layers(moved.module_) for p in layer.parameters()}
    before = state(source)
    changed = {id(p) for name, p in moved.module_.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained
    assert 0 < len(trained) < len(before)
    free = transfer(source, *table(60, 1), freeze="nothing", **QUICK)
    assert not torch.equal(state(free)["first.numeric.weight"], before["first.numeric.weight"])


def test_the_scaler_is_fitted_on_the_new_table(source, moved):
    X, _ = table(80, 1, scale=100.0)
    known = X["a"][X.index % 7 != 0]
    column = moved.encoder_.columns[0]
    assert column.center == pytest.approx(np.quantile(known, 0.5, method="inverted_cdf"))
    assert (column.low, column.high) == (known.min(), known.max())
    # knots stay where they are in scaled values
    assert torch.equal(moved.module_.first.numeric.basis.knots, source.module_.first.numeric.basis.knots)


def test_it_helps_where_labels_are_few(source):
    X, y = table(20, 1, scale=10.0)
    X_test, y_test = table(1000, 2, scale=10.0)
    few = transfer(source, X, y, lr=3e-3, max_epochs=5)
    alone = KANClassifier(**SMALL, max_epochs=20).fit(X, y)
    auc, auc_alone = (roc_auc_score(y_test, model.predict_proba(X_test)[:, 1]) for model in (few, alone))
    X_own, y_own = table(1000, 2)
    auc_source = roc_auc_score(y_own, source.predict_proba(X_own)[:, 1])
    assert auc > auc_alone + 0.05
    assert auc > auc_source - 0.02


def test_columns_are_matched_by_name_and_the_rest_is_told(source):
    X, y = table(60, 1)
    other = X.drop(columns="b").assign(noise=1.0)[["city", "noise", "a"]]
    with pytest.warns(UserWarning, match="columns that") as told:
        target = transfer(source, other, y, **QUICK)
    messages = [str(warning.message) for warning in told]
    assert messages == [
        "columns that the table has not enter as missing: b",
        "columns that the source has not are left out: noise",
    ]
    assert list(target.feature_names_in_) == ["a", "b", "city"]
    with pytest.warns(UserWarning, match="missing: b|left out: noise"):
        aligned = align(other, target)
    assert list(aligned.columns) == ["a", "b", "city"]
    assert aligned["b"].isna().all()
    # a column that was not there keeps the source's scale, for when it is
    assert target.encoder_.columns[1] == source.encoder_.columns[1]
    assert np.isfinite(target.predict_proba(aligned)).all()
    with pytest.raises(ValueError, match="feature names"):
        target.predict(other)


def test_a_missing_column_gives_the_answer_for_gaps(source):
    X, y = table(60, 1)
    with pytest.warns(UserWarning, match="missing: b"):
        without = transfer(source, X.drop(columns="b"), y, lr=1e-12, max_epochs=1)
    with_gaps = X.assign(b=np.nan)
    gaps = source.module_(torch.from_numpy(without.encoder_.transform(with_gaps)))
    expected = without.module_(torch.from_numpy(without.encoder_.transform(with_gaps)))
    torch.testing.assert_close(gaps, expected, rtol=1e-5, atol=1e-5)


def test_categories_keep_their_numbers_and_new_ones_are_unknown(source):
    X, y = table(60, 1)
    X.loc[:9, "city"] = "lima"
    with pytest.warns(UserWarning, match="column 'city' has categories that the source never saw: 'lima'"):
        target = transfer(source, X, y, **QUICK)
    assert target.encoder_.columns[2] == source.encoder_.columns[2]
    codes = target.encoder_.transform(X)[:, 2]
    assert (codes[:10] == 0).all()
    assert (codes[10:] >= 2).all()


def test_another_number_of_classes_draws_the_outputs_anew(source):
    X, _ = table(90, 1)
    y = np.digitize(X["a"], [-0.5, 0.5])
    target = transfer(source, X, y, **QUICK)
    assert target.predict_proba(X).shape == (90, 3)
    first = "first.numeric.weight"
    torch.testing.assert_close(state(target)[first], state(source)[first])


def test_a_regressor_and_arrays_by_position():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = np.sin(2 * x[:, 0]) + x[:, 1]
    source = KANRegressor(**SMALL, max_epochs=15).fit(x, y)
    target = transfer(source, x[:60] * 10, 1000 * y[:60] + 5000, max_epochs=5)
    assert not hasattr(target, "feature_names_in_")
    assert target.target_center_[0] == pytest.approx(np.mean(1000 * y[:60] + 5000))
    assert target.score(x[60:] * 10, 1000 * y[60:] + 5000) > 0.7
    with pytest.warns(UserWarning, match="missing: x2"):
        assert align(x[:, :2], target).shape == (200, 3)


def test_held_out_rows_choose_the_epoch_and_are_aligned_too(source):
    X, y = table(60, 1)
    held, labels = table(40, 4)
    target = transfer(source, X, y, eval_set=(held[["city", "b", "a"]], labels), **QUICK)
    assert "val_loss" in target.history_[0]


def test_no_generator_is_touched_and_nothing_is_left_behind(source):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    target = transfer(source, *table(60, 1), **QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    assert "_fit" not in vars(target)
    copy.deepcopy(target)


@pytest.mark.parametrize(
    ("name", "kwargs", "trained"),
    [
        ("chebyshev-kan", {"hidden": (4, 3)}, {"rest.0.weight", "rest.1.weight", "rest.1.bias"}),
        ("chebyshev-kan", {"hidden": (4,)}, {"rest.0.weight", "rest.0.bias"}),
        ("spline-kan", {"hidden": (4, 3)}, {"rest.1.weight", "rest.1.bias"}),
        ("fkan", {"hidden": (4, 3)}, {"rest.1.weight", "rest.1.bias"}),
        ("mlp", {"hidden": ()}, {"first.missing", "first.bias", "first.numeric.weight"}),
        ("kan-mixer", {"depth": 1}, {"norm.weight", "norm.bias", "head.weight", "head.bias"}),
        ("kan", {"hidden": ()}, {"additive.missing", "additive.bias", "additive.numeric.weight"}),
    ],
)
def test_last_layers_of_every_shell(name, kwargs, trained):
    with torch.device("meta"):
        net = models.create(name, cardinalities=[0, 0], num_outputs=1, **kwargs)
    last = {id(p) for layer in last_layers(net) for p in layer.parameters()}
    assert {key for key, parameter in net.named_parameters() if id(parameter) in last} == trained


def test_bad_requests(source):
    X, y = table(60, 1)
    with pytest.raises(KANError, match="freeze must be one of 'all but last', 'nothing', got 'all'"):
        transfer(source, X, y, freeze="all")
    with pytest.raises(KANError, match="transfer keeps the source's network: hidden cannot be another one"):
        transfer(source, X, y, hidden=(8,))
    with pytest.raises(KANError, match="no column is in both tables: the source has a, b, city, the other one u"):
        transfer(source, pd.DataFrame({"u": [1.0, 2.0]}), ["no", "yes"])
    with pytest.raises(KANError, match="column 'a' was numeric"):
        transfer(source, X.assign(a="text"), y)
    with pytest.raises(KANError, match="the column name 'a' occurs more than once"):
        align(pd.concat([X, X[["a"]]], axis=1), source)
    with pytest.raises(NotFittedError):
        transfer(KANClassifier(), X, y)
    with pytest.raises(KANError, match="Sequential does not name its last layers"):
        last_layers(torch.nn.Sequential())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        align(X, source)  # nothing to tell
