"""The models of this package by name; another package may add its own through the entry-point groups."""

from __future__ import annotations

from torch import nn

from kan_core.registry import Registry

FORECASTERS: Registry[nn.Module] = Registry("forecaster", "kan_timeseries.forecasters")
"""Networks from a window of the past to the horizon."""

CLASSIFIERS: Registry[nn.Module] = Registry("classifier", "kan_timeseries.classifiers")
"""Networks from a window of sensor channels to the logits of classes."""
