"""Networks on windows of series: plain modules, by name."""

from kan_timeseries.models import (  # noqa: F401  (they register themselves)
    dense,
    imu,
    kamoe,
    kan_har,
    linear,
    linear_kan,
    recurrent,
    recurrent_classifier,
    rmok,
    sensor_cnn,
    timekan,
    tkan,
    tkat,
)
from kan_timeseries.models._registry import CLASSIFIERS, FORECASTERS
from kan_timeseries.models.network import ForecastNetwork

__all__ = ["CLASSIFIERS", "FORECASTERS", "ForecastNetwork"]
