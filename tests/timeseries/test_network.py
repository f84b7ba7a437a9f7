"""The ridge line, the scaling of windows, and the network that holds a forecaster."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kan_core.errors import KANError
from kan_timeseries.baselines import SeasonalNaive, WindowMean, ridge_nlinear, score
from kan_timeseries.data.panel import Panel
from kan_timeseries.data.windows import every_window
from kan_timeseries.layers.ridge import RidgeForecast
from kan_timeseries.layers.scaling import WindowScaler
from kan_timeseries.metrics import ForecastErrors
from kan_timeseries.models import ForecastNetwork


def errors(series=1, channels=1, horizon=12, **options):
    ones = np.ones((series, channels))
    return ForecastErrors(0 * ones, ones, ones, horizon, **options)


def test_a_pure_seasonal_series_is_forecast_by_the_ridge_line():
    wave = np.sin(2 * np.pi * np.arange(400) / 24) + 0.3 * np.cos(4 * np.pi * np.arange(400) / 24)
    windows = every_window(Panel.of([wave], season=24), 24, 12)
    line = ridge_nlinear(windows.loader(64), 24, 12, penalty=1e-6)
    assert score(line, windows.loader(64), errors()).compute()["mse"] < 1e-6


def test_the_ridge_line_is_the_one_of_scikit_learn():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)), rng.normal(size=(50, 3))
    line = RidgeForecast(6, 3, penalty=2.0)
    halves = [
        torch.as_tensor(np.concatenate([x, y], axis=1)).float()[rows][:, None] for rows in (slice(20), slice(20, 50))
    ]
    line.fit((part[..., :6], part[..., 6:], torch.zeros(len(part), 1, dtype=torch.long)) for part in halves)
    expected = Ridge(alpha=2.0, fit_intercept=False).fit(x, y).coef_.T
    np.testing.assert_allclose(line.weight[0].numpy(), expected, atol=1e-6)


def test_deviations_of_groups_vanish_with_their_penalty_and_fit_without():
    rng = np.random.default_rng(1)
    x = torch.as_tensor(rng.normal(size=(80, 2, 4))).float()
    true = torch.as_tensor(rng.normal(size=(2, 4, 3))).float()
    y = torch.einsum("bcl,clh->bch", x, true)
    group = torch.arange(2).expand(80, -1)
    stiff, free = (RidgeForecast(4, 3, 2, penalty=1e-3, group_penalty=p) for p in (1e12, 1e-6))
    for line in (stiff, free):
        line.fit([(x, y, group)])
    assert torch.allclose(stiff.weight[1], stiff.weight[2], atol=1e-5)
    assert torch.allclose(free.weight[1:], true, atol=1e-4)
    assert torch.allclose(free(x, group), y, atol=1e-3)
    turned = torch.stack([torch.zeros(80, dtype=torch.long), torch.arange(80) % 2], dim=1)
    assert torch.allclose(free(x, turned)[1, 1], x[1, 1] @ true[1], atol=1e-3)


def test_rows_with_unknown_targets_have_no_part_in_the_line():
    x, y = torch.randn(30, 1, 4), torch.randn(30, 1, 2)
    group = torch.zeros(30, 1, dtype=torch.long)
    hole = y.clone()
    hole[10:, 0, 1] = torch.nan
    first, second = RidgeForecast(4, 2), RidgeForecast(4, 2)
    first.fit([(x[:10], y[:10], group[:10])])
    second.fit([(x, hole, group)])
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("scaler", ["last", "season", "standard", "robust"])
def test_forecasts_follow_the_scale_and_the_level_of_their_window(scaler):
    torch.manual_seed(0)
    net = (
        ForecastNetwork(24, 6, 2, model_kwargs={"hidden": [8]}, scaler=scaler, season=12, skip="channel")
        .double()
        .eval()
    )
    past = torch.randn(5, 24, 2, dtype=torch.float64)
    net.fit_line(
        every_window(Panel.of([np.random.default_rng(0).normal(size=(60, 2))], channel_names=["a", "b"]), 24, 6).loader(
            9
        )
    )
    net = net.double()
    torch.nn.init.normal_(net.backbone.network[-1].weight, std=0.1)
    expected = 3.0 * net(past) + 2.0
    assert torch.allclose(net(3.0 * past + 2.0), expected, atol=1e-3)


def test_identity_changes_nothing():
    center, scale = WindowScaler("identity")(torch.randn(2, 5, 3))
    assert (center == 0).all()
    assert (scale == 1).all()
    with pytest.raises(KANError, match="scaler must be one of last, season"):
        WindowScaler("none")


def test_training_begins_at_the_line_and_the_covariates_at_zero():
    panel = Panel.of([np.random.default_rng(0).normal(size=80)])
    windows = every_window(panel, 12, 4)
    batch = windows[range(5)]
    line = ridge_nlinear(windows.loader(16), 12, 4)
    net = ForecastNetwork(12, 4, num_known=1, model_kwargs={"hidden": [8]}, skip="shared").eval()
    net.fit_line(windows.loader(16))
    known = torch.rand(5, 16, 1)
    assert torch.allclose(net(batch.past, known), line(batch.past), atol=1e-6)
    assert torch.equal(net(batch.past), net(batch.past, torch.zeros(5, 16, 1)))


def test_the_profile_of_the_day_is_learned_as_a_curve():
    torch.manual_seed(0)
    hours = np.arange(24 * 20) % 24
    profile = 2.0 * np.sin(2 * np.pi * hours / 24)
    known = (hours / 12 - 1)[:, None]
    nothing = np.empty((len(hours), 0))
    panel = Panel(["a"], np.array([0, len(hours)]), profile[:, None], known, nothing, hours, known_names=["hour"])
    windows = every_window(panel, 24, 3)
    net = ForecastNetwork(24, 3, model="none", num_known=1, scaler="last", skip="none")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    batch = windows[range(len(windows))]
    for _ in range(60):
        loss = (net(batch.past, batch.known)[..., 0] - batch.target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        curve = net.effect(torch.as_tensor(known[:24]).float())[:, 0].numpy()
    # in deviations of the window, here one day of a wave of amplitude 2
    np.testing.assert_allclose(np.sqrt(2) * (curve - curve.mean()), profile[:24], atol=0.3)


def test_a_series_that_is_not_known_gets_the_line_that_all_share():
    panel = Panel.of(np.random.default_rng(0).normal(size=(3, 40)))
    windows = every_window(panel, 4, 2)
    net = ForecastNetwork(4, 2, model="none", skip="series", num_series=3, group_penalty=1e-3, penalty=1.0)
    net.fit_line(windows.loader(16))
    shared = ForecastNetwork(4, 2, model="none", skip="shared", penalty=1.0)
    shared.fit_line(windows.loader(16))
    past = windows[[0, 50]].past
    own = net(past, series=torch.tensor([0, 2]))
    assert torch.allclose(net(past), shared(past))
    assert torch.allclose(net(past, series=torch.tensor([-1, 2]))[0], shared(past)[0])
    assert not torch.allclose(own, shared(past))


def test_unknown_names_are_one_line():
    with pytest.raises(KANError, match="unknown forecaster 'kann': did you mean kan"):
        ForecastNetwork(4, 2, model="kann")
    with pytest.raises(KANError, match="skip must be one of none, shared, channel, series"):
        ForecastNetwork(4, 2, skip="all")
    with pytest.raises(KANError, match="penalties must be above 0"):
        RidgeForecast(4, 2, penalty=0)


def test_naive_forecasts():
    past = torch.arange(10.0).reshape(1, 10, 1)
    assert SeasonalNaive(5, 3)(past)[0, :, 0, 0].tolist() == [7, 8, 9, 7, 8]
    assert SeasonalNaive(2)(past)[0, :, 0, 0].tolist() == [9, 9]
    assert SeasonalNaive(2, 99)(past)[0, :, 0, 0].tolist() == [0, 1]
    assert WindowMean(2)(past)[0, :, 0, 0].tolist() == [4.5, 4.5]


def test_errors_do_not_depend_on_the_batches():
    torch.manual_seed(0)
    output, target = torch.randn(21, 12, 2, 1), torch.randn(21, 12, 2)
    target[3, 4:] = torch.nan
    series = torch.arange(21) % 3
    whole, parts = errors(3, 2), errors(3, 2)
    whole.update(output, target, series)
    for rows in torch.arange(21).split(4):
        parts.update(output[rows], target[rows], series[rows])
    for name, value in whole.compute().items():
        assert abs(float(value - parts.compute()[name])) < 1e-12
    known = target.isfinite()
    mean = ((output[..., 0] - target)[known] ** 2).double().mean()
    assert abs(float(whole.compute()["mse"] - mean)) < 1e-6


def test_mase_and_smape_are_means_of_series_in_their_own_units():
    center, scale = np.array([[10.0], [0.0]]), np.array([[2.0], [1.0]])
    counted = ForecastErrors(center, scale, np.array([[4.0], [np.nan]]), 1)
    counted.update(
        torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1), torch.tensor([0.0, 1.0]).reshape(2, 1, 1), torch.tensor([0, 1])
    )
    values = {name: float(value) for name, value in counted.compute().items()}
    assert values["mase"] == pytest.approx(2 / 4)
    assert values["mae_units"] == pytest.approx((2 + 2) / 2)
    assert values["smape"] == pytest.approx((200 * 2 / 22 + 200 * 2 / 4) / 2)


def test_pinball_and_coverage():
    counted = errors(horizon=1, quantiles=(0.1, 0.5, 0.9))
    target = torch.randn(4000, 1, 1, generator=torch.Generator().manual_seed(0))
    counted.update(
        torch.tensor([-1.2816, 0.0, 1.2816]).expand(4000, 1, 1, 3), target, torch.zeros(4000, dtype=torch.long)
    )
    values = counted.compute()
    assert 0.78 < values["coverage"] < 0.82
    level = torch.tensor([0.1, 0.5, 0.9])
    gap = target - torch.tensor([-1.2816, 0.0, 1.2816])
    assert values["pinball"] == pytest.approx(float(torch.maximum(level * gap, (level - 1) * gap).mean()), rel=1e-5)
