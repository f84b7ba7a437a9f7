"""Long tables of many series, one row per series and time, as panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pandas.tseries.offsets import BaseOffset

from kan_core.errors import KANError
from kan_timeseries.data.columns import (
    Floats,
    as_table,
    check_columns,
    numbers_of,
    series_codes,
    stamp_text,
    stamps_of,
    where,
)
from kan_timeseries.data.frequency import Frequency, Times, infer_frequency
from kan_timeseries.data.panel import Panel
from kan_timeseries.data.statics import StaticColumns

Gaps = Literal["error", "fill"]

_MOST_FILLED = 20
"""Filled gaps may make a table this many times longer; beyond that a stamp is wrong."""


def panel_from_frame(
    df: Any,
    *,
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
    freq: int | str | BaseOffset | None = None,
    known: Sequence[str] = (),
    observed: Sequence[str] = (),
    static_df: Any = None,
    gaps: Gaps = "error",
    season: int | None = None,
) -> Panel:
    """A long table as a panel.

    Rows may come in any order: they are sorted by time, and series stand in the order of their first rows.

    Args:
        df: pandas, or anything with ``to_pandas()`` such as polars: one row per series and time.
        id_col: Column of the series' names: text or whole numbers.
        time_col: Column of the time stamps: dates without time zone (text in ISO 8601 is read), or whole numbers.
        target_col: Column of the values to be forecast.
        freq: The step: a pandas alias (``"h"``, ``"15min"``, ``"D"``, ``"B"``, ``"MS"``, ``"ME"``, ...), or a whole
            number for such stamps; None: what most of the longest series shows.
        known: Columns that are known ahead.
        observed: Columns that are known for the past only.
        static_df: One row per series: `id_col` and constants of the series. Numbers stay, the others become one column
            of 0 and 1 per category. They are appended to the known columns.
        gaps: ``"error"``; or ``"fill"``: missing steps become rows whose target is NaN and whose covariates repeat the
            row before, and NaN targets are allowed.
        season: Steps in a period; None: the usual one of the frequency, see `Frequency.season`.

    Raises:
        KANError: For missing columns, duplicates, gaps, irregular or mixed steps, values that are no finite numbers and
            the like; the message names the series and the time stamp.
    """
    reader = FrameReader(
        id_col=id_col,
        time_col=time_col,
        target_col=target_col,
        freq=freq,
        known=known,
        observed=observed,
        gaps=gaps,
        season=season,
    )
    return reader.fit(df, static_df)


class FrameReader:
    """Reads tables of one kind: what the first one shows (frequency, categories) holds for the others.

    The arguments are those of `panel_from_frame`.

    Attributes:
        frequency: The step; None before `fit`.
        season: Steps in a period; None before `fit` unless it was given.
        statics: How constants of series are encoded; None without any.
        integer_ids: Whether the series' names are whole numbers.
        inserted: Rows that the last read put into gaps.
    """

    def __init__(
        self,
        *,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        freq: int | str | BaseOffset | None = None,
        known: Sequence[str] = (),
        observed: Sequence[str] = (),
        gaps: Gaps = "error",
        season: int | None = None,
    ) -> None:
        for name, value in (("known", known), ("observed", observed)):
            if isinstance(value, str):
                raise KANError(f"{name} must be a list of column names, got the text {value!r}")
        columns = [id_col, time_col, target_col, *known, *observed]
        twice = [name for i, name in enumerate(columns) if name in columns[:i]]
        if twice:
            raise KANError(f"column {twice[0]!r} is given two roles: name it once")
        if gaps not in ("error", "fill"):
            raise KANError(f"gaps must be 'error' or 'fill', got {gaps!r}")
        if season is not None and season < 1:
            raise KANError(f"season must be at least 1 step, got {season}")
        self.id_col, self.time_col, self.target_col = id_col, time_col, target_col
        self.known, self.observed = list(known), list(observed)
        self.gaps: Gaps = gaps
        self.frequency = None if freq is None else Frequency.of(freq)
        self.season = season
        self.statics: StaticColumns | None = None
        self.integer_ids = False
        self.inserted = 0

    def fit(self, df: Any, static_df: Any = None) -> Panel:
        """Read a first table, and learn what later ones must share.

        Raises:
            KANError: See `panel_from_frame`.
        """
        rows = self._rows(df, "df", [self.target_col, *self.known, *self.observed])
        if self.frequency is None:
            self.frequency = infer_frequency(rows.times, rows.offsets)
            if self.frequency is None:
                raise KANError(
                    f"the frequency cannot be told from column {self.time_col!r}: the longest series has "
                    f"{int(rows.lengths.max())} rows and no regular stretch; give freq, such as 'h', 'D' or 'MS'"
                )
        if self.season is None:
            self.season = self.frequency.season
        self.integer_ids = rows.integer_ids
        self.statics = None if static_df is None else StaticColumns.of(as_table(static_df, "static_df"), self.id_col)
        return self._panel(rows, static_df)

    def read(self, df: Any, static_df: Any = None) -> Panel:
        """Read another table of the same kind.

        Raises:
            KANError: See `panel_from_frame`; and for categories that the first table did not have.
        """
        return self._panel(self._rows(df, "df", [self.target_col, *self.known, *self.observed]), static_df)

    def extend(self, panel: Panel, futr_df: Any, horizon: int) -> Panel:
        """The panel with `horizon` more steps in each series: targets NaN, known covariates from `futr_df`.

        Args:
            panel: As read from a table.
            futr_df: One row per series and step of the horizon, with the known columns; None when there are none.
            horizon: Steps.

        Raises:
            KANError: When rows of the horizon are missing, too many, repeated, of an unknown series, or not numbers.
        """
        if bool(self.known) != (futr_df is not None):
            if self.known:
                raise KANError(f"futr_df is missing: it must give {', '.join(self.known)} for {horizon} steps ahead")
            raise KANError("futr_df is given, but no covariate is declared as known: name its columns in known=[...]")
        count, ends = len(panel.ids), panel.offsets[1:]
        ahead = np.empty((count, horizon, len(self.known)))
        times = self._frequency.after(panel.times[ends - 1], horizon)
        if self.known:
            ahead = self._future(panel, futr_df, times)
        constants = panel.known[ends - 1, None, len(self.known) :]
        ahead = np.concatenate([ahead, np.repeat(constants, horizon, axis=1)], axis=2)

        def joined(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            return np.insert(old, np.repeat(ends, horizon), new.reshape(count * horizon, *old.shape[1:]), axis=0)

        unknown = np.full((count * horizon, 1), np.nan)
        return replace(
            panel,
            offsets=panel.offsets + horizon * np.arange(count + 1),
            values=joined(panel.values, np.repeat(unknown, panel.channels, axis=1)),
            known=joined(panel.known, ahead),
            observed=joined(panel.observed, np.repeat(unknown, panel.observed.shape[1], axis=1)),
            times=joined(panel.times, times),
        )

    def names(self, panel: Panel, series: NDArray[np.int64]) -> Any:
        """The series' names of rows of an answer, of the type that the table had."""
        ids = np.asarray(panel.ids, dtype=object)[series]
        return ids.astype(np.int64) if self.integer_ids else ids

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "id_col": self.id_col,
            "time_col": self.time_col,
            "target_col": self.target_col,
            "freq": None if self.frequency is None else self.frequency.step,
            "known": self.known,
            "observed": self.observed,
            "gaps": self.gaps,
            "season": self.season,
            "statics": None if self.statics is None else self.statics.categories,
            "integer_ids": self.integer_ids,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            KANError, KeyError, TypeError: For other values.
        """
        options = dict(stored)
        statics, integer_ids = options.pop("statics"), bool(options.pop("integer_ids"))
        reader = cls(**options)
        reader.statics = None if statics is None else StaticColumns(statics)
        reader.integer_ids = integer_ids
        return reader

    @property
    def _frequency(self) -> Frequency:
        assert self.frequency is not None, "fit comes first"
        return self.frequency

    # Steps of reading -----------------------------------------------------------------------------------------------

    def _rows(self, frame: Any, what: str, columns: list[str]) -> _Rows:
        """The rows of a table, sorted by series and time, each stamp once, every covariate a finite number."""
        table = as_table(frame, what)
        check_columns(table, what, [self.id_col, self.time_col, *columns])
        if not len(table):
            raise KANError(f"{what} has no rows")
        names, codes, integer_ids = series_codes(table[self.id_col], what)
        times = stamps_of(table[self.time_col], names, codes)
        order = np.lexsort((times, codes))
        codes, times = codes[order], times[order]
        twice = np.flatnonzero((codes[1:] == codes[:-1]) & (times[1:] == times[:-1]))
        if len(twice):
            row = twice[0]
            raise KANError(f"{where(names, codes, times, row)}: {what} has more than one such row: keep one")
        numbers = {}
        for column in columns:
            values = numbers_of(table[column], what)[order]
            missing_allowed = column == self.target_col and self.gaps == "fill"
            bad = np.flatnonzero(np.isinf(values) if missing_allowed else ~np.isfinite(values))
            if len(bad):
                advice = ", or set gaps='fill'" if column == self.target_col and np.isnan(values[bad[0]]) else ""
                raise KANError(
                    f"{where(names, codes, times, bad[0])}: {column} of {what} is {values[bad[0]]}, one of {len(bad)} "
                    f"values that are no finite number: repair or remove them{advice}"
                )
            numbers[column] = values
        offsets = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(names)))]).astype(np.int64)
        return _Rows(names, codes, offsets, times, numbers, integer_ids)

    def _panel(self, rows: _Rows, static_df: Any) -> Panel:
        constants = self._constants(rows.names, static_df)
        position = self._positions(rows)
        source, beyond, offsets = self._filled(rows, position)
        values = np.where(beyond > 0, np.nan, rows.numbers[self.target_col][source])
        present = np.add.reduceat(np.isfinite(values), offsets[:-1])
        if (present == 0).any():
            raise KANError(f"series {rows.names[int(present.argmin())]!r}: every {self.target_col} is missing: drop it")

        def columns(names: list[str]) -> Floats:
            return np.stack([rows.numbers[name][source] for name in names], -1) if names else np.empty((len(source), 0))

        assert self.season is not None
        return Panel(
            ids=rows.names,
            offsets=offsets,
            values=values[:, None],
            known=np.concatenate([columns(self.known), constants[rows.codes[source]]], axis=1),
            observed=columns(self.observed),
            times=self._frequency.shift(rows.times[source], beyond) if beyond.any() else rows.times[source],
            channel_names=[self.target_col],
            known_names=[*self.known, *(self.statics.names if self.statics else [])],
            observed_names=list(self.observed),
            season=self.season,
        )

    def _positions(self, rows: _Rows) -> NDArray[np.int64]:
        """Steps since the start of each row's series.

        Raises:
            KANError: When a stamp is between two steps, or a series has steps of its own.
        """
        freq = self._frequency
        position, regular = freq.positions(rows.times, rows.times[rows.offsets[:-1]][rows.codes])
        if not regular.all():
            row = int(np.flatnonzero(~regular)[0])
            code = rows.codes[row]
            own = rows.times[rows.offsets[code] : rows.offsets[code + 1]]
            found = infer_frequency(own, np.array([0, len(own)]))
            if found is not None and found != freq:
                self._refuse_mixture(rows.names[code], str(found))
            raise KANError(
                f"{where(rows.names, rows.codes, rows.times, row)}: the stamp is not on a step of {freq}: "
                "resample the series to regular steps, or give another freq"
            )
        # a series whose steps are all twice as long has no gaps, but another frequency
        step = np.diff(position)
        within = rows.codes[1:] == rows.codes[:-1]
        for code in np.flatnonzero(rows.lengths >= 3):
            own_steps = step[rows.offsets[code] : rows.offsets[code + 1] - 1]
            if own_steps[0] > 1 and (own_steps == own_steps[0]).all():
                self._refuse_mixture(rows.names[code], f"{own_steps[0]} x {freq}")
        gaps = np.flatnonzero(within & (step > 1))
        if len(gaps) and self.gaps == "error":
            row = int(gaps[0])
            own = rows.codes[gaps] == rows.codes[row]
            missing = int((step[gaps][own] - 1).sum())
            first = freq.after(rows.times[row : row + 1], 1)[0, 0]
            raise KANError(
                f"series {rows.names[rows.codes[row]]!r}: {missing} steps of {freq} are missing, the first at "
                f"{stamp_text(first)}: insert them, or set gaps='fill'"
            )
        return position

    def _refuse_mixture(self, name: str, found: str) -> None:
        raise KANError(
            f"series {name!r} has steps of {found}, but the table's are {self._frequency}: frequencies are mixed; "
            "give each its own table, or resample"
        )

    def _filled(
        self, rows: _Rows, position: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """For every step: the last row at or before it, and how many steps that is ago; and the series' offsets."""
        last = rows.offsets[1:] - 1
        lasting = np.diff(position, append=0)  # steps until the next row of the series
        lasting[last] = 1
        total = int(lasting.sum())
        if total > _MOST_FILLED * (len(position) + 500):
            row = int(lasting.argmax())
            raise KANError(
                f"{where(rows.names, rows.codes, rows.times, row)}: {lasting[row] - 1} steps of {self._frequency} are "
                "missing after it, too many to fill: check the stamps and freq"
            )
        source = np.repeat(np.arange(len(position)), lasting)
        beyond = np.arange(total) - np.repeat(np.cumsum(lasting) - lasting, lasting)
        self.inserted = total - len(position)
        return source, beyond, np.concatenate([[0], np.cumsum(position[last] + 1)]).astype(np.int64)

    def _constants(self, names: list[str], static_df: Any) -> Floats:
        if (self.statics is None) != (static_df is None):
            raise KANError(
                "static_df is given, but the forecaster was fitted without"
                if self.statics is None
                else f"static_df is missing: it must give {', '.join(self.statics.categories)} of every series"
            )
        if self.statics is None:
            return np.empty((len(names), 0))
        return self.statics.transform(as_table(static_df, "static_df"), self.id_col, names)

    def _future(self, panel: Panel, futr_df: Any, times: Times) -> Floats:
        """``(series, horizon, known)`` in the order of the panel."""
        rows = self._rows(futr_df, "futr_df", self.known)
        horizon = times.shape[1]
        known = {name: s for s, name in enumerate(panel.ids)}
        strange = [name for name in rows.names if name not in known]
        if strange:
            raise KANError(f"futr_df: series {strange[0]!r} is not in df: remove its rows, or give its past")
        place = {name: s for s, name in enumerate(rows.names)}
        result = np.empty((len(panel.ids), horizon, len(self.known)))
        for s, name in enumerate(panel.ids):
            code = place.get(name)
            own = slice(0, 0) if code is None else slice(rows.offsets[code], rows.offsets[code + 1])
            stamps = rows.times[own]
            missing = np.setdiff1d(times[s], stamps)
            if len(missing):
                raise KANError(
                    f"series {name!r}: futr_df has {len(stamps)} rows, and none at {stamp_text(missing[0])}: give the "
                    f"{horizon} steps after the series' end"
                )
            if len(stamps) != horizon:
                surplus = np.setdiff1d(stamps, times[s])[0]
                raise KANError(
                    f"series {name!r}: futr_df has {len(stamps)} rows, but the horizon is {horizon}: remove "
                    f"{stamp_text(surplus)} and others outside it"
                )
            result[s] = np.stack([rows.numbers[column][own] for column in self.known], axis=-1)
        return result


class _Rows(NamedTuple):
    names: list[str]
    codes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    times: Times
    numbers: dict[str, Floats]
    integer_ids: bool

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)
