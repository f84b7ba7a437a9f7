"""Series and sensor recordings from files and public sets."""

from kan_timeseries.data.batches import ForecastBatch
from kan_timeseries.data.forecast import ForecastData
from kan_timeseries.data.frames import panel_from_frame
from kan_timeseries.data.panel import Panel
from kan_timeseries.data.sets import SETS, SeriesSet, load_set
from kan_timeseries.data.windows import Windows, every_window

__all__ = [
    "SETS",
    "ForecastBatch",
    "ForecastData",
    "Panel",
    "SeriesSet",
    "Windows",
    "every_window",
    "load_set",
    "panel_from_frame",
]
