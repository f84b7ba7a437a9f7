"""Functional kernels behind the layers: one folder per op, with a readable definition and fast paths."""

from kan_core.ops._dispatch import BACKENDS, BackendChoice, explain, use_backend
from kan_core.ops.bspline_linear.op import bspline_linear
from kan_core.ops.group_rational.op import group_rational

__all__ = ["BACKENDS", "BackendChoice", "bspline_linear", "explain", "group_rational", "use_backend"]
