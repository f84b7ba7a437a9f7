"""Boxes on a range-Doppler map: segments that slide over it, and alarms that become one box per target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, uniform_filter
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from kan_core.errors import KANError

Floats = NDArray[np.float64]


class Box(NamedTuple):
    """Cells r0 ... r1 - 1 along range and v0 ... v1 - 1 along Doppler.

    Attributes:
        r0: First row.
        r1: Row after the last.
        v0: First column.
        v1: Column after the last.
        score: Of a detection; 0 for a true box.
    """

    r0: int
    r1: int
    v0: int
    v1: int
    score: float = 0.0


class Segments(NamedTuple):
    """Segments of one map.

    Attributes:
        patches: ``(segments, rows + 2 ring, columns + 2 ring)``; NaN where a ring reaches beyond the map.
        corners: First row and first column of each, without the ring, ``(segments, 2)``.
    """

    patches: Floats
    corners: NDArray[np.int64]


def slide(power: Floats, rows: int, columns: int, ring: int = 0, stride: int = 4) -> Segments:
    """All segments of a map at steps of `stride`, and those at its far edges, so that every cell is in one.

    Args:
        power: The map ``(R, V)``.
        rows: Of a segment.
        columns: Of a segment.
        ring: Cells around it that come along.
        stride: Step in cells, in both directions.

    Raises:
        KANError: When the map is smaller than a segment.
    """
    if power.ndim != 2 or power.shape[0] < rows or power.shape[1] < columns:
        raise KANError(f"a map must have at least {rows} x {columns} cells, got shape {power.shape}")
    if stride < 1:
        raise KANError(f"stride must be 1 or more, got {stride}")
    starts = [
        np.unique(np.append(np.arange(0, size - own + 1, stride), size - own))
        for size, own in zip(power.shape, (rows, columns), strict=True)
    ]
    r, v = (grid.ravel() for grid in np.meshgrid(*starts, indexing="ij"))
    padded = np.pad(power.astype(np.float64), ring, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows + 2 * ring, columns + 2 * ring))
    return Segments(windows[r, v], np.stack([r, v], axis=1))


def iou(first: Sequence[Box], second: Sequence[Box]) -> Floats:
    """Cells in both boxes over cells in either, for all pairs: ``(len(first), len(second))``."""
    a, b = (np.array([box[:4] for box in boxes], dtype=np.float64).reshape(-1, 4) for boxes in (first, second))
    r = np.minimum(a[:, None, 1], b[:, 1]) - np.maximum(a[:, None, 0], b[:, 0])
    v = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 2], b[:, 2])
    common = r.clip(0) * v.clip(0)
    areas = [(box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2]) for box in (a, b)]
    return np.asarray(common / (areas[0][:, None] + areas[1] - common))


def merge(power: Floats, alarms: Sequence[Box], overlap: float = 0.3) -> list[Box]:
    """One box per group of alarms that overlap, directly or in a chain, by an IoU of at least `overlap`.

    A segment is larger than its target, so the box is not the group's hull, but the extent at half power inside it: of
    the cells whose mean over 3 x 3 neighbours is at least half the highest one, the connected group with most power.
    Targets closer to one another than a segment become one box.

    Args:
        power: The map ``(R, V)``.
        alarms: Segments that raised an alarm.
        overlap: τ in (0, 1].

    Returns:
        Boxes with the best score of their group, the best first.

    Raises:
        KANError: When `overlap` is out of its range.
    """
    if not 0 < overlap <= 1:
        raise KANError(f"overlap must lie in (0, 1], got {overlap}")
    if not alarms:
        return []
    groups = connected_components(iou(alarms, alarms) >= overlap, directed=False)[1]
    found = []
    for group in range(groups.max() + 1):
        own = [alarm for alarm, at in zip(alarms, groups, strict=True) if at == group]
        r0, v0 = min(box.r0 for box in own), min(box.v0 for box in own)
        r1, v1 = max(box.r1 for box in own), max(box.v1 for box in own)
        r, v = _half_power(power[r0:r1, v0:v1])
        score = max(box.score for box in own)
        found.append(Box(r0 + r.start, r0 + r.stop, v0 + v.start, v0 + v.stop, score))
    return sorted(found, key=lambda box: -box.score)


def _half_power(power: Floats) -> tuple[slice, slice]:
    smooth = uniform_filter(np.asarray(power, dtype=np.float64), 3, mode="nearest")
    parts, count = label(smooth >= smooth.max() / 2)
    energy = np.bincount(parts.ravel(), power.ravel(), minlength=count + 1)[1:]
    r, v = np.nonzero(parts == energy.argmax() + 1)
    return slice(int(r.min()), int(r.max()) + 1), slice(int(v.min()), int(v.max()) + 1)


class BoxScores(NamedTuple):
    """How boxes meet the truth over some maps.

    Attributes:
        precision: Share of the found boxes that hit; NaN without any.
        recall: Share of the true boxes that are hit; NaN without any.
        false_per_map: Found boxes that hit nothing, per map.
        mean_iou: Over the hits; NaN without any.
    """

    precision: float
    recall: float
    false_per_map: float
    mean_iou: float


def box_scores(found: Sequence[Sequence[Box]], truth: Sequence[Sequence[Box]], overlap: float = 0.3) -> BoxScores:
    """Precision, recall, false boxes per map and mean IoU; each box is matched once, for the greatest sum of IoUs.

    Args:
        found: Boxes of every map.
        truth: True boxes of the same maps.
        overlap: IoU from which a match is a hit.

    Raises:
        KANError: When there are no maps, or not as many of either.
    """
    if len(found) != len(truth) or not truth:
        raise KANError(f"found and truth must hold the boxes of the same maps, got {len(found)} and {len(truth)}")
    hits: list[float] = []
    for own, true in zip(found, truth, strict=True):
        values = iou(own, true)
        matched = values[linear_sum_assignment(values, maximize=True)]
        hits += [float(value) for value in matched if value >= overlap]
    total_found, total_true = sum(map(len, found)), sum(map(len, truth))
    return BoxScores(
        precision=len(hits) / total_found if total_found else float("nan"),
        recall=len(hits) / total_true if total_true else float("nan"),
        false_per_map=(total_found - len(hits)) / len(truth),
        mean_iou=float(np.mean(hits)) if hits else float("nan"),
    )
