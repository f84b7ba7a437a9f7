"""SisFall: falls and daily activities of young and elderly people, sensors at the waist (Sucerquia et al., 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kan_core.errors import KANError
from kan_timeseries.data.activity.files import MAX_MALFORMED, SetFiles, number_rows
from kan_timeseries.data.activity.recordings import Readings, Recording

PAGE = "http://sistemic.udea.edu.co/en/research/projects/english-falls"
LICENCE = "none stated in the bundle"
RATE = 200.0
SENSORS = {"adxl345": (16, 13, "g"), "itg3200": (2000, 16, "deg/s"), "mma8451q": (8, 14, "g")}
"""Range, bits and unit: a value is ``2 range / 2^bits`` times the number in the file."""

_NAME = r"([DF][0-9]{2})_(S[AE][0-9]{2})_R([0-9]{2})[.]txt"


def read_sisfall(folder: Path, sensors: Sequence[str] = tuple(SENSORS)) -> Readings:
    """19 activities (D01 to D19) and 15 falls (F01 to F15) of 23 young (SA) and 15 elderly (SE) people at 200 Hz.

    Args:
        folder: Holds the files ``<code>_<person>_R<trial>.txt``, or an archive of them.
        sensors: Of ``adxl345`` (accelerometer), ``itg3200`` (gyroscope) and ``mma8451q`` (accelerometer).

    Raises:
        KANError: When the files are missing or damaged, or a sensor does not exist.
    """
    unknown = [name for name in sensors if name not in SENSORS]
    if unknown:
        raise KANError(f"sensors: SisFall has no {unknown[0]!r}: choose from {', '.join(SENSORS)}")
    columns = [3 * list(SENSORS).index(name) + axis for name in sensors for axis in range(3)]
    scale = np.repeat([2 * SENSORS[name][0] / 2 ** SENSORS[name][1] for name in sensors], 3)
    recordings, counts = [], Counter[str]()
    for match, content in SetFiles(folder, PAGE, LICENCE).matching(_NAME):
        code, person, number = match.groups()
        rows, malformed = number_rows(content.replace(b";", b""), 9, ",")
        counts["malformed rows (interpolated)"] += malformed
        if malformed > MAX_MALFORMED * len(rows) or not len(rows):
            counts["recordings with more than 5 % malformed rows (left out)"] += 1
            continue
        x = (rows[:, columns] * scale).astype(np.float32)
        recordings.append(Recording(person, f"{code}_R{number}", code, None, x, RATE))
    channels = [f"{name}_{axis}" for name in sensors for axis in "xyz"]
    return Readings(recordings, channels, [SENSORS[name][2] for name in sensors for _ in "xyz"], RATE, counts)


def is_fall(code: str) -> bool:
    """Whether a code is that of a fall."""
    return code.startswith("F")
