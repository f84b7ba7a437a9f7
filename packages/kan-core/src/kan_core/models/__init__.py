"""Models that belong to no one domain."""

from __future__ import annotations

from kan_core.models.kan import KAN

__all__ = ["KAN"]
