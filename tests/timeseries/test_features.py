"""KAN-HAR's statistics (card kan-har, sections 3 and 8) and the physical ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from kan_core.errors import KANError
from kan_timeseries.features import (
    KAN_HAR_STATISTICS,
    kan_har_features,
    kan_har_names,
    physical_features,
    physical_names,
)

XYZ = ["x", "y", "z"]


def by_statistic(x, mask=None, corrected=False):
    """The twelve statistics by name, each ``(B, C)``."""
    values = kan_har_features(x, mask, corrected=corrected)
    return dict(zip(KAN_HAR_STATISTICS, values.split(x.shape[2], dim=1), strict=True))


@pytest.fixture
def windows():
    return torch.randn(6, 500, 3, dtype=torch.float64) + torch.tensor([0.0, 0.5, -2.0], dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_there_are_twelve_statistics_per_channel(channels):
    names = kan_har_names([str(i) for i in range(channels)])
    assert kan_har_features(torch.randn(2, 50, channels)).shape == (2, 12 * channels) == (2, len(names))


def test_order_is_metric_major_and_axis_minor(windows):
    values = kan_har_features(windows)
    assert kan_har_names(XYZ)[:4] == ["mean_abs x", "mean_abs y", "mean_abs z", "std x"]
    torch.testing.assert_close(values[:, :3], windows.abs().mean(dim=1))
    torch.testing.assert_close(values[:, 3:6], windows.std(dim=1, correction=0))


def test_moments_and_entropy_are_those_of_scipy_and_numpy(windows):
    found, x = by_statistic(windows), windows.numpy()
    np.testing.assert_allclose(found["skewness"], stats.skew(x, axis=1))
    np.testing.assert_allclose(found["kurtosis"], stats.kurtosis(x, axis=1))
    counts = np.histogram(x[2, :, 1], bins=500)[0]
    assert found["entropy"][2, 1] == pytest.approx(stats.entropy(counts), abs=1e-9)


def test_scaling_a_window_scales_six_statistics_and_leaves_six(windows):
    before, after = by_statistic(windows), by_statistic(3.5 * windows)
    scaled = {"mean_abs", "std", "rms", "max_abs", "peak_to_peak", "clearance"}
    for name in KAN_HAR_STATISTICS:
        torch.testing.assert_close(after[name], before[name] * (3.5 if name in scaled else 1))


def test_negating_a_window_changes_the_sign_of_the_skewness_alone(windows):
    before, after = by_statistic(windows), by_statistic(-windows)
    for name in KAN_HAR_STATISTICS:
        torch.testing.assert_close(after[name], -before[name] if name == "skewness" else before[name])


def test_inequalities_between_the_statistics(windows):
    found = by_statistic(windows)
    assert (found["rms"] >= found["mean_abs"]).all()
    assert (found["mean_abs"] >= found["clearance"]).all()
    assert (found["shape"] >= 1).all()
    assert (found["crest"] >= 1).all()
    assert (found["impulse"] >= found["crest"]).all()


def test_variance_and_squared_mean_make_the_mean_square(windows):
    found = by_statistic(windows)
    torch.testing.assert_close(found["std"] ** 2 + windows.mean(dim=1) ** 2, found["rms"] ** 2)


def test_entropy_is_at_most_that_of_the_bins_and_ln_2_for_two_levels():
    noise = torch.rand(3, 100, 1)
    assert (by_statistic(noise)["entropy"] <= math.log(100)).all()
    assert (by_statistic(torch.rand(1, 5000, 1), corrected=True)["entropy"] <= math.log(32)).all()
    square = torch.tensor([-1.0, 1.0]).repeat(50).reshape(1, 100, 1)
    assert by_statistic(square)["entropy"].item() == pytest.approx(math.log(2))


def test_pure_sine_of_whole_periods():
    t = torch.arange(4000, dtype=torch.float64) / 4000
    found = by_statistic((2 * torch.sin(2 * math.pi * 5 * t)).reshape(1, 4000, 1))
    exact = {"rms": math.sqrt(2), "crest": math.sqrt(2), "shape": math.pi / (2 * math.sqrt(2)), "kurtosis": -1.5}
    for name, value in exact.items():
        assert found[name].item() == pytest.approx(value, rel=2e-4)
    assert found["skewness"].item() == pytest.approx(0, abs=1e-9)


def test_literal_peak_to_peak_is_the_range_only_where_the_window_crosses_zero():
    crosses, above = torch.tensor([-1.0, 2.0, 0.5]), torch.tensor([1.0, 2.0, 1.5])
    x = torch.stack([crosses, above])[:, :, None]
    assert by_statistic(x)["peak_to_peak"].flatten().tolist() == [3.0, 3.0]
    assert by_statistic(x, corrected=True)["peak_to_peak"].flatten().tolist() == [3.0, 1.0]


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_constant_window_is_finite_everywhere(value):
    x = torch.full((1, 40, 3), value)
    found = by_statistic(x)
    assert found["skewness"].tolist() == found["kurtosis"].tolist() == found["entropy"].tolist() == [[0.0] * 3]
    assert kan_har_features(x).isfinite().all()
    assert physical_features(x, rate=32.0).isfinite().all()


def test_padding_changes_nothing():
    x = torch.randn(2, 200, 3, dtype=torch.float64)
    padded = torch.cat([x, torch.full((2, 170, 3), 9.0, dtype=torch.float64)], dim=1)
    mask = torch.arange(370).expand(2, -1) < 200
    torch.testing.assert_close(kan_har_features(padded, mask), kan_har_features(x))
    torch.testing.assert_close(physical_features(padded, mask, rate=32.0), physical_features(x, rate=32.0))


@pytest.mark.parametrize("samples", [1, 2, 20, 127])
def test_physical_statistics_of_short_recordings_are_finite(samples):
    assert physical_features(torch.randn(2, samples, 3), rate=32.0).isfinite().all()


def test_physical_names_are_those_of_the_columns():
    x = torch.randn(3, 300, 6, dtype=torch.float64)
    names = physical_names(["ax", "ay", "az", "gx", "gy", "gz"], 32.0)
    values = dict(zip(names, physical_features(x, rate=32.0).T, strict=True))
    assert len(names) == 2 * 205 + 1
    torch.testing.assert_close(values["mean gy"], x[..., 4].mean(dim=1))
    torch.testing.assert_close(values["max |ax..az|"], x[..., :3].norm(dim=2).amax(dim=1))
    torch.testing.assert_close(values["quantile 0.25 az"], torch.quantile(x[..., 2], 0.25, dim=1))
    torch.testing.assert_close(values["mean |delta| ax"], x[..., 0].diff(dim=1).abs().mean(dim=1))
    torch.testing.assert_close(values["mean of third 2 gx"], x[:, 100:200, 3].mean(dim=1))
    torch.testing.assert_close(values["mean of tenth 10 az"], x[:, 270:, 2].mean(dim=1))
    torch.testing.assert_close(values["log duration"], torch.full((3,), math.log(300), dtype=torch.float64))
    torch.testing.assert_close(values["correlation gx gy"][0], torch.corrcoef(x[0, :, 3:5].T)[0, 1], rtol=1e-4, atol=0)


def test_rotating_a_sensor_leaves_the_statistics_of_its_magnitude():
    x = torch.randn(4, 300, 3)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    names = [
        i
        for i, name in enumerate(physical_names(XYZ, 32.0))
        if name.endswith(" |x..z|") and not name.startswith("correlation")
    ]
    before, after = (physical_features(v, rate=32.0)[:, names] for v in (x, x @ turn.T))
    assert len(names) == 35 + 3 + 5
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


def test_a_rhythm_shows_in_frequency_and_autocorrelation():
    t = torch.arange(640) / 32
    x = torch.stack([torch.sin(2 * math.pi * 2 * t), torch.zeros(640), torch.ones(640)], dim=1)[None]
    values = dict(zip(physical_names(XYZ, 32.0), physical_features(x, rate=32.0)[0].tolist(), strict=True))
    assert values["dominant frequency x"] == pytest.approx(2.0)
    assert values["lag of the peak x"] == pytest.approx(0.5)
    assert values["log power 2.0 to 3.0 Hz x"] > values["log power 5.0 to 8.0 Hz x"] + 3


def test_gravity_turns_with_the_device():
    down = torch.tensor([0.0, 0.0, 1.0]).expand(1, 200, 3)
    up = torch.tensor([1.0, 0.0, 0.0]).expand(1, 200, 3)
    x = torch.cat([down, up], dim=1)
    values = dict(zip(physical_names(XYZ, 32.0), physical_features(x, rate=32.0)[0].tolist(), strict=True))
    assert [values[f"gravity start {axis}"] for axis in XYZ] == pytest.approx([0, 0, 1])
    assert [values[f"gravity end {axis}"] for axis in XYZ] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize(
    ("x", "mask", "said"),
    [
        (torch.zeros(4, 3), None, "shape (B, T, C)"),
        (torch.zeros(1, 4, 3), torch.ones(1, 5, dtype=torch.bool), "a mask of shape (1, 4)"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 4, dtype=torch.bool), "no sample"),
        (torch.zeros(1, 4, 2), None, "threes"),
    ],
    ids=["dimensions", "mask", "empty", "axes"],
)
def test_wrong_windows_are_refused_in_one_line(x, mask, said):
    with pytest.raises(KANError, match=r"^[^\n]+$") as error:
        physical_features(x, mask, rate=32.0)
    assert said in str(error.value)
