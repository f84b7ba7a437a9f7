from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kan_core.errors import KANError
from kan_tabular import KANClassifier, KANRegressor
from kan_tabular.explain import feature_curves, importances, interactions
from kan_tabular.figures import (
    curves_figure,
    importances_figure,
    interactions_figure,
    predicted_figure,
    reliability_figure,
)


def messy(rows: int = 120) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.uniform(18, 80, rows),
            "city": rng.choice(["Bern", "Chur", "d'Or"], rows),
            "zip": rng.integers(0, 40, rows).astype(str),
            "constant": 1.0,
        }
    )
    table.loc[::9, "age"] = np.nan
    return table, rng.integers(0, 3, rows)


@pytest.fixture(scope="module")
def fitted() -> tuple[KANClassifier, pd.DataFrame, np.ndarray]:
    table, y = messy()
    return KANClassifier(hidden=(), max_epochs=2, random_state=0).fit(table, y), table, y


def test_curves_are_drawn_in_original_units_with_deciles_and_bars(
    fitted: tuple[KANClassifier, pd.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    est, table, _ = fitted
    figure = curves_figure(feature_curves(est, table))
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert {"age", "city", "zip", "constant"} <= set(panels)
    age = panels["age"]
    low, high = age.lines[0].get_xdata()[[0, -1]]
    assert (low, high) == (table["age"].min(), table["age"].max())
    rug = age.lines[-1].get_xdata()
    np.testing.assert_allclose(rug, np.nanquantile(table["age"], np.arange(1, 10) / 10), atol=3)
    labels = [tick.get_text() for tick in panels["city"].get_xticklabels()]
    assert labels == ["Bern", "Chur", "d'Or", "missing", "unknown"]
    assert len(panels["city"].patches) == 5 * 3  # a bar for each place and class
    assert len(panels["zip"].get_xticklabels()) == 15  # the largest of 40
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_importances_have_the_first_on_top(fitted: tuple[KANClassifier, pd.DataFrame, np.ndarray]) -> None:
    table = importances(fitted[0])
    axes = importances_figure(table, most=3).axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(widths, reverse=True) == table["importance"].head(3).tolist()
    assert axes.yaxis_inverted()
    assert "1 more" in axes.get_title()


def test_interactions_are_a_symmetric_heat_map(fitted: tuple[KANClassifier, pd.DataFrame, np.ndarray]) -> None:
    est, table, _ = fitted
    found = interactions(est, table, max_rows=10)
    image = np.ma.filled(interactions_figure(found).axes[0].images[0].get_array(), np.nan)
    np.testing.assert_array_equal(image, image.T)
    assert np.isnan(np.diag(image)).all()
    assert image.shape == (4, 4)


def test_reliability_shows_observed_against_predicted_shares() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=4000)
    happened = (rng.random(4000) < p).astype(int)
    line = reliability_figure(happened, p).axes[0].lines[1]
    assert np.abs(line.get_xdata() - line.get_ydata()).max() < 0.06  # honest probabilities
    sure = np.where(p > 0.5, 0.99, 0.01)
    line = reliability_figure(happened, np.column_stack([1 - sure, sure])).axes[0].lines[1]
    assert np.abs(line.get_xdata() - line.get_ydata()).max() > 0.2  # too sure
    three = rng.dirichlet(np.ones(3), 500)
    label = [rng.choice(3, p=row) for row in three]
    figure = reliability_figure(label, three)
    assert "predicted class" in figure.axes[0].get_title()


def test_predicted_values_lie_on_the_diagonal_when_they_are_right() -> None:
    y = np.arange(20.0).reshape(10, 2)
    figure = predicted_figure(y, y, ["one", "two"])
    assert [axes.get_title() for axes in figure.axes] == ["one (R² 1.000)", "two (R² 1.000)"]
    points = figure.axes[1].lines[1]
    np.testing.assert_array_equal(points.get_xdata(), points.get_ydata())
    assert "R² 0.000" in predicted_figure([1, 2, 3], [2, 2, 2]).axes[0].get_title()


def test_a_deep_regressor_s_curves_say_what_they_are() -> None:
    table, y = messy()
    est = KANRegressor(hidden=(2,), max_epochs=1, random_state=0).fit(table, y)
    figure = curves_figure(feature_curves(est, table, max_rows=20), max_features=2)
    assert "partial dependence" in figure.get_suptitle()
    assert sum(bool(axes.get_title()) for axes in figure.axes) == 2


def test_bad_input_is_one_line() -> None:
    with pytest.raises(KANError, match="as many probabilities as labels"):
        reliability_figure([0, 1], [0.5])
    with pytest.raises(KANError, match="as many predictions as true values"):
        predicted_figure([1, 2], [[1], [2]])


def test_no_figure_goes_through_pyplot() -> None:
    before = plt.get_fignums()
    predicted_figure([1.0, 2.0], [1.0, 2.0])
    reliability_figure([0, 1], [0.2, 0.9])
    assert plt.get_fignums() == before
