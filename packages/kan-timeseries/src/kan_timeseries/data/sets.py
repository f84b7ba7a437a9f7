"""Public forecasting sets by name, each with the split that its results are published on."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_timeseries.data.panel import Panel

EXCHANGE = ["Australia", "Britain", "Canada", "Switzerland", "China", "Japan", "New Zealand", "Singapore"]


@dataclass(frozen=True, eq=False)
class SeriesSet:
    """Series and their split in time: rows up to `train_end` train, from there to `val_end` validate, then test.

    Attributes:
        name: Of the set.
        panel: The series.
        train_end: ``(S,)`` row after the last training row of each series.
        val_end: ``(S,)`` row after the last validation row.
        test_end: ``(S,)`` row after the last test row.
    """

    name: str
    panel: Panel
    train_end: NDArray[np.int64]
    val_end: NDArray[np.int64]
    test_end: NDArray[np.int64]


def load_set(name: str, root: str | None = None) -> SeriesSet:
    """A public set.

    Args:
        name: One of `SETS`.
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``. ``co2`` comes with statsmodels and needs
            none.

    Raises:
        KANError: For another name, and when a file is missing or cannot be used; it names the project page.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise KANError(f"unknown data set {name!r}: {hint}choose one of {', '.join(SETS)}, or give --data.file")
    return SETS[name](root)


def split_at(name: str, panel: Panel, train: float = 0.7, test: float = 0.2) -> SeriesSet:
    """Each series cut at the same shares of its own length: the first rows train, the last ones test."""
    first = (panel.lengths * train).astype(np.int64)
    last = panel.lengths - (panel.lengths * test).astype(np.int64)
    return SeriesSet(name, panel, first, last, panel.lengths)


def co2(root: str | None = None) -> SeriesSet:
    """CO2 above Mauna Loa in ppm, 2,284 weeks of 1958 to 2001, 59 of them missing; 70 / 10 / 20 % in time order."""
    from statsmodels.datasets import co2 as source

    frame = source.load_pandas().data
    weekly = frame["co2"].asfreq("W-SAT")
    panel = Panel.of([weekly.to_numpy()], ["co2"], weekly.index.to_numpy(), ["co2"], season=52)
    return split_at("co2", panel)


def ett(which: str, root: str | None = None) -> SeriesSet:
    """Electricity transformers: seven channels, hourly (h1, h2) or every 15 minutes (m1, m2).

    The first 20 months of 30 days are used, 12 to train, 4 to validate, 4 to test; the rest of the file is not.
    """
    path = find(root, "https://github.com/zhouhaoyi/ETDataset", f"ett/{which}.csv")
    frame = read_csv(path)
    if frame.shape[1] != 8 or frame.columns[0] != "date":
        raise KANError(f"{path}: expected the columns date, HUFL, ..., OT, found {', '.join(map(str, frame.columns))}")
    month = 30 * 24 * (4 if "m" in which.removeprefix("ETT") else 1)
    if len(frame) < 20 * month:
        raise KANError(f"{path}: has {len(frame)} rows, the protocol uses the first {20 * month}; is the file whole?")
    frame = frame.iloc[: 20 * month]
    times = pd.to_datetime(frame["date"]).to_numpy()
    names = [str(name) for name in frame.columns[1:]]
    season = 24 if month == 720 else 96
    panel = Panel.of([frame[names].to_numpy(dtype=np.float64)], [which], times, names, season)
    ends = [np.array([months * month]) for months in (12, 16, 20)]
    return SeriesSet(which.lower(), panel, *ends)


def exchange(root: str | None = None) -> SeriesSet:
    """Daily exchange rates of eight currencies to the dollar, 7,588 days; 70 / 10 / 20 % in time order, no dates."""
    page = "https://github.com/laiguokun/multivariate-time-series-data"
    path = find(root, page, "exchange-rate/exchange_rate.txt", "exchange-rate/exchange_rate.txt.gz")
    frame = read_csv(path, header=None)
    if frame.shape[1] != len(EXCHANGE):
        raise KANError(f"{path}: expected {len(EXCHANGE)} columns, found {frame.shape[1]}")
    panel = Panel.of([frame.to_numpy(dtype=np.float64)], ["exchange"], channel_names=EXCHANGE)
    return split_at("exchange", panel)


def airline(root: str | None = None) -> SeriesSet:
    """Airline passengers, 144 months in thousands: 96 to train, 24 to validate, 24 to test."""
    page = "https://github.com/jbrownlee/Datasets"
    frame = read_csv(find(root, page, "airline-passengers/airline-passengers.csv"))
    times = pd.to_datetime(frame.iloc[:, 0]).to_numpy()
    panel = Panel.of([frame.iloc[:, 1].to_numpy(dtype=np.float64)], ["passengers"], times, ["passengers"], season=12)
    ends = [panel.lengths - months for months in (48, 24, 0)]
    return SeriesSet("airline", panel, *ends)


def m4(group: str, season: int, horizon: int, root: str | None = None) -> SeriesSet:
    """M4: many series of one frequency; the test is the H values after the end of each training series.

    The last H training values validate; what is reported on the test is fitted on the rows before them.
    """
    page = "https://github.com/Mcompetitions/M4-methods"
    parts = []
    for part in ("train", "test"):
        name = f"{group}-{part}.csv"
        path = find(root, page, f"m4-{group.lower()}/{name}")
        frame = read_csv(path, index_col=0)
        parts.append(
            {str(key): row[np.isfinite(row)] for key, row in zip(frame.index, frame.to_numpy(float), strict=True)}
        )
    train, test = parts
    wrong = [key for key in train if len(test.get(key, ())) != horizon]
    if wrong or len(train) != len(test):
        raise KANError(
            f"M4 {group}: series {(wrong or list(test))[0]!r} has no test of {horizon} values; are both files whole?"
        )
    panel = Panel.of([np.concatenate([train[key], test[key]]) for key in train], list(train), season=season)
    known = panel.lengths - horizon
    return SeriesSet(f"m4-{group.lower()}", panel, known - horizon, known, panel.lengths)


SETS: dict[str, Callable[[str | None], SeriesSet]] = {
    "co2": co2,
    "etth1": partial(ett, "ETTh1"),
    "etth2": partial(ett, "ETTh2"),
    "ettm1": partial(ett, "ETTm1"),
    "ettm2": partial(ett, "ETTm2"),
    "exchange": exchange,
    "airline": airline,
    "m4-hourly": partial(m4, "Hourly", 24, 48),
    "m4-daily": partial(m4, "Daily", 1, 14),
    "m4-weekly": partial(m4, "Weekly", 1, 13),
    "m4-monthly": partial(m4, "Monthly", 12, 18),
    "m4-quarterly": partial(m4, "Quarterly", 4, 8),
    "m4-yearly": partial(m4, "Yearly", 1, 6),
}


def find(root: str | None, page: str, *names: str) -> Path:
    """The first of these files under the data root.

    Raises:
        KANError: When there is none; it names where the file was looked for and the project page.
    """
    paths = [data_root(root) / name for name in names]
    for path in paths:
        if path.is_file():
            return path
    raise KANError(f"no file {paths[0]}: get it from {page} and put it there, or say where it is with --data.root")


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """A file of numbers.

    Raises:
        KANError: When it cannot be read.
    """
    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError, EOFError) as error:  # pandas' ParserError is a ValueError
        raise KANError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from None
