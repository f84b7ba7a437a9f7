"""Constant false-alarm rate detectors for single cells: OS, CA, GO and SO-CFAR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, comb, gammaincc, gammaincinv
from scipy.stats import f as fisher

from kan_core.errors import KANError

Floats = NDArray[np.float64]
Kind = Literal["os", "ca", "go", "so"]

_LEAST, _GREATEST = -25.0, 45.0  # of log α
_NODES, _LOG_LEAST = 400, -60.0  # of the integral over the distribution of z


@dataclass(frozen=True)
class CFAR:
    r"""A cell is a detection when x > α z, with a level z from N reference cells around it.

    z is the k-th smallest reference cell (``"os"``), the mean of all (``"ca"``), or the greater or the smaller of the
    means of the two halves (``"go"``, ``"so"``). The reference cells lie along one axis, N/2 on either side beyond the
    guard cells; where the map ends, the missing ones come from the other side, so that there are always N, and "go" and
    "so" take the nearer and farther halves by position. In exponential noise of any mean, with n = N/2 and T = α/n:

    - OS: PFA = Π_{i<k} (N − i)/(N − i + α)
    - CA: PFA = (1 + α/N)^−N
    - SO: PFA = 2 Σ_{j<n} C(n+j−1, j) (2 + T)^−(n+j); GO: PFA = 2 (1 + T)^−n − PFA_SO

    Maps that are sums over several antennas have Gamma noise of that shape (`looks`); its PFA is integrated
    numerically.

    Attributes:
        kind: ``"os"``, ``"ca"``, ``"go"`` or ``"so"``.
        pfa: False-alarm probability per cell that α is made for, in (0, 1).
        reference: N, even.
        guard: Cells left out on either side of the cell under test.
        rank: k of OS-CFAR, 1 to N; None for 3N/4, rounded down.
        axis: -2 for windows along range (rows), -1 along Doppler (columns).
        looks: Powers summed in each cell.

    Raises:
        KANError: For a value out of its range.

    Reference: H. Rohling, Radar CFAR thresholding in clutter and multiple target situations, IEEE Trans. AES 19 (1983);
        P. P. Gandhi, S. A. Kassam, Analysis of CFAR processors in nonhomogeneous background, IEEE Trans. AES 24 (1988).
    """

    kind: Kind = "os"
    pfa: float = 1e-3
    reference: int = 24
    guard: int = 2
    rank: int | None = None
    axis: int = -2
    looks: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise KANError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if not 0 < self.pfa < 1:
            raise KANError(f"pfa must lie in (0, 1), got {self.pfa}")
        if self.reference < 2 or self.reference % 2 or self.guard < 0 or self.looks < 1:
            raise KANError(
                f"reference must be even and positive, guard 0 or more, looks 1 or more, got {self.reference}, "
                f"{self.guard}, {self.looks}"
            )
        if not 1 <= self.k <= self.reference:
            raise KANError(f"rank must lie in 1 ... {self.reference}, got {self.rank}")
        if self.axis not in (-2, -1):
            raise KANError(f"axis must be -2 (range) or -1 (Doppler), got {self.axis}")

    @property
    def k(self) -> int:
        """Rank of the reference cell that OS-CFAR takes, counted from 1."""
        return self.reference * 3 // 4 if self.rank is None else self.rank

    @cached_property
    def alpha(self) -> float:
        """α at which the false-alarm probability is :attr:`pfa`."""
        if self.kind == "ca":
            return float(fisher.isf(self.pfa, 2 * self.looks, 2 * self.looks * self.reference))

        def excess(log_alpha: float) -> float:
            return self.false_alarm(math.exp(log_alpha)) - self.pfa

        if excess(_GREATEST) > 0:
            raise KANError(f"pfa {self.pfa:g} is out of reach with {self.reference} reference cells and rank {self.k}")
        return math.exp(brentq(excess, _LEAST, _GREATEST, xtol=1e-13, rtol=1e-14))

    def false_alarm(self, alpha: float) -> float:
        """PFA of threshold factor α in homogeneous noise; 1 at α = 0, and falling.

        Args:
            alpha: α, 0 or more.
        """
        if self.looks > 1 and self.kind != "ca":
            return self._integrated(alpha)
        if self.kind == "ca":
            return float(fisher.sf(alpha, 2 * self.looks, 2 * self.looks * self.reference))
        if self.kind == "os":
            left = self.reference - np.arange(self.k)
            return float(np.prod(left / (left + alpha)))
        half = self.reference // 2
        t, j = alpha / half, np.arange(half)
        smaller = 2 * float(np.sum(comb(half + j - 1, j) * (2 + t) ** -(half + j)))
        return smaller if self.kind == "so" else 2 * float((1 + t) ** -half) - smaller

    def detection(self, snr: float) -> float:
        """PD of a Swerling-1 point target in a clean reference of exponential noise: PFA(α / (1 + SNR)).

        Args:
            snr: As a ratio, not in dB.

        Raises:
            KANError: For several looks, whose sum is no exponential under a Swerling-1 target.
        """
        if self.looks > 1:
            raise KANError(f"detection is known for one look, got {self.looks}")
        return self.false_alarm(self.alpha / (1 + snr))

    def _integrated(self, alpha: float) -> float:
        """∫₀¹ Q(L, α z(u)) du with z(u) the quantile function of the level in Gamma(L) noise."""
        level, weights = self._quantiles
        return float(np.sum(weights * gammaincc(self.looks, alpha * level)))

    @cached_property
    def _quantiles(self) -> tuple[Floats, Floats]:
        """z(u) at Gauss-Legendre nodes of log u, and the weights du."""
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        u = np.exp(_LOG_LEAST / 2 * (1 - nodes))
        half, looks = self.reference // 2, self.looks
        if self.kind == "os":
            z = gammaincinv(looks, betaincinv(self.k, self.reference - self.k + 1, u))
        else:
            share = np.sqrt(u) if self.kind == "go" else -np.expm1(np.log1p(-u) / 2)
            z = gammaincinv(looks * half, share) / half
        return z, -_LOG_LEAST / 2 * weights * u

    def level(self, cells: Floats) -> Floats:
        """The level z of reference cells in order of their position: ``(..., N) -> (...)``."""
        if self.kind == "os":
            return np.asarray(np.sort(cells, axis=-1)[..., self.k - 1])
        if self.kind == "ca":
            return np.asarray(cells.mean(axis=-1))
        halves = cells.reshape(*cells.shape[:-1], 2, -1).mean(axis=-1)
        return np.asarray(halves.max(axis=-1) if self.kind == "go" else halves.min(axis=-1))

    def ratio(self, power: Floats) -> Floats:
        """The ratio x / z of every cell of maps ``(..., R, V)``: the scores of a detector whose threshold is α.

        A level of 0 gives infinity, or 0 where the cell is 0 as well.

        Raises:
            KANError: When the map is shorter than the window along :attr:`axis`.
        """
        along = np.ascontiguousarray(np.moveaxis(power, self.axis, -1))
        length = along.shape[-1]
        if length < self.reference + 2 * self.guard + 1:
            raise KANError(
                f"a CFAR window of {self.reference} reference and 2 x {self.guard} guard cells needs a map of "
                f"{self.reference + 2 * self.guard + 1} cells or more, got {length}"
            )
        level = self.level(np.take(along, self._windows(length), axis=-1))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.where(along > 0, along / level, 0.0)
        return np.moveaxis(ratio, -1, self.axis)

    def detect(self, power: Floats) -> NDArray[np.bool_]:
        """Where x > α z, in maps ``(..., R, V)``."""
        return np.asarray(self.ratio(power) > self.alpha)

    def _windows(self, length: int) -> NDArray[np.int64]:
        """Positions of the reference cells of every cell, ``(length, N)``, in increasing order."""
        cell = np.arange(length)[:, None]
        free_left = np.maximum(cell - self.guard, 0)
        free_right = np.maximum(length - 1 - cell - self.guard, 0)
        left = np.minimum(self.reference // 2, free_left)
        left = np.maximum(left, self.reference - free_right)
        offset = np.arange(self.reference)[None, :]
        before = cell - self.guard - left + offset
        after = cell + self.guard + 1 + offset - left
        return np.asarray(np.where(offset < left, before, after))
