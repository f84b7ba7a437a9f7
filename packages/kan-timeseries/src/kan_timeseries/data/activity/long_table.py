"""A user's own recordings as one long table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from kan_core.errors import KANError
from kan_timeseries.data.activity.recordings import Readings, Recording
from kan_timeseries.data.activity.resample import spread_ties

KEYS = ("subject", "trial", "t")


def read_long_table(path: Path, channels: Sequence[str] | None = None) -> Readings:
    """Recordings of a CSV file with the columns subject, trial, t (seconds) and one per channel, and maybe label.

    Rows of one subject and trial belong together, in the order of t; where they share a time they are spread
    (`spread_ties`) and counted. An empty value was not measured. Rows in which something is not a number, or t is
    missing, are malformed: left out and counted. The rate is the inverse of the median spacing; the label may change
    within a trial, and an empty one is no class. Units are not known.

    Args:
        path: The file.
        channels: Channels that must be there, in this order, and are alone read; by default all columns beside those
            named above.

    Raises:
        KANError: When the file is missing, empty, lacks a column, or times of a trial descend.
    """
    frame = _read(path)
    missing = [name for name in (*KEYS, *(channels or ())) if name not in frame.columns]
    if missing:
        raise KANError(f"{path} has no column {missing[0]!r}: its columns are {', '.join(map(str, frame.columns))}")
    names = list(channels or [name for name in frame.columns if name not in (*KEYS, "label")])
    if not names:
        raise KANError(f"{path} has no channel: columns beside subject, trial, t and label are channels")
    numbers = frame[["t", *names]].apply(pd.to_numeric, errors="coerce")
    malformed = (numbers.isna() & frame[["t", *names]].notna()).any(axis=1) | numbers["t"].isna()
    malformed |= frame["subject"].isna() | frame["trial"].isna() | np.isinf(numbers).any(axis=1)
    counts = Counter({"malformed rows (left out)": int(malformed.sum())})
    frame, numbers = frame[~malformed], numbers[~malformed].to_numpy(dtype=np.float64)
    if not len(frame):
        raise KANError(f"{path} has no row of numbers")
    labels = frame["label"].fillna("").to_numpy(dtype=np.str_) if "label" in frame.columns else None
    people, tries = (frame[key].to_numpy(dtype=np.str_) for key in ("subject", "trial"))
    recordings, spacings = [], []
    for rows in frame.groupby(["subject", "trial"], sort=False).indices.values():
        t, person, trial = numbers[rows, 0], str(people[rows[0]]), str(tries[rows[0]])
        if (np.diff(t) < 0).any():
            line = rows[1:][np.diff(t) < 0][0]
            raise KANError(f"{path}: subject {person}, trial {trial}: t={numbers[line, 0]:g} comes after a later time")
        counts["rows with the time of the row before (spread)"] += int((np.diff(t) == 0).sum())
        own = None if labels is None else labels[rows]
        one = own is None or len(set(own.tolist())) == 1
        label = str(own[0]) if own is not None and one else ""
        t, x = spread_ties(t), numbers[rows, 1:].astype(np.float32)
        recordings.append(Recording(person, trial, label, t, x, 1.0, None if one else own))
        spacings.append(np.diff(t))
    return Readings(recordings, names, [""] * len(names), _rate(np.concatenate(spacings), path), counts)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise KANError(f"{path}: there is no such file")
    try:
        return pd.read_csv(path, dtype={"subject": "str", "trial": "str", "label": "str"}, low_memory=False)
    except (EmptyDataError, ParserError, UnicodeDecodeError) as error:
        raise KANError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}") from None


def _rate(spacings: np.ndarray[tuple[int], np.dtype[np.float64]], path: Path) -> float:
    spacing = float(np.median(spacings)) if len(spacings) else 0.0
    if spacing <= 0:
        raise KANError(f"{path}: no trial has two different times")
    return float(f"{1 / spacing:.6g}")
