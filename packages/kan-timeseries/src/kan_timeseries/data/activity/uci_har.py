"""UCI-HAR: a smartphone at the waist, windows that its authors cut (Anguita et al., 2013)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.activity.files import SetFiles, number_rows
from kan_timeseries.data.activity.recordings import FeatureTable, Readings, Recording

PAGE = "https://archive.ics.uci.edu/dataset/240"
LICENCE = "no commercial use"
RATE = 50.0
SENSORS = {"body_acc": "g", "body_gyro": "rad/s", "total_acc": "g"}
CLASSES = ("walking", "upstairs", "downstairs", "sitting", "standing", "lying")
TEST_PEOPLE = frozenset(["2", "4", "9", "10", "12", "13", "18", "20", "24"])
"""The nine people of the official test; the other 21 are for training."""

_PARTS = ("train", "test")


def read_uci_har(folder: Path, sensors: Sequence[str] = tuple(SENSORS)) -> Readings:
    """10 299 windows of 128 samples (2.56 s at 50 Hz) of 30 people, each a recording of its own.

    Neighbours overlap by half, within a person. Total acceleration is body acceleration and gravity: with both a model
    has the same twice.

    Args:
        folder: Holds ``train`` and ``test`` with their ``Inertial Signals``, at any depth, or an archive of them.
        sensors: Of ``body_acc``, ``body_gyro`` and ``total_acc``.

    Raises:
        KANError: When a file is missing or damaged, files differ in their number of rows, or a sensor does not exist.
    """
    unknown = [name for name in sensors if name not in SENSORS]
    if unknown:
        raise KANError(f"sensors: UCI-HAR has no {unknown[0]!r}: choose from {', '.join(SENSORS)}")
    channels = [f"{sensor}_{axis}" for sensor in sensors for axis in "xyz"]
    files = SetFiles(folder, PAGE, LICENCE)
    recordings, counts = [], Counter[str]()
    for part in _PARTS:
        labels, people = _labels(files, part), _column(files, f"{part}/subject_{part}[.]txt")
        x = np.empty((len(labels), 128, len(channels)), dtype=np.float32)
        for c, channel in enumerate(channels):
            x[..., c] = _rows(files, f"{part}/Inertial Signals/{channel}_{part}[.]txt", 128, len(labels))
        whole = np.isfinite(x).all(axis=(1, 2))
        counts["windows with a malformed row (left out)"] += int((~whole).sum())
        recordings += [
            Recording(str(people[i]), f"{part}-{i}", labels[i], None, x[i], RATE) for i in np.flatnonzero(whole)
        ]
    return Readings(recordings, channels, [SENSORS[sensor] for sensor in sensors for _ in "xyz"], RATE, counts)


def read_uci_har_features(folder: Path) -> FeatureTable:
    """The 561 features of each window, as they are published: within [-1, 1].

    The bundle does not say over which rows they were scaled; if over all people, that is a mild leak of the test.

    Args:
        folder: As for `read_uci_har`.

    Raises:
        KANError: When a file is missing or damaged, or files differ in their number of rows.
    """
    files = SetFiles(folder, PAGE, LICENCE)
    names = _text(files, "features[.]txt").split("\n")
    names = [name.split(maxsplit=1)[-1] for name in names if name.strip()]
    labels = [_labels(files, part) for part in _PARTS]
    people = [_column(files, f"{part}/subject_{part}[.]txt") for part in _PARTS]
    x = [_rows(files, f"{part}/X_{part}[.]txt", len(names), len(own)) for part, own in zip(_PARTS, labels, strict=True)]
    return FeatureTable(np.concatenate(x), names, np.concatenate(labels), np.concatenate(people).astype(np.str_))


def _text(files: SetFiles, name: str) -> str:
    return next(files.matching(name))[1].decode("utf-8", "replace")


def _column(files: SetFiles, name: str) -> NDArray[np.int64]:
    values, malformed = number_rows(_text(files, name).encode(), 1, r"\s+")
    if malformed:
        raise KANError(f"{files.where}: {name.replace('[.]', '.')} must hold one whole number per line")
    return values[:, 0].astype(np.int64)


def _labels(files: SetFiles, part: str) -> NDArray[np.str_]:
    codes = _column(files, f"{part}/y_{part}[.]txt")
    if len(codes) and not 1 <= codes.min() <= codes.max() <= len(CLASSES):
        raise KANError(f"{files.where}: {part}/y_{part}.txt must hold 1 to {len(CLASSES)}, got {codes.max()}")
    return np.array(CLASSES)[codes - 1]


def _rows(files: SetFiles, name: str, columns: int, count: int) -> NDArray[np.float64]:
    rows, _ = number_rows(_text(files, name).encode(), columns, r"\s+")
    if len(rows) != count:
        raise KANError(f"{files.where}: {name.replace('[.]', '.')} has {len(rows)} rows, but there are {count} labels")
    return rows
