"""What `benchmarks/har.py` promises: no person on both sides, equal twins, nothing fitted twice, pooled figures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kan_core.compare import count_parameters
from kan_timeseries.data.activity import Recording
from kan_timeseries.features import physical_features, physical_names

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHANNELS = ["x", "y", "z"]


@pytest.fixture
def har(monkeypatch):
    """The benchmark as a module, with short trainings."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import har

    monkeypatch.setattr(har, "EPOCHS", 6)
    monkeypatch.setattr(har, "WINDOW_STEPS", 1)
    return har


@pytest.fixture
def case(har):
    """Four people who shake or rest, with six recordings each."""
    random = np.random.default_rng(0)
    found = []
    for person in "abcd":
        for trial in range(6):
            samples = 70 + 10 * trial
            x = 0.1 * random.standard_normal((samples, 3)) + [0, 0, 1]
            label = ("rest", "shake")[trial % 2]
            x[:, 0] += (label == "shake") * np.sin(np.arange(samples))
            found.append(Recording(person, str(trial), label, None, x.astype(np.float32), 16.0))
    features = torch.cat([physical_features(torch.from_numpy(r.x)[None], rate=16.0) for r in found])
    y = torch.tensor([r.label == "shake" for r in found]).long()
    people = list("abcd")
    names = physical_names(CHANNELS, 16.0)
    who = [r.subject for r in found]
    return har.Case(
        found, y, who, features, names, ["rest", "shake"], people, CHANNELS, 16.0, [["a"], ["b"], ["c", "d"]]
    )


def test_the_reference_has_37_statistics(har, case):
    columns = har.reference_columns(case)
    assert len(columns) == 37
    assert {"mean x", "std delta |x..z|", "mean of third 3 y", "log duration"} <= {case.names[i] for i in columns}


@pytest.mark.parametrize("model", ["kan", "mlp", "kan-har", "linear", "trees", "ridge37", "imu-kan"])
def test_a_fit_learns_from_other_people_and_is_tested_on_held_out_ones(har, case, model):
    row = har.fit(case, model, 2, 0)
    assert row["who"] == ["c"] * 6 + ["d"] * 6
    assert row["y"] == case.y[12:].tolist()
    if model != "imu-kan":  # one epoch
        assert np.mean(np.array(row["predicted"]) == row["y"]) > 0.9


def test_twins_have_as_many_parameters(har, case):
    for twin, kan in har.TWINS.items():
        sizes = [count_parameters(har.make_task(case, name, case.recordings, 64).net) for name in (twin, kan)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_figures_are_pooled_over_folds(har):
    rows = [
        {"y": [0, 0, 1], "predicted": [0, 0, 1], "who": ["a", "a", "a"]},
        {"y": [1], "predicted": [0], "who": ["b"]},
    ]
    found = har.pooled(rows, 3)
    assert found["accuracy"] == pytest.approx(0.75)
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert (found["worst_person"], found["people"]) == (0.0, {"a": 1.0, "b": 0.0})


def test_a_seed_without_all_folds_is_left_out_and_nothing_is_fitted_twice(har, tmp_path):
    fold = {"y": [0, 1], "predicted": [0, 1], "who": ["a", "b"], "train_seconds": 1.0, "parameters": 7}
    for seed, number in ((0, 0), (0, 1), (1, 0)):
        har.append_row(tmp_path / "rows.jsonl", {"set": "s", "model": "kan", "seed": seed, "fold": number, **fold})
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('\n{"set": "s", "mod')
    rows = har.read_rows(tmp_path / "rows.jsonl")
    assert [har.key(row)[2:] for row in rows] == [(0, 0), (0, 1), (1, 0)]
    (line,) = har.summary(rows, {"s": (2, 2)})
    assert (line["seeds"], line["accuracy"]["mean"], line["parameters"]) == ([0], 1.0, 7)


def test_the_whole_benchmark_on_a_set(har, case, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(har, "load", lambda root, name: case)
    options = ["--data.root", "none", "--only", "umafall", "--models", "kan-additive", "majority", "--seeds", "0"]
    files = ["--output", str(tmp_path), "--results", str(tmp_path / "har.json")]
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["har.py", *options, *files, "--threads", str(threads)])
    monkeypatch.setitem(har.SETS, "umafall", {"dataset": "umafall", "folds": 3})
    har.main()
    printed = capsys.readouterr().out
    assert "s of signal in one second" in printed
    before = (tmp_path / "rows.jsonl").read_text()
    har.main()
    assert (tmp_path / "rows.jsonl").read_text() == before
    capsys.readouterr()
