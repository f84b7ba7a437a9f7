"""Functional kernels behind the layers: one folder per op, with a readable definition and fast paths."""

from kan_core.ops._dispatch import BACKENDS, BackendChoice, explain, use_backend
from kan_core.ops.basis_linear import PlaneForm, basis_linear
from kan_core.ops.bspline_linear.op import bspline_linear
from kan_core.ops.daruan.op import daruan_linear
from kan_core.ops.group_rational.op import group_rational

__all__ = [
    "BACKENDS",
    "BackendChoice",
    "PlaneForm",
    "basis_linear",
    "bspline_linear",
    "daruan_linear",
    "explain",
    "group_rational",
    "use_backend",
]
