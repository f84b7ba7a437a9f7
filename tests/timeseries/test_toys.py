"""The toy series of specs/timeseries/qkan-lstm.md: generators, pairs, and the rows of its section 8."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_simpson
from torch import nn

from kan_core import KANError
from kan_timeseries.data.toys import (
    TOYS,
    autoregression,
    bessel_j2,
    damped_pendulum,
    last_value,
    score,
    toy_data,
)
from kan_timeseries.layers.gates import qkan_lstm


def test_card_generators():
    pendulum, bessel = damped_pendulum(), bessel_j2()
    assert (pendulum.shape, bessel.shape) == ((240,), (256,))
    assert pendulum[0] == 3.0
    time = np.linspace(0, 20, 240)
    angle = cumulative_simpson(pendulum, x=time, initial=0)
    energy = pendulum**2 / 2 - 9.81 * np.cos(angle)
    friction = 0.15 * cumulative_simpson(pendulum**2, x=time, initial=0)
    np.testing.assert_allclose(energy + friction, energy[0], atol=2e-3)
    assert energy[0] - energy[-1] > 4
    assert bessel[0] == pytest.approx(0.3528340286156377, abs=1e-12)  # J2(2)
    assert bessel[-1] == pytest.approx(-0.021528757, abs=1e-8)  # J2(100)


@pytest.mark.parametrize("scale_by", ["train", "full"])
@pytest.mark.parametrize(
    ("name", "last", "ar2", "ar4"),
    [
        ("damped_pendulum", (2.55e-3, 0.934), (5.7e-7, 0.99999), (6.8e-8, 1.0)),
        ("bessel_j2", (3.37e-3, 0.843), (1.6e-5, 0.9992), (9.8e-9, 1.0)),
    ],
)
def test_card_rows_of_least_squares(name, last, ar2, ar4, scale_by):
    """AR(p) is fitted to windows of p values with an intercept; both ranges lie in the training part, so agree."""
    found = [last_value(toy_data(name, 4, scale_by=scale_by))]
    found += [autoregression(toy_data(name, order, scale_by=scale_by)) for order in (2, 4)]
    for result, (mse, r2) in zip(found, (last, ar2, ar4), strict=True):
        assert result.mse == pytest.approx(mse, rel=0.02)
        assert result.r2 == pytest.approx(r2, abs=1e-4 if mse < 1e-3 else 5e-4)


def test_pairs_are_in_order_and_none_is_lost():
    data = toy_data(np.arange(11.0), 3, train_share=0.5)
    train, test = data.train, data.test
    assert (len(train.past), len(test.past)) == (4, 4)
    assert (data.low, data.high) == (0.0, 6.0)  # the values of the first four pairs
    back = [data.low + (part + 1) / 2 * (data.high - data.low) for part in (*train, *test)]
    np.testing.assert_allclose(back[0][:, 0], [0, 1, 2, 3])
    np.testing.assert_allclose(back[1], [3, 4, 5, 6])
    np.testing.assert_allclose(back[2][0], [4, 5, 6])
    np.testing.assert_allclose(back[3], [7, 8, 9, 10])


def test_the_range_of_training_does_not_know_the_test():
    series = np.concatenate([np.sin(np.arange(80.0)), 5 * np.sin(np.arange(20.0))])
    train, full = (toy_data(series, 4, scale_by=how) for how in ("train", "full"))
    assert train.train.target.max() <= 1
    assert train.test.target.max() > 4
    assert full.test.target.max() == pytest.approx(1)
    altered = series.copy()
    altered[90:] *= 7
    np.testing.assert_array_equal(toy_data(altered, 4).train.past, train.train.past)


def test_card_hqkan_lstm_of_250_parameters_learns_the_pendulum():
    """Acceptance 5: test error below 1e-3 with at most 400 parameters; AR(4) has 6.8e-8 (see above)."""
    data = toy_data("damped_pendulum", 4)
    past, target, later = (
        torch.tensor(a, dtype=torch.float32) for a in (data.train.past, data.train.target, data.test.past)
    )
    stack = qkan_lstm(1, 6, circuits="bottleneck", return_sequences=False)
    net = nn.Sequential(nn.Unflatten(1, (-1, 1)), stack, nn.Linear(6, 1), nn.Flatten(0))
    assert sum(p.numel() for p in net.parameters()) == 250
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        error = (net(past) - target).square().mean()
        error.backward()
        return error

    optimiser.step(loss)
    with torch.no_grad():
        result = score(data.test.target, net(later).double().numpy())
    assert result.mse < 1e-3
    assert result.r2 > 0.97


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("sine",), {}, f"unknown toy series 'sine': choose one of {', '.join(TOYS)}"),
        (("bessel_j2",), {"scale_by": "test"}, "scale_by must be one of train, full, got 'test'"),
        (("bessel_j2", 256), {}, "windows of 256 with a share of 0.8"),
        (("bessel_j2", 0), {}, "windows of 0"),
        (("bessel_j2",), {"train_share": 1.0}, "without pairs"),
        ((np.ones(20),), {}, r"the series is constant \(1\)"),
    ],
)
def test_refused(arguments, options, message):
    with pytest.raises(KANError, match=message):
        toy_data(*arguments, **options)
