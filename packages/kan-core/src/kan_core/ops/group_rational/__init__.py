"""The group-rational activation F = P/Q, one set of coefficients per group of features."""

from kan_core.ops.group_rational.op import group_rational
from kan_core.ops.group_rational.reference import DENOMINATORS, group_rational_reference, magnitude

__all__ = ["DENOMINATORS", "group_rational", "group_rational_reference", "magnitude"]
