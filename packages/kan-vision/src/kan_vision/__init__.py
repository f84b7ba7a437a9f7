"""Kolmogorov-Arnold Networks for vision: importing this package registers its models with timm."""

from __future__ import annotations

from kan_vision import models

__version__ = "0.1.0"

__all__ = ["__version__", "models"]
