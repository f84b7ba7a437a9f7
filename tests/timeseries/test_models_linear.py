"""NLinear and DLinear by gradient: forecasting-conventions.md, sections 4 and 6."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models.linear import DLinear, NLinear, moving_average

F64 = torch.float64


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("length", "parameters"), [(96, 18_624), (336, 64_704)])
def test_card_6_dlinear_shared_by_channels(length, parameters):
    with torch.device("meta"):
        assert count(DLinear(length, 96, 7)) == parameters
        assert count(NLinear(length, 96, 7)) == parameters // 2
        assert count(DLinear(length, 96, 7, individual=True)) == 7 * parameters


def test_moving_average_of_25_repeats_the_ends():
    ramp = torch.arange(96, dtype=F64).view(1, 1, -1)
    trend = moving_average(ramp, 25)[0, 0]
    assert trend[0] == pytest.approx(sum(range(13)) / 25)  # 12 repeated zeros, then 0 … 12
    torch.testing.assert_close(trend[12:-12], ramp[0, 0, 12:-12])
    assert trend[-1] == pytest.approx(95 - sum(range(13)) / 25)


def test_dlinear_with_equal_maps_is_that_map():
    model = DLinear(30, 5, 2).double()
    model.head["rest"].load_state_dict(model.head["trend"].state_dict())
    past = torch.randn(4, 30, 2, dtype=F64)
    linear = model.head["trend"]
    expected = (past.transpose(1, 2) @ linear.weight.T + 2 * linear.bias).transpose(1, 2).unsqueeze(-1)
    torch.testing.assert_close(model(past), expected)


@pytest.mark.parametrize("individual", [False, True])
def test_nlinear_of_a_shifted_window_is_shifted(individual):
    model = NLinear(24, 6, 3, num_outputs=2, individual=individual).double()
    past, shift = torch.randn(5, 24, 3, dtype=F64), torch.tensor([1.0, -2.0, 30.0], dtype=F64)
    torch.testing.assert_close(model(past + shift), model(past) + shift[:, None])


def test_nlinear_at_zero_repeats_the_last_value():
    model = NLinear(24, 6, 3, num_outputs=2)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    past = torch.randn(5, 24, 3)
    assert torch.equal(model(past), past[:, -1:, :, None].expand(-1, 6, -1, 2))


@pytest.mark.parametrize("name", ["nlinear", "dlinear"])
def test_outputs_come_from_their_own_channel_step_and_quantile(name):
    shared = FORECASTERS.create(name, input_length=24, horizon=4, channels=3, num_outputs=2).double()
    past = torch.randn(2, 24, 3, dtype=F64)
    forecast = shared(past)
    assert forecast.shape == (2, 4, 3, 2)
    torch.testing.assert_close(shared(past[..., [2, 0, 1]]), forecast[:, :, [2, 0, 1]])
    individual = FORECASTERS.create(
        name, input_length=24, horizon=4, channels=3, num_outputs=2, individual=True
    ).double()
    heads = [(individual.head, shared.head)]
    if name == "dlinear":
        heads = [(individual.head[part], shared.head[part]) for part in ("trend", "rest")]
    with torch.no_grad():
        for own, common in heads:
            own.weight[:] = common.weight
            own.bias[:] = common.bias
        torch.testing.assert_close(individual(past), forecast)
        heads[0][0].bias[1] += 1.0  # of channel 1 alone
    change = torch.zeros_like(forecast)
    change[:, :, 1] = 1.0
    torch.testing.assert_close(individual(past) - forecast, change)


def test_a_linear_model_has_no_twin():
    with pytest.raises(KANError, match="no twin; use --twin none"):
        DLinear.twin_kwargs({})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 24}, "kernel_size must be odd"),
        ({"horizon": 0}, "horizon must be a whole number of at least 1"),
        ({"channels": 0}, "channels must be"),
        ({"layer": "bspline"}, "'dlinear' refuses its arguments"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(KANError, match=message):
        FORECASTERS.create("dlinear", **({"input_length": 24, "horizon": 4} | arguments))


@pytest.mark.parametrize("shape", [(2, 23, 3), (2, 24, 4), (24, 3)])
def test_windows_of_another_shape_are_refused(shape):
    with pytest.raises(KANError, match=r"expected windows of shape \(B, 24, 3\), got"):
        NLinear(24, 4, 3)(torch.zeros(shape))
