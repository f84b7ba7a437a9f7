"""Panels, their scaling, and the windows cut from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kan_core.errors import KANError
from kan_timeseries.data.panel import Panel
from kan_timeseries.data.scaling import PanelScaler
from kan_timeseries.data.windows import Windows, every_window, fill


def counting(*lengths, channels=1):
    """Series whose value is 100 · series + row, in every channel plus a thousandth of its number."""
    series = [100.0 * s + np.arange(n)[:, None] + np.arange(channels) / 1000 for s, n in enumerate(lengths)]
    return Panel.of(series, channel_names=[f"c{i}" for i in range(channels)])


def test_a_window_ends_before_its_first_target_and_no_window_spans_two_series():
    windows = every_window(counting(9, 4, 7), input_length=3, horizon=2)
    assert len(windows) == (9 - 5 + 1) + 0 + (7 - 5 + 1)
    batch = windows[range(len(windows))]
    for past, target, series, start in zip(batch.past, batch.target, batch.series, batch.start, strict=True):
        expected = 100 * series + start + torch.arange(5)
        assert torch.equal(torch.cat([past, target])[:, 0], expected.float())
    assert batch.mask.all()


def test_windows_of_a_part_reach_back_for_their_past_only():
    panel = counting(20)
    windows = every_window(panel, 3, 2, begin=np.array([10]), end=np.array([15]))
    batch = windows[range(len(windows))]
    assert batch.target[:, 0, 0].tolist() == [10, 11, 12, 13]
    assert batch.target[:, -1, 0].max() == 14
    assert batch.past[0, :, 0].tolist() == [7, 8, 9]


def test_a_stride_counts_back_from_the_last_window():
    windows = every_window(counting(12), 3, 2, step=3)
    assert windows.cutoffs.tolist() == [3, 6, 9]


def test_no_batch_is_dropped_whatever_its_size():
    windows = every_window(counting(30, 17), 4, 3)
    for size in (1, 5, 1000):
        assert sum(len(batch.past) for batch in windows.loader(size)) == len(windows)
    shuffled = torch.cat([batch.past for batch in windows.loader(7, shuffle=True)])
    plain = torch.cat([batch.past for batch in windows.loader(7)])
    assert not torch.equal(shuffled, plain)
    assert torch.equal(shuffled.flatten().sort().values, plain.flatten().sort().values)


def test_missing_values_are_filled_from_the_past_alone():
    past = np.array([[np.nan, 1, np.nan, np.nan, 4, np.nan]]).reshape(1, 6, 1)
    assert fill(past, np.array([[9.0]]))[0, :, 0].tolist() == [1, 1, 1, 1, 4, 4]
    nothing = np.full((1, 3, 1), np.nan)
    assert fill(nothing, np.array([[9.0]]))[0, :, 0].tolist() == [9, 9, 9]
    assert fill(nothing, np.array([[np.nan]]))[0, :, 0].tolist() == [0, 0, 0]


def test_a_past_longer_than_the_series_repeats_its_first_value_and_says_so():
    windows = Windows(counting(3), 5, 2, np.array([0]), np.array([2]))
    batch = windows[0]
    assert batch.past[0, :, 0].tolist() == [0, 0, 0, 1, 2]
    assert batch.mask[0, :, 0].tolist() == [False, False, True, True, True]
    assert batch.start.item() == -2
    assert batch.target.isnan().all()


def test_covariates_must_reach_to_the_end_of_the_horizon():
    panel = Panel(
        ["a"],
        np.array([0, 6]),
        np.zeros((6, 1)),
        np.zeros((6, 1)),
        np.empty((6, 0)),
        np.arange(6),
        known_names=["price"],
    )
    with pytest.raises(KANError, match=r"series 'a': price must be known for 3 steps ahead"):
        Windows(panel, 2, 3, np.array([0]), np.array([3]))
    assert Windows(panel, 2, 3, np.array([0]), np.array([2]))[0].known.shape == (1, 5, 1)


@pytest.mark.parametrize("kind", ["standard", "seasonal"])
def test_scales_are_of_training_rows_alone(kind):
    values = np.random.default_rng(0).normal(size=40)
    changed = np.concatenate([values[:30], values[30:] * 100 + 7])
    first, second = (PanelScaler.fit(Panel.of([v], season=4), np.array([30]), kind) for v in (values, changed))
    assert first.center == second.center
    assert first.scale == second.scale
    if kind == "seasonal":
        np.testing.assert_allclose(first.scale[0, 0], np.abs(values[4:30] - values[:26]).mean())


def test_a_constant_or_unknown_series_keeps_its_units():
    scaler = PanelScaler.fit(Panel.of([np.full(5, 3.0), np.full(5, np.nan)]), np.array([5, 5]))
    assert scaler.scale.tolist() == [[1.0], [1.0]]
    assert scaler.center.tolist() == [[3.0], [0.0]]


def test_a_panel_whose_arrays_differ_is_refused():
    with pytest.raises(KANError, match="values has shape"):
        Panel(["a"], np.array([0, 3]), np.zeros((4, 1)), np.zeros((4, 0)), np.zeros((4, 0)), np.arange(4))
    with pytest.raises(KANError, match="input_length and horizon must be at least 1"):
        every_window(counting(9), 0, 2)


def test_series_can_be_taken_out_of_a_panel():
    panel = counting(3, 4, 2, channels=2).take([2, 0])
    assert panel.ids == ["2", "0"]
    assert panel.values[:, 0].tolist() == [200, 201, 0, 1, 2]
    assert panel.lengths.tolist() == [2, 3]
