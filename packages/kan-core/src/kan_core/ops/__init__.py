"""Functional kernels behind the layers: one folder per op, each with a readable definition and the fast paths that earn their place."""

from kan_core.ops._dispatch import BackendChoice, explain_backend, use_backend
from kan_core.ops.bspline_linear.op import bspline_linear

__all__ = ["BackendChoice", "bspline_linear", "explain_backend", "use_backend"]
