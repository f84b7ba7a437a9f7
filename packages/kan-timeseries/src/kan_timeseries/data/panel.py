"""Many regular series in a few arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from kan_core.errors import KANError


@dataclass(frozen=True, eq=False)
class Panel:
    """Regular series, one after the other: series s is the rows ``offsets[s]:offsets[s + 1]`` of every array.

    A wide set, such as seven sensors on one clock, is one series of seven channels; a long table of many series has one
    channel. Steps follow each other without gaps: who makes a panel has refused gaps or put NaN rows in.

    Attributes:
        ids: The series' names.
        offsets: ``(S + 1,)`` first row of each series, and the number of rows.
        values: ``(N, C)`` the targets; NaN where missing.
        known: ``(N, K)`` covariates that are known ahead (calendar, prices, a series' constants).
        observed: ``(N, P)`` covariates known up to the cutoff only.
        times: ``(N,)`` time stamps (``datetime64``) or whole numbers.
        channel_names: Of the columns of `values`.
        known_names: Of the columns of `known`.
        observed_names: Of the columns of `observed`.
        season: Steps in a period: of seasonal baselines and of MASE; 1 where there is none.

    Raises:
        KANError: When the arrays do not fit each other.
    """

    ids: list[str]
    offsets: NDArray[np.int64]
    values: NDArray[np.float64]
    known: NDArray[np.float64]
    observed: NDArray[np.float64]
    times: NDArray[np.generic]
    channel_names: list[str] = field(default_factory=lambda: ["y"])
    known_names: list[str] = field(default_factory=list)
    observed_names: list[str] = field(default_factory=list)
    season: int = 1

    def __post_init__(self) -> None:
        """Check that the arrays fit each other."""
        rows = int(self.offsets[-1]) if len(self.offsets) else 0
        widths = {
            "values": (self.values, self.channel_names),
            "known": (self.known, self.known_names),
            "observed": (self.observed, self.observed_names),
        }
        for name, (array, columns) in widths.items():
            if array.shape != (rows, len(columns)):
                raise KANError(f"panel: {name} has shape {array.shape}, expected {(rows, len(columns))}")
        if len(self.offsets) != len(self.ids) + 1 or len(self.times) != rows or (np.diff(self.offsets) < 0).any():
            raise KANError(
                f"panel: {len(self.ids)} ids, {len(self.offsets)} offsets and {len(self.times)} times differ"
            )
        if self.season < 1:
            raise KANError(f"panel: season must be at least 1 step, got {self.season}")

    @classmethod
    def of(
        cls,
        series: Sequence[NDArray[np.float64]],
        ids: Sequence[str] | None = None,
        times: NDArray[np.generic] | None = None,
        channel_names: Sequence[str] = ("y",),
        season: int = 1,
    ) -> Panel:
        """Series without covariates.

        Args:
            series: Of shape ``(n,)`` or ``(n, C)`` each.
            ids: By default ``"0"``, ``"1"``, ...
            times: Of all rows; by default 0, 1, ... in each series.
            channel_names: C names.
            season: See the class.
        """
        values = [np.asarray(one, dtype=np.float64).reshape(len(one), -1) for one in series]
        lengths = [len(one) for one in values]
        rows = sum(lengths)
        return cls(
            ids=[str(i) for i in range(len(values))] if ids is None else list(ids),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            values=np.concatenate(values) if values else np.empty((0, len(channel_names))),
            known=np.empty((rows, 0)),
            observed=np.empty((rows, 0)),
            times=np.concatenate([np.arange(n) for n in lengths]) if times is None else times,
            channel_names=list(channel_names),
            season=season,
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(S,)`` steps of each series."""
        return np.diff(self.offsets)

    @property
    def channels(self) -> int:
        """C, how many values a step has."""
        return len(self.channel_names)

    def rows(self, series: int) -> slice:
        """Where a series is."""
        return slice(int(self.offsets[series]), int(self.offsets[series + 1]))

    def take(self, series: Sequence[int]) -> Panel:
        """Some of the series, in the given order."""
        index = np.concatenate([np.arange(self.offsets[s], self.offsets[s + 1]) for s in series] or [np.empty(0, int)])
        arrays = {name: getattr(self, name)[index] for name in ("values", "known", "observed", "times")}
        lengths = self.lengths[list(series)]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return replace(self, ids=[self.ids[s] for s in series], offsets=offsets, **arrays)

    def scales(self, until: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """``(S, C)`` mean |y_t − y_{t − season}| of every series, what MASE divides by; NaN where zero or unknown.

        Args:
            until: ``(S,)`` use only this many first steps of each series; by default all.
        """
        result = np.full((len(self.ids), self.channels), np.nan)
        for s in range(len(self.ids)):
            y = self.values[self.rows(s)]
            y = y if until is None else y[: until[s]]
            change = np.abs(y[self.season :] - y[: -self.season])
            known = np.isfinite(change)
            count = known.sum(axis=0)
            mean = np.where(known, change, 0).sum(axis=0) / np.maximum(count, 1)
            result[s] = np.where((count > 0) & (mean > 0), mean, np.nan)
        return result
