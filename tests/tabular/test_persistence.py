from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.base import clone

from kan_core.errors import KANError
from kan_tabular import KANClassifier, KANRegressor, models
from kan_tabular.persistence import load, save


def table(rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.uniform(18, 80, rows),
            "city": rng.choice(["Bern", "Chur", "d'Or"], rows),
            "zip": rng.integers(0, 15, rows).astype(str),
            "level": pd.Categorical(rng.integers(0, 4, rows)),
            "flag": rng.random(rows) < 0.5,
        }
    )
    frame.loc[::9, "age"] = np.nan
    frame.loc[::7, "city"] = np.nan
    return frame


LABELS = {
    "str": np.array(["no", "yes"]),
    "object": np.array(["low", "middle", "very high"], dtype=object),
    "bool": np.array([False, True]),
    "int": np.array([3, 7]),
    "int8": np.array([-1, 0, 5], dtype=np.int8),
    "float": np.array([0.5, 1.5])[:2].astype(np.float64).round().astype(np.float32),
}


def edit(path: Path, change: Any) -> None:
    """Rewrite a stored file with its JSON or its tensors changed in place."""
    with safe_open(path, framework="pt") as opened:
        stored = json.loads(opened.metadata()["kan_tabular"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    change(stored, tensors)
    save_file(tensors, path, metadata={"kan_tabular": json.dumps(stored)})


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_classes_and_answers_are_the_same_bit_by_bit(labels: np.ndarray, tmp_path: Path) -> None:
    x = table()
    y = labels[np.arange(len(x)) % len(labels)]
    est = KANClassifier(hidden=(3,), max_epochs=1, early_stopping=True, random_state=0).fit(x, y)
    back = load(save(est, tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(back.predict_proba(x), est.predict_proba(x))
    np.testing.assert_array_equal(back.predict(x), est.predict(x))
    assert back.classes_.dtype == est.classes_.dtype
    assert [type(c) for c in back.classes_.tolist()] == [type(c) for c in est.classes_.tolist()]
    assert back.temperature_ == est.temperature_


@pytest.mark.parametrize("hidden", [(), (4, 3)])
@pytest.mark.parametrize("targets", [1, 2])
def test_regressors_are_the_same_bit_by_bit(hidden: tuple[int, ...], targets: int, tmp_path: Path) -> None:
    x = table()
    y = np.random.default_rng(1).normal(100, 20, (len(x), targets))
    est = KANRegressor(hidden=hidden, max_epochs=1, random_state=0).fit(x, y[:, 0] if targets == 1 else y)
    back = load(save(est, tmp_path / "model.safetensors"))
    unseen = x.assign(city="Rome", age=1e6)
    for rows in (x, unseen):
        np.testing.assert_array_equal(back.predict(rows), est.predict(rows))
        assert back.predict(rows).shape == est.predict(rows).shape
    np.testing.assert_array_equal(back.feature_importances_, est.feature_importances_)
    np.testing.assert_array_equal(back.feature_names_in_, est.feature_names_in_)
    assert back.history_ == est.history_
    assert back.n_iter_ == est.n_iter_
    assert back.n_features_in_ == x.shape[1]
    if not hidden:
        np.testing.assert_array_equal(back.contributions(x), est.contributions(x))
        np.testing.assert_array_equal(back.intercept_, est.intercept_)


def test_monotone_models_and_other_bases_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    for options in ({"monotone": [1, 0, -1]}, {"layer": "chebyshev"}, {"layer": "linear", "hidden": (3,)}):
        est = KANRegressor(max_epochs=1, random_state=0, **{"hidden": (), **options}).fit(x, y)
        np.testing.assert_array_equal(load(save(est, tmp_path / "m.safetensors")).predict(x), est.predict(x))


@pytest.mark.parametrize("name", models.names())
def test_every_model_has_the_same_tensors_without_memory(name: str) -> None:
    kwargs = {"cardinalities": [0, 0, 4, 20], "num_outputs": 2}
    with torch.device("meta"):
        shapes = models.create(name, **kwargs).state_dict()
    state = models.create(name, **kwargs).state_dict()
    assert {key: value.shape for key, value in shapes.items()} == {key: value.shape for key, value in state.items()}
    assert {value.device.type for value in shapes.values()} == {"meta"}


def test_parameters_come_back_and_make_the_same_fit(tmp_path: Path) -> None:
    x, y = table(), np.arange(60) % 2
    params = {
        "class_weight": {0: 1.0, 1: 2.5},
        "categorical_features": ["city", "zip"],
        "hidden": (2,),
        "max_epochs": 1,
    }
    est = KANClassifier(random_state=3, **params).fit(x.drop(columns="level"), y)
    back = load(save(est, tmp_path / "m.safetensors"))
    assert back.get_params() == est.get_params()
    again = clone(back).fit(x.drop(columns="level"), y)
    np.testing.assert_array_equal(
        again.predict_proba(x.drop(columns="level")), est.predict_proba(x.drop(columns="level"))
    )


def test_a_random_state_is_stored_with_its_position(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30.0)
    est = KANRegressor(hidden=(), max_epochs=1, random_state=np.random.RandomState(4)).fit(x, y)
    back = load(save(est, tmp_path / "m.safetensors"))
    assert back.random_state.randint(2**31) == est.random_state.randint(2**31)


def test_a_folder_gets_one_file_and_no_global_state_is_touched(small: KANRegressor, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    file = save(small, tmp_path)
    load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert [p.name for p in tmp_path.iterdir()] == ["estimator.safetensors"]
    assert file.parent == tmp_path
    assert b"pickle" not in file.read_bytes()


@pytest.fixture(scope="module")
def small() -> KANRegressor:
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30.0)
    return KANRegressor(hidden=(), max_epochs=1, random_state=0).fit(x, y)


def test_a_failed_save_leaves_the_old_file(
    small: KANRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(small, tmp_path / "m.safetensors")
    before = file.read_bytes()

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("kan_tabular.persistence.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save(small, file)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_json_has_no_place_for_is_refused(small: KANRegressor, tmp_path: Path) -> None:
    odd = clone(small).set_params(layer=len)
    odd.__dict__.update({k: v for k, v in vars(small).items() if k not in small.get_params()})
    with pytest.raises(KANError, match="parameter layer is of type builtin_function_or_method"):
        save(odd, tmp_path / "m.safetensors")
    changed = load(save(small, tmp_path / "n.safetensors")).set_params(hidden=(9,))
    with pytest.raises(KANError, match="changed after fit"):
        save(changed, tmp_path / "m.safetensors")

    class Own(KANRegressor):
        pass

    with pytest.raises(KANError, match="got Own"):
        save(Own(), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="not fitted"):
        save(KANRegressor(), tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def newer(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    stored["version"] = 99


def other_format(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    stored["format"] = "something"


def other_shape(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["additive.bias"] = torch.zeros(2, dtype=torch.float64)


def other_type(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["additive.bias"] = torch.zeros(1)


def missing_tensor(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors["additive.bias"]


def huge_model(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    stored["params"]["hidden"] = [10**9]  # 72 GB, were it made


def one_column_less(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    stored["fitted"]["n_features_in_"] = 1


def means_of_another_shape(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    stored["fitted"]["term_means_"] |= {"shape": [1, 2]}


def a_method(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    stored["fitted"]["predict"] = 1


def unknown_parameter(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    stored["params"]["shell"] = "ls"


def unknown_class(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    stored["estimator"] = "Popen"


def without_classes(stored: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del stored["fitted"]["target_center_"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer, "format version 99"),
        (other_format, "no estimator of kan_tabular"),
        (other_shape, r"damaged or was changed: additive.bias is \(2,\)"),
        (other_type, "torch.float32"),
        (missing_tensor, "additive.bias is missing"),
        (huge_model, "damaged or was changed"),
        (one_column_less, "n_features_in_ is 1"),
        (means_of_another_shape, "term_means_ has shape"),
        (a_method, "attribute 'predict'"),
        (unknown_parameter, "shell"),
        (unknown_class, "Popen"),
        (without_classes, "target_center_"),
    ],
)
def test_a_changed_file_is_refused_in_one_line(small: KANRegressor, change: Any, message: str, tmp_path: Path) -> None:
    file = save(small, tmp_path / "m.safetensors")
    edit(file, change)
    with pytest.raises(KANError, match=message) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert "m.safetensors" in str(caught.value)


def test_what_is_no_stored_estimator_is_refused_in_one_line(small: KANRegressor, tmp_path: Path) -> None:
    with pytest.raises(KANError, match="there is no file"):
        load(tmp_path / "nowhere.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(KANError, match="cannot be read as safetensors"):
        load(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(KANError, match="no estimator of kan_tabular"):
        load(tmp_path / "foreign.safetensors")
    whole = save(small, tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KANError, match=re.escape(str(tmp_path / "m.safetensors"))):
        load(tmp_path / "m.safetensors")


def test_the_estimator_s_methods_call_these(small: KANRegressor, tmp_path: Path) -> None:
    small.save(tmp_path / "m.safetensors")
    x = np.zeros((1, 2))
    np.testing.assert_array_equal(KANRegressor.load(tmp_path / "m.safetensors").predict(x), small.predict(x))
    with pytest.raises(KANError, match="not a KANClassifier"):
        KANClassifier.load(tmp_path / "m.safetensors")
