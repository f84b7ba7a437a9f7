"""Recordings of a real radar: one folder each, with frames, true boxes and units; labelled segments cut from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.radar.boxes import Box, slide

Floats = NDArray[np.float64]

COLUMNS = ("frame", "r0", "r1", "v0", "v1", "class")


class Recording(NamedTuple):
    """One recording. Split data by recordings, never by segments: those of one frame overlap, and would leak.

    Attributes:
        name: Of the folder.
        frames: Paths of the maps by frame name.
        boxes: Columns frame, r0, r1, v0, v1, class; r1 and v1 are one beyond the last cell.
        info: Content of ``info.json``.
    """

    name: str
    frames: dict[str, Path]
    boxes: pd.DataFrame
    info: dict[str, Any]

    def maps(self) -> Iterator[tuple[str, Floats, list[Box]]]:
        """Name, power and true boxes of every frame, in order of their names; complex maps become |x|².

        Raises:
            KANError: For a file that is no numeric array of rows and columns.
        """
        for name, path in self.frames.items():
            own = self.boxes[self.boxes["frame"] == name]
            boxes = [Box(*(int(value) for value in row)) for row in own[list(COLUMNS[1:5])].to_numpy()]
            yield name, _power(path), boxes


def read_recording(folder: str | Path) -> Recording:
    """Read the layout: ``frames/<frame>.npy``, ``boxes.csv`` and ``info.json``.

    Each frame is a map (R, V), linear power or complex. ``boxes.csv`` has the columns frame, r0, r1, v0, v1, class;
    frames without a line are free of targets. ``info.json`` says at least ``units`` ("linear" power, or "complex").

    Args:
        folder: Of the recording.

    Raises:
        KANError: When a part is missing, a column is, a box names no frame or is empty, or the units are others.
    """
    folder = Path(folder)
    for part in ("frames", "boxes.csv", "info.json"):
        if not (folder / part).exists():
            raise KANError(f"{folder} has no {part}: a recording is frames/*.npy, boxes.csv and info.json")
    frames = {path.stem: path for path in sorted((folder / "frames").glob("*.npy"))}
    if not frames:
        raise KANError(f"{folder / 'frames'} holds no .npy file")
    try:
        info = json.loads((folder / "info.json").read_text())
        units = info["units"]
    except (ValueError, KeyError, TypeError) as error:
        raise KANError(f"{folder / 'info.json'} must be an object with the entry units: {error}") from error
    if units not in ("linear", "complex"):
        raise KANError(f"{folder / 'info.json'}: units must be 'linear' or 'complex', got {units!r}: convert dB first")
    boxes = pd.read_csv(folder / "boxes.csv", dtype={"frame": "str", "class": "str"})
    missing = [name for name in COLUMNS if name not in boxes.columns]
    if missing:
        raise KANError(f"{folder / 'boxes.csv'} lacks the column {missing[0]!r}: it needs {', '.join(COLUMNS)}")
    unknown = boxes.loc[~boxes["frame"].isin(list(frames)), "frame"]
    if len(unknown):
        raise KANError(f"{folder / 'boxes.csv'} names the frame {unknown.iloc[0]!r}, which frames/ does not hold")
    numbers = boxes[list(COLUMNS[1:5])].apply(pd.to_numeric, errors="coerce")
    bad = ~((numbers["r1"] > numbers["r0"]) & (numbers["v1"] > numbers["v0"]))
    if bad.any():
        raise KANError(f"{folder / 'boxes.csv'}, line {int(bad.to_numpy().argmax()) + 2}: a box needs r1 > r0, v1 > v0")
    return Recording(folder.name, frames, boxes.assign(**numbers.astype("int64")), info)


class Labelled(NamedTuple):
    """Segments with labels: ``patches (n, rows + 2 ring, columns + 2 ring)`` and ``is_target (n,)``."""

    patches: Floats
    is_target: NDArray[np.bool_]


def cut(
    power: Floats, boxes: list[Box], rows: int, columns: int, ring: int = 0, stride: int = 8, share: float = 0.5
) -> Labelled:
    """Labelled segments of a map, by one explicit rule.

    A segment with at least `share` of some box's cells is a target, one that touches no box is none, and those between
    are left out. Interference without a box is H0; a segment with several targets is H1.

    Args:
        power: The map ``(R, V)``.
        boxes: True boxes.
        rows: Of a segment.
        columns: Of a segment.
        ring: Cells around it that come along.
        stride: Step in cells.
        share: In (0, 1].

    Raises:
        KANError: When `share` is out of its range or the map is smaller than a segment.
    """
    if not 0 < share <= 1:
        raise KANError(f"share must lie in (0, 1], got {share}")
    patches, corners = slide(power, rows, columns, ring, stride)
    covered = np.zeros(len(corners))
    for box in boxes:
        r = np.minimum(corners[:, 0] + rows, box.r1) - np.maximum(corners[:, 0], box.r0)
        v = np.minimum(corners[:, 1] + columns, box.v1) - np.maximum(corners[:, 1], box.v0)
        area = (box.r1 - box.r0) * (box.v1 - box.v0)
        covered = np.maximum(covered, r.clip(0) * v.clip(0) / area)
    clear = (covered == 0) | (covered >= share)
    return Labelled(patches[clear], covered[clear] > 0)


def _power(path: Path) -> Floats:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise KANError(f"{path} cannot be read as a .npy array: {(str(error).splitlines() or [''])[0]}") from error
    if values.ndim != 2 or values.dtype.kind not in "fciu":
        raise KANError(f"{path} must hold a map of numbers (R, V), got shape {values.shape} of {values.dtype}")
    if values.dtype.kind == "c":
        values = np.square(np.abs(values))
    return np.asarray(values, dtype=np.float64)
