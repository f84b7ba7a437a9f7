"""Recurrent layers, and the scaling of windows."""

from __future__ import annotations

from kan_timeseries.layers.sub_layers import SplineSubLayer, SubLayer
from kan_timeseries.layers.tkan import TKAN, TKANCell, TKANState, tkan_stack

__all__ = ["TKAN", "SplineSubLayer", "SubLayer", "TKANCell", "TKANState", "tkan_stack"]
