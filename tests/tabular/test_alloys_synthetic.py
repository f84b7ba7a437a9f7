"""Synthetic alloys and what a KAN learns from them: card `hea.md`, facts 6, 10 and 11."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, root_mean_squared_error

from kan_core.errors import KANError
from kan_tabular import KANRegressor
from kan_tabular.alloys import DESCRIPTORS, alloy_descriptors, element_table, synthetic_alloys
from kan_tabular.alloys.synthetic import ELEMENTS

DRIVERS = ["size_mismatch", "mixing_enthalpy", "cold_rolling", "anneal_time"]


@pytest.fixture(scope="module")
def v_task():
    """Drivers of strength and strength, of as many alloys with negative as with positive ΔH: train, then test."""
    alloys = synthetic_alloys(8000, seed=0)
    enthalpy = alloys.X["mixing_enthalpy"].to_numpy()
    sides = [
        np.flatnonzero(side)[:500] for side in ((enthalpy > 1) & (enthalpy < 20), (enthalpy < -1) & (enthalpy > -20))
    ]
    rows = np.random.default_rng(0).permutation(np.concatenate(sides))
    X, y = alloys.X.iloc[rows][DRIVERS], alloys.yield_strength.iloc[rows]
    return X.iloc[:700], y.iloc[:700], X.iloc[700:], y.iloc[700:]


@pytest.fixture(scope="module")
def additive(v_task):
    X, y, _, _ = v_task
    return KANRegressor(hidden=(), random_state=0).fit(X, y)


def test_the_rules_are_those_of_the_card():
    alloys = synthetic_alloys(400, seed=2, noise=0)
    X, c = alloys.X, alloys.fractions.to_numpy()
    np.testing.assert_allclose(X[list(DESCRIPTORS)], alloy_descriptors(c, ELEMENTS))
    delta, enthalpy = X["size_mismatch"], X["mixing_enthalpy"]
    expected = 200 + 60 * delta + 8 * enthalpy.abs() + 3 * X["cold_rolling"] - 0.2 * X["anneal_time"]
    np.testing.assert_allclose(alloys.yield_strength, expected)
    assert (alloys.single_phase == ((delta < 6.6) & enthalpy.between(-15, 5, inclusive="neither"))).all()
    moduli = element_table().loc[list(ELEMENTS), "bulk_modulus_gpa"].to_numpy()
    pairs = sum(c[:, i] * c[:, j] for i in range(15) for j in range(i))
    np.testing.assert_allclose(alloys.bulk_modulus, c @ moduli - 40 * pairs)


def test_the_draw_is_as_said():
    alloys = synthetic_alloys(4000, seed=3)
    quiet = synthetic_alloys(4000, seed=3, noise=0)
    np.testing.assert_allclose(alloys.fractions.sum(axis=1), 1)
    elements = (alloys.fractions > 0).sum(axis=1)
    assert set(elements) == {1, 2, 3, 4, 5, 6}
    assert ((alloys.fractions > 0).mean() > 0.2).all()
    assert (alloys.single_phase != quiet.single_phase).mean() == pytest.approx(0.05, abs=0.015)
    assert (alloys.yield_strength - quiet.yield_strength).std() == pytest.approx(20, rel=0.05)
    assert (alloys.bulk_modulus - quiet.bulk_modulus).std() == pytest.approx(3, rel=0.05)
    assert alloys.groups["system"].str.count("-").add(1).tolist() == elements.tolist()


def test_a_seed_repeats_the_draw_and_leaves_the_global_state_alone():
    before = np.random.get_state()[1].copy()
    first, again, other = (synthetic_alloys(20, seed=seed) for seed in (0, 0, 1))
    assert first.yield_strength.tolist() == again.yield_strength.tolist() != other.yield_strength.tolist()
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("arguments", [{"rows": 0}, {"concentration": 0}, {"noise": -1}, {"noise": 21}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(KANError, match=r"rows and concentration must be positive, noise in 0\.\.20"):
        synthetic_alloys(**arguments)


def test_fact_6_r2_of_the_mean_is_0_and_of_the_truth_1(v_task):
    X, y, _, _ = v_task
    assert DummyRegressor().fit(X, y).score(X, y) == pytest.approx(0, abs=1 / len(y))
    assert r2_score(y, y) == 1


def test_fact_6_rmse_in_mpa_is_sigma_times_that_of_standardised_targets(v_task, additive):
    _, y, X_test, y_test = v_task
    sigma, mean = y.to_numpy().std(), y.to_numpy().mean()
    assert additive.target_scale_ == pytest.approx(sigma)
    predicted = additive.predict(X_test)
    standardised = root_mean_squared_error((y_test - mean) / sigma, (predicted - mean) / sigma)
    assert root_mean_squared_error(y_test, predicted) == pytest.approx(sigma * standardised)


def test_fact_10_a_kan_beats_linear_and_dummy_on_the_v_and_keeps_up_with_boosting(v_task, additive):
    X, y, X_test, y_test = v_task
    models = {
        "linear": LinearRegression(),
        "dummy": DummyRegressor(),
        "boosting": HistGradientBoostingRegressor(random_state=0),
    }
    r2 = {name: model.fit(X, y).score(X_test, y_test) for name, model in models.items()}
    kan = additive.score(X_test, y_test)
    # the deviation of the noise, 20 MPa, is the least that is possible
    assert root_mean_squared_error(y_test, additive.predict(X_test)) < 1.2 * 20
    assert kan > r2["linear"] + 0.02
    assert kan > r2["boosting"] - 0.01
    assert r2["dummy"] < 0.05


def test_fact_11_the_curves_of_monotone_drivers_are_monotone(v_task, additive):
    _, _, X_test, _ = v_task
    curves = additive.contributions(X_test)
    for driver, sign in (("size_mismatch", 1), ("cold_rolling", 1), ("anneal_time", -1)):
        j = DRIVERS.index(driver)
        assert spearmanr(X_test[driver], curves[:, j]).statistic * sign >= 0.95, driver
    # MPa per % of cold rolling, and of δ
    assert np.polyfit(X_test["cold_rolling"], curves[:, 2], 1)[0] == pytest.approx(3, rel=0.1)
    assert np.polyfit(X_test["size_mismatch"], curves[:, 0], 1)[0] == pytest.approx(60, rel=0.1)


def test_fact_11_the_curve_of_the_enthalpy_is_a_v(v_task, additive):
    _, _, X_test, _ = v_task
    enthalpy, curve = X_test["mixing_enthalpy"].to_numpy(), additive.contributions(X_test)[:, 1]
    assert spearmanr(enthalpy[enthalpy < -3], curve[enthalpy < -3]).statistic <= -0.95
    assert spearmanr(enthalpy[enthalpy > 3], curve[enthalpy > 3]).statistic >= 0.95
    assert np.corrcoef(np.abs(enthalpy), curve)[0, 1] > 0.98
