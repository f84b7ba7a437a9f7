"""What `benchmarks/radar.py` promises: equal rates, an equal twin, and a plain word when the KAN does not win."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kan_core.compare import count_parameters
from kan_timeseries.radar import CFAR
from kan_timeseries.radar.detector import DetectorNetwork

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def radar(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import radar

    return radar


def test_the_mlp_has_as_many_parameters_as_the_kan(radar):
    kan, mlp = DetectorNetwork(16, 4), DetectorNetwork(16, radar.twin_width(16, 4), "linear")
    assert count_parameters(mlp) == pytest.approx(count_parameters(kan), rel=0.05)


def test_greatest_ratio_is_that_of_the_cfar_map(radar):
    scene = radar.SCENES["plain"]
    patches = scene.draw(np.random.default_rng(0), 3, False)
    for guard in radar.GUARDS:
        whole = CFAR(guard=guard).ratio(patches)[:, 20:36, 4:20].max(axis=(1, 2))
        np.testing.assert_allclose(radar.greatest_ratio(patches, guard, scene), whole, rtol=1e-5)


def test_every_detector_has_a_row_with_its_false_alarms(radar, monkeypatch):
    monkeypatch.setattr(radar, "PFA", 1e-2)
    rows = radar.run("plain", seed=0, train=40, held_out=400, test=10)
    assert {row["detector"] for row in rows} >= {"kan-0", "kan-4", "mlp", "logistic", "skewness", "os-cfar, guard 2"}
    for row in rows:
        assert row["pfa"]["trials"] == 200
        assert sorted(row["pd"], key=int) == ["0", "5", "10", "15"]
    assert len(radar.table(rows, "plain")) == 1 + len(rows) + len(radar.PAIRS)


def test_the_verdict_is_plain(radar):
    def row(detector, seed, rate):
        return {"case": "plain", "detector": detector, "seed": seed, "pd": {"5": rate}}

    linear = [row("logistic", seed, 0.5) for seed in range(3)]
    for rates, said in (
        ((0.6, 0.61, 0.6), "kan-0 beats logistic"),
        ((0.5, 0.6, 0.4), "does NOT beat"),
        ((0.3, 0.31, 0.3), "LOSES to"),
    ):
        rows = [row("kan-0", seed, rate) for seed, rate in enumerate(rates)] + linear
        assert said in radar.verdict(rows, "plain", "kan-0", "logistic")
    assert "does NOT beat" in radar.verdict(rows[:1] + linear, "plain", "kan-0", "logistic")
