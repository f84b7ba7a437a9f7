"""Fitted forecasters in one file without pickle: arrays as safetensors, everything else as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from kan_core.errors import KANError
from kan_core.training.files import atomic_write
from kan_timeseries.conformal import ConformalIntervals
from kan_timeseries.data.calendar import with_calendar
from kan_timeseries.data.frames import FrameReader
from kan_timeseries.data.panel import Panel
from kan_timeseries.data.scaling import PanelScaler
from kan_timeseries.forecaster import KANForecaster

FORMAT, VERSION = "kan_timeseries.forecaster", 1
FILE_NAME = "forecaster.safetensors"
"""Of the file in a folder."""

_KEY = "kan_timeseries"
_PACKAGES = ("kan-timeseries", "kan-core", "torch", "pandas", "numpy")
_SCALER = ("center", "scale", "known_range", "observed_range")
_PANEL = ("offsets", "values", "known", "observed", "times")
_NAMES = ("ids", "channel_names", "known_names", "observed_names", "season")
_FITTED = ("input_size_", "val_size_", "dropped_", "fit_history_", "best_step_")


def save(forecaster: KANForecaster, path: str | Path) -> Path:
    """Store a fitted forecaster; what `load` returns forecasts the same, bit by bit.

    The file appears when it is complete. It holds the parameters of the constructor, the network, the scales, the
    calibration of intervals, and the end of each training series, so that ``predict()`` needs no table.

    Args:
        forecaster: A fitted `KANForecaster`.
        path: Of the file; an existing folder gets ``forecaster.safetensors``.

    Returns:
        The file.

    Raises:
        KANError: For a parameter that JSON has no place for, such as a function.
        NotFittedError: Before ``fit``.
    """
    check_is_fitted(forecaster)
    panel, scaler = forecaster.history_, forecaster.scaler_
    arrays = {f"net.{name}": tensor for name, tensor in forecaster.task_.net.state_dict().items()}
    arrays |= {f"scaler.{name}": torch.from_numpy(getattr(scaler, name)) for name in _SCALER}
    arrays |= {f"history.{name}": torch.from_numpy(_plain(getattr(panel, name))) for name in _PANEL}
    if forecaster.intervals_ is not None:
        arrays["errors"] = torch.from_numpy(forecaster.intervals_.errors)
    stored = {
        "format": FORMAT,
        "version": VERSION,
        "versions": {package: _version(package) for package in _PACKAGES},
        "params": {name: _value(value, name) for name, value in forecaster.get_params(deep=False).items()},
        "reader": forecaster.reader_.to_dict(),
        "history": {**{name: getattr(panel, name) for name in _NAMES}, "times": panel.times.dtype.str},
        "fitted": {name: getattr(forecaster, name) for name in _FITTED},
    }
    target = _file(path)
    with atomic_write(target) as temporary:
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in arrays.items()}
        save_file(state, temporary, metadata={_KEY: json.dumps(stored)})
    return target


def load(path: str | Path) -> KANForecaster:
    """A fitted forecaster that `save` stored; nothing in the file is executed.

    Args:
        path: Of the file, or of the folder that holds ``forecaster.safetensors``.

    Raises:
        KANError: When there is no such file, it is no file of `save`, a newer version wrote it, or its parts do not fit
            together.
    """
    file = _file(path)
    stored, arrays = _read(file)
    if stored.get("format") != FORMAT or not isinstance(stored.get("version"), int):
        raise KANError(f"{file} holds no forecaster of kan_timeseries, but {stored.get('format')!r}")
    if stored["version"] > VERSION:
        made = (stored.get("versions") or {}).get("kan-timeseries")
        raise KANError(
            f"{file} has format version {stored['version']} (kan-timeseries {made}): upgrade kan-timeseries to read it"
        )
    try:
        return _restored(stored, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KANError(f"{file} is damaged or was changed: {reason}") from error


def _restored(stored: dict[str, Any], arrays: dict[str, Tensor]) -> KANForecaster:
    """The forecaster; any exception means that the file is no good."""
    forecaster = KANForecaster(**stored["params"])
    forecaster._check_parameters()
    forecaster.reader_ = FrameReader.from_dict(stored["reader"])
    for name in _FITTED:
        setattr(forecaster, name, stored["fitted"][name])
    panel = _panel(stored["history"], arrays)
    scaler = PanelScaler(**{name: arrays[f"scaler.{name}"].numpy() for name in _SCALER})
    forecaster.history_, forecaster.scaler_ = panel, scaler
    complete = with_calendar(panel, forecaster.calendar)
    known, observed = complete.known.shape[1], complete.observed.shape[1]
    shapes = ((len(panel.ids), 1), (len(panel.ids), 1), (2, known), (2, observed))
    for name, shape in zip(_SCALER, shapes, strict=True):
        if getattr(scaler, name).shape != shape:
            raise ValueError(f"scaler.{name} has shape {getattr(scaler, name).shape}, but should have {shape}")
    errors = arrays.get("errors")
    if errors is not None and (errors.ndim != 2 or errors.shape[1] != forecaster.h):
        raise ValueError(f"errors has shape {tuple(errors.shape)}, but h is {forecaster.h}")
    forecaster.intervals_ = None if errors is None else ConformalIntervals(errors.double().numpy())
    state = {name.removeprefix("net."): tensor for name, tensor in arrays.items() if name.startswith("net.")}
    with torch.device("meta"):  # shapes are compared before the file's numbers decide how much is allocated
        _check_same(forecaster._task(complete).net.state_dict(), state)
    with torch.random.fork_rng(devices=[]):
        forecaster.task_ = forecaster._task(complete)
    forecaster.task_.net.load_state_dict(state)
    forecaster.task_.eval()
    return forecaster


def _panel(stored: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Panel:
    found: dict[str, Any] = {name: arrays[f"history.{name}"].numpy() for name in _PANEL}
    dtype = np.dtype(stored["times"])
    if dtype.kind not in "Mi":
        raise ValueError(f"times are of type {stored['times']!r}")
    found["times"] = found["times"].astype(dtype)
    if not (found["offsets"][0] == 0 and (np.diff(found["offsets"]) > 0).all()):
        raise ValueError("history.offsets do not rise from 0")
    return Panel(**found, **{name: stored[name] for name in _NAMES})


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / FILE_NAME if path.is_dir() else path


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not file.is_file():
        raise KANError(f"there is no file {file}")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            header = opened.metadata() or {}
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise KANError(f"{file} cannot be read as safetensors: {error}") from error
    try:
        stored = json.loads(header[_KEY])
    except (KeyError, ValueError) as error:
        raise KANError(f"{file} holds no forecaster of kan_timeseries: its header has no JSON of {_KEY!r}") from error
    return (stored if isinstance(stored, dict) else {}), arrays


def _check_same(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Whether the tensors are those of the network.

    Raises:
        ValueError: Naming the first that is missing, too much, or of another shape or type.
    """
    for name in [*expected, *found]:
        if name not in expected or name not in found:
            raise ValueError(f"{name} is {'missing' if name in expected else 'not of this network'}")
        own, other = expected[name], found[name]
        if own.shape != other.shape or own.dtype != other.dtype:
            raise ValueError(f"{name} is {tuple(other.shape)} {other.dtype}, should be {tuple(own.shape)} {own.dtype}")


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Time stamps as whole numbers, everything else as it is."""
    return np.ascontiguousarray(array.astype(np.int64) if array.dtype.kind == "M" else array)


def _value(value: Any, name: str) -> Any:
    """A parameter as JSON.

    Raises:
        KANError: For a value of another type.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _value(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item, name) for item in value]
    raise KANError(
        f"save: parameter {name} is of type {type(value).__name__}, which JSON has no place for: use plain values"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
