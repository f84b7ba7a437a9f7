"""A segment of a range-Doppler map as the histogram of its cell powers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError

Floats = NDArray[np.float64]
Mode = Literal["minmax", "median", "log", "equiprobable"]

SCALARS = ("level", "skewness", "kurtosis")
_CHUNK = 1 << 21  # cells at once: 16 MiB


@dataclass(frozen=True)
class SegmentFeatures:
    r"""h ∈ R^P, the shares of a segment's cells in P bins, Σh = 1, and optional scalars.

    Powers are linear, never in dB before the histogram (mode "log" takes dB of the ratio to the reference). With the
    segment's cells x and a reference m, the median of the ring of cells around the segment or, without a ring, of the
    segment itself, the bins are equal parts of [0, 1] for

    - ``"minmax"``: (x − min x) / (max x − min x); no change of scale or offset matters;
    - ``"median"``: x / (m · span), the last bin open;
    - ``"log"``: 10 log₁₀(x / m) between the ends of `decibels`, the outer bins open;
    - ``"equiprobable"``: 1 − exp(−x ln 2 / m), the distribution of exponential noise with median m, so that every bin
      expects 1/P without a target.

    No change of scale matters to any of them, nor does the order of the cells. A segment that is exponential all over
    looks like noise to "minmax" and to any mode without a ring, whatever its power. A segment whose cells are all equal
    has h = (1, 0, ..., 0), skewness and kurtosis 0, and is no target by definition (`flat`).

    Attributes:
        bins: P.
        mode: As above.
        ring: Width in cells of the ring that every patch brings along; 0 for patches that are the segment.
        span: End of the last but one bin's range in units of m (mode "median").
        decibels: Least and greatest of the bins' edges in dB over m (mode "log").
        scalars: Appended to h, any of ``"level"``, 10 log₁₀(mean x / m) in dB; ``"skewness"``, m₃ / m₂^1.5 of the
            cells; ``"kurtosis"``, m₄ / m₂² − 3.

    Raises:
        KANError: For an unknown name or a value out of its range.

    Reference: arXiv 2502.19000 for the histogram; the bins are not stated there, the modes are ours.
    """

    bins: int = 16
    mode: Mode = "minmax"
    ring: int = 0
    span: float = 8.0
    decibels: tuple[float, float] = (-15.0, 20.0)
    scalars: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise KANError(f"mode must be one of {', '.join(get_args(Mode))}, got {self.mode!r}")
        if self.bins < 2 or self.ring < 0:
            raise KANError(f"bins must be 2 or more and ring 0 or more, got {self.bins} and {self.ring}")
        if self.span <= 0 or self.decibels[0] >= self.decibels[1]:
            raise KANError(f"span must be positive and decibels increasing, got {self.span} and {self.decibels}")
        unknown = set(self.scalars) - set(SCALARS)
        if unknown or len(set(self.scalars)) < len(self.scalars):
            raise KANError(f"scalars must be different ones of {', '.join(SCALARS)}, got {', '.join(self.scalars)}")

    @property
    def names(self) -> tuple[str, ...]:
        """h1 ... hP and the scalars."""
        return (*(f"h{p + 1}" for p in range(self.bins)), *self.scalars)

    def __call__(self, patches: Floats) -> Floats:
        """Features of patches ``(n, rows + 2 ring, columns + 2 ring)``: ``(n, P + scalars)``.

        Raises:
            KANError: When the patches have another shape, or a segment holds a negative, infinite or missing power.
        """
        cells = self._check(patches)
        step = max(1, _CHUNK // cells[0].size) if len(cells) else 1
        found = [self._some(patches[i : i + step], cells[i : i + step]) for i in range(0, len(patches), step)]
        return np.concatenate(found) if found else np.empty((0, len(self.names)))

    def flat(self, patches: Floats) -> NDArray[np.bool_]:
        """Which segments have cells that are all equal: ``(n,)``."""
        cells = self._check(patches)
        return np.asarray(cells.max(axis=1) == cells.min(axis=1))

    def _check(self, patches: Floats) -> Floats:
        """The segments' own cells, ``(n, cells)``."""
        ring = self.ring
        if patches.ndim != 3 or min(patches.shape[1:]) <= 2 * ring:
            raise KANError(
                f"patches must have shape (n, rows, columns), more than the ring of {ring} on either side, got "
                f"{patches.shape}"
            )
        rows, columns = patches.shape[1:]
        cells = patches[:, ring : rows - ring, ring : columns - ring].reshape(len(patches), -1)
        if cells.size and not (np.isfinite(cells.sum()) and cells.min() >= 0):
            wrong = int((~np.isfinite(cells) | (cells < 0)).any(axis=1).argmax())
            raise KANError(f"segment {wrong} holds a negative, infinite or missing power: give linear powers, not dB")
        return cells

    def _some(self, patches: Floats, cells: Floats) -> Floats:
        cells = cells.astype(np.float64)
        needs_reference = self.mode != "minmax" or "level" in self.scalars
        reference = self._reference(patches, cells)[:, None] if needs_reference else np.ones((len(cells), 1))
        place = self._places(cells, reference).clip(0, 1)
        index = np.minimum((place * self.bins).astype(np.int64), self.bins - 1)
        index += self.bins * np.arange(len(cells))[:, None]
        h = np.bincount(index.ravel(), minlength=self.bins * len(cells)).reshape(len(cells), -1) / cells.shape[1]
        flat = cells.max(axis=1) == cells.min(axis=1)
        h[flat] = np.eye(self.bins)[0]
        return np.column_stack([h, *(self._scalar(name, cells, reference, flat) for name in self.scalars)])

    def _reference(self, patches: Floats, cells: Floats) -> Floats:
        """The m of every segment; a reference of 0 counts as the smallest number, so that nothing is divided by 0."""
        if self.ring == 0:
            return np.asarray(np.maximum(np.median(cells, axis=1), np.finfo(np.float64).tiny))
        rows, columns = patches.shape[1:]
        around = np.ones((rows, columns), dtype=bool)
        around[self.ring : rows - self.ring, self.ring : columns - self.ring] = False
        ring = np.sort(patches[:, around].astype(np.float64), axis=1)  # what is missing, as NaN, comes last
        known = np.isfinite(ring).sum(axis=1)
        if (known == 0).any():
            raise KANError(f"the ring of segment {int((known == 0).argmax())} has no finite cell")
        at = np.stack([(known - 1) // 2, known // 2], axis=1)
        return np.asarray(np.maximum(np.take_along_axis(ring, at, axis=1).mean(axis=1), np.finfo(np.float64).tiny))

    def _places(self, cells: Floats, reference: Floats) -> Floats:
        """Where in [0, 1] a cell lies, or beyond."""
        if self.mode == "minmax":
            low, high = cells.min(axis=1, keepdims=True), cells.max(axis=1, keepdims=True)
            return np.asarray((cells - low) / np.where(high > low, high - low, 1.0))
        with np.errstate(divide="ignore", over="ignore"):
            ratio = cells / reference
            if self.mode == "median":
                return np.asarray(ratio / self.span)
            if self.mode == "equiprobable":
                return np.asarray(-np.expm1(-np.log(2) * ratio))
            low, high = self.decibels
            return np.asarray((10 * np.log10(ratio) - low) / (high - low))

    def _scalar(self, name: str, cells: Floats, reference: Floats, flat: NDArray[np.bool_]) -> Floats:
        if name == "level":
            with np.errstate(over="ignore"):
                ratio = cells.mean(axis=1) / reference[:, 0]
            return np.asarray(10 * np.log10(ratio.clip(1e-10, 1e10)))
        return skewness(cells, flat) if name == "skewness" else kurtosis(cells, flat)


def skewness(cells: Floats, flat: NDArray[np.bool_] | None = None) -> Floats:
    """m₃ / m₂^1.5 with central moments over the last axis: 2 for exponential cells, 2/√κ for Gamma cells.

    Args:
        cells: ``(..., cells)``.
        flat: Where it is 0 because all cells are equal; found when None.
    """
    second, higher = _moments(cells, 3, flat)
    return np.asarray(higher / second**1.5)


def kurtosis(cells: Floats, flat: NDArray[np.bool_] | None = None) -> Floats:
    """m₄ / m₂² − 3 over the last axis, in excess of the normal distribution's: 6 for exponential cells.

    Args:
        cells: ``(..., cells)``.
        flat: Where it is 0 because all cells are equal; found when None.
    """
    flat = cells.max(axis=-1) == cells.min(axis=-1) if flat is None else flat
    second, higher = _moments(cells, 4, flat)
    return np.asarray(np.where(flat, 0.0, higher / second**2 - 3))


def _moments(cells: Floats, order: int, flat: NDArray[np.bool_] | None) -> tuple[Floats, Floats]:
    """m₂ and m_order of cells in units of their range; 1 and 0 where all are equal."""
    flat = cells.max(axis=-1) == cells.min(axis=-1) if flat is None else flat
    size = np.where(flat, 1.0, cells.max(axis=-1) - cells.min(axis=-1))
    centred = (cells - cells.mean(axis=-1, keepdims=True)) / size[..., None]
    square = centred * centred
    second = square.mean(axis=-1)
    higher = (square * (centred if order == 3 else square)).mean(axis=-1)
    return np.where(flat, 1.0, second), np.where(flat, 0.0, higher)
