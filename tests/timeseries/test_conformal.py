"""Split conformal intervals."""

from __future__ import annotations

import numpy as np
import pytest

from kan_core.errors import KANError
from kan_timeseries.conformal import ConformalIntervals, window_sizes, windows_needed


def test_eighty_per_cent_intervals_of_independent_noise_cover_78_to_82_per_cent() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(0.1, 100, 22_000)
    noise = rng.gamma(2.0, size=(22_000, 3)) * np.array([1.0, 2.0, 5.0]) * sizes[:, None]  # skewed, wider each step
    intervals = ConformalIntervals.of(noise[:2000], sizes[:2000])
    for level, least, most in ((80, 0.78, 0.82), (95, 0.94, 0.96)):
        low, high = intervals.bounds(level)
        errors = noise[2000:] / sizes[2000:, None]
        covered = ((low <= errors) & (errors <= high)).mean(axis=0)
        assert ((covered >= least) & (covered <= most)).all(), covered
        assert (np.diff(high - low) > 0).all()


def test_ends_are_order_statistics() -> None:
    errors = np.random.default_rng(1).permutation(np.arange(1.0, 20))[:, None]
    intervals = ConformalIntervals.of(errors, np.ones(19))
    assert [end.item() for end in intervals.bounds(80)] == [2, 18]  # 19 errors: (19 + 1) 0.1 = 2 from either end
    assert [end.item() for end in intervals.bounds(90)] == [1, 19]


@pytest.mark.parametrize(("level", "needed"), [(80, 9), (90, 19), (95, 39), (50, 3), (99, 199)])
def test_a_level_needs_so_many_windows(level: float, needed: int) -> None:
    assert windows_needed(level) == needed
    errors = np.arange(float(needed))[:, None]
    low, high = ConformalIntervals.of(errors, np.ones(needed)).bounds(level)
    assert (low.item(), high.item()) == (0, needed - 1)
    few = ConformalIntervals.of(errors[1:], np.ones(needed - 1))
    with pytest.raises(KANError, match=rf"needs {needed} calibration windows, but there were {needed - 1}"):
        few.bounds(level)


def test_unknown_targets_are_left_out() -> None:
    errors = np.full((21, 2), np.nan)
    errors[:19] = np.arange(1.0, 20)[:, None]
    errors[:, 1] = np.arange(1.0, 22)
    intervals = ConformalIntervals.of(errors, np.ones(21))
    assert intervals.count == 19
    low, high = intervals.bounds(80)
    assert (low.tolist(), high.tolist()) == ([2, 2], [18, 20])


def test_the_size_of_a_window() -> None:
    seen = np.ones((1, 6), dtype=bool)
    past = np.array([[0.0, 10, 1, 11, 2, 12]])
    assert window_sizes(past, seen, season=2) == 1.0
    assert window_sizes(past, seen, season=6) == pytest.approx((10 + 9 + 10 + 9 + 10) / 5)
    periodic = np.array([[0.0, 3, 0, 3, 0, 3]])
    assert window_sizes(periodic, seen, season=2) == 3.0  # no change per season: per step
    assert window_sizes(np.full((1, 6), -4.0), seen, season=2) == 4.0
    assert window_sizes(np.zeros((1, 6)), seen, season=2) == 1.0
    assert window_sizes(np.zeros((1, 1)), seen[:, :1], season=2) == 1.0
    half = np.array([[True, False, True, True, True, True]])
    assert window_sizes(np.where(half, past, 0), half, season=2) == 1.0
    np.testing.assert_allclose(window_sizes(past * 7 + 0, seen, 2), 7)


@pytest.mark.parametrize("level", [0, 100, -5, 400])
def test_a_level_outside_0_to_100_is_refused(level: float) -> None:
    with pytest.raises(KANError, match="level must lie between"):
        ConformalIntervals.of(np.zeros((50, 1)), np.ones(50)).bounds(level)
