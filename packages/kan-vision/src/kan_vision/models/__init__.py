"""Vision backbones, one file per family; importing registers them with timm."""

from __future__ import annotations

from kan_vision.models.kan_conv import KANConvNet
from kan_vision.models.kan_mlp import KANMLP

__all__ = ["KANMLP", "KANConvNet"]
