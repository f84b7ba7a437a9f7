"""The transformer's feed-forward block from any two layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kan_core.layers._registry import LayerFactory, activation_before, get


class FeedForward(nn.Module):
    r"""y = Drop(L₂(Drop(a(L₁(x))))): the block that follows attention, with any layer factory in place of L₁ and L₂.

    a is `activation` when L₂ is ``"linear"`` and nothing otherwise: a KAN layer brings its nonlinearity. So
    ``layer="linear"`` is the MLP of a ViT, and KAT's block (arXiv 2409.10594, section 4.4) is
    ``layer=("gr-kan(init='identity')", "gr-kan(init='swish')")``.

    Args:
        features: Width of the input and of the output.
        hidden_features: Width between the layers; None for 4 · features.
        layer: A layer factory or its name for both layers, or one of each.
        activation: ``"silu"``, ``"relu"`` or ``"gelu"``, for ``"linear"``.
        dropout: Probability of a zero after the activation and after L₂.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an unknown layer or activation.

    Shape:
        - Input: ``(..., features)``
        - Output: ``(..., features)``
    """

    def __init__(
        self,
        features: int,
        hidden_features: int | None = None,
        *,
        layer: LayerFactory | str | tuple[LayerFactory | str, LayerFactory | str] = "gr-kan",
        activation: str = "gelu",
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        first, second = layer if isinstance(layer, tuple) else (layer, layer)
        hidden = 4 * features if hidden_features is None else hidden_features
        self.first = get(first)(features, hidden, device=device, dtype=dtype)
        self.activation = activation_before(second, activation)
        self.second = get(second)(hidden, features, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., features)`` to ``(..., features)``."""
        hidden: Tensor = self.dropout(self.activation(self.first(x)))
        out: Tensor = self.dropout(self.second(hidden))
        return out
