"""Fitted forecasters in a file: the same answers back, and nothing that a changed file can do."""

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

from kan_core.errors import KANError
from kan_timeseries.forecaster import KANForecaster
from kan_timeseries.persistence import load, save


def table(freq: str | None = "D") -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for s, n in enumerate((60, 50)):
        ds = np.arange(n) if freq is None else pd.date_range("2024-01-01", periods=n, freq=freq)
        parts.append(pd.DataFrame({"unique_id": s, "ds": ds, "y": rng.normal(size=n), "price": rng.normal(size=n)}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def small() -> KANForecaster:
    return KANForecaster(3, input_size=7, max_steps=2, model_kwargs={"hidden": [3]}).fit(table())


def edit(path: Path, change: Any) -> None:
    """Rewrite a stored file with its JSON or its tensors changed in place."""
    with safe_open(path, framework="pt") as opened:
        stored = json.loads(opened.metadata()["kan_timeseries"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    change(stored, tensors)
    save_file(tensors, path, metadata={"kan_timeseries": json.dumps(stored)})


def test_forecasts_are_the_same_bit_by_bit(small: KANForecaster, tmp_path: Path) -> None:
    back = load(save(small, tmp_path / "f.safetensors"))
    for frame in (None, table(), table()[:60].assign(unique_id=9)):
        pd.testing.assert_frame_equal(
            back.predict(frame, level=[80, 95]), small.predict(frame, level=[80, 95]), check_exact=True
        )
    assert back.get_params() == {**small.get_params(), "levels": [80, 95], "known": [], "observed": [], "calendar": []}
    assert (back.fit_history_, back.best_step_, back.val_size_) == (
        small.fit_history_,
        small.best_step_,
        small.val_size_,
    )


@pytest.mark.parametrize("freq", [None, "MS", "h"])
def test_covariates_constants_and_quantiles_come_back(freq: str | None, tmp_path: Path) -> None:
    frame = table(freq)
    static = pd.DataFrame({"unique_id": [0, 1], "kind": ["a", "b"], "size": [1.5, 2.0]})
    options = {"known": ["price"], "loss": "quantile", "calendar": ["month"] if freq else []}
    est = KANForecaster(3, input_size=7, model="none", alias="m", skip="series", max_steps=2, **options)
    est.fit(frame, static)
    assert est.reader_.frequency is not None
    ends = est.history_.offsets[1:] - 1
    ahead = pd.DataFrame(
        {
            "unique_id": np.repeat([0, 1], 3),
            "ds": est.reader_.frequency.after(est.history_.times[ends], 3).ravel(),
            "price": 1.0,
        }
    )
    back = KANForecaster.load(est.save(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["forecaster.safetensors"]
    for given in ((None, None), (frame, static)):
        expected = est.predict(*given, futr_df=ahead, level=[80])
        pd.testing.assert_frame_equal(back.predict(*given, futr_df=ahead, level=[80]), expected, check_exact=True)
    with pytest.raises(KANError, match="unknown in training"):
        back.predict(frame, static.assign(kind="c"))


def test_nothing_is_pickled_and_no_global_state_is_touched(small: KANForecaster, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    file = save(small, tmp_path)
    load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert b"pickle" not in file.read_bytes()


def test_what_json_has_no_place_for_is_refused(small: KANForecaster, tmp_path: Path) -> None:
    odd = load(save(small, tmp_path / "f.safetensors")).set_params(model_kwargs={"layer": len})
    with pytest.raises(KANError, match=r"parameter model_kwargs\['layer'\] is of type builtin_function_or_method"):
        save(odd, tmp_path / "odd.safetensors")
    assert not (tmp_path / "odd.safetensors").exists()
    with pytest.raises(ValueError, match="not fitted"):
        save(KANForecaster(3), tmp_path / "new.safetensors")


def newer(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["version"] = 99


def other_format(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["format"] = "something"


def other_horizon(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["params"]["h"] = 5


def unknown_parameter(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["params"]["shell"] = "ls"


def bad_parameter(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["params"]["lr"] = -1


def huge_model(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["params"]["model_kwargs"]["hidden"] = [10**9]


def missing_tensor(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    del arrays["net.line.weight"]


def other_type(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    arrays["net.line.weight"] = arrays["net.line.weight"].double()


def one_series_less(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["history"]["ids"] = ["0"]


def one_scale_less(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    arrays["scaler.scale"] = arrays["scaler.scale"][:1].clone()


def offsets_that_fall(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    arrays["history.offsets"] = torch.tensor([0, 20, 14])


def times_of_another_type(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["history"]["times"] = "O"


def no_frequency(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    stored["reader"]["freq"] = "sometimes"


def no_fit(stored: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
    del stored["fitted"]["input_size_"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer, "format version 99"),
        (other_format, "no forecaster of kan_timeseries"),
        (other_horizon, "damaged or was changed"),
        (unknown_parameter, "shell"),
        (bad_parameter, "lr must be positive"),
        (huge_model, "damaged or was changed"),
        (missing_tensor, "line.weight is missing"),
        (other_type, "torch.float64"),
        (one_series_less, "1 ids, 3 offsets"),
        (one_scale_less, r"scaler.scale has shape \(1, 1\)"),
        (offsets_that_fall, "offsets do not rise"),
        (times_of_another_type, "times are of type 'O'"),
        (no_frequency, "'sometimes' is no frequency"),
        (no_fit, "input_size_"),
    ],
)
def test_a_changed_file_is_refused_in_one_line(small: KANForecaster, change: Any, message: str, tmp_path: Path) -> None:
    file = save(small, tmp_path / "f.safetensors")
    edit(file, change)
    with pytest.raises(KANError, match=message) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert "f.safetensors" in str(caught.value)


def test_what_is_no_stored_forecaster_is_refused_in_one_line(small: KANForecaster, tmp_path: Path) -> None:
    with pytest.raises(KANError, match="there is no file"):
        load(tmp_path / "nowhere.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(KANError, match="cannot be read as safetensors"):
        load(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(KANError, match="no forecaster of kan_timeseries"):
        load(tmp_path / "foreign.safetensors")
    whole = save(small, tmp_path / "f.safetensors").read_bytes()
    (tmp_path / "f.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KANError, match=re.escape(str(tmp_path / "f.safetensors"))):
        load(tmp_path / "f.safetensors")
