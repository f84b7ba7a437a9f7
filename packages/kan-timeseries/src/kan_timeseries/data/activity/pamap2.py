"""PAMAP2: three inertial units and a heart-rate monitor on nine people (Reiss and Stricker, 2012)."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.errors import EmptyDataError

from kan_core.errors import KANError
from kan_timeseries.data.activity.files import SetFiles
from kan_timeseries.data.activity.recordings import Readings, Recording

PAGE = "https://archive.ics.uci.edu/dataset/231"
LICENCE = "CC BY 4.0"
RATE = 100 / 3
NAMES = {
    1: "lying",
    2: "sitting",
    3: "standing",
    4: "walking",
    5: "running",
    6: "cycling",
    7: "nordic walking",
    9: "watching TV",
    10: "computer work",
    11: "car driving",
    12: "ascending stairs",
    13: "descending stairs",
    16: "vacuum cleaning",
    17: "ironing",
    18: "folding laundry",
    19: "house cleaning",
    20: "playing soccer",
    24: "rope jumping",
}
TWELVE = tuple(NAMES[i] for i in (1, 2, 3, 4, 5, 6, 7, 12, 13, 16, 17, 24))
"""The activities of the common protocol."""

_PLACES = ("hand", "chest", "ankle")
_KINDS = {"acc": (1, "m/s^2"), "acc6": (4, "m/s^2"), "gyro": (7, "rad/s"), "mag": (10, "uT")}
SENSORS = (*(f"{place}_{kind}" for place in _PLACES for kind in _KINDS), "heart_rate")
DEFAULT = tuple(f"{place}_{kind}" for place in _PLACES for kind in ("acc", "gyro", "mag"))
_COLUMNS = 54


def read_pamap2(folder: Path, sensors: Sequence[str] = DEFAULT) -> Readings:
    """A trial is a run of rows of one activity; 0 (between activities) is left out. 100 Hz is brought to 33.3 Hz.

    By default 27 channels: the accelerometers of 16 g, which the authors recommend, gyroscopes and magnetometers of
    hand, chest and ankle. ``acc6`` are the accelerometers of 6 g, which saturate; orientation is not valid in this set.

    Args:
        folder: Holds ``subject101.dat`` to ``subject109.dat`` of the folder ``Protocol``, at any depth, or an archive.
        sensors: Among `SENSORS`.

    Raises:
        KANError: When the files are missing or damaged, or a sensor does not exist.
    """
    unknown = [name for name in sensors if name not in SENSORS]
    if unknown:
        raise KANError(f"sensors: PAMAP2 has no {unknown[0]!r}: choose from {', '.join(SENSORS)}")
    columns = [column for sensor in sensors for column in _columns(sensor)]
    recordings, counts = [], Counter[str]()
    for match, content in SetFiles(folder, PAGE, LICENCE).matching(r"(?:Protocol/)?subject(1[0-9]{2})[.]dat"):
        if "Optional/" not in match[0]:
            recordings += _runs(content, match[1], columns, counts)
    channels = [name for sensor in sensors for name in _names(sensor)]
    units = [_unit(sensor) for sensor in sensors for _ in _names(sensor)]
    return Readings(recordings, channels, units, RATE, counts)


def _names(sensor: str) -> list[str]:
    return [sensor] if sensor == "heart_rate" else [f"{sensor}_{axis}" for axis in "xyz"]


def _unit(sensor: str) -> str:
    return "1/min" if sensor == "heart_rate" else _KINDS[sensor.partition("_")[2]][1]


def _columns(sensor: str) -> list[int]:
    if sensor == "heart_rate":
        return [2]
    place, _, kind = sensor.partition("_")
    first = 3 + 17 * _PLACES.index(place) + _KINDS[kind][0]
    return [first, first + 1, first + 2]


def _runs(content: bytes, person: str, columns: Sequence[int], counts: Counter[str]) -> list[Recording]:
    lines = sum(1 for line in content.splitlines() if line.strip())
    try:
        frame = pd.read_csv(
            io.BytesIO(content),
            sep=r"\s+",
            header=None,
            names=range(_COLUMNS),
            on_bad_lines="skip",
            low_memory=False,
            quoting=csv.QUOTE_NONE,
        )
    except EmptyDataError:
        return []
    table = frame[[0, 1, *columns]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    table = table[np.isfinite(table[:, :2]).all(axis=1)]
    counts["malformed rows (left out)"] += lines - len(table)
    activity = table[:, 1].astype(np.int64)
    known = np.isin(activity, list(NAMES))
    counts["rows between activities (left out)"] += int((~known).sum())
    bounds = [0, *(np.flatnonzero(np.diff(activity)) + 1).tolist(), len(table)]
    runs = [(a, b) for a, b in itertools.pairwise(bounds) if a < b and known[a]]
    return [
        Recording(person, f"run {i}", NAMES[int(activity[a])], table[a:b, 0], table[a:b, 2:].astype(np.float32), RATE)
        for i, (a, b) in enumerate(runs)
    ]
