"""Bases other than uniform B-splines times coefficients: the planes a basis describes of itself, and their product."""

from kan_core.ops.basis_linear.form import PlaneForm
from kan_core.ops.basis_linear.op import basis_linear

__all__ = ["PlaneForm", "basis_linear"]
