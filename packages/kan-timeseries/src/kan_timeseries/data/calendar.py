"""What a time stamp says: hour, weekday and so on, as covariates that are known ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.panel import Panel

FIELDS: dict[str, Callable[[pd.DatetimeIndex], NDArray[np.float64]]] = {
    "minute": lambda t: np.asarray(t.minute) / 60,
    "hour": lambda t: (np.asarray(t.hour) + np.asarray(t.minute) / 60) / 24,
    "weekday": lambda t: np.asarray(t.day_of_week) / 7,
    "day": lambda t: (np.asarray(t.day) - 1) / 31,
    "month": lambda t: (np.asarray(t.month) - 1) / 12,
    "year_day": lambda t: (np.asarray(t.day_of_year) - 1) / 366,
}
"""Where in its cycle each time stamp is, from 0 up to but not including 1."""


def with_calendar(panel: Panel, fields: Sequence[str]) -> Panel:
    """The panel with one more known covariate for each field, scaled to [-1, 1).

    Args:
        panel: Whose times are dates.
        fields: Of `FIELDS`.

    Raises:
        KANError: For another field, or when times are whole numbers.
    """
    if not fields:
        return panel
    unknown = [field for field in fields if field not in FIELDS]
    if unknown:
        raise KANError(f"calendar: unknown field {unknown[0]!r}; choose from {', '.join(FIELDS)}")
    if not np.issubdtype(panel.times.dtype, np.datetime64):
        raise KANError(f"calendar {', '.join(fields)}: these series have no dates; leave --data.calendar empty")
    times = pd.DatetimeIndex(panel.times)
    columns = [2 * FIELDS[field](times) - 1 for field in fields]
    return replace(panel, known=np.column_stack([panel.known, *columns]), known_names=[*panel.known_names, *fields])
