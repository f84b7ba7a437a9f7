"""Networks on windows of series: plain modules, by name."""

from kan_timeseries.models import dense, linear, rmok, timekan  # noqa: F401  (they register themselves)
from kan_timeseries.models._registry import CLASSIFIERS, FORECASTERS
from kan_timeseries.models.network import ForecastNetwork

__all__ = ["CLASSIFIERS", "FORECASTERS", "ForecastNetwork"]
