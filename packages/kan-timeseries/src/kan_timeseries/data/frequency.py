"""How far apart the steps of a series are: fixed durations, calendar steps of pandas, or whole numbers."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import (
    BaseOffset,
    BusinessDay,
    BusinessMonthBegin,
    BusinessMonthEnd,
    Day,
    MonthBegin,
    MonthEnd,
    QuarterBegin,
    QuarterEnd,
    Tick,
    Week,
    YearBegin,
    YearEnd,
)

from kan_core.errors import KANError

Times = NDArray[Any]
"""Time stamps: ``datetime64`` or ``int64``."""

_DAY = pd.Timedelta(days=1)
_PER_YEAR: tuple[tuple[tuple[type, ...], int], ...] = (
    ((MonthBegin, MonthEnd, BusinessMonthBegin, BusinessMonthEnd), 12),
    ((QuarterBegin, QuarterEnd), 4),
    ((YearBegin, YearEnd), 1),
)
_STRETCH = 6  # stamps: a week of business days is told from daily ones
_STRETCHES = 200


@dataclass(frozen=True)
class Frequency:
    """The steps of a series.

    Attributes:
        step: What lies between two stamps that are whole numbers; or the pandas alias of a duration (``"h"``,
            ``"15min"``, ``"D"``; weeks may begin on any day) or of a calendar step (``"MS"``, ``"ME"``, ``"B"``,
            ``"QS-JAN"``).
    """

    step: int | str

    @classmethod
    def of(cls, freq: int | str | BaseOffset) -> Frequency:
        """What a user calls a frequency.

        Raises:
            KANError: When pandas knows no such frequency, or it is not positive.
        """
        if isinstance(freq, bool) or not isinstance(freq, int | np.integer | str | BaseOffset):
            raise KANError(f"freq must be a pandas alias such as 'h', 'D' or 'MS', or a whole number, got {freq!r}")
        if isinstance(freq, int | np.integer):
            if freq < 1:
                raise KANError(f"freq must be positive, got {freq}")
            return cls(int(freq))
        try:
            offset = to_offset(freq)
        except ValueError as error:
            raise KANError(f"freq {freq!r} is no frequency of pandas: use for example 'h', 'D', 'W', 'MS'") from error
        if offset is None or offset.n < 1:
            raise KANError(f"freq must be positive, got {freq!r}")
        return cls(str(offset.freqstr))

    def __str__(self) -> str:
        return str(self.step)

    @property
    def offset(self) -> BaseOffset:
        """The step as pandas has it; not for whole numbers."""
        return to_offset(self.step)

    @property
    def duration(self) -> pd.Timedelta | None:
        """The length of a step; None for calendar steps and whole numbers."""
        if isinstance(self.step, int):
            return None
        offset = self.offset
        if isinstance(offset, Tick):
            return pd.Timedelta(offset)
        if isinstance(offset, Day | Week):
            return offset.n * (_DAY if isinstance(offset, Day) else 7 * _DAY)
        return None

    @property
    def season(self) -> int:
        """The usual period in steps, 1 where there is none.

        A day for steps of 5 minutes and more (hourly 24, 15 minutes 96), an hour or a minute for shorter ones, a week
        for days (7) and business days (5), a year for weeks (52), months (12) and quarters (4). A step that does not
        divide its period has none.
        """
        if isinstance(self.step, int):
            return 1
        step = self.duration
        if step is not None:
            periods = ((pd.Timedelta(minutes=5), _DAY), (pd.Timedelta(seconds=5), pd.Timedelta(hours=1)))
            if step >= 7 * _DAY:
                period = 52 * 7 * _DAY
            elif step >= _DAY:
                period = 7 * _DAY
            else:
                period = next((whole for least, whole in periods if step >= least), pd.Timedelta(minutes=1))
            return int(period // step) if period % step == pd.Timedelta(0) else 1
        offset = self.offset
        if isinstance(offset, BusinessDay):
            return 5 if offset.n == 1 else 1
        count = next((count for kinds, count in _PER_YEAR if isinstance(offset, kinds)), 1)
        return count // offset.n if count % offset.n == 0 else 1

    def positions(self, times: Times, first: Times) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """How many steps each stamp lies after the first of its series, and whether it is a whole number of them.

        Args:
            times: ``(n,)`` stamps.
            first: ``(n,)``: the first stamp of the series that each belongs to.
        """
        size = self._size(times)
        if size is not None:
            distance = times.astype(np.int64) - first.astype(np.int64)
            return distance // size, distance % size == 0
        grid = pd.date_range(times.min(), times.max(), freq=self.offset, unit=np.datetime_data(times.dtype)[0])
        position = grid.get_indexer(pd.DatetimeIndex(times))
        start = grid.get_indexer(pd.DatetimeIndex(first))
        return (position - start).astype(np.int64), (position >= 0) & (start >= 0)

    def shift(self, times: Times, steps: NDArray[np.int64]) -> Times:
        """``(n,)``: each of ``times (n,)`` moved on by ``steps (n,)``, none of them negative."""
        size = self._size(times)
        if size is not None:
            return (times.astype(np.int64) + steps * size).astype(times.dtype)
        unit = np.datetime_data(times.dtype)[0]
        grid = pd.date_range(times.min(), times.max(), freq=self.offset, unit=unit)
        ahead = pd.date_range(grid[-1], periods=int(steps.max()) + 1, freq=self.offset, unit=unit)[1:]
        moved = grid.append(ahead)[grid.get_indexer(pd.DatetimeIndex(times)) + steps]
        return np.asarray(moved, dtype=times.dtype)

    def after(self, last: Times, steps: int) -> Times:
        """``(n, steps)``: the stamps that follow each of ``last (n,)``."""
        ahead = np.tile(np.arange(1, steps + 1), len(last))
        return self.shift(np.repeat(last, steps), ahead).reshape(len(last), steps)

    def _size(self, times: Times) -> int | None:
        """A fixed step as a number in the unit of `times`.

        Raises:
            KANError: When stamps are whole numbers and the step is not, or the other way round.
        """
        if np.issubdtype(times.dtype, np.integer) != isinstance(self.step, int):
            kind = "whole numbers" if np.issubdtype(times.dtype, np.integer) else "dates"
            raise KANError(f"freq is {self.step!r}, but the time stamps are {kind}: give a freq that fits them")
        if isinstance(self.step, int):
            return self.step
        step = self.duration
        return None if step is None else int(step / pd.Timedelta(1, unit=np.datetime_data(times.dtype)[0]))


def infer_frequency(times: Times, offsets: NDArray[np.int64]) -> Frequency | None:
    """The frequency that most stretches of the longest series have, or None when no stretch has one.

    Gaps are allowed for, as long as most stretches of six stamps are whole.

    Args:
        times: ``(rows,)`` stamps, ascending within each series.
        offsets: ``(series + 1,)``: where each series begins; the last entry is the number of rows.
    """
    lengths = np.diff(offsets)
    if len(lengths) == 0 or lengths.max() < 3:
        return None
    if np.issubdtype(times.dtype, np.integer):
        inside = np.ones(len(times), dtype=bool)
        inside[offsets[:-1]] = False
        steps, counts = np.unique(np.diff(times, prepend=times[:1])[inside], return_counts=True)
        return Frequency(int(steps[counts.argmax()]))
    votes: Counter[str] = Counter()
    for series in np.argsort(-lengths, kind="stable"):
        begin, end = int(offsets[series]), int(offsets[series + 1])
        for start in range(begin, end, _STRETCH):
            stretch = times[max(begin, min(start, end - _STRETCH)) : min(start + _STRETCH, end)]
            found = _infer(stretch) if len(stretch) >= 3 else None
            votes[found or ""] += 1
        if sum(votes.values()) >= _STRETCHES:
            break
    ranked = [name for name, _ in votes.most_common() if name]
    return Frequency.of(ranked[0]) if ranked else None


def _infer(stamps: Times) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas will return an offset in place of its name
        try:
            found = pd.infer_freq(pd.DatetimeIndex(stamps))
        except ValueError:
            return None
    return None if found is None else str(getattr(found, "freqstr", found))
