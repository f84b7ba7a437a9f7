"""Kolmogorov-Arnold Networks for time series: forecasting, human activity recognition, radar detection."""
