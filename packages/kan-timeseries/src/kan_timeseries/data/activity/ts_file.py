"""Series with classes in the ``.ts`` format of the UEA and UCR archives, and BasicMotions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.activity.recordings import Readings, Recording

PAGE = "https://www.timeseriesclassification.com"
LICENCE = "UEA archive, free for research"
_NOTE = "the set does not name people: each case is treated as a person of its own, so people may be in several parts"


class TsCases(NamedTuple):
    """The cases of one file.

    Attributes:
        x: Per case ``(n, C)`` float32; NaN where missing.
        labels: Per case; empty when the file has none.
        classes: Those that the header names.
    """

    x: list[NDArray[np.float32]]
    labels: list[str]
    classes: list[str]


def read_ts(path: Path) -> TsCases:
    """Read a ``.ts`` file: one or more channels, of equal or unequal length; ``?`` (or NaN) is missing.

    A line after ``@data`` is a case: channels between colons, values between commas, and the class last where the
    header says ``@classLabel true``.

    Raises:
        KANError: When the file is missing or a line cannot be read (the line is named), cases differ in their channels
            or channels of a case in their length, a class is not in the header, or values come with time stamps.
    """
    if not path.is_file():
        raise KANError(f"{path} is missing: fetch it from {PAGE} (licence: {LICENCE}), or name another data root")
    x: list[NDArray[np.float32]] = []
    labels: list[str] = []
    classes: list[str] = []
    header: dict[str, str] = {}
    in_data = False
    for number, raw in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if line.startswith("@"):
            name, _, value = line[1:].partition(" ")
            header[name.lower()] = value.strip()
            in_data = name.lower() == "data"
            if in_data and header.get("timestamps", "false").lower() == "true":
                raise KANError(f"{path}: series with time stamps are not read: export them with @timeStamps false")
            if name.lower() == "classlabel":
                classes = value.split()[1:]
        elif not in_data:
            raise KANError(f"{path}, line {number}: values come before @data")
        else:
            case, label = _case(line, bool(classes), f"{path}, line {number}")
            if x and case.shape[1] != x[0].shape[1]:
                raise KANError(f"{path}, line {number}: {case.shape[1]} channels, {x[0].shape[1]} in the first case")
            if classes and label not in classes:
                raise KANError(f"{path}, line {number}: class {label!r} is not among {', '.join(classes)}")
            x.append(case)
            labels.append(label)
    if not x:
        raise KANError(f"{path} has no case after @data")
    return TsCases(x, labels, classes)


def read_ts_pair(path: Path, rate: float = 1.0) -> Readings:
    """A training file and the test file beside it as recordings; each case counts as a person, train 0, test 0 and on.

    Args:
        path: ``<name>_TRAIN.ts``; where ``<name>_TEST.ts`` lies beside it, that is the official test. Any other file is
            read alone.
        rate: Samples per second; the files do not say it: by default a second means a step.

    Raises:
        KANError: As `read_ts`; or when the files differ in their channels, or have no classes.
    """
    files = {"train": path}
    if path.name.endswith("_TRAIN.ts"):
        files["test"] = path.with_name(path.name.removesuffix("_TRAIN.ts") + "_TEST.ts")
    parts = {part: read_ts(file) for part, file in files.items()}
    widths = {cases.x[0].shape[1] for cases in parts.values()}
    if len(widths) > 1 or not all(cases.classes for cases in parts.values()):
        raise KANError(f"{path}: training and test file must have the same channels, and @classLabel true")
    recordings = [
        Recording(f"{part} {i}", f"{part} {i}", label, None, x, rate)
        for part, cases in parts.items()
        for i, (x, label) in enumerate(zip(cases.x, cases.labels, strict=True))
    ]
    channels = [f"channel_{c}" for c in range(widths.pop())]
    return Readings(recordings, channels, [""] * len(channels), rate, notes=[_NOTE])


def read_basicmotions(folder: Path) -> Readings:
    """80 recordings of 10 s at 10 Hz (a smart watch): standing, running, walking, badminton.

    Four students made it, but who made which case is not known. Simple statistics reach 97.5 %: use it to see that
    things work, not to compare. Units are not stated.

    Args:
        folder: Holds ``BasicMotions_TRAIN.ts`` and ``BasicMotions_TEST.ts``.

    Raises:
        KANError: When a file is missing or damaged.
    """
    readings = read_ts_pair(folder / "BasicMotions_TRAIN.ts", rate=10.0)
    readings.channels[:] = [f"{sensor}_{axis}" for sensor in ("acc", "gyro") for axis in "xyz"]
    return readings


def is_test(subject: str) -> bool:
    """Whether a "person" of these files is a case of the test file."""
    return subject.startswith("test")


def _case(line: str, labelled: bool, where: str) -> tuple[NDArray[np.float32], str]:
    channels = line.split(":")
    label = channels.pop().strip() if labelled else ""
    try:
        values = [
            [np.nan if word.strip() == "?" else float(word) for word in channel.split(",")] for channel in channels
        ]
    except ValueError as error:
        raise KANError(f"{where}: {error}") from None
    lengths = {len(channel) for channel in values}
    if len(lengths) != 1:
        raise KANError(f"{where}: its channels have {' and '.join(map(str, sorted(lengths)))} values")
    return np.array(values, dtype=np.float32).T, label
