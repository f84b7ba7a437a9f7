"""Finished windows as arrays: an npz file with a JSON file beside it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_core.training.files import atomic_write
from kan_timeseries.data.activity.recordings import Readings, Recording

_WORDS = ("channels", "units", "classes", "rate")


def write_arrays(
    path: Path | str,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    subject: NDArray[np.int64],
    *,
    channels: Sequence[str],
    units: Sequence[str],
    classes: Sequence[str],
    rate: float,
    trial: NDArray[np.int64] | None = None,
) -> None:
    """Write windows to ``path`` (npz) and what they mean to the JSON file of the same stem.

    Args:
        path: Ends in ``.npz``.
        x: ``(n, T, C)``.
        y: ``(n,)`` indices into `classes`.
        subject: ``(n,)`` numbers of people.
        channels: C names.
        units: C units.
        classes: Names.
        rate: Samples per second.
        trial: ``(n,)`` numbers of trials; by default each window is one.
    """
    path = Path(path)
    arrays: dict[str, Any] = {"X": x.astype(np.float32), "y": y.astype(np.int64), "subject": subject.astype(np.int64)}
    if trial is not None:
        arrays["trial"] = trial.astype(np.int64)
    meaning = {"channels": list(channels), "units": list(units), "classes": list(classes), "rate": rate}
    _check(arrays, meaning, path)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(meaning, indent=2) + "\n", encoding="utf-8")


def read_arrays(path: Path) -> Readings:
    """Windows that `write_arrays` wrote, each a recording of its own: they are not cut across.

    Args:
        path: The npz file: ``X`` ``(n, T, C)``, ``y`` and ``subject`` ``(n,)``, maybe ``trial`` ``(n,)``. The JSON file
            beside it says channels, units, classes and rate.

    Raises:
        KANError: When a file is missing or damaged, or they do not fit each other.
    """
    arrays, meaning = _load(path), _meaning(path.with_suffix(".json"))
    _check(arrays, meaning, path)
    rate, classes = float(meaning["rate"]), meaning["classes"]
    x, trial = arrays["X"].astype(np.float32), arrays.get("trial")
    recordings = [
        Recording(str(subject), str(i if trial is None else trial[i]), classes[y], None, x[i], rate)
        for i, (y, subject) in enumerate(zip(arrays["y"].tolist(), arrays["subject"].tolist(), strict=True))
    ]
    return Readings(recordings, meaning["channels"], meaning["units"], rate)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise KANError(f"{path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise KANError(f"{path} cannot be read as npz: {error}") from None


def _meaning(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return {name: read[name] for name in _WORDS}
    except FileNotFoundError:
        raise KANError(f"{path} is missing: it says {', '.join(_WORDS)} of the arrays beside it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise KANError(f"{path} must say {', '.join(_WORDS)} ({type(error).__name__}: {error})") from None


def _check(arrays: Mapping[str, NDArray[Any]], meaning: Mapping[str, Any], path: Path) -> None:
    missing = [name for name in ("X", "y", "subject") if name not in arrays]
    if missing:
        raise KANError(f"{path} has no array {missing[0]!r}: it has {', '.join(arrays)}")
    x, y = arrays["X"], arrays["y"]
    if x.ndim != 3 or not x.size or x.dtype.kind not in "iuf" or not np.isfinite(x).all():
        raise KANError(f"{path}: X must hold finite numbers (n, T, C), got {x.dtype} of shape {x.shape}")
    for name in ("y", "subject", "trial"):
        array = arrays.get(name, y)
        if array.shape != x.shape[:1] or array.dtype.kind not in "iu":
            raise KANError(f"{path}: {name} must be {len(x)} whole numbers, got {array.dtype} of shape {array.shape}")
    if y.min() < 0 or y.max() >= len(meaning["classes"]):
        raise KANError(f"{path}: y goes from {y.min()} to {y.max()}, but {len(meaning['classes'])} classes are named")
    for name in ("channels", "units"):
        if len(meaning[name]) != x.shape[2]:
            raise KANError(f"{path}: X has {x.shape[2]} channels, but {len(meaning[name])} {name} are named")
    if not isinstance(meaning["rate"], int | float) or not meaning["rate"] > 0:
        raise KANError(f"{path}: the rate must be above 0, got {meaning['rate']}")
