"""Kolmogorov-Arnold Networks for time series: forecasting, human activity recognition, radar detection."""

from kan_timeseries.forecaster import KANForecaster
from kan_timeseries.streaming import ActivityStream

__all__ = ["ActivityStream", "KANForecaster"]
