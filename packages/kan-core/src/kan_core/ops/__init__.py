"""Functional kernels behind the layers: one folder per op, with a readable definition and fast paths."""

from kan_core.ops._dispatch import BackendChoice, explain_backend, use_backend
from kan_core.ops.bspline_linear.op import bspline_linear
from kan_core.ops.group_rational.op import group_rational

__all__ = ["BackendChoice", "bspline_linear", "explain_backend", "group_rational", "use_backend"]
