"""Normalisation of what a layer's functions see."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kan_core.errors import KANError

Norm = Literal["layer", "batch"]


def make_norm(
    norm: str | None, features: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module | None:
    """The normalisation called `norm`, over the last dimension; one feature gets no layer norm.

    Raises:
        KANError: For another name.
    """
    if norm is None:
        return None
    if norm == "layer":
        # a LayerNorm over one feature is constant zero, so one feature stays as it is
        return nn.LayerNorm(features, device=device, dtype=dtype) if features > 1 else None
    if norm == "batch":
        return LastDimBatchNorm(features, device=device, dtype=dtype)
    raise KANError(f"norm must be None, 'layer' or 'batch', got {norm!r}")


class LastDimBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last dimension, whatever stands before it."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, self.num_features)).view(input.shape)
