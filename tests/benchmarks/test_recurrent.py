"""What `benchmarks/recurrent.py` promises: layers of the sizes it names, equal before they are timed, rows to store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def recurrent(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import recurrent

    return recurrent


def test_every_layer_has_a_row(recurrent, capsys):
    rows = recurrent.measure(repeats=2, batch=2, steps=3, inputs=4, units=5)
    assert [row["layer"] for row in rows] == ["LSTM", "GRU", "TKAN", "TKAN 0-4", "TKAN by steps"]
    assert rows[0]["forward_backward_ratio"] == 1
    assert all(row["forward_backward_ms"] > row["forward_ms"] > 0 for row in rows)
    recurrent.show(rows)
    assert "TKAN by steps" in capsys.readouterr().out
    json.dumps(rows)


def test_counts_are_those_of_the_card(recurrent):
    with torch.device("meta"):
        layers = recurrent.contenders(recurrent.SHAPE["inputs"], recurrent.SHAPE["units"])
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in layers.items()}
    # torch's LSTM and GRU have a second bias vector: keras-style they are 48 000 and 36 300
    assert counts == {"LSTM": 48_400, "GRU": 36_300, "TKAN": 41_344, "TKAN 0-4": 60_515, "TKAN by steps": 41_344}


def test_what_differs_is_not_timed(recurrent):
    layers, x, grad = recurrent.contenders(4, 5), torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 5)
    recurrent.check_equal(layers["TKAN"], layers["TKAN by steps"], x, grad)
    with pytest.raises(AssertionError):
        recurrent.check_equal(layers["TKAN"], recurrent.contenders(4, 5)["TKAN 0-4"], x, grad)
