"""The B-spline linear op: definition, CPU path, registration. See `docs` of the public function."""

from kan_core.ops.bspline_linear.op import bspline_linear

__all__ = ["bspline_linear"]
