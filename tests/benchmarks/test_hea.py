"""What `benchmarks/hea.py` promises: no alloy on both sides, an equal twin, nothing fitted twice, honest means."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kan_core.compare import count_parameters
from kan_tabular import KANRegressor, TableEncoder, models
from kan_tabular.alloys import synthetic_alloys
from kan_tabular.data.mpea import AlloyTable

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def hea(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import hea

    return hea


@pytest.fixture
def tables():
    """Strength and phase of few synthetic alloys, with a category that has gaps."""
    alloys = synthetic_alloys(90, seed=0)
    X = alloys.X.assign(route=np.resize(["cast", "rolled", None], 90))
    X["route"] = X["route"].astype("category")
    phase = alloys.single_phase.map({True: "one", False: "more"}).astype("str")
    return AlloyTable(X, alloys.yield_strength, alloys.groups), AlloyTable(X, phase, alloys.groups)


def rows(hea, model, values, seed=0, folds=5):
    return [
        {
            "target": "hardness", "split": "formula", "seed": seed, "fold": fold, "model": model, "r2": values[fold],
            "rmse": 1.0, "fit_seconds": 2.0, "parameters": None, "train_rows": 8, "test_rows": 2,
        }
        for fold in range(folds)
    ]  # fmt: skip


@pytest.mark.parametrize("split", ["formula", "system"])
def test_no_group_is_on_both_sides(hea, tables, split):
    for table in tables:
        groups = table.groups[split].to_numpy()
        for train, test in hea.folds(table, split, 0):
            assert not set(groups[train]) & set(groups[test])


def test_the_mlp_has_as_many_parameters_as_the_kan(hea, tables):
    X = tables[0].X
    cardinalities = TableEncoder().fit(X).cardinalities
    mlp = models.create(
        "kan", cardinalities=cardinalities, num_outputs=3, layer="linear", **hea.twin(X, 3)["model_kwargs"]
    )
    kan = models.create("kan", cardinalities=cardinalities, num_outputs=3)
    assert count_parameters(mlp) == pytest.approx(count_parameters(kan), rel=0.05)


@pytest.mark.parametrize("name", ["forest", "boosting", "linear", "dummy"])
def test_baselines_take_categories_and_gaps(hea, tables, name):
    for table, metric in zip(tables, ("r2", "f1_macro"), strict=True):
        found = hea.fit(table, name, np.arange(60), np.arange(60, 90), 0)
        assert found[metric] > (-0.5 if name == "dummy" else 0.5)
        assert (found["train_rows"], found["test_rows"], found["parameters"]) == (60, 30, None)


def test_bagged_kans_keep_the_kinds_of_columns(hea, tables, monkeypatch):
    monkeypatch.setattr(hea, "KANRegressor", partial(KANRegressor, max_epochs=3, hidden=()))
    bag = hea.make("kan-bag", tables[0].X, tables[0].y, 0).fit(tables[0].X, tables[0].y)
    kinds = [column.kind for column in bag.estimators_[0].encoder_.columns]
    assert kinds == ["numeric"] * 11 + ["categorical"]


def test_a_half_written_line_is_skipped(hea, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    hea.append_row(path, {"a": 3})
    assert hea.read_rows(path) == [{"a": 1}, {"a": 3}]
    assert hea.read_rows(tmp_path / "none.jsonl") == []


def test_means_are_over_folds_then_seeds(hea):
    found = rows(hea, "kan", [0.5, 0.6, 0.7, 0.8, 0.9]) + rows(hea, "kan", [0.9] * 5, seed=1)
    found += rows(hea, "forest", [0.6] * 5)
    kan = next(line for line in hea.summary(found) if line["model"] == "kan")
    assert kan["seeds"] == [0, 1]
    assert kan["r2"]["mean"] == pytest.approx(0.8)
    assert kan["r2"]["sd"] == pytest.approx(0.1 * 2**0.5)
    assert kan["over_forest"] == {"mean": pytest.approx(0.1), "folds_won": 3, "of": 5}


def test_a_seed_whose_folds_are_not_all_there_does_not_count(hea):
    found = rows(hea, "kan", [0.5] * 5) + rows(hea, "kan", [0.9] * 5, seed=1, folds=4)
    (line,) = hea.summary(found)
    assert line["seeds"] == [0]
    assert line["r2"] == {"mean": 0.5, "sd": None}
    assert hea.summary(rows(hea, "kan", [0.9] * 5, folds=4)) == []
