"""Range-Doppler powers with and without an extended target: segments in bulk, whole maps, and an FMCW chain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.radar.boxes import Box

Floats = NDArray[np.float64]
Outline = Literal["block", "ellipse"]
Profile = Literal["flat", "hann", "scatterers"]
Range = tuple[float, float]


@dataclass(frozen=True)
class Target:
    """An extended target: a patch of cells whose mean power is σ²(1 + SNR·w) with weights w in [0, 1].

    Attributes:
        length: Fewest and most cells along range (rows).
        width: Fewest and most cells along Doppler (columns).
        outline: ``"block"``, length x width cells, or the ``"ellipse"`` inside it.
        rotation: Largest angle in degrees by which it is turned, either way.
        profile: w over the cells: ``"flat"``, all 1; ``"hann"``, a raised cosine from the middle, where it is 1, to the
            rim; ``"scatterers"``, 1 at a few random cells and `floor` elsewhere.
        scatterers: How many cells dominate, for that profile.
        floor: w of the others.
        inside: Least share of length and of width that lies inside a segment; 1 for whole targets.

    Raises:
        KANError: For an unknown name or a value out of its range.
    """

    length: tuple[int, int] = (8, 8)
    width: tuple[int, int] = (3, 3)
    outline: Outline = "block"
    rotation: float = 0.0
    profile: Profile = "flat"
    scatterers: int = 4
    floor: float = 0.1
    inside: float = 1.0

    def __post_init__(self) -> None:
        for name, kinds in (("outline", Outline), ("profile", Profile)):
            if getattr(self, name) not in get_args(kinds):
                raise KANError(f"{name} must be one of {', '.join(get_args(kinds))}, got {getattr(self, name)!r}")
        for name in ("length", "width"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise KANError(f"{name} must be the fewest and the most cells, 1 or more, got {(low, high)}")
        if not 0 < self.inside <= 1:
            raise KANError(f"inside must lie in (0, 1], got {self.inside}")
        if self.scatterers < 1 or not 0 <= self.floor <= 1:
            raise KANError(f"scatterers must be 1 or more and floor in [0, 1], got {self.scatterers} and {self.floor}")

    def weights(
        self, rng: np.random.Generator, count: int, rows: int, columns: int, margin: tuple[int, int] = (0, 0)
    ) -> Floats:
        """The weights w of targets at random places: ``(count, rows, columns)`` and the margins; 0 off the target.

        Args:
            rng: The source of chance.
            count: Targets, one for each segment.
            rows: Of the segment, along range.
            columns: Of the segment, along Doppler.
            margin: More rows and more columns on either side; a target may reach into them.

        Raises:
            KANError: When a target that has to lie inside is larger than the segment.
        """
        along, half_length = self._offsets(rng, count, rows, margin[0], self.length)
        across, half_width = self._offsets(rng, count, columns, margin[1], self.width)
        r, v = along[:, :, None], across[:, None, :]
        if self.rotation:
            angle = np.radians(rng.uniform(-self.rotation, self.rotation, (count, 1, 1)))
            r, v = r * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - r * np.sin(angle)
        r, v = r / half_length[:, None, None], v / half_width[:, None, None]
        mask = (np.abs(r) < 1) & (np.abs(v) < 1) if self.outline == "block" else np.square(r) + np.square(v) < 1
        if self.profile == "hann":
            return np.asarray(np.square(np.cos(np.pi / 2 * r) * np.cos(np.pi / 2 * v)) * mask)
        if self.profile == "scatterers":
            ranks = np.where(mask, rng.random(mask.shape), -1.0).reshape(count, -1)
            strongest = -np.partition(-ranks, self.scatterers - 1, axis=1)[:, self.scatterers - 1]
            dominant = (ranks >= np.maximum(strongest, 0)[:, None]).reshape(mask.shape)
            return np.where(dominant, 1.0, self.floor) * mask
        return mask.astype(np.float64)

    def _offsets(
        self, rng: np.random.Generator, count: int, cells: int, margin: int, sizes: tuple[int, int]
    ) -> tuple[Floats, Floats]:
        """Distance of every cell from the middles, ``(count, cells + 2 margin)``, and half the sizes, ``(count,)``."""
        size = rng.integers(sizes[0], sizes[1] + 1, count)
        least = np.ceil(self.inside * size).astype(int)  # cells inside
        if least.max() > cells:
            raise KANError(f"a target of {size.max()} cells has no place in a segment of {cells}: make inside smaller")
        start = rng.integers(least - size, cells - least + 1)
        middle = start + (size - 1) / 2
        return np.arange(-margin, cells + margin)[None, :] - middle[:, None], size / 2


class SimulatedMap(NamedTuple):
    """A map and the smallest boxes around its targets.

    Attributes:
        power: ``(rows, columns)``.
        boxes: One for each target.
    """

    power: Floats
    boxes: list[Box]


@dataclass(frozen=True)
class Scene:
    """What a segment of a square-law range-Doppler map is drawn from.

    Noise is exponential with mean σ²; with a texture it is K clutter, an exponential whose mean is σ² times a Gamma
    variable of mean 1 and shape ν, one for every cell. A burst of interference raises one row (all Doppler cells at
    one range) and belongs to either hypothesis: a segment is labelled by the target alone.

    Attributes:
        rows: Cells of a segment along range.
        columns: Cells along Doppler.
        margin: More rows and more columns on either side, for a reference ring or a CFAR window.
        scale: Least and greatest σ², log-uniform over segments.
        texture: Least and greatest ν, log-uniform over segments; None for noise without texture.
        snr_db: Least and greatest SNR per cell of weight 1, uniform in dB.
        target: What H1 adds.
        interference: Probability of a burst.
        interference_db: Its power above the noise.

    Raises:
        KANError: For a value out of its range.
    """

    rows: int = 16
    columns: int = 16
    margin: tuple[int, int] = (0, 0)
    scale: Range = (1.0, 1.0)
    texture: Range | None = None
    snr_db: Range = (0.0, 15.0)
    target: Target = field(default_factory=Target)
    interference: float = 0.0
    interference_db: float = 10.0

    def __post_init__(self) -> None:
        if self.rows < 2 or self.columns < 2 or min(self.margin) < 0:
            raise KANError(
                f"a segment needs two rows and columns and no negative margin, got {self.rows} x {self.columns}, "
                f"margin {self.margin}"
            )
        for name in ("scale", "texture"):
            ends = getattr(self, name)
            if ends is not None and not 0 < ends[0] <= ends[1]:
                raise KANError(f"{name} must be the least and the greatest value, both positive, got {ends}")
        if self.snr_db[0] > self.snr_db[1] or not 0 <= self.interference <= 1:
            raise KANError(
                f"snr_db must be least and greatest, and interference a probability, got {self.snr_db} and "
                f"{self.interference}"
            )

    def draw(self, rng: np.random.Generator, count: int, target: bool) -> Floats:
        """Powers of `count` independent segments under H1 or H0: ``(count, rows, columns)`` and the margins.

        Args:
            rng: The source of chance; two draws from one generator share nothing.
            count: Segments.
            target: Whether every one holds a target.
        """
        size = (self.rows + 2 * self.margin[0], self.columns + 2 * self.margin[1])
        mean = self._noise_mean(rng, count, *size)
        if target:
            snr = 10 ** (rng.uniform(*self.snr_db, (count, 1, 1)) / 10)
            mean = mean + snr * self.target.weights(rng, count, self.rows, self.columns, self.margin)
        power = rng.standard_exponential((count, *size))
        power *= mean * _log_uniform(rng, self.scale, count)
        return power

    def draw_map(self, rng: np.random.Generator, rows: int, columns: int, targets: int) -> SimulatedMap:
        """One map with whole targets that do not touch; `rows`, `columns` and `margin` of the scene play no part.

        Args:
            rng: The source of chance.
            rows: Cells of the map along range.
            columns: Cells along Doppler.
            targets: How many.

        Raises:
            KANError: When so many targets have no place side by side.
        """
        mean = self._noise_mean(rng, 1, rows, columns)[0]
        free = np.ones((rows, columns), dtype=bool)
        boxes: list[Box] = []
        whole = replace(self.target, inside=1.0)
        for _ in range(100 * targets):
            if len(boxes) == targets:
                break
            weights = whole.weights(rng, 1, rows, columns)[0]
            r, v = (np.flatnonzero((weights > 0).any(axis=axis)) for axis in (1, 0))
            box = Box(int(r[0]), int(r[-1]) + 1, int(v[0]), int(v[-1]) + 1)
            around = (slice(max(box.r0 - 1, 0), box.r1 + 1), slice(max(box.v0 - 1, 0), box.v1 + 1))
            if free[around].all():
                free[around] = False
                boxes.append(box)
                mean = mean + 10 ** (rng.uniform(*self.snr_db) / 10) * weights
        if len(boxes) < targets:
            raise KANError(f"a map of {rows} x {columns} cells has no place for {targets} targets side by side")
        scale = _log_uniform(rng, self.scale, 1).item()
        return SimulatedMap(rng.standard_exponential((rows, columns)) * mean * scale, boxes)

    def _noise_mean(self, rng: np.random.Generator, count: int, rows: int, columns: int) -> Floats:
        """Mean power of every cell without a target, in units of σ²; ``(count, 1, 1)`` where it is the same for all."""
        mean = np.ones((count, rows, columns) if self.interference else (count, 1, 1))
        if self.texture is not None:
            shape = _log_uniform(rng, self.texture, count)
            fixed = self.texture[0] == self.texture[1]  # drawn much faster
            mean = rng.standard_gamma(self.texture[0] if fixed else shape, (count, rows, columns)) / shape
        if self.interference:
            hit = np.flatnonzero(rng.random(count) < self.interference)
            mean[hit, rng.integers(rows, size=len(hit))] += 10 ** (self.interference_db / 10)
        return mean


def fmcw_map(
    rng: np.random.Generator,
    scatterers: NDArray[np.float64],
    samples: int = 128,
    chirps: int = 64,
    antennas: int = 1,
) -> Floats:
    r"""Power map of a dechirped FMCW cube: Hann windows, range and Doppler FFT, square law, sum over antennas.

    A scatterer's beat signal is √(SNR) exp(2πi (r n / samples + v m / chirps) + iϑ) with an independent phase ϑ at each
    antenna; noise is complex white, so that windowed cells have correlated noise, as in a real map. A cell of noise has
    a Gamma power of shape `antennas` and mean `antennas`: `CFAR` takes it as ``looks``.

    Args:
        rng: The source of chance.
        scatterers: ``(count, 3)``: range r and Doppler v in cells (fractions allowed), and the SNR in dB that the peak
            has in the map, at each antenna, when r and v are whole.
        samples: Of a chirp; as many range cells.
        chirps: As many Doppler cells.
        antennas: Summed non-coherently.

    Returns:
        ``(samples, chirps)``.

    Raises:
        KANError: When `scatterers` has another shape.
    """
    scatterers = np.asarray(scatterers, dtype=np.float64)
    if scatterers.ndim != 2 or scatterers.shape[1] != 3:
        raise KANError(f"scatterers must have shape (count, 3): range, Doppler, SNR in dB; got {scatterers.shape}")
    window = np.outer(np.hanning(samples + 1)[:-1], np.hanning(chirps + 1)[:-1])
    # unit mean noise power after the window and both transforms, and the gain of a whole-cell peak beside it
    noise = 1 / np.sqrt(np.square(window).sum())
    size = (antennas, samples, chirps)
    cube = (rng.standard_normal(size) + 1j * rng.standard_normal(size)) * noise / np.sqrt(2)
    for r, v, snr in scatterers:
        beat = np.exp(2j * np.pi * r * np.arange(samples) / samples)
        doppler = np.exp(2j * np.pi * v * np.arange(chirps) / chirps)
        phase = np.exp(2j * np.pi * rng.random((antennas, 1, 1)))
        cube += 10 ** (snr / 20) / window.sum() * phase * np.outer(beat, doppler)
    return np.asarray(np.square(np.abs(np.fft.fft2(cube * window))).sum(axis=0))


def _log_uniform(rng: np.random.Generator, ends: Range, count: int) -> Floats:
    return np.asarray(np.exp(rng.uniform(np.log(ends[0]), np.log(ends[1]), (count, 1, 1))))
