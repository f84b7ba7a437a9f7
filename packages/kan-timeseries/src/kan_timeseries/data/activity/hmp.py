"""HMP: a wrist accelerometer during activities of daily living (Bruno et al., ICRA 2013)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from kan_timeseries.data.activity.files import MAX_MALFORMED, SetFiles, number_rows
from kan_timeseries.data.activity.recordings import Readings, Recording

PAGE = "https://archive.ics.uci.edu/dataset/283"
LICENCE = "research use; redistribution by agreement with the authors"
RATE = 32.0
SEVEN = ("climb_stairs", "drink_glass", "getup_bed", "pour_water", "sitdown_chair", "standup_chair", "walk")
"""The classes of HMP-7: those with at least 100 recordings."""

_NAME = r"Accelerometer-([0-9]{4}(?:-[0-9]{2}){5})-([a-z_]+)-([fm][0-9]+)[.]txt"


def read_hmp(folder: Path) -> Readings:
    """839 recordings of 14 activities by 16 people, three axes at 32 Hz: ``g = -1.5 + 3 code / 63``.

    The x axis points to the hand, y to the left, z out of its plane. Recordings that the authors chose as models stand
    twice in their archive: the folders ``*_MODEL`` are left out. Three people recorded most: split by person.

    Args:
        folder: Holds ``HMP_Dataset.zip`` or what is in it.

    Raises:
        KANError: When the files are missing or damaged.
    """
    recordings, counts = [], Counter[str]()
    for match, content in SetFiles(folder, PAGE, LICENCE).matching(_NAME):
        if PurePosixPath(match[0]).parent.name.endswith("_MODEL"):
            continue
        started, activity, person = match.groups()
        codes, malformed = number_rows(content, 3, r"\s+")
        outside = ((codes < 0) | (codes > 63)).any(axis=1)
        codes[outside] = np.nan
        malformed += int(outside.sum())
        counts["malformed rows (interpolated)"] += malformed
        if malformed > MAX_MALFORMED * len(codes) or not len(codes):
            counts["recordings with more than 5 % malformed rows (left out)"] += 1
            continue
        x = (-1.5 + 3 * codes / 63).astype(np.float32)
        recordings.append(Recording(person, f"{activity}-{started}", activity, None, x, RATE))
    return Readings(recordings, [f"wrist_acc_{axis}" for axis in "xyz"], ["g"] * 3, RATE, counts)
