"""CFAR: the card's tables, its invariants, and self-masking by extended targets."""

from __future__ import annotations

import numpy as np
import pytest

from kan_core.errors import KANError
from kan_timeseries.radar import CFAR, clopper_pearson
from kan_timeseries.radar.cfar import Kind
from kan_timeseries.radar.metrics import cell_pfa, segment_pfa

KINDS: tuple[Kind, ...] = ("os", "ca", "go", "so")


def assert_rate(hits, trials, rate, slack=0.0):
    """The 99.9 % binomial interval of a fixed seed holds `rate`, up to the rounding of a printed figure."""
    low, high = clopper_pearson(int(hits), trials, 0.999)
    assert low - slack <= rate <= high + slack, (hits / trials, rate)


@pytest.mark.parametrize(
    ("reference", "rank", "alphas"),
    [
        (16, 12, (7.4214, 11.0802, 20.9542)),
        (20, 15, (6.8554, 9.9993, 18.0043)),
        (24, 18, (6.5024, 9.3408, 16.2933)),
        (32, 24, (6.0863, 8.5801, 14.3985)),
        (50, 37, (5.8317, 8.0598, 12.9926)),
    ],
)
def test_table_of_os_cfar_factors(reference, rank, alphas):
    for pfa, alpha in zip((1e-3, 1e-4, 1e-6), alphas, strict=True):
        cfar = CFAR(pfa=pfa, reference=reference)
        assert cfar.k == rank
        assert cfar.alpha == pytest.approx(alpha, abs=5e-5)


def test_table_of_clean_reference_detection():
    cfar = CFAR(pfa=1e-6)
    found = [cfar.detection(10 ** (snr / 10)) for snr in (0, 5, 10, 15, 20, 25)]
    assert found == pytest.approx([0.0003, 0.0112, 0.1571, 0.5228, 0.8086, 0.9343], abs=5e-5)


def test_ca_cfar_closed_form():
    assert CFAR(kind="ca", pfa=1e-6).alpha == pytest.approx(24 * (1e-6 ** (-1 / 24) - 1), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_pfa_is_one_at_zero_and_falls_and_meets_its_design(kind):
    cfar = CFAR(kind=kind, pfa=1e-4)
    values = [cfar.false_alarm(alpha) for alpha in np.linspace(0, 30, 61)]
    assert values[0] == pytest.approx(1)
    assert (np.diff(values) < 0).all()
    assert cfar.false_alarm(cfar.alpha) == pytest.approx(1e-4, rel=1e-8)
    assert cfar.detection(0.0) == pytest.approx(cfar.pfa, rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_monte_carlo_false_alarms_lie_in_the_binomial_interval(kind):
    cells = np.random.default_rng(1).standard_exponential((200_000, 25))
    cfar = CFAR(kind=kind, pfa=1e-3)
    assert_rate((cells[:, 0] > cfar.alpha * cfar.level(cells[:, 1:])).sum(), len(cells), 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_several_looks(kind):
    cells = np.random.default_rng(2).standard_gamma(4.0, (100_000, 25))
    cfar = CFAR(kind=kind, pfa=1e-2, looks=4)
    assert_rate((cells[:, 0] > cfar.alpha * cfar.level(cells[:, 1:])).sum(), len(cells), 1e-2)
    one = CFAR(kind=kind, pfa=1e-6)
    if kind != "ca":
        assert one._integrated(one.alpha) == pytest.approx(1e-6, rel=1e-6)
    with pytest.raises(KANError, match="one look"):
        cfar.detection(1.0)


def test_rank_one_is_the_minimum_and_rank_n_the_maximum():
    cells = np.random.default_rng(3).standard_exponential((50, 24))
    assert (CFAR(rank=1).level(cells) == cells.min(axis=1)).all()
    assert (CFAR(rank=24).level(cells) == cells.max(axis=1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_scale_changes_no_decision(kind):
    power = np.random.default_rng(4).standard_exponential((64, 20))
    cfar = CFAR(kind=kind, pfa=0.05)
    for scale in (1e-3, 7.0, 1e3):
        assert (cfar.detect(scale * power) == cfar.detect(power)).all()


@pytest.mark.parametrize("axis", [-2, -1])
def test_windows_at_the_border_keep_the_false_alarm_rate(axis):
    power = np.random.default_rng(5).standard_exponential((300, 40, 40))
    alarms = np.moveaxis(CFAR(pfa=1e-2, axis=axis).detect(power), axis, 0)
    for at in (0, 1, 20, 39):
        assert_rate(alarms[at].sum(), alarms[at].size, 1e-2)


def test_windows_leave_the_guard_out_and_never_repeat_a_cell():
    for cell, window in enumerate(CFAR()._windows(40)):
        assert len(set(window.tolist())) == 24
        assert (np.abs(window - cell) > 2).all()
        assert window.min() >= 0
        assert window.max() < 40


@pytest.mark.parametrize(
    ("length", "inside", "table"),
    [
        (5, 0, (0.157, 0.523, 0.809, 0.934)),
        (11, 6, (0.043, 0.251, 0.597, 0.841)),
        (15, 10, (0.005, 0.012, 0.013, 0.013)),
        (21, 16, (0, 0, 0, 0)),
        (25, 20, (0, 0, 0, 0)),
    ],
)
def test_self_masking_table(length, inside, table):
    rng = np.random.default_rng(length)
    cfar = CFAR(pfa=1e-6)
    window = cfar._windows(41)[20]  # the middle cell of a target in the middle of 41 cells
    on_target = np.abs(np.arange(41) - 20) <= length // 2
    assert on_target[window].sum() == inside
    for snr, expected in zip((10, 15, 20, 25), table, strict=True):
        cells = rng.standard_exponential((20_000, 41)) * (1 + 10 ** (snr / 10) * on_target)
        assert_rate((cells[:, 20] > cfar.alpha * cfar.level(cells[:, window])).sum(), 20_000, expected, slack=1e-3)


def test_detector_over_a_map_masks_the_middle_of_a_long_target():
    power = np.ones((64, 8))
    power[20:25, 3] = 100.0
    assert np.argwhere(CFAR().detect(power)).tolist() == [[r, 3] for r in range(20, 25)]
    power[20:45, 3] = 100.0
    assert not CFAR().detect(power)[32, 3]
    assert CFAR(guard=13, reference=24).detect(power)[32, 3]


def test_empty_surroundings():
    power = np.zeros((40, 2))
    power[20, 0] = 1.0
    assert np.argwhere(CFAR().detect(power)).tolist() == [[20, 0]]


def test_segment_rate_of_independent_cells():
    assert segment_pfa(1e-6, 256) == pytest.approx(2.6e-4, abs=5e-6)
    assert cell_pfa(segment_pfa(1e-6, 256), 256) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "xx"}, "kind must be"),
        ({"pfa": 0.0}, "pfa must lie"),
        ({"reference": 7}, "reference must be even"),
        ({"rank": 25}, "rank must lie"),
        ({"axis": 0}, "axis must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(KANError, match=message):
        CFAR(**options)


def test_a_map_shorter_than_the_window():
    with pytest.raises(KANError, match="29 cells or more, got 16"):
        CFAR().detect(np.ones((16, 16)))
