"""Kolmogorov-Arnold Networks for PyTorch: univariate bases, layers, kernels, fair comparison and interpretation.

See :mod:`kan_core.bases` for what is learned on an edge, :mod:`kan_core.layers` for how edges are combined,
:mod:`kan_core.compare` for parameter- and FLOP-matched twins. :mod:`kan_core.training` needs the extra ``lightning``.
"""

from __future__ import annotations

from kan_core.bases import RSWAF, Basis, BSpline, Chebyshev, Fourier, GaussianRBF
from kan_core.errors import KANError
from kan_core.layers import KANConv1d, KANConv2d, KANConv3d, KANLayer, KANLinear
from kan_core.models import KAN

__version__ = "0.1.0"

__all__ = [
    "KAN",
    "RSWAF",
    "BSpline",
    "Basis",
    "Chebyshev",
    "Fourier",
    "GaussianRBF",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANError",
    "KANLayer",
    "KANLinear",
    "__version__",
]
