"""Families of univariate functions: WHAT is learned on an edge of a KAN.

``names()`` lists the families, ``get(spec)`` makes one: ``get("bspline(grid_size=8)")``. Another package adds a
family with ``@register("name")``, or without being imported first through the entry-point group ``kan_core.bases``::

    [project.entry-points."kan_core.bases"]
    mexican-hat = "my_package:MexicanHat"
"""

from __future__ import annotations

from kan_core.bases._base import REGISTRY, Basis
from kan_core.bases.af import AF
from kan_core.bases.bernstein import Bernstein
from kan_core.bases.bspline import BSpline
from kan_core.bases.bsrbf import BSRBF
from kan_core.bases.chebyshev import Chebyshev
from kan_core.bases.fourier import Fourier
from kan_core.bases.gegenbauer import Gegenbauer
from kan_core.bases.gram import Gram
from kan_core.bases.hermite import Hermite
from kan_core.bases.jacobi import Jacobi
from kan_core.bases.laguerre import Laguerre
from kan_core.bases.legendre import Legendre
from kan_core.bases.rbf import RSWAF, GaussianRBF
from kan_core.bases.relu_kan import ReLUKAN
from kan_core.bases.sech import Sech
from kan_core.bases.sine import Sine
from kan_core.bases.wavelet import Wavelet
from kan_core.errors import KANError

__all__ = [
    "AF",
    "BSRBF",
    "RSWAF",
    "BSpline",
    "Basis",
    "Bernstein",
    "Chebyshev",
    "Fourier",
    "GaussianRBF",
    "Gegenbauer",
    "Gram",
    "Hermite",
    "Jacobi",
    "Laguerre",
    "Legendre",
    "ReLUKAN",
    "Sech",
    "Sine",
    "Wavelet",
    "get",
    "names",
    "register",
]

register = REGISTRY.register
names = REGISTRY.names


def get(spec: Basis | str) -> Basis:
    """A basis from a spec such as ``"bspline"`` or ``"rbf(num_centers=5)"``; a :class:`Basis` passes through.

    Raises:
        KANError: When the name is unknown (the message lists the known ones) or an argument is refused.
    """
    if isinstance(spec, str):
        return REGISTRY.build(spec)
    if not isinstance(spec, Basis):
        raise KANError(f"a basis is a name or a Basis object, got {spec!r}")
    return spec
