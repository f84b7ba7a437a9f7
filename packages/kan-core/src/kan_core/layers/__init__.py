"""HOW functions are combined: KAN layers, layers of other forms, and layer factories by name.

``names()`` lists what ``get(spec)`` makes: ``"linear"``, a :class:`KANLinear` for every basis, and the layers that are
not one basis times coefficients. Another package adds one with ``@register("name")`` or through the entry-point group
``kan_core.layers``; it is called as ``factory(in_features, out_features, **kwargs)``.
"""

from __future__ import annotations

from kan_core.layers._base import KANLayer, kan_layers
from kan_core.layers._registry import LayerFactory, activation_before, get, names, register
from kan_core.layers.cauchy import Cauchy, CauchyLinear
from kan_core.layers.conv import KANConv1d, KANConv2d, KANConv3d
from kan_core.layers.feed_forward import FeedForward
from kan_core.layers.gated_residual import GatedResidualKAN
from kan_core.layers.hqkan import HQKANLinear
from kan_core.layers.kaf import KAFLinear
from kan_core.layers.linear import KANLinear
from kan_core.layers.mixture import MixtureOfExperts, Routing
from kan_core.layers.product import MultKANLinear
from kan_core.layers.qkan import QKANLinear
from kan_core.layers.rational import GroupRationalLinear, PadeLinear, Rational
from kan_core.layers.reduced import ReducedKANLinear
from kan_core.layers.rkan import JacobiRKAN, RKANLinear
from kan_core.layers.select import Selection, SelectKANLinear, select_all
from kan_core.layers.skan import SKANLinear
from kan_core.layers.wav_kan import WavKANLinear

__all__ = [
    "Cauchy",
    "CauchyLinear",
    "FeedForward",
    "GatedResidualKAN",
    "GroupRationalLinear",
    "HQKANLinear",
    "JacobiRKAN",
    "KAFLinear",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANLayer",
    "KANLinear",
    "LayerFactory",
    "MixtureOfExperts",
    "MultKANLinear",
    "PadeLinear",
    "QKANLinear",
    "RKANLinear",
    "Rational",
    "ReducedKANLinear",
    "Routing",
    "SKANLinear",
    "SelectKANLinear",
    "Selection",
    "WavKANLinear",
    "activation_before",
    "get",
    "kan_layers",
    "names",
    "register",
    "select_all",
]
