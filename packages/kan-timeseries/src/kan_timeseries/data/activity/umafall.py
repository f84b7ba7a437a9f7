"""UMAFall: falls and daily activities with sensors at five places of the body (Casilari et al., 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.activity.files import MAX_MALFORMED, SetFiles, number_rows
from kan_timeseries.data.activity.recordings import Readings, Recording
from kan_timeseries.data.activity.resample import on_one_clock, spread_ties

PAGE = "https://figshare.com/articles/dataset/UMA_ADL_FALL_Dataset_zip/4214283"
LICENCE = "CC BY 4.0"
PLACES = ("pocket", "chest", "waist", "wrist", "ankle")
KINDS = {"acc": "g", "gyro": "deg/s", "mag": "uT"}
SENSORS = ("pocket_acc", *(f"{place}_{kind}" for place in PLACES[1:] for kind in KINDS))
RATE = 50.0

_NAME = r"UMAFall_Subject_([0-9]+)_(?:ADL|Fall)_(.+?)_([0-9]+)_([0-9_-]+)[.]csv"


def read_umafall(folder: Path, sensors: Sequence[str] = ("pocket_acc",)) -> Readings:
    """Recordings of 15 s; the class is the movement, such as ``Walking`` or ``forwardFall``.

    Each sensor has a clock of its own: the phone in the pocket gives about 200 samples per second in bursts that share
    a time stamp (`spread_ties`), the others 20; they are brought together at 50 Hz by linear interpolation.

    Files of one person carry time stamps and values with dots between thousands (``1.012.598.156``), which cannot be
    told from decimal points. Such rows are malformed; a recording with more than 5 % of them is left out.

    Args:
        folder: Holds the archive or the ``.csv`` files.
        sensors: Among `SENSORS`; recordings that lack one of them are left out and counted.

    Raises:
        KANError: When the files are missing or damaged, or a sensor does not exist.
    """
    chosen = [_type_and_id(sensor) for sensor in sensors]
    recordings, counts = [], Counter[str]()
    for match, content in SetFiles(folder, PAGE, LICENCE).matching(_NAME):
        person, movement, number, started = match.groups()
        rows, malformed = number_rows(_without_header(content), 7, ";")
        counts["malformed rows (interpolated)"] += malformed
        if malformed > MAX_MALFORMED * len(rows) or not len(rows):
            counts["recordings with more than 5 % malformed rows (left out)"] += 1
            continue
        parts = [_sensor(rows, *pair) for pair in chosen]
        missing = [name for name, (t, _) in zip(sensors, parts, strict=True) if len(t) < 2]
        if missing:
            counts[f"recordings without {missing[0]} (left out)"] += 1
            continue
        t, x = on_one_clock(parts)
        recordings.append(Recording(person, f"{movement}_{number}_{started}", movement, t, x, RATE))
    channels = [f"{sensor}_{axis}" for sensor in sensors for axis in "xyz"]
    units = [KINDS[sensor.partition("_")[2]] for sensor in sensors for _ in "xyz"]
    return Readings(recordings, channels, units, RATE, counts)


def is_fall(movement: str) -> bool:
    """Whether a movement of this set is a fall."""
    return movement.endswith("Fall")


def _type_and_id(sensor: str) -> tuple[int, int]:
    if sensor not in SENSORS:
        raise KANError(f"sensors: UMAFall has no {sensor!r}: choose from {', '.join(SENSORS)}")
    place, _, kind = sensor.partition("_")
    return list(KINDS).index(kind), PLACES.index(place)


def _without_header(content: bytes) -> bytes:
    """What follows the last line that starts with ``%``."""
    at = content.rfind(b"\n%")
    end = content.find(b"\n", at + 1) if at >= 0 or content.startswith(b"%") else -1
    return content[end + 1 :]


def _sensor(rows: NDArray[np.float64], kind: int, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    own = rows[(rows[:, 5] == kind) & (rows[:, 6] == place)]
    own = own[np.argsort(own[:, 0], kind="stable")]
    return spread_ties(own[:, 0] / 1000), own[:, 2:5]
