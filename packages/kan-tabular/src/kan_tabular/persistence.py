"""Fitted estimators in one file without pickle: weights as safetensors, everything else as JSON in its header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.training.files import atomic_write
from kan_tabular import models
from kan_tabular.encoding import TableEncoder
from kan_tabular.estimators import KANClassifier, KANRegressor

FORMAT, VERSION = "kan_tabular.estimator", 1
FILE_NAME = "estimator.safetensors"
"""Of the file in a folder."""

_KEY = "kan_tabular"
_CLASSES = {cls.__name__: cls for cls in (KANClassifier, KANRegressor)}
_PACKAGES = ("kan-tabular", "kan-core", "torch", "scikit-learn", "pandas", "numpy")
_APART = ("module_", "encoder_")  # stored in their own way


def save(est: Any, path: str | Path) -> Path:
    """Store a fitted estimator; what `load` returns predicts the same, bit by bit.

    The file appears when it is complete. It holds the parameters of the constructor, all that ``fit`` learned, and the
    versions of the libraries. It is a safetensors file: tensors are the network's ``state_dict``, and the header's
    entry ``kan_tabular`` is the rest as JSON.

    Args:
        est: A fitted `KANClassifier` or `KANRegressor`.
        path: Of the file; an existing folder gets ``estimator.safetensors``.

    Returns:
        The file.

    Raises:
        KANError: For another class (also a subclass), an attribute that JSON has no place for, such as a function as a
            parameter, or parameters that were changed after ``fit`` so that they make another network.
        NotFittedError: Before ``fit``.
    """
    name = type(est).__name__
    if _CLASSES.get(name) is not type(est):
        raise KANError(f"save stores {' and '.join(_CLASSES)}, got {name}")
    check_is_fitted(est)
    params = est.get_params(deep=False)
    fitted = {key: value for key, value in vars(est).items() if key not in params and key not in _APART}
    stored = {
        "format": FORMAT,
        "version": VERSION,
        "estimator": name,
        "versions": {package: _version(package) for package in _PACKAGES},
        "params": {key: _encode(value, f"parameter {key}") for key, value in params.items()},
        "encoder": _encode(est.encoder_.to_dict(), "encoder_"),
        "fitted": {key: _encode(value, f"attribute {key}") for key, value in fitted.items()},
    }
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in est.module_.state_dict().items()}
    differs = _difference(_on_meta(est).state_dict(), state)
    if differs:
        raise KANError(f"save: parameters were changed after fit, and make another network now: {differs}; fit again")
    target = _file(path)
    with atomic_write(target) as temporary:
        save_file(state, temporary, metadata={_KEY: json.dumps(stored, allow_nan=False)})
    return target


def load(path: str | Path) -> Any:
    """A fitted estimator that `save` stored; nothing in the file is executed.

    Args:
        path: Of the file, or of the folder that holds ``estimator.safetensors``.

    Raises:
        KANError: When there is no such file, it is no file of `save`, a newer version wrote it, or its parts do not fit
            together.
    """
    file = _file(path)
    stored, state = _read(file)
    if stored.get("format") != FORMAT or not isinstance(stored.get("version"), int):
        raise KANError(f"{file} holds no estimator of kan_tabular, but {stored.get('format')!r}")
    if stored["version"] > VERSION:
        made = (stored.get("versions") or {}).get("kan-tabular")
        raise KANError(
            f"{file} has format version {stored['version']} (kan-tabular {made}): upgrade kan-tabular to read it"
        )
    try:
        est = _CLASSES[stored["estimator"]](**{key: _decode(value) for key, value in stored["params"].items()})
        est.encoder_ = TableEncoder.from_dict(_decode(stored["encoder"]))
        for key, value in stored["fitted"].items():
            if not key.isidentifier() or key.startswith("__") or hasattr(type(est), key) or key in _APART:
                raise ValueError(f"attribute {key!r}")
            setattr(est, key, _decode(value))
        _check_sizes(est)
        differs = _difference(_on_meta(est).state_dict(), state)
        if differs:
            raise ValueError(differs)
        est.module_ = _network(est).double().eval().requires_grad_(False)
        est.module_.load_state_dict(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KANError(f"{file} is damaged or was changed: {reason}") from error
    return est


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / FILE_NAME if path.is_dir() else path


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not file.is_file():
        raise KANError(f"there is no file {file}")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            header = opened.metadata() or {}
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise KANError(f"{file} cannot be read as safetensors: {error}") from error
    try:
        stored = json.loads(header[_KEY])
    except (KeyError, ValueError) as error:
        raise KANError(f"{file} holds no estimator of kan_tabular: its header has no JSON called {_KEY!r}") from error
    return (stored if isinstance(stored, dict) else {}), state


# The network --------------------------------------------------------------------------------------------------------


def _outputs(est: Any) -> int:
    if isinstance(est, KANRegressor):
        return len(est.target_center_)
    return 1 if len(est.classes_) == 2 else len(est.classes_)


def _network(est: Any) -> nn.Module:
    """The estimator's network, untrained, made without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        return models.create(
            est.model, cardinalities=est.encoder_.cardinalities, num_outputs=_outputs(est), **est._model_kwargs()
        )


def _on_meta(est: Any) -> nn.Module:
    """The same without memory: shapes are compared before a file's numbers decide how much is allocated."""
    with torch.device("meta"):
        return _network(est).double()


def _difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first tensor that is missing, too much, or of another shape or type; empty when there is none."""
    for name in [*expected, *found]:
        if name not in expected or name not in found:
            return f"{name} is {'missing' if name in expected else 'not of this network'}"
        own, other = expected[name], found[name]
        if own.shape != other.shape or own.dtype != other.dtype:
            return f"{name} is {tuple(other.shape)} {other.dtype}, but should be {tuple(own.shape)} {own.dtype}"
    return ""


def _check_sizes(est: Any) -> None:
    """Whether what was learned fits together.

    Raises:
        ValueError: When it does not.
    """
    columns, outputs = len(est.encoder_.columns), _outputs(est)
    sizes = {
        "n_features_in_": ((), int),
        "feature_importances_": ((columns,), float),
        "term_means_": ((columns, outputs), float),
        "target_center_": ((outputs,), float),
        "target_scale_": ((outputs,), float),
        "temperature_": ((), float),
    }
    for name, (shape, kind) in sizes.items():
        if hasattr(est, name):
            value = np.asarray(getattr(est, name))
            if value.shape != shape or not np.issubdtype(value.dtype, np.integer if kind is int else np.floating):
                raise ValueError(f"{name} has shape {value.shape} and type {value.dtype}, but should have {shape}")
    names = getattr(est, "feature_names_in_", None)
    if est.n_features_in_ != columns or (names is not None and len(names) != columns):
        raise ValueError(f"n_features_in_ is {est.n_features_in_}, but there are {columns} columns")


# Values as JSON -----------------------------------------------------------------------------------------------------


def _encode(value: Any, where: str) -> Any:
    """Python's and numpy's plain values as JSON that keeps their types.

    Raises:
        KANError: For a value of another type.
    """
    if value is None or isinstance(value, bool | str) or (isinstance(value, int) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return {"scalar": value.dtype.str, "value": _encode(value.item(), where)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufUO":
        values = [_encode(item, where) for item in value.ravel().tolist()]
        return {"array": value.dtype.str, "shape": list(value.shape), "values": values}
    if isinstance(value, list):
        return [_encode(item, where) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, where) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(key, where), _encode(item, where)] for key, item in value.items()]}
    if isinstance(value, np.random.RandomState):
        return {"random_state": _encode(value.get_state(legacy=True), where)}
    raise KANError(
        f"save: {where} is of type {type(value).__name__}, which JSON has no place for: use plain values or names"
    )


def _decode(stored: Any) -> Any:
    """The inverse of `_encode`.

    Raises:
        ValueError: For JSON that `_encode` does not write.
    """
    if isinstance(stored, list):
        return [_decode(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    if "scalar" in stored:
        return _plain_type(stored["scalar"]).type(_decode(stored["value"]))
    if "float" in stored:
        return float(stored["float"])
    if "array" in stored:
        values = [_decode(item) for item in stored["values"]]
        return np.array(values, dtype=_plain_type(stored["array"])).reshape(stored["shape"])
    if "tuple" in stored:
        return tuple(_decode(item) for item in stored["tuple"])
    if "dict" in stored:
        return {_decode(key): _decode(item) for key, item in stored["dict"]}
    if "random_state" in stored:
        generator = np.random.RandomState()
        generator.set_state(_decode(stored["random_state"]))
        return generator
    raise ValueError(f"unknown value with {', '.join(stored) or 'no key'}")


def _plain_type(name: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(name)
    if dtype.kind not in "biufUO":
        raise ValueError(f"type {name!r}")
    return dtype


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
