"""Recurrent layers, experts, the closed-form line, and the scaling of windows."""

from __future__ import annotations

from kan_timeseries.layers.experts import KAMoE
from kan_timeseries.layers.gates import JHCG, KANGRU, KANLSTM, GatedRecurrent, qkan_lstm
from kan_timeseries.layers.ridge import RidgeForecast
from kan_timeseries.layers.scaling import WindowScaler
from kan_timeseries.layers.sub_layers import SplineSubLayer, SubLayer
from kan_timeseries.layers.tkan import TKAN, TKANCell, TKANState, tkan_stack

__all__ = [
    "JHCG",
    "KANGRU",
    "KANLSTM",
    "TKAN",
    "GatedRecurrent",
    "KAMoE",
    "RidgeForecast",
    "SplineSubLayer",
    "SubLayer",
    "TKANCell",
    "TKANState",
    "WindowScaler",
    "qkan_lstm",
    "tkan_stack",
]
