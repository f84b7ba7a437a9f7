from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.inspection import partial_dependence
from torch import nn

from kan_core.errors import KANError
from kan_tabular import KANClassifier, KANRegressor, TableEncoder
from kan_tabular.explain import feature_curves, importances, interactions, out_of_grid, scores_of


def messy(rows: int = 150, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "age": rng.uniform(18, 80, rows),
            "in come": rng.lognormal(10, 1, rows),
            "city": rng.choice(["Bern", "Chur", "d'Or"], rows),
            "zip": rng.integers(0, 15, rows).astype(str),
            "flag": rng.random(rows) < 0.5,
            "constant": 1.0,
        }
    )
    y = np.sin(table["age"] / 10) + np.log(table["in come"]) / 3 + (table["city"] == "Bern")
    table.loc[::9, "age"] = np.nan
    table.loc[::7, "city"] = np.nan
    return table, y.to_numpy()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return messy()[0]


@pytest.fixture(scope="module")
def additive() -> KANRegressor:
    return KANRegressor(hidden=(), max_epochs=4, random_state=0).fit(*messy())


@pytest.fixture(scope="module")
def classes() -> KANClassifier:
    table, y = messy()
    return KANClassifier(hidden=(), max_epochs=4, random_state=0).fit(table, np.digitize(y, [3, 4]))


@pytest.fixture(scope="module")
def deep() -> KANClassifier:
    table, y = messy()
    return KANClassifier(hidden=(4,), max_epochs=4, random_state=0).fit(table, np.where(y > 3.5, "yes", "no"))


def read_off(curves: pd.DataFrame, row: pd.Series, output: object) -> float:
    """The sum of a row's contributions, by nothing but the table of curves; numbers by nearest place."""
    total = 0.0
    for feature, curve in curves[curves["output"] == output].groupby("feature", sort=False):
        value = row[feature]
        if pd.isna(value):
            total += curve.loc[curve["part"] == "missing", "contribution"].iloc[0]
        elif isinstance(value, str):
            total += curve.loc[curve["x"] == value, "contribution"].iloc[0]
        else:
            numbers = curve[curve["part"] == "value"]
            distance = (numbers["x"].astype(float) - float(value)).abs().to_numpy()
            total += numbers["contribution"].iloc[distance.argmin()]
    return total


def on_places(curves: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The table with every number moved to the nearest place of its curve."""
    moved = table.copy()
    for feature in ("age", "in come"):
        x = curves.loc[(curves["feature"] == feature) & (curves["part"] == "value"), "x"].unique().astype(float)
        moved[feature] = [v if np.isnan(v) else x[np.abs(x - v).argmin()] for v in table[feature]]
    return moved


def test_fact_10_curves_and_the_intercept_sum_to_the_prediction(additive: KANRegressor, table: pd.DataFrame) -> None:
    curves = feature_curves(additive)
    moved = on_places(curves, table.head(40))
    total = [read_off(curves, row, 0) + additive.intercept_ for _, row in moved.iterrows()]
    np.testing.assert_allclose(total, additive.predict(moved), atol=1e-5)
    assert set(curves["kind"]) == {"exact"}


def test_fact_10_curves_and_the_intercept_sum_to_every_class_s_decision(
    classes: KANClassifier, table: pd.DataFrame
) -> None:
    curves = feature_curves(classes)
    moved = on_places(curves, table.head(15))
    for k, label in enumerate(classes.classes_):
        total = [read_off(curves, row, label) + classes.intercept_[k] for _, row in moved.iterrows()]
        np.testing.assert_allclose(total, classes.decision_function(moved)[:, k], atol=1e-5)


def test_fact_10_contributions_have_mean_0_over_the_training_rows(additive: KANRegressor, table: pd.DataFrame) -> None:
    values = scores_of(additive).contributions(additive.encoder_.transform(table))
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(values[..., 0], additive.contributions(table), atol=1e-12)
    np.testing.assert_allclose(scores_of(additive).intercept, additive.intercept_, atol=1e-12)


def test_fact_9_curves_are_in_original_units(additive: KANRegressor, table: pd.DataFrame) -> None:
    curves = feature_curves(additive, points=9)
    age = curves[(curves["feature"] == "age") & (curves["part"] == "value")]
    assert age["x"].iloc[0] == table["age"].min()
    assert age["x"].iloc[-1] == table["age"].max()
    probe = pd.concat([table.head(1)] * len(age), ignore_index=True)
    probe["age"] = age["x"].astype(float).to_numpy()
    np.testing.assert_allclose(age["contribution"], additive.contributions(probe)[:, 0], atol=1e-9)
    city = curves[curves["feature"] == "city"]
    assert city["x"].tolist() == ["Bern", "Chur", "d'Or", None, None]
    assert city["part"].tolist() == ["category"] * 3 + ["missing", "unknown"]


def test_shares_count_the_rows_given(additive: KANRegressor, table: pd.DataFrame) -> None:
    curves = feature_curves(additive, table)
    city = curves[curves["feature"] == "city"].set_index("part")
    assert city.loc["missing", "share"] == pytest.approx(table["city"].isna().mean())
    assert city.loc["unknown", "share"] == 0
    assert city["share"].sum() == pytest.approx(1)
    income = curves[(curves["feature"] == "in come") & (curves["part"] == "value")]
    assert income["share"].is_monotonic_increasing
    assert income["share"].iloc[-1] == 1
    x = float(income["x"].iloc[20])
    assert income["share"].iloc[20] == pytest.approx((table["in come"] <= x + 1e-6).mean())
    assert feature_curves(additive)["share"].isna().all()


def test_a_deep_model_s_curves_are_scikit_learn_s_partial_dependence(deep: KANClassifier, table: pd.DataFrame) -> None:
    curves = feature_curves(deep, table, features=["in come"], points=5)
    line = curves[curves["part"] == "value"]
    x = line["x"].astype(float).to_numpy()
    found = partial_dependence(
        deep, table, ["in come"], custom_values={"in come": x}, method="brute", response_method="decision_function"
    )
    average = found["average"][0]
    own = partial_dependence(
        deep,
        table,
        ["in come"],
        custom_values={"in come": table["in come"].to_numpy()},
        method="brute",
        response_method="decision_function",
    )["average"][0]
    np.testing.assert_allclose(line["contribution"], average - own.mean(), atol=1e-9)
    assert set(curves["kind"]) == {"partial dependence"}
    assert set(curves["output"]) == {"yes"}


def test_interactions_of_an_additive_model_are_0(additive: KANRegressor, table: pd.DataFrame) -> None:
    found = interactions(additive, table, max_rows=20)
    assert len(found) == 15
    assert (found["h2"] < 1e-12).all()
    assert (found["strength"] < 1e-9).all()


class Product(nn.Module):
    """x_0 x_1 + x_2: what it interacts in is known."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.first = self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, 0] * x[:, 1] * self.one + x[:, 2])[:, None]


@pytest.fixture(scope="module")
def product() -> tuple[KANRegressor, np.ndarray]:
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 3).astype(float)
    est = KANRegressor(hidden=(2,), max_epochs=1).fit(lattice, rng.normal(size=27))
    est.module_ = Product()
    return est, lattice


def test_a_product_is_all_interaction_and_a_sum_is_none(product: tuple[KANRegressor, np.ndarray]) -> None:
    est, lattice = product
    found = interactions(est, lattice, features=[0, 1, 2]).set_index(["feature_1", "feature_2"])
    assert found.loc[("x0", "x1"), "h2"] == pytest.approx(1)
    assert found.loc[("x0", "x2"), "h2"] == pytest.approx(0)
    assert found.loc[("x1", "x2"), "h2"] == pytest.approx(0)
    z = est.encoder_.transform(lattice)
    expected = np.std(z[:, 0] * z[:, 1]) * est.target_scale_[0]
    assert found.loc[("x0", "x1"), "strength"] == pytest.approx(expected)


def test_total_effects_see_what_main_effects_do_not(product: tuple[KANRegressor, np.ndarray]) -> None:
    est, lattice = product
    rows = np.repeat(lattice, 50, axis=0)
    found = importances(est, rows, repeats=8).set_index("feature")["importance"]
    # scaled values are -c, 0 and c, of variance v: x_0 x_1 varies by v² with either, x_2 by v
    v = float(est.encoder_.transform(lattice)[:, 0].var())
    expected = np.array([v, v, v**0.5]) / (2 * v + v**0.5)
    np.testing.assert_allclose(found.loc[["x0", "x1", "x2"]], expected, rtol=0.1)


def test_importances_of_an_additive_model_are_its_curves_deviations(
    additive: KANRegressor, table: pd.DataFrame
) -> None:
    found = importances(additive, table, repeats=20).set_index("feature").loc[list(table.columns)]
    spread = additive.contributions(table).std(axis=0)
    np.testing.assert_allclose(found["spread"], spread, rtol=0.1, atol=1e-12)
    assert found.loc["constant", "importance"] == 0
    assert found["importance"].sum() == pytest.approx(1)


def test_importances_without_rows_are_the_estimator_s(additive: KANRegressor, table: pd.DataFrame) -> None:
    found = importances(additive).set_index("feature").loc[list(table.columns), "importance"]
    np.testing.assert_array_equal(found, additive.feature_importances_)


def test_out_of_grid_is_0_on_training_rows_and_counts_what_leaves(additive: KANRegressor, table: pd.DataFrame) -> None:
    inside = out_of_grid(additive, table).set_index("feature")
    assert (inside["out_of_grid"] == 0).all()
    assert inside.loc["age", "missing"] == pytest.approx(table["age"].isna().mean())
    assert inside.loc["age", "low"] == table["age"].min()
    assert inside.loc["age", "high"] == table["age"].max()
    beyond = table.head(10).copy()
    beyond["constant"] = [1.0] * 9 + [2.0]
    beyond["in come"] = 1e9
    beyond["city"] = ["Rome"] * 5 + ["Bern"] * 4 + [None]
    share = out_of_grid(additive, beyond).set_index("feature")["out_of_grid"]
    assert share["in come"] == 1
    assert share["constant"] == pytest.approx(0.1)
    assert share["age"] == 0
    assert share["city"] == pytest.approx(5 / 9)


def test_hea_fact_12_a_composition_outside_the_training_range_is_flagged() -> None:
    rng = np.random.default_rng(0)
    alloys = pd.DataFrame(rng.dirichlet(np.ones(4), 50) * 0.5, columns=["Al", "Co", "Cr", "Fe"])
    encoder = TableEncoder().fit(alloys)
    pure = pd.DataFrame({"Al": [1.0], "Co": [0.0], "Cr": [0.0], "Fe": [0.0]})
    found = out_of_grid(encoder, pure).set_index("feature")["out_of_grid"]
    assert found["Al"] == 1
    assert found.mean() > 0
    assert (out_of_grid(encoder, alloys)["out_of_grid"] == 0).all()


def test_hea_fact_11_the_curve_of_a_monotone_driver_is_monotone() -> None:
    rng = np.random.default_rng(0)
    rows = 250
    alloys = pd.DataFrame(
        {
            "mismatch": rng.uniform(0, 10, rows),
            "enthalpy": rng.uniform(-20, 10, rows),
            "cold_rolling": rng.uniform(0, 80, rows),
            "anneal": rng.uniform(0, 300, rows),
        }
    )
    strength = 200 + 60 * alloys["mismatch"] + 8 * alloys["enthalpy"].abs() + 3 * alloys["cold_rolling"]
    strength = strength - 0.2 * alloys["anneal"] + rng.normal(0, 20, rows)
    est = KANRegressor(hidden=(), max_epochs=40, random_state=0).fit(alloys, strength)
    curves = feature_curves(est)
    for feature, sign in (("mismatch", 1), ("cold_rolling", 1), ("anneal", -1)):
        line = curves[(curves["feature"] == feature) & (curves["part"] == "value")]
        rank = spearmanr(line["x"].astype(float), line["contribution"]).statistic
        assert sign * rank >= 0.95, (feature, rank)
    valley = curves[(curves["feature"] == "enthalpy") & (curves["part"] == "value")]
    bottom = float(valley["x"].iloc[valley["contribution"].to_numpy().argmin()])
    assert abs(bottom) < 5  # |ΔH| has its least value at 0


def test_bad_input_is_one_line(deep: KANClassifier, additive: KANRegressor, table: pd.DataFrame) -> None:
    with pytest.raises(KANError, match="needs X"):
        feature_curves(deep)
    with pytest.raises(KANError, match="no column 'nope'"):
        feature_curves(additive, features=["nope"])
    with pytest.raises(KANError, match="two columns and two rows"):
        interactions(additive, table, features=["age"])
    with pytest.raises(KANError, match="expected a fitted KANClassifier or KANRegressor, got dict"):
        importances({})
    with pytest.raises(ValueError, match="not fitted"):
        importances(KANRegressor())
    with pytest.raises(ValueError, match="feature names"):
        out_of_grid(additive, table[table.columns[::-1]])
