"""Long tables in, forecasts out: cutoffs, leaks, intervals, short series, memory."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from kan_core.errors import KANError
from kan_timeseries.data.panel import Panel
from kan_timeseries.data.sets import load_set
from kan_timeseries.data.windows import every_window
from kan_timeseries.evaluation import evaluate
from kan_timeseries.forecaster import KANForecaster
from kan_timeseries.training import refit_line


def table(lengths: tuple[int, ...] = (60, 50), seed: int = 0) -> pd.DataFrame:
    """Weekly waves of different sizes on days."""
    rng = np.random.default_rng(seed)
    parts = []
    for s, n in enumerate(lengths):
        y = 10.0 * s + (s + 1) * (np.sin(np.arange(n) * 2 * np.pi / 7) + 0.1 * rng.normal(size=n))
        ds = pd.date_range("2024-01-01", periods=n, freq="D")
        parts.append(pd.DataFrame({"unique_id": f"s{s}", "ds": ds, "y": y, "price": rng.normal(size=n)}))
    return pd.concat(parts, ignore_index=True)


def line(h: int = 3, **options) -> KANForecaster:
    """The ridge line alone: closed form, no training."""
    return KANForecaster(h, **{"model": "none", "alias": "line", "input_size": 14, "max_steps": 2, **options})


def small(h: int = 3, **options) -> KANForecaster:
    options = {"model_kwargs": {"hidden": [4]}, "max_steps": 4, "check_every": 2, **options}
    return KANForecaster(h, input_size=14, **options)


def days(*names: str) -> list[pd.Timestamp]:
    return [pd.Timestamp(f"2024-{name}") for name in names]


# Fit and predict ----------------------------------------------------------------------------------------------------


def test_forecasts_are_for_the_h_steps_after_each_series() -> None:
    forecast = small().fit(table()).predict(level=[80])
    assert list(forecast) == ["unique_id", "ds", "kan", "kan-lo-80", "kan-hi-80"]
    assert forecast.unique_id.tolist() == ["s0"] * 3 + ["s1"] * 3
    assert forecast.ds.tolist() == days("03-01", "03-02", "03-03", "02-20", "02-21", "02-22")
    assert (forecast["kan-lo-80"] < forecast["kan-hi-80"]).all()
    assert np.isfinite(forecast.drop(columns=["unique_id", "ds"])).all().all()


def test_names_of_columns_and_types_of_ids_are_the_users() -> None:
    frame = table().assign(unique_id=lambda t: t.unique_id.map({"s0": 5, "s1": 2}))
    frame = frame.rename(columns={"unique_id": "shop", "ds": "day", "y": "sales"})
    forecaster = line(id_col="shop", time_col="day", target_col="sales").fit(frame)
    forecast = forecaster.predict()
    assert list(forecast) == ["shop", "day", "line"]
    assert forecast.shop.tolist() == [5, 5, 5, 2, 2, 2]
    assert forecast.shop.dtype == frame.shop.dtype
    assert list(forecaster.cross_validation(frame)) == ["shop", "day", "cutoff", "sales", "line"]


def test_the_training_table_and_the_same_table_again_give_the_same() -> None:
    forecaster = small().fit(table())
    pd.testing.assert_frame_equal(forecaster.predict(table()), forecaster.predict())


def test_a_seed_means_the_same_and_no_global_state_is_touched() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state()
    numbers = np.random.get_state()[1].copy()
    first = small(random_state=3).fit(table(), val_size=0).predict()
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)
    torch.manual_seed(8)
    pd.testing.assert_frame_equal(small(random_state=3).fit(table(), val_size=0).predict(), first)
    assert not small(random_state=4).fit(table(), val_size=0).predict().equals(first)


def test_new_series_and_newer_rows_are_forecast_from_what_is_given() -> None:
    forecaster = line().fit(table())
    other = table((40,), seed=5).assign(unique_id="new")
    forecast = forecaster.predict(other)
    assert forecast.unique_id.unique().tolist() == ["new"]
    assert forecast.ds.tolist() == days("02-10", "02-11", "02-12")
    shifted = forecaster.predict(other.assign(y=1e6 * other.y + 3e6))
    np.testing.assert_allclose(shifted.line, 1e6 * forecast.line + 3e6, rtol=1e-5)


def test_a_series_shorter_than_the_window_is_continued_to_the_left_by_its_first_value() -> None:
    forecaster = line().fit(table())
    short = table((5,), seed=2)
    ahead = pd.date_range(end=pd.Timestamp("2023-12-31"), periods=20, freq="D")
    padding = pd.DataFrame({"unique_id": "s0", "ds": ahead, "y": short.y[0], "price": 0.0})
    padded = forecaster.predict(pd.concat([padding, short]))
    np.testing.assert_allclose(forecaster.predict(short).line, padded.line, rtol=1e-5)
    assert np.isfinite(forecaster.predict(short[:1]).line).all()


def test_series_too_short_to_train_on_are_counted_logged_and_forecast(caplog: pytest.LogCaptureFixture) -> None:
    frame = table((60, 50, 16, 4))
    with caplog.at_level(logging.WARNING, "kan_timeseries.forecaster"):
        forecaster = line().fit(frame, val_size=5)  # 14 + 3 + 5 = 22 steps are needed, and 17 for the line
    assert forecaster.dropped_ == 2
    assert caplog.messages == ["2 of 4 series are too short to train on"]
    assert np.isfinite(forecaster.predict().line).all()
    alone = line().fit(frame[frame.unique_id.isin(["s0", "s1"])], val_size=5)
    torch.testing.assert_close(forecaster.task_.net.line.weight, alone.task_.net.line.weight, rtol=1e-4, atol=1e-5)


def test_gaps_are_filled_where_asked_for() -> None:
    frame = table((80,)).drop(index=[20, 21, 77])
    frame.loc[30, "y"] = np.nan
    with pytest.raises(KANError, match="series 's0'"):
        line().fit(frame)
    assert np.isfinite(line(gaps="fill").fit(frame).predict().line).all()


def test_a_line_of_each_series_knows_those_series_alone() -> None:
    frame = table()
    frame.loc[frame.unique_id == "s1", "y"] = np.arange(50) % 2 * 5.0
    own = line(skip="series", task_kwargs={"penalty": 1e3, "group_penalty": 0.1}).fit(frame)
    forecast = own.predict().line.to_numpy()[3:]
    np.testing.assert_allclose(forecast, [0, 5, 0], atol=0.2)
    swapped = frame.sort_values(["unique_id", "ds"], ascending=[False, True])
    np.testing.assert_allclose(own.predict(swapped).line[:3], forecast, rtol=1e-6)
    with pytest.raises(KANError, match="series 'new' was not in the training table"):
        own.predict(frame.assign(unique_id="new")[:50])


def test_the_line_is_fitted_to_the_validation_rows_too_once_they_have_chosen_the_weights() -> None:
    options = {"scale": "none", "task_kwargs": {"penalty": 1.0}}
    held, whole = (line(**options).fit(table(), val_size=size).task_.net.line.weight for size in (20, 0))
    assert torch.equal(held, whole)
    before = line(**options).fit(table().groupby("unique_id").head(30), val_size=0).task_.net.line.weight
    assert (held - before).abs().max() > 0.01


def test_a_new_line_leaves_the_model_as_it_is() -> None:
    task = small().fit(table(), val_size=0).task_
    learned = {name: value.clone() for name, value in task.net.backbone.state_dict().items()}
    old = task.net.line.weight.clone()
    refit_line(task, every_window(Panel.of([np.random.default_rng(0).normal(size=40)]), 14, 3))
    assert not torch.equal(task.net.line.weight, old)
    assert all(torch.equal(value, learned[name]) for name, value in task.net.backbone.state_dict().items())


def test_forecasts_do_not_depend_on_how_many_windows_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    forecaster = small().fit(table((60,) * 7))
    whole = forecaster.predict()
    monkeypatch.setattr("kan_timeseries.training.CHUNK", 3)
    np.testing.assert_allclose(forecaster.predict().kan, whole.kan, rtol=1e-6)


# Covariates ---------------------------------------------------------------------------------------------------------


def test_known_covariates_of_the_horizon_move_the_forecast() -> None:
    frame = table((80, 80)).assign(y=lambda t: 3 * t.price)
    forecaster = line(known=["price"], max_steps=60, lr=0.1, batch_size=32).fit(frame)
    ahead = forecaster.predict(futr_df=future([-1.0, 0.0, 1.0])).line.to_numpy().reshape(2, 3)
    assert (np.diff(ahead) > 1.5).all()  # a slope of 3
    columns = forecaster.cross_validation(frame, n_windows=2)
    assert len(columns) == 2 * 2 * 3


def future(prices: list[float]) -> pd.DataFrame:
    shapes = line().fit(table((80, 80))).predict()
    return shapes[["unique_id", "ds"]].assign(price=prices * 2)


def test_covariates_that_are_missing_or_too_many_are_refused() -> None:
    frame = table((80, 80))
    forecaster = line(known=["price"]).fit(frame)
    with pytest.raises(KANError, match="futr_df is missing: it must give price for 3 steps"):
        forecaster.predict()
    with pytest.raises(KANError, match="series 's1': futr_df has 2 rows"):
        forecaster.predict(futr_df=future([0.0] * 3)[:5])
    with pytest.raises(KANError, match="no covariate is declared as known"):
        line().fit(frame).predict(futr_df=future([0.0] * 3))
    with pytest.raises(KANError, match="static_df is given without df"):
        forecaster.predict(static_df=frame)
    with pytest.raises(KANError, match="model 'kan' has no input for observed covariates"):
        small(observed=["price"]).fit(frame)


def test_calendar_and_constants_need_no_table_of_the_future() -> None:
    static = pd.DataFrame({"unique_id": ["s0", "s1"], "kind": ["x", "y"]})
    forecaster = small(calendar=["day"]).fit(table(), static)
    assert forecaster.task_.hparams["known_names"] == ["kind=x", "kind=y", "day"]
    np.testing.assert_allclose(forecaster.predict(table(), static).kan, forecaster.predict().kan)
    with pytest.raises(KANError, match="static_df is missing"):
        forecaster.predict(table())


# Intervals ----------------------------------------------------------------------------------------------------------


def test_quantiles_are_in_order_and_the_point_is_the_median() -> None:
    forecaster = small(loss="quantile").fit(table())
    forecast = forecaster.predict(level=[80, 95])
    names = ["kan-lo-95", "kan-lo-80", "kan-median", "kan-hi-80", "kan-hi-95"]
    assert set(forecast) == {"unique_id", "ds", "kan", *names}
    assert (np.diff(forecast[names].to_numpy()) >= 0).all()
    pd.testing.assert_series_equal(forecast["kan"], forecast["kan-median"], check_names=False)
    assert list(forecaster.predict()) == ["unique_id", "ds", "kan"]
    with pytest.raises(KANError, match="kan-lo-90 was not learned"):
        forecaster.predict(level=[90])


def test_eighty_per_cent_intervals_of_independent_noise_cover_78_to_82_per_cent() -> None:
    rng = np.random.default_rng(0)
    series, steps = 400, 60
    frame = pd.DataFrame({"unique_id": np.repeat(np.arange(series), steps), "ds": np.tile(np.arange(steps), series)})
    frame["y"] = rng.normal(size=len(frame)) * (1 + frame.unique_id)
    cv = line(2, season=1, input_size=8).cross_validation(frame, n_windows=10, step_size=2, val_size=8, level=[80])
    scores = evaluate(cv).set_index("metric").value  # 400 * 7 calibration windows, 8000 points
    assert 0.78 <= scores["coverage-80"] <= 0.82


def test_intervals_need_enough_validation_rows() -> None:
    assert line().fit(table((200,))).val_size_ == 3 - 1 + 39  # 39 windows for 95 per cent
    assert line(levels=(80,)).fit(table((200, 200))).val_size_ == 3 - 1 + 5
    assert line().fit(table((30,))).val_size_ == 3
    assert line().fit(table((17,))).val_size_ == 0
    few = line().fit(table((200,)), val_size=12)
    assert len(few.predict(level=[80])) == 3
    with pytest.raises(KANError, match="level 95 needs 39 calibration windows, but there were 10: raise val_size"):
        few.predict(level=[95])
    with pytest.raises(KANError, match="give val_size in fit"):
        line().fit(table(), val_size=0).predict(level=[80])
    with pytest.raises(KANError, match="level must lie between"):
        few.predict(level=[0])


# Backtests ----------------------------------------------------------------------------------------------------------


def test_the_last_cutoff_is_h_rows_before_the_last_row() -> None:
    cv = line().cross_validation(table(), n_windows=3, step_size=2, baselines=["SeasonalNaive", "Ridge"])
    assert list(cv) == ["unique_id", "ds", "cutoff", "y", "line", "SeasonalNaive", "Ridge"]
    for name, n in (("s0", 60), ("s1", 50)):
        own = cv[cv.unique_id == name]
        whole = table()[lambda t, name=name: t.unique_id == name].reset_index(drop=True)
        cutoffs = whole.ds.iloc[[n - 1 - 3 - 4, n - 1 - 3 - 2, n - 1 - 3]]
        assert own.cutoff.tolist() == [c for c in cutoffs for _ in range(3)]
        assert own.ds.iloc[-1] == whole.ds.iloc[-1]
        assert ((own.ds - own.cutoff).dt.days.to_numpy().reshape(3, 3) == [1, 2, 3]).all()
        pd.testing.assert_series_equal(own.merge(whole, on="ds").y_y, own.y.reset_index(drop=True), check_names=False)
        known = whole.set_index("ds").y
        naive = [known[c - pd.Timedelta(days=7 - k)] for c, k in zip(own.cutoff, [1, 2, 3] * 3, strict=True)]
        assert own.SeasonalNaive.tolist() == naive


@pytest.mark.parametrize("refit", [False, True, 2], ids=str)
def test_a_cutoff_sees_the_rows_up_to_it_alone(refit: bool | int) -> None:
    frame = table()
    cv = small().cross_validation(frame, n_windows=3, step_size=4, refit=refit, level=[80])
    fits = {False: [0, 0, 0], True: [0, 1, 2], 2: [0, 0, 2]}[refit]
    for window, fit in enumerate(fits):
        parts = [
            pd.concat([own.iloc[: len(own) - 3 - 4 * (2 - k)] for _, own in frame.groupby("unique_id")])
            for k in (fit, window)
        ]
        expected = small().fit(parts[0]).predict(parts[1], level=[80])
        mine = cv[cv.groupby("unique_id").cutoff.rank("dense") == window + 1].drop(columns=["cutoff", "y"])
        pd.testing.assert_frame_equal(mine.reset_index(drop=True), expected, rtol=1e-5)


def test_a_backtest_leaves_the_forecaster_as_it_was() -> None:
    forecaster = line().fit(table())
    before = forecaster.predict()
    forecaster.cross_validation(table((90, 90), seed=4), n_windows=2)
    pd.testing.assert_frame_equal(forecaster.predict(), before)


def test_series_without_a_value_before_a_cutoff_are_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kan_timeseries.forecaster"):
        cv = line().cross_validation(table((60, 5, 3)), n_windows=2, step_size=2)
    assert cv.groupby("unique_id").cutoff.nunique().to_dict() == {"s0": 2, "s1": 1}
    assert "3 of 6 windows are left out: there is no value before the cutoff" in caplog.messages


def test_naive_forecasts_of_m4_hourly_score_as_published(shared_data) -> None:
    panel = load_set("m4-hourly", str(shared_data("m4-hourly").parent)).panel
    ids = np.repeat(panel.ids, panel.lengths)
    frame = pd.DataFrame({"unique_id": ids, "ds": panel.times, "y": panel.values[:, 0]})
    last = line(48, season=24, skip="none", alias="Naive")  # nothing but the last value
    cv = last.cross_validation(frame, baselines=["SeasonalNaive"])
    scores = evaluate(cv, train=frame, season=24).pivot(index="model", columns="metric", values="value")
    names = ["mae", "smape", "mase"]
    assert scores.loc["SeasonalNaive", names].tolist() == pytest.approx([353.9, 13.912, 1.193], rel=3e-4)
    assert scores.loc["Naive", names].tolist() == pytest.approx([1218.1, 43.003, 11.608], rel=3e-4)
    assert len(cv) == 414 * 48


MEMORY = """
import resource
import numpy as np, pandas as pd, torch
from kan_timeseries.forecaster import KANForecaster

torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
frame = pd.DataFrame({"unique_id": np.repeat(np.arange(10_000), 120), "ds": np.tile(np.arange(120), 10_000)})
frame["y"] = np.random.default_rng(0).normal(size=len(frame))
forecaster = KANForecaster(12, input_size=36, season=12, max_steps=10, check_every=10)
forecaster.cross_validation(frame[:1200])
before = peak()
cv = forecaster.cross_validation(frame, n_windows=2, step_size=12, level=[80], baselines=["SeasonalNaive"])
assert len(cv) == 10_000 * 2 * 12 and {"unique_id", "ds", "cutoff"} <= set(cv)
print(peak() - before)
"""


@pytest.mark.slow
def test_ten_thousand_series_are_forecast_in_bounded_memory() -> None:
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    # their 500,000 training windows of 48 steps would be 96 MB in float32, and 8 times that on the grids of the first
    # layer; what there is are copies of the table's columns, of 10 MB each, and the answer
    assert float(run.stdout) < 200


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("h must be a whole number of at least 1, got 0", {"h": 0}),
        ("h must be a whole number", {"h": 2.5}),
        ("input_size must be a whole number", {"input_size": -1}),
        ("max_steps must be a whole number", {"max_steps": True}),
        ("lr must be positive", {"lr": 0.0}),
        ("loss must be one of mse, mae", {"loss": "mape"}),
        ("skip must be 'none', 'shared' or 'series'", {"skip": "channel"}),
        ("skip must be one of", {"skip": "ridge"}),
        ("scaler must be one of", {"scaler": "minmax"}),
        ("scale must be one of", {"scale": "log"}),
        ("level must lie between 0 and 100", {"levels": (80, 120)}),
        ("task_kwargs: unknown argument 'lr'", {"task_kwargs": {"lr": 1.0}}),
        ("cannot be called 'y'", {"alias": "y"}),
        ("unknown field 'moon'", {"calendar": ["moon"]}),
        ("gaps must be 'error' or 'fill'", {"gaps": "drop"}),
        ("forecaster 'lstm_of_mine'", {"model": "lstm_of_mine"}),
        ("no series can be trained on: input_size 99, h 3 and val_size 0 need 102 steps", {"input_size": 99}),
    ],
)
def test_an_option_out_of_its_range(message: str, options: dict) -> None:
    with pytest.raises(KANError, match=message) as caught:
        KANForecaster(**{"h": 3, **options}).fit(table())
    assert "\n" not in str(caught.value)


def test_bad_arguments_of_methods() -> None:
    with pytest.raises(KANError, match="val_size must be 0, or at least h = 3"):
        line().fit(table(), val_size=2)
    for name, value in (("n_windows", 0), ("step_size", 1.5), ("refit", 0), ("baselines", ["ARIMA"])):
        with pytest.raises(KANError, match=name.rstrip("s")):
            line().cross_validation(table(), **{name: value})
    with pytest.raises(KANError, match="no series is longer than h = 3 steps"):
        line().cross_validation(table((3, 2)), n_windows=1)
    with pytest.raises(ValueError, match="not fitted"):
        line().predict()
