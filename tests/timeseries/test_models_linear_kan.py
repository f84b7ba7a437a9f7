"""A line with a small KAN beside it, and the calendar whose curves it is used with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from kan_core.compare import count_parameters, match_width
from kan_core.errors import KANError
from kan_timeseries.data.calendar import with_calendar
from kan_timeseries.data.panel import Panel
from kan_timeseries.models import FORECASTERS


def make(**options):
    return FORECASTERS.create("linear_kan", input_length=24, horizon=6, channels=3, **options)


def test_parameters_are_those_of_the_line_the_head_and_the_layer():
    net = make(num_outputs=2, hidden=5)
    assert count_parameters(net) == (24 + 1 + 5 + 1) * 6 * 2 + count_parameters(net.kan)
    assert count_parameters(net.kan) == 24 * 5 * (6 + 1) + 5  # six centres and the base branch, a constant


def test_training_begins_with_the_line_and_every_part_learns():
    net = make().train()
    past = torch.randn(4, 24, 3)
    line = net.linear(past.transpose(1, 2)).transpose(1, 2)[..., None]
    assert torch.equal(net.eval()(past), line)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):  # in the first step the head is zero, and nothing behind it has a gradient
        optimizer.zero_grad()
        net(past).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_channels_share_everything():
    net = make().eval()
    torch.nn.init.normal_(net.head.weight)
    past = torch.randn(2, 24, 3)
    assert torch.allclose(net(past)[:, :, [2, 0, 1]], net(past[:, :, [2, 0, 1]]), atol=1e-6)


def test_outliers_stay_on_the_grid():
    net = make().eval()
    torch.nn.init.normal_(net.head.weight)
    past = torch.full((1, 24, 3), 1e6)
    kan = net(past) - net.linear(past.transpose(1, 2)).transpose(1, 2)[..., None]
    assert kan.abs().max() < 1e3


def test_the_twin_is_an_ordinary_network_of_the_same_size():
    net = make()
    ordinary = net.twin_kwargs({"hidden": 16})
    assert ordinary["layer"] == "linear"
    match = match_width(lambda width: make(**ordinary, width=width), count_parameters(net), by="params")
    twin = make(**ordinary, width=match.width)
    assert count_parameters(twin) == pytest.approx(count_parameters(net), rel=0.05)
    assert isinstance(twin.kan[1], torch.nn.Linear)
    assert isinstance(twin.kan[2], torch.nn.SiLU)


def test_fields_of_the_calendar_begin_at_minus_one_and_stay_below_one():
    times = pd.date_range("2024-01-01 00:00", periods=24 * 400, freq="h").to_numpy()
    panel = with_calendar(Panel.of([np.zeros(len(times))], times=times), ["hour", "weekday", "month", "year_day"])
    assert panel.known_names == ["hour", "weekday", "month", "year_day"]
    assert panel.known[0].tolist() == [-1, -1, -1, -1]  # a Monday in January
    assert panel.known[12, 0] == 0
    assert (panel.known < 1).all()
    with pytest.raises(KANError, match="these series have no dates"):
        with_calendar(Panel.of([np.zeros(9)]), ["hour"])
