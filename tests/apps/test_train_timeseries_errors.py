"""Mistakes that a user can make with the time-series app: one line that says what to do, exit code 2."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kan_timeseries.cli import main

QUIET = [
    "--trainer.max_epochs=1",
    "--twin=none",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.accelerator",
    "cpu",
]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)


@pytest.fixture
def fails(capsys, tmp_path):
    """`fails(args, part, ...)`: the app exits with 2 and one line on stderr that has every part; nothing is written."""

    def check(args, *parts):
        before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        assert main([*args, *QUIET]) == 2
        stderr = capsys.readouterr().err
        assert len(stderr.splitlines()) == 1, stderr
        for part in parts:
            assert part in stderr
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before

    return check


def table(steps=150):
    ds = pd.date_range("2024-01-01", periods=steps, freq="h")
    return pd.DataFrame({"unique_id": "a", "ds": ds, "y": np.sin(np.arange(steps))})


def write(frame):
    frame.to_csv("my.csv", index=False)
    return ["--data.file=my.csv", "--data.input_length=12", "--data.horizon=4"]


def test_another_task(fails):
    fails(["--task", "classify"], "--task must be one of forecast, har, got 'classify'")


def test_missing_data_names_the_path_and_the_page(fails):
    fails(["--data.dataset=etth1"], "ETTh1.csv", "https://github.com/zhouhaoyi/ETDataset", "--data.root")
    fails(["--data.dataset=etth"], "unknown data set 'etth': did you mean", "etth1")
    fails(["--task=har"], "hmp", "--data.root")


def test_duplicates_gaps_and_unknown_targets(fails):
    frame = table()
    fails(write(pd.concat([frame, frame.iloc[[7]]])), "series 'a'", "2024-01-01 07:00")
    fails(write(frame.drop(index=9)), "series 'a'", "2024-01-01", "gaps")
    frame.loc[5, "y"] = np.nan
    fails(write(frame), "series 'a'", "2024-01-01 05:00", "gaps")


def test_unsorted_rows_are_sorted(tmp_path):
    words = write(table().sample(frac=1.0, random_state=0))
    assert main(["fit", *words, "--model.model=none", '--data.calendar=["hour"]', *QUIET]) == 0


def test_mixed_frequencies_and_missing_columns(fails):
    daily = table(60).assign(unique_id="b", ds=pd.date_range("2024-01-01", periods=60, freq="D"))
    fails(write(pd.concat([table(), daily])), "series 'b'")
    fails(write(table().rename(columns={"y": "value"})), "'y'")
    fails([*write(table()), '--data.known=["price"]'], "'price'")


def test_series_shorter_than_a_window(fails):
    fails(write(table(20)), "no window of 12 + 4 steps fits into the train part, whose longest series has 14 rows")


def test_options_out_of_range(fails):
    fails(["--data.horizon=0"], "horizon must be a whole number of at least 1, got 0")
    fails(["--data.test_fraction=0.95", "--data.val_fraction=0.2"], "below 1 together")
    fails(["--model.loss=rmse"], "loss")
    fails(["--model.model=lstmm"], "unknown forecaster 'lstmm': did you mean lstm")
    fails(["--model.loss=quantile", "--model.quantiles=[0.1, 0.5]"], "quantiles must lie in (0, 1), symmetric")
    fails(['--data.calendar=["hours"]'], "calendar: unknown field 'hours'")
    fails(["--data.file=my.csv"], "no file my.csv")
