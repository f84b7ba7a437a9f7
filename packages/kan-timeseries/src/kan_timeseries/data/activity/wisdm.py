"""WISDM v1.1: a phone in the pocket of 36 people (Kwapisz et al., 2010), raw and as features."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.activity.files import SetFiles
from kan_timeseries.data.activity.recordings import FeatureTable, Readings, Recording

PAGE = "https://www.cis.fordham.edu/wisdm/dataset.php"
LICENCE = "research use"
RATE = 20.0
CLASSES = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")

_FIELDS = ["user", "activity", "time", "x", "y", "z"]


def read_wisdm(folder: Path) -> Readings:
    """Six activities at 20 Hz, three axes in m/s^2; rows are ``user,activity,timestamp,x,y,z;``.

    The time stamps are not reliable and are not used: a trial is a run of rows of one user and activity, in the order
    of the file. Rows with missing, superfluous or other fields are left out and counted; so that every row is either
    parsed or counted, a semicolon ends a row as a line does.

    Args:
        folder: Holds ``WISDM_ar_v1.1_raw.txt``, or an archive of it.

    Raises:
        KANError: When the file is missing, damaged, or holds no row.
    """
    _, content = next(SetFiles(folder, PAGE, LICENCE).matching(r"WISDM_ar_v1[.]1_raw[.]txt"))
    content = content.replace(b";", b"\n")
    physical = sum(1 for line in content.splitlines() if line.strip())
    # one field more than a row has, so that a comma at its end does no harm and rows with seven are seen
    frame = pd.read_csv(
        io.BytesIO(content),
        header=None,
        names=[*_FIELDS, "more"],
        on_bad_lines="skip",
        low_memory=False,
        quoting=csv.QUOTE_NONE,
    )
    numbers = frame[["user", "time", "x", "y", "z"]].apply(pd.to_numeric, errors="coerce")
    good = np.isfinite(numbers).all(axis=1) & frame["activity"].isin(CLASSES) & frame["more"].isna()
    frame, numbers = frame[good], numbers[good]
    if not len(frame):
        raise KANError(f"{folder}: WISDM_ar_v1.1_raw.txt holds no row user,activity,timestamp,x,y,z;")
    counts = Counter({"malformed rows (left out)": physical - len(frame)})
    counts["rows with a time stamp of 0 (kept: times are not used)"] += int((numbers["time"] == 0).sum())
    user, activity = numbers["user"].to_numpy(dtype=np.int64), frame["activity"].to_numpy(dtype=np.str_)
    x = numbers[["x", "y", "z"]].to_numpy(dtype=np.float32)
    starts = np.flatnonzero((user[1:] != user[:-1]) | (activity[1:] != activity[:-1])) + 1
    bounds = [0, *starts.tolist(), len(x)]
    recordings = [
        Recording(str(user[a]), f"run {i}", str(activity[a]), None, x[a:b], RATE)
        for i, (a, b) in enumerate(itertools.pairwise(bounds))
    ]
    return Readings(recordings, ["acc_x", "acc_y", "acc_z"], ["m/s^2"] * 3, RATE, counts)


def read_wisdm_features(folder: Path) -> FeatureTable:
    """The transformed file: windows of 10 s as 43 numbers each; ``?`` is missing.

    Args:
        folder: Holds ``WISDM_ar_v1.1_transformed.arff``, or an archive of it.

    Raises:
        KANError: When the file is missing or damaged, or a row has another number of values than there are attributes.
    """
    match, content = next(SetFiles(folder, PAGE, LICENCE).matching(r"WISDM_ar_v1[.]1_transformed[.]arff"))
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("%")]
    names = [_unquoted(line.split()[1]) for line in lines if line.lower().startswith("@attribute")]
    data = next((i for i, line in enumerate(lines) if line.lower().startswith("@data")), len(lines))
    rows = [[_unquoted(word) for word in line.rstrip(",").split(",")] for line in lines[data + 1 :]]
    wrong = [row for row in rows if len(row) != len(names)]
    if wrong or not rows or not {"user", "class"} <= set(names):
        what = f"a row of {len(wrong[0])} values" if wrong else "no rows, or no attributes user and class"
        raise KANError(f"{match[0]} in {folder} has {len(names)} attributes and {what}: {PAGE} has it whole")
    kept = [i for i, name in enumerate(names) if name not in ("UNIQUE_ID", "user", "class")]
    table = np.array(rows, dtype=np.str_)
    return FeatureTable(
        _numbers(table[:, kept], match[0]),
        [names[i] for i in kept],
        table[:, names.index("class")],
        table[:, names.index("user")],
    )


def _unquoted(word: str) -> str:
    return word.strip().strip("\"'")


def _numbers(words: NDArray[np.str_], where: str) -> NDArray[np.float64]:
    try:
        return np.where(words == "?", "nan", words).astype(np.float64)
    except ValueError as error:
        raise KANError(f"{where}: {error}") from None
