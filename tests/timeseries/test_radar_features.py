"""Histogram features and the simulator: invariants of the card and moments of the laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kan_core.errors import KANError
from kan_timeseries.radar import Scene, SegmentFeatures, Target, clopper_pearson, fmcw_map
from kan_timeseries.radar.features import kurtosis, skewness

MODES = ("minmax", "median", "log", "equiprobable")


def draw(count, target=False, seed=0, **options):
    return Scene(**options).draw(np.random.default_rng(seed), count, target)


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("mode", MODES)
def test_sum_is_one_and_scale_and_order_change_nothing(mode, ring):
    patches = draw(60, True, margin=(ring, ring))
    features = SegmentFeatures(mode=mode, ring=ring, scalars=("level", "skewness", "kurtosis"))
    values = features(patches)
    assert np.abs(values[:, :16].sum(axis=1) - 1).max() < 1e-6
    for scale in (1e-3, 7.3, 1e3):
        np.testing.assert_allclose(features(scale * patches), values, atol=1e-9)
    order = np.random.default_rng(1).permutation(256)
    mixed = patches.copy()
    inner = mixed[:, ring : ring + 16, ring : ring + 16]
    inner[...] = inner.reshape(60, 256)[:, order].reshape(60, 16, 16)
    np.testing.assert_allclose(features(mixed), values, atol=1e-9)


def test_an_offset_changes_nothing_in_mode_minmax_only():
    patches = draw(50)
    assert (SegmentFeatures()(patches + 2.0) == SegmentFeatures()(patches)).all()
    median = SegmentFeatures(mode="median")
    assert (median(patches + 2.0) != median(patches)).any()


@pytest.mark.parametrize("mode", MODES)
def test_equal_cells_are_the_first_bin_and_no_target(mode):
    features = SegmentFeatures(bins=4, mode=mode, scalars=("skewness", "kurtosis"))
    patches = np.stack([np.full((8, 8), 3.0), np.zeros((8, 8)), draw(1, rows=8, columns=8)[0]])
    assert features.flat(patches).tolist() == [True, True, False]
    assert features(patches)[:2].tolist() == [[1, 0, 0, 0, 0, 0]] * 2


def test_equiprobable_bins_expect_equal_shares_of_noise():
    h = SegmentFeatures(mode="equiprobable", ring=6)(draw(4000, margin=(6, 6), scale=(1e-3, 1e3)))
    np.testing.assert_allclose(h.mean(axis=0), 1 / 16, atol=2e-3)


def test_places_of_single_powers():
    patch = np.full((1, 5, 5), 1.0)
    patch[0, 1:4, 1:4] = [[0.5, 1.5, 2.5], [3.5, 99.0, 0.0], [1.0, 2.0, 3.0]]
    count = SegmentFeatures(bins=4, mode="median", ring=1, span=4.0)(patch)[0] * 9
    assert count.tolist() == [2, 2, 2, 3]  # [0, 1), [1, 2), [2, 3), from 3 on
    decibels = SegmentFeatures(bins=2, mode="log", ring=1, decibels=(-20.0, 20.0))(patch)[0] * 9
    assert decibels == pytest.approx([2, 7])


def test_a_ring_may_reach_beyond_the_map():
    patches = draw(3, margin=(2, 2))
    patches[:, :2] = np.nan
    values = SegmentFeatures(mode="median", ring=2)(patches)
    ring = np.r_[patches[0, 2:18, :2].ravel(), patches[0, 2:18, 18:].ravel(), patches[0, 18:].ravel()]
    cells = patches[0, 2:18, 2:18].ravel() / np.median(ring)
    expected = np.histogram(np.minimum(cells, 7.9999), bins=16, range=(0, 8))[0] / 256
    np.testing.assert_allclose(values[0], expected)


def test_blind_spot_of_minmax_and_what_the_ring_sees():
    scene = Scene(margin=(4, 4), snr_db=(10.0, 10.0), target=Target((18, 18), (18, 18), inside=0.85))
    rng = np.random.default_rng(1)
    noise, target = scene.draw(rng, 2000, False), scene.draw(rng, 2000, True)
    for part in (0, 5, 15):
        h = [SegmentFeatures()(own[:, 4:20, 4:20])[:, part] for own in (noise, target)]
        assert abs(h[0].mean() - h[1].mean()) < 4 * h[0].std() * np.sqrt(2 / 2000)
    low = SegmentFeatures(mode="equiprobable", ring=4)
    assert low(noise)[:, -1].max() < low(target)[:, -1].min()


def test_skewness_of_the_card():
    rng = np.random.default_rng(2)
    found = skewness(rng.standard_exponential((20_000, 256)))
    assert found.mean() == pytest.approx(1.91, abs=0.01)
    low, high = clopper_pearson(int((found > 4.25).sum()), len(found), 0.999)
    assert low <= 1e-3 <= high
    for shape, expected in ((0.5, 2.83), (1, 2), (2, 1.41), (4, 1)):
        assert skewness(rng.standard_gamma(shape, 1_000_000)) == pytest.approx(expected, rel=0.02)
    assert kurtosis(rng.standard_exponential(1_000_000)) == pytest.approx(6, rel=0.08)


def test_bad_patches_and_options():
    with pytest.raises(KANError, match="segment 1 holds a negative"):
        SegmentFeatures()(np.stack([np.ones((4, 4)), -np.ones((4, 4))]))
    with pytest.raises(KANError, match="segment 0 holds"):
        SegmentFeatures()(np.full((1, 4, 4), np.nan))
    with pytest.raises(KANError, match="more than the ring of 2"):
        SegmentFeatures(ring=2)(np.ones((3, 4, 4)))
    for options, message in (({"mode": "db"}, "mode"), ({"bins": 1}, "bins"), ({"scalars": ("mean",)}, "scalars")):
        with pytest.raises(KANError, match=message):
            SegmentFeatures(**options)


# The simulator ------------------------------------------------------------------------------------------------------


def test_mean_power_of_noise_clutter_and_target():
    clutter = draw(2000, texture=(0.5, 0.5), scale=(3.0, 3.0))
    assert clutter.mean() == pytest.approx(3.0, rel=0.02)
    # second moment of K clutter: 2 (1 + 1/ν) σ⁴
    assert np.square(clutter).mean() == pytest.approx(2 * (1 + 1 / 0.5) * 9, rel=0.06)
    powers = draw(4000, True, snr_db=(10.0, 10.0))
    assert powers.sum(axis=(1, 2)).mean() == pytest.approx(256 + 24 * 10, rel=0.01)


def test_draws_are_repeatable_and_share_nothing():
    rng = np.random.default_rng(3)
    first, second = Scene().draw(rng, 4, False), Scene().draw(rng, 4, True)
    assert (draw(4, seed=3) == first).all()
    assert not np.intersect1d(first, second).size


def test_forms_of_targets():
    rng = np.random.default_rng(4)
    block = Target().weights(rng, 50, 16, 16)
    assert set(block.sum(axis=(1, 2)).tolist()) == {24.0}
    ellipse = replace(Target((9, 9), (5, 5)), outline="ellipse", rotation=90.0).weights(rng, 50, 32, 32)
    assert ellipse.sum(axis=(1, 2)).mean() == pytest.approx(np.pi / 4 * 45, rel=0.1)
    hann = Target((9, 9), (5, 5), profile="hann").weights(rng, 5, 16, 16)
    assert hann.max(axis=(1, 2)) == pytest.approx(1)
    points = Target(profile="scatterers", scatterers=3, floor=0.1).weights(rng, 20, 16, 16)
    assert points.sum(axis=(1, 2)) == pytest.approx(3 + 21 * 0.1)
    partial = Target((10, 10), (4, 4), inside=0.5).weights(rng, 400, 16, 16)
    counts = partial.sum(axis=(1, 2))
    assert counts.min() == 10  # half the length of half the width
    assert counts.max() == 40
    with pytest.raises(KANError, match="no place in a segment of 16"):
        Target(length=(17, 17)).weights(rng, 1, 16, 16)


def test_interference_is_in_both_hypotheses():
    for target in (False, True):
        powers = draw(400, target, interference=1.0, interference_db=30.0, snr_db=(0.0, 0.0))
        assert powers.mean(axis=2).max(axis=1).min() > 200


def test_fmcw_chain_has_gamma_noise_and_peaks_of_the_stated_snr():
    rng = np.random.default_rng(5)
    noise = fmcw_map(rng, np.empty((0, 3)), antennas=4)
    assert noise.mean() == pytest.approx(4, rel=0.05)
    assert skewness(noise.ravel()) == pytest.approx(1, abs=0.15)  # Gamma of shape 4
    power = fmcw_map(rng, np.array([[30, 20, 40.0]]), antennas=4)
    assert np.unravel_index(power.argmax(), power.shape) == (30, 20)
    assert power.max() == pytest.approx(4e4, rel=0.1)
    assert power[31, 20] == pytest.approx(1e4, rel=0.15)  # the Hann main lobe


def test_bad_scenes():
    for options, message in (
        ({"rows": 1}, "two rows"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"snr_db": (5.0, 1.0)}, "snr_db"),
    ):
        with pytest.raises(KANError, match=message):
            Scene(**options)
    with pytest.raises(KANError, match="outline"):
        Target(outline="disc")
    with pytest.raises(KANError, match="no place for 4 targets"):
        Scene().draw_map(np.random.default_rng(0), 10, 10, 4)
