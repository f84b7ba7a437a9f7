from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch

from kan_core.errors import KANError
from kan_tabular import KANClassifier, KANRegressor
from kan_tabular.explain import scores_of
from kan_tabular.export import Graph, category_codes, to_onnx


def messy(rows: int = 100) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "city": rng.choice(["Bern", "Chur", "d'Or"], rows),
            "age": rng.uniform(18, 80, rows),
            "zip": rng.integers(0, 15, rows).astype(str),
            "income": rng.lognormal(10, 1, rows),
            "constant": 1.0,
        }
    )
    y = np.sin(table["age"] / 10) + np.log(table["income"]) / 3 + (table["city"] == "Bern")
    table.loc[::9, "age"] = np.nan
    table.loc[::7, "city"] = np.nan
    return table, y.to_numpy()


def run(path: Path, est: Any, table: pd.DataFrame) -> np.ndarray:
    """As a program without this library would; the codes from the JSON beside the file."""
    session = onnxruntime.InferenceSession(path)
    known = {column["name"]: column for column in json.loads(path.with_suffix(".json").read_text())["columns"]}
    codes, numeric = [], []
    for name, column in known.items():
        if column["kind"] == "numeric":
            numeric.append(table[name].to_numpy(float))
        else:
            vocabulary = {entry["value"]: entry["code"] for entry in column["codes"]}
            codes.append([1 if pd.isna(v) else vocabulary.get(v, 0) for v in table[name]])
    feed = {}
    if numeric:
        feed["numeric"] = np.stack(numeric, axis=1)
    if codes:
        feed["categories"] = np.array(codes, dtype=np.int64).T
        np.testing.assert_array_equal(feed["categories"], category_codes(est, table))
    assert set(feed) == {node.name for node in session.get_inputs()}
    return session.run(None, feed)[0]


def probe(table: pd.DataFrame) -> pd.DataFrame:
    """Rows as in training, and beyond."""
    odd = table.head(4).copy()
    odd["city"] = ["Rome", None, "Bern", "Chur"]
    odd["income"] = [1e30, -1e300, np.nan, 0]
    odd["age"] = [np.nan, 1e308, 0, -5]
    return pd.concat([table, odd], ignore_index=True)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[KANClassifier, Path, dict[str, Any]]:
    table, y = messy()
    est = KANClassifier(hidden=(3,), max_epochs=2, early_stopping=True, random_state=0)
    est.fit(table, np.digitize(y, [3, 4]) * 4 - 1)
    path = tmp_path_factory.mktemp("deep") / "model.onnx"
    return est, path, to_onnx(est, path)


def test_probabilities_of_onnx_runtime_are_the_estimator_s(deep: tuple[KANClassifier, Path, dict[str, Any]]) -> None:
    est, path, report = deep
    rows = probe(messy()[0])
    found = run(path, est, rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, est.predict_proba(rows), atol=1e-5)
    assert report["precision"] == "float64"
    assert report["max_difference"] <= 1e-5
    one = run(path, est, rows.head(1))  # the number of rows is free
    np.testing.assert_allclose(one, found[:1], atol=1e-12)


def test_the_file_says_what_its_inputs_mean(deep: tuple[KANClassifier, Path, dict[str, Any]]) -> None:
    est, path, report = deep
    stored = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    beside = json.loads(path.with_suffix(".json").read_text())
    assert stored["columns"] == beside["columns"] == report["columns"]
    assert stored["columns"][0]["codes"][0] == {"value": "Bern", "code": 2}
    assert stored["inputs"] == ["numeric", "categories"]
    assert beside["format"] == "kan_tabular.onnx"
    assert beside["output"] == "probabilities"
    assert beside["classes"] == est.classes_.tolist() == [-1, 3, 7]
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.onnx"]


def test_predictions_are_in_original_units_where_an_operator_lacks_float64_too(tmp_path: Path) -> None:
    table, y = messy()
    numbers = table[["age", "income", "constant"]]
    options = {"hidden": (2,), "layer": "linear", "model_kwargs": {"activation": "gelu"}}
    est = KANRegressor(max_epochs=1, random_state=0, **options).fit(numbers, np.column_stack([1e5 * y, y - 7]))
    report = to_onnx(est, tmp_path / "model.onnx")
    assert report["inputs"] == ["numeric"]
    assert report["precision"] == "float32"  # ONNX Runtime has the error function of GELU for no other
    rows = probe(table)[numbers.columns]
    distance = np.abs(run(tmp_path / "model.onnx", est, rows) - est.predict(rows)) / est.target_scale_
    assert 0 < distance.max() <= 1e-5


def test_tables_of_categories_have_one_input_and_unknown_codes_are_unknown() -> None:
    table, y = messy()
    names = table[["city", "zip"]]
    est = KANClassifier(hidden=(), max_epochs=1, random_state=0).fit(names, y > 3)
    graph = Graph(scores_of(est), classifier=True, precision=torch.float64)
    codes = category_codes(est, names)
    np.testing.assert_allclose(graph(torch.as_tensor(codes)), est.predict_proba(names), atol=1e-12)
    odd = graph(torch.tensor([[-5, 99], [5, 2**40], [0, 0]]))
    assert torch.equal(odd[0], odd[2])
    assert torch.equal(odd[1], odd[2])


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, y = messy()
    est = KANRegressor(hidden=(), max_epochs=1, random_state=0).fit(table[["age"]], y)
    with pytest.raises(KANError, match=r"end in .onnx"):
        to_onnx(est, tmp_path / "model.pb")
    with pytest.raises(KANError, match="expected a fitted"):
        to_onnx({}, tmp_path / "model.onnx")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(KANError, match=r"needs onnxruntime: .*kan-tabular\[export\]"):
        to_onnx(est, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
