"""MotionSense: a smartphone in the front pocket of 24 people (Malekzadeh et al., 2018)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kan_core.errors import KANError
from kan_timeseries.data.activity.files import MAX_MALFORMED, SetFiles, number_rows
from kan_timeseries.data.activity.recordings import Readings, Recording

PAGE = "https://github.com/mmalekzadeh/motion-sense"
LICENCE = "MIT"
RATE = 50.0
TEST_PEOPLE = frozenset(["1", "6", "14", "19", "23"])
"""On whom KAN-HAR tests."""

_AXES = ("x", "y", "z")
_IN_A = {"attitude": "rad", "gravity": "g", "rotationRate": "rad/s", "userAcceleration": "g"}
_ARCHIVES = {
    "accelerometer": ("B_Accelerometer_data", "g"),
    "gyroscope": ("C_Gyroscope_data", "rad/s"),
    **{name: ("A_DeviceMotion_data", unit) for name, unit in _IN_A.items()},
}
SENSORS = tuple(_ARCHIVES)


def read_motion_sense(folder: Path, sensors: Sequence[str] = ("accelerometer",)) -> Readings:
    """360 recordings of six activities (dws, jog, sit, std, ups, wlk) in 15 trials at 50 Hz.

    Args:
        folder: Holds the archives ``A_DeviceMotion_data.zip``, ``B_Accelerometer_data.zip`` and
            ``C_Gyroscope_data.zip`` or what is in them: ``<activity>_<trial>/sub_<person>.csv``.
        sensors: ``accelerometer`` (archive B), ``gyroscope`` (C), or several of ``attitude``, ``gravity``,
            ``rotationRate`` and ``userAcceleration`` (A). The archives have clocks of their own and cannot be mixed.

    Raises:
        KANError: When the files are missing or damaged, lack a column, or the sensors are not of one archive.
    """
    unknown = [name for name in sensors if name not in _ARCHIVES]
    archives = {_ARCHIVES[name][0] for name in sensors if name in _ARCHIVES}
    if unknown or len(archives) != 1:
        raise KANError(
            f"sensors={list(sensors)}: choose accelerometer, gyroscope, or some of {', '.join(_IN_A)}: no two archives"
        )
    (archive,) = archives
    wanted = [column for name in sensors for column in _columns(name)]
    recordings, counts = [], Counter[str]()
    files = SetFiles(folder, PAGE, LICENCE)
    for match, content in files.matching(rf"{archive}/(dws|jog|sit|std|ups|wlk)_([0-9]+)/sub_([0-9]+)[.]csv"):
        activity, trial, person = match.groups()
        header, _, body = content.partition(b"\n")
        names = [name.strip().strip('"') for name in header.decode("utf-8", "replace").split(",")]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise KANError(
                f"{match[0]} in {folder} has no column {missing[0]!r}: it has {', '.join(filter(None, names))}"
            )
        rows, malformed = number_rows(body, len(names), ",")
        counts["malformed rows (interpolated)"] += malformed
        if malformed > MAX_MALFORMED * len(rows) or not len(rows):
            counts["recordings with more than 5 % malformed rows (left out)"] += 1
            continue
        x = rows[:, [names.index(name) for name in wanted]].astype(np.float32)
        recordings.append(Recording(person, f"{activity}_{trial}", activity, None, x, RATE))
    channels = [f"{name}_{axis}" for name in sensors for axis in (_AXES if name != "attitude" else _ATTITUDE)]
    return Readings(recordings, channels, [_ARCHIVES[name][1] for name in sensors for _ in _AXES], RATE, counts)


_ATTITUDE = ("roll", "pitch", "yaw")


def _columns(sensor: str) -> list[str]:
    if sensor not in _IN_A:
        return list(_AXES)
    return [f"{sensor}.{axis}" for axis in (_ATTITUDE if sensor == "attitude" else _AXES)]
