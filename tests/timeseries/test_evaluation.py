"""Scores in a long table: published values of M4-hourly, and definitions against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, root_mean_squared_error

from kan_core.errors import KANError
from kan_timeseries.evaluation import evaluate, quantile_columns


def value(result: pd.DataFrame, model: str, metric: str) -> float:
    found = result[(result.model == model) & (result.metric == metric)]
    assert len(found) == 1
    return float(found.value.iloc[0])


@pytest.fixture
def m4(shared_data) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = shared_data("m4-hourly")
    frames = []
    for part in ("train", "test"):
        wide = pd.read_csv(folder / f"Hourly-{part}.csv", index_col=0)
        wide.columns = range(len(wide.columns))
        long = wide.rename_axis(index="unique_id", columns="ds").stack(future_stack=True).dropna()
        frames.append(long.rename("y").reset_index())
    train, test = frames
    test["ds"] += test.unique_id.map(train.groupby("unique_id").size())
    return train, test


def test_naive_forecasts_of_m4_hourly_score_as_published(m4) -> None:
    train, test = m4
    last = train.groupby("unique_id", sort=False).y.apply(lambda y: y.to_numpy()[-24:])
    test["SeasonalNaive"] = np.concatenate([np.tile(last[name], 2) for name in last.index])
    test["Naive"] = np.repeat([last[name][-1] for name in last.index], 48)
    result = evaluate(test, train=train, season=24)
    assert value(result, "SeasonalNaive", "mae") == pytest.approx(353.9, abs=0.05)
    assert value(result, "SeasonalNaive", "smape") == pytest.approx(13.912, abs=5e-4)
    assert value(result, "SeasonalNaive", "mase") == pytest.approx(1.193, abs=5e-4)
    assert value(result, "Naive", "mae") == pytest.approx(1218.1, abs=0.05)
    assert value(result, "Naive", "smape") == pytest.approx(43.003, abs=5e-4)
    assert value(result, "Naive", "mase") == pytest.approx(11.608, abs=5e-4)
    assert set(result.series) == {414}
    assert set(result.points) == {414 * 48}
    assert set(result.undefined) == {0}


@pytest.fixture
def rolling() -> pd.DataFrame:
    """Two series with 3 and 1 windows of 4 steps."""
    rng = np.random.default_rng(0)
    windows = [("a", c) for c in (10, 12, 14)] + [("b", 7)]
    table = pd.DataFrame(
        [(s, c + k, c) for s, c in windows for k in range(1, 5)], columns=["unique_id", "ds", "cutoff"]
    )
    table["y"] = rng.normal(size=16) + 5
    for name in ("KAN-lo-80", "KAN", "KAN-median", "KAN-hi-80", "other"):
        table[name] = rng.normal(size=16) + 5
    return table


def test_means_are_over_the_means_of_series(rolling) -> None:
    result = evaluate(rolling.sample(frac=1, random_state=0))
    halves = [part for _, part in rolling.groupby("unique_id")]
    mae = np.mean([mean_absolute_error(part.y, part.KAN) for part in halves])
    rmse = np.mean([root_mean_squared_error(part.y, part.KAN) for part in halves])
    assert value(result, "KAN", "mae") == pytest.approx(mae, rel=1e-12)
    assert value(result, "KAN", "rmse") == pytest.approx(rmse, rel=1e-12)
    assert set(zip(result.series, result.windows, result.points, strict=True)) == {(2, 4, 16)}
    assert set(result.model) == {"KAN", "other"}  # an interval is no model
    assert "crps" not in set(result.metric[result.model == "other"])


def test_quantile_scores_are_those_of_their_definitions(rolling) -> None:
    result = evaluate(rolling)
    halves = [part for _, part in rolling.groupby("unique_id")]
    names = {0.1: "KAN-lo-80", 0.5: "KAN-median", 0.9: "KAN-hi-80"}
    pinball = {q: np.mean([mean_pinball_loss(p.y, p[name], alpha=q) for p in halves]) for q, name in names.items()}
    for q, expected in pinball.items():
        assert value(result, "KAN", f"pinball-{q}") == pytest.approx(expected, rel=1e-12)
    assert value(result, "KAN", "crps") == pytest.approx(2 * np.mean(list(pinball.values())), rel=1e-12)
    pooled = [2 * 16 * mean_pinball_loss(rolling.y, rolling[name], alpha=q) for q, name in names.items()]
    assert value(result, "KAN", "wql") == pytest.approx(np.mean(pooled) / rolling.y.abs().sum(), rel=1e-12)
    inside = rolling.y.between(rolling["KAN-lo-80"], rolling["KAN-hi-80"])
    assert value(result, "KAN", "coverage-80") == pytest.approx(inside.groupby(rolling.unique_id).mean().mean())
    width = (rolling["KAN-hi-80"] - rolling["KAN-lo-80"]).groupby(rolling.unique_id).mean().mean()
    assert value(result, "KAN", "width-80") == pytest.approx(width)
    crossed = (rolling["KAN-lo-80"] <= rolling["KAN-median"]) & (rolling["KAN-median"] <= rolling["KAN-hi-80"])
    assert value(result, "KAN", "noncrossing") == pytest.approx(crossed.groupby(rolling.unique_id).mean().mean())


def test_by_step_each_step_is_scored_alone(rolling) -> None:
    result = evaluate(rolling, by_step=True)
    kan = result[(result.model == "KAN") & (result.metric == "mae")]
    assert kan.step.tolist() == [1, 2, 3, 4]
    assert set(kan.points) == {4}
    second = rolling[rolling.ds - rolling.cutoff == 2]
    errors = (second.y - second.KAN).abs().groupby(second.unique_id).mean()
    assert kan.value.iloc[1] == pytest.approx(errors.mean())


def test_mase_divides_by_the_past_up_to_the_first_cutoff_alone(rolling) -> None:
    train = pd.DataFrame({"unique_id": "a", "ds": np.arange(30), "y": np.arange(30.0) ** 2})
    train = pd.concat([train, pd.DataFrame({"unique_id": "b", "ds": np.arange(8), "y": np.arange(8.0)})])
    result = evaluate(rolling, train=train, season=2)
    scale = {"a": np.mean(np.arange(2.0, 11) ** 2 - np.arange(9.0) ** 2), "b": 2.0}
    expected = np.mean([(p.y - p.KAN).abs().mean() / scale[str(name)] for name, p in rolling.groupby("unique_id")])
    assert value(result, "KAN", "mase") == pytest.approx(expected, rel=1e-12)
    changed = train.assign(y=train.y.where(train.ds <= 10, 1e9))
    pd.testing.assert_frame_equal(evaluate(rolling, train=changed, season=2), result)


def test_a_mase_that_is_undefined_is_counted(rolling) -> None:
    train = pd.DataFrame({"unique_id": ["a"] * 9, "ds": np.arange(9), "y": np.arange(9.0)})
    flat = pd.DataFrame({"unique_id": ["b"] * 8, "ds": np.arange(8), "y": 1.0})
    result = evaluate(rolling, train=pd.concat([train, flat]), season=1).query("metric == 'mase' and model == 'KAN'")
    assert result.undefined.item() == 1
    a = rolling[rolling.unique_id == "a"]
    assert result.value.item() == pytest.approx((a.y - a.KAN).abs().mean())
    nothing = evaluate(rolling, train=flat, season=1).query("metric == 'mase' and model == 'KAN'")
    assert nothing.undefined.item() == 2
    assert np.isnan(nothing.value.item())


def test_smape_of_zero_for_zero_is_zero_and_opposite_signs_are_200() -> None:
    table = pd.DataFrame({"unique_id": ["a", "a"], "ds": [1, 2], "y": [0.0, 1.0], "m": [0.0, -1.0]})
    assert value(evaluate(table), "m", "smape") == 100.0


def test_rows_without_a_target_are_not_scored(rolling) -> None:
    rolling.loc[rolling.unique_id == "b", "y"] = np.nan
    rolling.loc[0, "y"] = np.nan
    assert set(zip(*evaluate(rolling)[["series", "windows", "points"]].to_numpy().T, strict=True)) == {(1, 3, 11)}


def test_quantiles_of_levels() -> None:
    expected = {"m-lo-95": 0.025, "m-lo-80": 0.1, "m-median": 0.5, "m-hi-80": 0.9, "m-hi-95": 0.975}
    assert list(quantile_columns("m", [95, 80]).items()) == list(expected.items())
    with pytest.raises(KANError, match="level must lie between 0 and 100"):
        quantile_columns("m", [100])


def test_what_cannot_be_scored_is_refused_in_one_line(rolling) -> None:
    bad = {
        "no column 'y'": rolling.drop(columns="y"),
        "no column of a model": rolling[["unique_id", "ds", "cutoff", "y"]],
        "series 'a' at 11: the forecast other is nan": rolling.assign(other=np.nan),
        "y is missing in every row": rolling.assign(y=np.nan),
        "more than one such row": pd.concat([rolling, rolling]),
        "must hold numbers": rolling.assign(y="1"),
    }
    for message, table in bad.items():
        with pytest.raises(KANError, match=message) as caught:
            evaluate(table)
        assert "\n" not in str(caught.value)
    with pytest.raises(KANError, match="season"):
        evaluate(rolling, train=rolling, season=0)
