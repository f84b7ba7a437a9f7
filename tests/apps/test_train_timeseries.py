"""The time-series app in process: the runs without arguments (smaller), a file of one's own, every configuration."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kan_timeseries.cli import main
from kan_timeseries.tasks import ActivityTask, ForecastTask

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs" / "timeseries").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of a short run; the run of the fixture below draws."""
    for task in (ActivityTask, ForecastTask):
        monkeypatch.setattr(task, "figures", lambda task, datamodule: iter(()))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run of the default configuration; tests read from it."""
    output = tmp_path_factory.mktemp("timeseries")
    assert main(["--trainer.max_epochs=2", "--name=small", *QUIET, "--output", str(output)]) == 0
    return output / "timeseries" / "small"


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def long_table(series=3, steps=240, seed=0):
    """Hourly series with a daily profile and a price that is known ahead and counts."""
    rng = np.random.default_rng(seed)
    frames = []
    for s in range(series):
        hour = np.arange(steps)
        price = rng.integers(1, 4, steps)
        y = 10 * s + 3 * np.sin(2 * np.pi * hour / 24) - price + 0.1 * rng.normal(size=steps)
        ds = pd.date_range("2024-01-01", periods=steps, freq="h")
        frames.append(pd.DataFrame({"unique_id": f"shop{s}", "ds": ds, "y": y, "price": price}))
    return pd.concat(frames)


def test_the_default_run_forecasts_co2_beside_its_twin_and_the_baselines(run):
    summary = summary_of(run)
    assert summary["dataset"] == "co2"
    assert summary["twin"]["parameters"] == pytest.approx(summary["parameters"], rel=0.05)
    # 431 windows of 26 weeks: the seasonal naive value is a fact of the series
    assert summary["baseline"]["test/mae"] == pytest.approx(0.1576, abs=1e-3)
    assert set(summary["other_baselines"]) == {"last value", "ridge line"}
    for side in (summary, summary["twin"]):
        assert side["metrics"]["test/mae"] < 0.06
    assert {"forecasts", "error_by_step"} <= {path.stem for path in (run / "figures").glob("*.png")}
    assert (run / "report.html").stat().st_size > 0


@pytest.mark.usefixtures("no_figures")
def test_a_long_table_with_prices_is_trained_on_and_forecast(tmp_path):
    table = long_table()
    table.to_csv("shops.csv", index=False)
    options = ["--data.file=shops.csv", '--data.known=["price"]', '--data.calendar=["hour"]', "--data.input_length=24"]
    options += ["--data.horizon=6", "--data.batch_size=16", "--model.lr=0.02", "--trainer.max_epochs=4"]
    assert main([*options, "--model.model=none", "--twin=none", "--name=shops", *QUIET]) == 0
    folder = tmp_path / "outputs" / "timeseries" / "shops"
    summary = summary_of(folder)
    assert summary["metrics"]["test/mae"] < summary["other_baselines"]["ridge line"]["test/mae"]
    assert main(["predict", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), *QUIET]) == 0
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 6
    assert {row["unique_id"] for row in rows} == {"shop0", "shop1", "shop2"}
    first = [float(row["forecast"]) for row in rows if row["unique_id"] == "shop2"]
    assert 10 < np.mean(first) < 25


def test_an_exported_file_would_lack_the_prices(tmp_path, capsys):
    long_table(1).to_csv("shops.csv", index=False)
    options = ["--data.file=shops.csv", '--data.known=["price"]', "--data.input_length=24", "--data.horizon=6", *QUIET]
    best = str(tmp_path / "outputs" / "timeseries" / "shops" / "checkpoints" / "best.ckpt")
    assert main(["fit", *options, "--trainer.max_epochs=1", "--twin=none", "--name=shops"]) == 0
    assert main(["export", "--ckpt_path", best, *QUIET]) == 2
    assert "takes the past alone" in capsys.readouterr().err


@pytest.mark.usefixtures("no_figures")
def test_quantiles_come_in_order_and_cover(tmp_path):
    options = ["--model.loss=quantile", "--model.quantiles=[0.1, 0.5, 0.9]", "--data.dataset=co2", "--twin=none"]
    assert main([*options, "--trainer.max_epochs=2", "--name=q", *QUIET]) == 0
    metrics = summary_of(tmp_path / "outputs" / "timeseries" / "q")["metrics"]
    assert 0.2 < metrics["test/coverage"] <= 1
    assert metrics["test/pinball"] < 0.05


@pytest.mark.usefixtures("no_figures")
def test_activities_of_people_who_are_made_up(tmp_path):
    options = ["--task", "har", "--data.dataset=synthetic", "--data.classes=null", "--trainer.max_epochs=2"]
    assert main([*options, "--twin=none", "--name=har", *QUIET]) == 0
    summary = summary_of(tmp_path / "outputs" / "timeseries" / "har")
    assert summary["metrics"]["test/macro_f1"] > summary["baseline"]["test/macro_f1"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("no_figures")
def test_every_shipped_config_trains_and_tests(config, tmp_path):
    root = REPOSITORY.parent / "shared" / "data"
    text = config.read_text()
    words = (
        next(line for line in text.splitlines() if line.startswith("# Run:")).split("train_timeseries.py", 1)[1].split()
    )
    words = [str(REPOSITORY / word) if word.startswith("configs/") else word for word in words]
    words = [str(root) if word == "~/data" else word for word in words]
    if "~/data" in text and not root.is_dir():
        pytest.skip("the data sets of ../shared/data are not here")
    stride = [] if "har" in words else ["--data.stride=24"]
    limits = [*stride, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    assert main([*words, *limits, "--trainer.limit_test_batches=2", "--twin=none", "--name=one", *QUIET]) == 0
    assert summary_of(tmp_path / "outputs" / "timeseries" / "one")["metrics"]
