"""Detectors in one file without pickle: weights as safetensors, everything else as JSON in its header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kan_core.errors import KANError
from kan_core.training.files import atomic_write
from kan_timeseries.radar.detector import RadarDetector
from kan_timeseries.radar.features import SegmentFeatures
from kan_timeseries.radar.metrics import Calibration

FORMAT, VERSION = "kan_timeseries.radar.detector", 1
_KEY = "kan_timeseries"
_OPTIONS = ("hidden", "layer", "base", "penalty", "iterations", "seed")


def save_detector(detector: RadarDetector, path: str | Path) -> Path:
    """Store a fitted detector; what `load_detector` returns scores the same, bit by bit.

    Args:
        detector: Fitted; its calibration is stored when it has one.
        path: Of the file, such as ``detector.safetensors``.

    Returns:
        The file.

    Raises:
        KANError: Before ``fit``.
    """
    if detector.size is None:
        raise KANError("save_detector: the detector is not fitted: call fit first")
    stored = {
        "format": FORMAT,
        "version": VERSION,
        "features": asdict(detector.features),
        "options": {name: getattr(detector, name) for name in _OPTIONS},
        "size": detector.size,
        "calibration": None if detector.calibration is None else detector.calibration._asdict(),
    }
    path = Path(path)
    state = {name: tensor.detach().contiguous().clone() for name, tensor in detector.network.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata={_KEY: json.dumps(stored, allow_nan=False)})
    return path


def load_detector(path: str | Path) -> RadarDetector:
    """A detector that `save_detector` stored; nothing in the file is executed.

    Args:
        path: Of the file.

    Raises:
        KANError: When there is no such file, it is no file of `save_detector`, a newer version wrote it, or its parts
            do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise KANError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            header = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
        stored = json.loads(header[_KEY])
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']!r}")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise KANError(f"{path} holds no radar detector: {_reason(error)}") from error
    if stored.get("version") != VERSION:
        raise KANError(f"{path} has format version {stored.get('version')}: this one reads {VERSION}, upgrade it")
    try:
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["features"].items()}
        features = SegmentFeatures(**plain)
        detector = RadarDetector(features, **stored["options"])
        _check(detector, state)
        detector.network.load_state_dict(state)
        detector.network.requires_grad_(False)
        rows, columns = stored["size"]
        detector.size = (int(rows), int(columns))
        detector.calibration = None if stored["calibration"] is None else Calibration(**stored["calibration"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise KANError(f"{path} is damaged or was changed: {_reason(error)}") from error
    return detector


def _check(detector: RadarDetector, state: dict[str, torch.Tensor]) -> None:
    expected = detector.network.state_dict()
    for name in [*expected, *state]:
        if name not in expected or name not in state:
            raise ValueError(f"{name} is {'missing' if name in expected else 'not of this network'}")
        if state[name].shape != expected[name].shape or state[name].dtype != expected[name].dtype:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, {state[name].dtype}")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
