from __future__ import annotations

import json
import re
import sqlite3
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import BSpline
from scipy.special import expit

from kan_core.errors import KANError
from kan_tabular import KANClassifier, KANRegressor
from kan_tabular.explain import scores_of
from kan_tabular.formulas import lookup, to_json, to_sql, to_text


def messy(rows: int = 150) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.uniform(18, 80, rows),
            'in "come': rng.lognormal(10, 1, rows),
            "city": rng.choice(["Bern", "Chur", "d'Or"], rows),
            "zip": rng.integers(0, 15, rows).astype(str),
            "level": pd.Categorical(rng.integers(0, 4, rows)),
            "flag": rng.random(rows) < 0.5,
            "constant": 1.0,
        }
    )
    y = np.sin(table["age"] / 10) + np.log(table['in "come']) / 3 + (table["city"] == "Bern")
    table.loc[::9, "age"] = np.nan
    table.loc[::7, "city"] = np.nan
    return table, y


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return messy()[0]


@pytest.fixture(scope="module")
def regressor() -> KANRegressor:
    return KANRegressor(hidden=(), max_epochs=10, random_state=0).fit(*messy())


@pytest.fixture(scope="module")
def multiclass() -> KANClassifier:
    table, y = messy()
    return KANClassifier(hidden=(), max_epochs=4, random_state=0).fit(table, np.digitize(y, [3, 4]) * 3 - 1)


@pytest.fixture(scope="module")
def binary() -> KANClassifier:
    table, y = messy()
    labels = np.where(y > 3.5, "it's", "no")
    return KANClassifier(hidden=(), max_epochs=4, monotone={"age": 1}, random_state=0).fit(table, labels)


@pytest.fixture(scope="module")
def database(table: pd.DataFrame) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    rows = table.assign(level=table["level"].astype(int), flag=table["flag"].astype(int))
    beyond = rows.head(4).assign(city="Rome", zip=None, age=1e5)
    rows.to_sql("t", connection, index=False)
    beyond.to_sql("beyond", connection, index=False)
    yield connection
    connection.close()


def stated_error(sql: str) -> float:
    return float(re.match(r"-- largest error .*: (\S+)\n", sql)[1])


@pytest.mark.parametrize("points", [8, 32])
def test_sql_run_in_sqlite_is_the_model_within_the_stated_error(
    points: int, regressor: KANRegressor, table: pd.DataFrame, database: sqlite3.Connection
) -> None:
    sql = to_sql(regressor, points=points)
    found = pd.read_sql(sql, database)
    assert list(found.columns) == [*table.columns, "kan_prediction"]
    worst = np.abs(found["kan_prediction"] - regressor.predict(table)).max()
    # the comment has three digits, and the places between 4,000 others may lie a little worse
    assert worst <= 1.02 * stated_error(sql)
    assert stated_error(sql) < (0.2 if points == 8 else 0.01)


def test_sql_of_classes_gives_scores_labels_and_probabilities(
    binary: KANClassifier, multiclass: KANClassifier, table: pd.DataFrame, database: sqlite3.Connection
) -> None:
    sql = to_sql(binary, probabilities=True, points=64)
    found, error = pd.read_sql(sql, database), stated_error(sql)
    decision = binary.decision_function(table)
    assert np.abs(found["kan_score"] - decision).max() <= 1.02 * error
    clear = np.abs(decision) > 1.02 * error
    assert clear.sum() > 100
    assert (found["kan_prediction"][clear] == binary.predict(table)[clear]).all()
    np.testing.assert_allclose(found["kan_probability"], expit(found["kan_score"]), rtol=1e-12)

    sql = to_sql(multiclass, probabilities=True, points=64)
    found, error = pd.read_sql(sql, database), stated_error(sql)
    names = [f"kan_score_{label}" for label in multiclass.classes_]
    assert np.abs(found[names].to_numpy() - multiclass.decision_function(table)).max() <= 1.02 * error
    shares = found[[f"kan_probability_{label}" for label in multiclass.classes_]]
    np.testing.assert_allclose(shares, multiclass.predict_proba(table), atol=2 * error + 1e-9)
    assert (found["kan_prediction"] == multiclass.classes_[found[names].to_numpy().argmax(axis=1)]).all()


def test_sql_takes_null_for_missing_and_new_categories_for_unknown(
    regressor: KANRegressor, table: pd.DataFrame, database: sqlite3.Connection
) -> None:
    found = pd.read_sql(to_sql(regressor, table="main.beyond", points=256), database)
    high = table["age"].max()  # held beyond the training range
    rows = table.head(4).assign(city="Rome", zip=None, age=high)
    np.testing.assert_allclose(found["kan_prediction"], regressor.predict(rows), atol=1e-3)
    assert table["city"].isna().any()
    assert table["age"].isna().any()


def from_json(stored: dict[str, Any], row: pd.Series, exact: bool) -> float:
    """A score by nothing but the JSON."""
    (total,) = stored["intercept"]
    for column in stored["columns"]:
        value = row[column["name"]]
        if pd.isna(value):
            (part,) = column["missing"]
        elif column["kind"] == "categorical":
            known = {entry["value"]: entry["contribution"] for entry in column["categories"]}
            (part,) = known.get(value, column["unknown"])
        elif exact:
            u = (float(value) - column["center"]) * column["factor"]
            z, spline = u / np.sqrt(1 + (u / 3) ** 2), column["spline"]
            part = BSpline(spline["knots"], spline["coefficients"][0], spline["order"])(z) + spline["constant"][0]
            base = z * expit(z) if spline["base"] == "silu" else z if spline["base"] == "identity" else 0
            part += spline["base_weights"][0] * base
        else:
            part = np.interp(float(value), column["lookup"]["x"], np.array(column["lookup"]["contributions"])[:, 0])
        total += part
    return float(total)


def test_json_holds_the_model_exactly_and_as_a_table(
    regressor: KANRegressor, binary: KANClassifier, table: pd.DataFrame
) -> None:
    rows = table.head(30)
    for est, answer in ((regressor, regressor.predict), (binary, binary.decision_function)):
        stored = json.loads(to_json(est, points=32))
        exact = [from_json(stored, row, exact=True) for _, row in rows.iterrows()]
        np.testing.assert_allclose(exact, answer(rows), atol=1e-9)
        looked_up = [from_json(stored, row, exact=False) for _, row in rows.iterrows()]
        error = sum(column.get("max_error", [0.0])[0] for column in stored["columns"])
        np.testing.assert_allclose(looked_up, answer(rows), atol=1.02 * error + 1e-12)
        assert stored["format"] == "kan_tabular.additive"
        assert stored["version"] == 1
    assert stored["classes"] == ["it's", "no"]
    assert stored["outputs"] == ["no"]


def test_a_spline_says_what_holds_beyond_its_grid(table: pd.DataFrame) -> None:
    x = table[["age"]]
    est = KANRegressor(hidden=(), layer="bspline(edge='linear')", max_epochs=1, random_state=0).fit(x, messy()[1])
    assert json.loads(to_json(est))["columns"][0]["spline"]["outside"] == "linear"


def test_other_layers_have_a_table_but_no_spline(table: pd.DataFrame) -> None:
    x = table[["age", "city"]]
    est = KANRegressor(hidden=(), layer="chebyshev", max_epochs=2, random_state=0).fit(x, messy()[1])
    stored = json.loads(to_json(est))
    assert stored["columns"][0]["spline"] is None
    looked_up = [from_json(stored, row, exact=False) for _, row in x.iterrows()]
    np.testing.assert_allclose(looked_up, est.predict(x), atol=1.02 * stored["columns"][0]["max_error"][0])
    assert "f(age)" in to_text(est)


def test_a_lookup_gains_with_points_and_a_straight_line_needs_two(regressor: KANRegressor, table: pd.DataFrame) -> None:
    model = scores_of(regressor)
    errors = [float(lookup(model, 0, points).error[0]) for points in (4, 16, 64)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert len(lookup(model, 6, 16).x) == 1
    assert lookup(model, 6, 16).error[0] == 0


def from_text(text: str, name: str, scaled: float) -> float:
    """f(name) at a scaled value, by nothing but the text."""
    section = text[text.index(f"\nf({name})") :].split("\n\n")[0]
    total = 0.0
    pieces = re.findall(r"^ +(\S+) <= z < (\S+): (.*), t = z - \((\S+)\)$", section, re.MULTILINE)
    for i, (left, right, formula, start) in enumerate(pieces):
        if float(left) <= scaled < float(right) or (i == len(pieces) - 1 and scaled >= float(right)):
            python = re.sub(r" t\b", " * t", formula).replace("^", "**")
            total += eval(python, {"t": scaled - float(start)})
            break
    weight, base = re.search(r"everywhere: \+ \((\S+)\) (\w+)\(z\)", section).groups()
    return total + float(weight) * {"silu": scaled * expit(scaled), "identity": scaled}[base]


def test_text_is_the_model_up_to_its_digits(regressor: KANRegressor, table: pd.DataFrame) -> None:
    parts = regressor.contributions(table)
    z = regressor.encoder_.transform(table)
    for digits, tolerance in ((12, 1e-8), (4, 2e-3)):
        text = to_text(regressor, digits=digits)
        found = [from_text(text, 'in "come', value) for value in z[:40, 1]]
        np.testing.assert_allclose(found, parts[:40, 1], atol=tolerance)
    assert text.startswith("prediction = ")
    assert "+ f(city) +" in text
    value = float(re.search(r"'Bern': (\S+)", text)[1])
    assert value == pytest.approx(parts[(table["city"] == "Bern").to_numpy().argmax(), 2], rel=1e-3)
    assert "missing:" in text
    assert "unknown:" in text


def test_text_has_a_formula_for_each_class(multiclass: KANClassifier) -> None:
    text = to_text(multiclass)
    assert [f"logit of {label} = " in text for label in (-1, 2, 5)] == [True] * 3


def test_models_with_hidden_units_are_refused(table: pd.DataFrame) -> None:
    deep = KANRegressor(hidden=(2,), max_epochs=1).fit(table[["age"]], messy()[1])
    for export in (to_json, to_text, to_sql):
        with pytest.raises(KANError, match=r"fit with hidden=\(\)"):
            export(deep)


def test_sql_refuses_a_column_that_it_would_hide() -> None:
    x = pd.DataFrame({"kan_prediction": np.arange(10.0)})
    est = KANRegressor(hidden=(), max_epochs=1).fit(x, np.arange(10.0))
    with pytest.raises(KANError, match="rename the column 'kan_prediction'"):
        to_sql(est)
