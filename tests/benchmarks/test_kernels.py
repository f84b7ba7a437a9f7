"""What `benchmarks/kernels.py` promises about its figures: nothing wrong is timed, nothing is left out silently."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from kan_core.ops import BACKENDS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _kernels

    return _kernels


@pytest.fixture
def case(kernels):
    from _kernels_ops import spline

    return spline(16, 5, 3, 4, 3)


def records(kernels, case, **ceilings):
    limits = {"copy_bytes_per_second": 1e10, "product_flops_per_second": 1e11, **ceilings}
    setting = kernels.Setting("cpu", torch.float32, limits, repeats=2, seconds=0.0, compile=False)
    return {record["contender"]: record for record in kernels.Measurement(case, setting).records()}


class Spoiled(nn.Module):
    """The layer, with another result or another gradient of x."""

    def __init__(self, layer: nn.Module, what: str) -> None:
        super().__init__()
        self.layer, self.what = layer, what

    def forward(self, x):
        if self.what == "gradient":
            x = x.detach() + 1.001 * (x - x.detach())
        return self.layer(x) * (1.001 if self.what == "result" else 1.0)


@pytest.mark.parametrize("what", ["result", "gradient", "nothing"])
def test_a_wrong_result_or_gradient_is_not_timed(kernels, case, what):
    spoiled = dataclasses.replace(
        case, baselines=lambda layer: {"other": kernels.Baseline(Spoiled(layer, what), same=True)}
    )
    record = records(kernels, spoiled)["other"]
    if what == "nothing":
        assert record["forward_ms"] > 0
    else:
        assert "forward_ms" not in record
        assert ("y" if what == "result" else "dx") + " is off by 1.0e-03 > 1e-05" in record["wrong"]


def test_every_backend_is_timed_or_says_why_not(kernels, case):
    found = records(kernels, case)
    for backend in BACKENDS[1:]:
        assert found[backend].get("forward_ms", 0) > 0 or found[backend]["refused"]
    assert "is on cpu" in found["triton"]["refused"]
    assert [r["contender"] for r in found.values() if r.get("auto")] in (["native"], ["cpu"], ["reference"])


def test_ratios_shares_and_memory_are_of_the_times(kernels, case):
    found = records(kernels, case)
    row = found["cpu"]
    assert row["forward_share"] == pytest.approx(case.flops / (row["forward_ms"] / 1e3) / 1e11)
    assert row["backward_share"] == pytest.approx(2 * case.flops / (row["backward_ms"] / 1e3) / 1e11)
    assert {"reference", "gemm", "linear", "linear, same parameters", "Cox-de Boor"} == set(row["ratios"])
    assert row["peak_mib"] * 2**20 >= 16 * 3 * 4  # at least y


def test_a_layer_without_kernels_is_not_timed_as_one_that_has_them(kernels, case):
    plain = dataclasses.replace(case, layer=lambda: nn.Linear(5, 3), baselines=lambda layer: {})
    found = records(kernels, plain)
    assert "calls no op that has backends" in found["native"]["refused"]
    assert found["reference"]["auto"]


def test_what_is_too_large_is_left_out_with_the_reason(kernels, case):
    found = records(kernels, case, product_flops_per_second=1.0)
    assert list(found) == ["all"]
    assert "more than 3" in found["all"]["left_out"]


def test_a_run_in_parts_keeps_the_records_of_the_same_machine_only(kernels, tmp_path):
    import json

    from kernels import store

    out = tmp_path / "kernels.json"
    one, two = ({"op": op, "title": "2, 3", "dtype": "float32", "forward_ms": 1 / 3} for op in "ab")
    store(out, {"torch": "1", "time": "x"}, {"float32": {}}, [one])
    store(out, {"torch": "1", "time": "y"}, {"float32": {}}, [two])
    assert [r["op"] for r in json.loads(out.read_text())["records"]] == ["a", "b"]
    assert json.loads(out.read_text())["records"][0]["forward_ms"] == 0.33333
    store(out, {"torch": "2", "time": "z"}, {"float32": {}}, [two])
    assert [r["op"] for r in json.loads(out.read_text())["records"]] == ["b"]
