"""Public forecasting sets: window counts, and errors of forecasts that anybody can repeat."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from kan_core.errors import KANError
from kan_timeseries.baselines import SeasonalNaive, WindowMean, ridge_nlinear, score
from kan_timeseries.data import ForecastData, load_set
from kan_timeseries.tasks.forecast import errors_of

ETT_HEADER = "date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"


def data_of(name, root, horizon, **options):
    data = ForecastData(dataset=name, root=str(root), input_length=96, horizon=horizon, **options)
    data.setup("fit")
    return data


def error_of(net, data, metric):
    return float(score(net, data.parts["test"].loader(512), errors_of(data)).compute()[metric])


@pytest.mark.parametrize(("horizon", "windows"), [(96, 2785), (192, 2689), (336, 2545), (720, 2161)])
def test_etth1_has_the_published_windows(shared_data, horizon, windows):
    data = data_of("etth1", shared_data("ett").parent, horizon)
    assert len(data.parts["train"]) == 8640 - 96 - horizon + 1
    assert len(data.parts["val"]) == len(data.parts["test"]) == 2880 - horizon + 1 == windows
    assert data.parts["test"].cutoffs[0] == 11520 - 1  # the first target is the first row of the part


def test_etth1_naive_forecasts_and_the_ridge_line_score_as_published(shared_data):
    data = data_of("etth1", shared_data("ett").parent, 96)
    nets = {"last": SeasonalNaive(96), "season": SeasonalNaive(96, 24), "mean": WindowMean(96)}
    found = {name: (error_of(net, data, "mse"), error_of(net, data, "mae")) for name, net in nets.items()}
    line = ridge_nlinear(data.parts["train"].loader(512), 96, 96, 7)
    found["ridge"] = error_of(line, data, "mse"), error_of(line, data, "mae")
    expected = {"last": (1.2944, 0.7132), "season": (0.5122, 0.4333), "mean": (0.7008, 0.5581), "ridge": (0.383, 0.392)}
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-3), name


def test_etth1_scales_are_of_the_training_rows(shared_data):
    data = data_of("etth1", shared_data("ett").parent, 96)
    train = data.source.panel.values[:8640]
    np.testing.assert_allclose(data.scaler.center[0], train.mean(axis=0))
    np.testing.assert_allclose(data.scaler.scale[0], train.std(axis=0))


def test_m4_hourly_seasonal_naive_scores_as_the_competition_says(shared_data):
    data = ForecastData(dataset="m4-hourly", root=str(shared_data("m4-hourly").parent), input_length=168, horizon=48)
    data.setup("fit")
    assert len(data.parts["val"]) == len(data.parts["test"]) == data.num_series == 414
    errors = score(SeasonalNaive(48, 24), data.parts["test"].loader(512), errors_of(data)).compute()
    assert float(errors["smape"]) == pytest.approx(13.912, abs=1e-3)
    assert float(errors["mase"]) == pytest.approx(1.193, abs=1e-3)
    assert float(errors["mae_units"]) == pytest.approx(353.9, abs=0.1)


@pytest.mark.parametrize(("horizon", "windows", "mse", "mae"), [(96, 1422, 0.0811, 0.1964), (720, 798, 0.8101, 0.6764)])
def test_exchange_rates_are_repeated(shared_data, horizon, windows, mse, mae):
    data = data_of("exchange", shared_data("exchange-rate").parent, horizon)
    assert len(data.parts["test"]) == windows
    assert error_of(SeasonalNaive(horizon), data, "mse") == pytest.approx(mse, abs=1e-3)
    assert error_of(SeasonalNaive(horizon), data, "mae") == pytest.approx(mae, abs=1e-3)


def test_airline_passengers_keep_their_last_two_years(shared_data):
    found = load_set("airline", str(shared_data("airline-passengers").parent))
    assert (found.train_end, found.val_end, found.test_end) == (96, 120, 144)
    assert found.panel.values[[0, -1], 0].tolist() == [112, 432]


def test_co2_needs_no_file_and_keeps_its_gaps():
    found = load_set("co2")
    assert len(found.panel.values) == 2284
    assert np.isnan(found.panel.values).sum() == 59
    assert found.panel.season == 52


def test_other_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "ett").mkdir()
    path = tmp_path / "ett" / "ETTh1.csv"
    path.write_text(f"{ETT_HEADER}\n2016-07-01 00:00:00,1,2,3,4,5,6,7\n")
    with pytest.raises(KANError, match=r"ETTh1.csv: has 1 rows, the protocol uses the first 14400"):
        load_set("etth1", str(tmp_path))
    path.write_text("a,b\n1,2\n")
    with pytest.raises(KANError, match="expected the columns date, HUFL"):
        load_set("etth1", str(tmp_path))
    (tmp_path / "exchange-rate").mkdir()
    with gzip.open(tmp_path / "exchange-rate" / "exchange_rate.txt.gz", "wt") as file:
        file.write("1,2,3\n")
    with pytest.raises(KANError, match="expected 8 columns, found 3"):
        load_set("exchange", str(tmp_path))
    (tmp_path / "m4-hourly").mkdir()
    (tmp_path / "m4-hourly" / "Hourly-train.csv").write_text('"V1","V2","V3"\n"H1","1","2"\n')
    (tmp_path / "m4-hourly" / "Hourly-test.csv").write_text('"V1","V2"\n"H1","1"\n')
    with pytest.raises(KANError, match="M4 Hourly: series 'H1' has no test of 48 values"):
        load_set("m4-hourly", str(tmp_path))
    with pytest.raises(KANError, match=r"no file .*airline-passengers.csv: get it from https"):
        load_set("airline", str(tmp_path))
