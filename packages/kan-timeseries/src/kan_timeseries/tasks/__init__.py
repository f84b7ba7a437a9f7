"""Lightning modules that train the networks."""

from kan_timeseries.tasks.activity import ActivityTask
from kan_timeseries.tasks.forecast import ForecastTask

__all__ = ["ActivityTask", "ForecastTask"]
