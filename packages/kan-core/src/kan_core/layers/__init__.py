"""HOW functions are combined: fully connected and convolutional KAN layers, and layer factories by name."""

from __future__ import annotations

from kan_core.layers._base import KANLayer, kan_layers
from kan_core.layers._registry import LayerFactory, activation_before, get, names
from kan_core.layers.conv import KANConv1d, KANConv2d, KANConv3d
from kan_core.layers.linear import KANLinear

__all__ = [
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANLayer",
    "KANLinear",
    "LayerFactory",
    "activation_before",
    "get",
    "kan_layers",
    "names",
]
