"""A linear map of the window and a small KAN beside it: what the line cannot say is left to the curves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kan_core import layers
from kan_core.layers import LayerFactory, activation_before
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models._window import (
    LIMIT,
    SmoothClip,
    channels_as_rows,
    check_lengths,
    check_past,
    rows_as_channels,
    scaled_size,
)


@FORECASTERS.register("linear_kan")
class LinearKAN(nn.Module):
    r"""ŷ = A x + a + B dropout(KAN(clip(x))) + b, the same for every channel, all of it learned by gradient.

    B starts at zero: training begins with the linear map. A few hidden units and a high dropout keep the KAN small,
    for windows of one series overlap and there are fewer independent ones than rows. ``layer="linear"`` makes the KAN
    an ordinary hidden layer with its activation.

    Reference: the linear map of LTSF-Linear (arXiv 2205.13504) on windows normalised as in RLinear (arXiv 2305.10721);
    the KAN beside it is our own.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: The KAN's only layer.
        width: Factor on `hidden`, for a twin of a given size.
        hidden: Hidden units.
        dropout: Of hidden units.
        limit: Bound of what the KAN sees, where its grid ends; an ordinary layer sees windows as they are.

    Raises:
        KANError: For a size below 1, an argument that a layer refuses, or windows of another shape.

    Shape:
        - Input: ``(B, L, C)``
        - Output: ``(B, H, C, Q)``

    Parameters: (L + 1 + hidden + 1) H Q, and those of `layer`.
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        layer: LayerFactory | str = "rbf(num_centers=6, grid_range=(-3, 3))",
        width: float = 1.0,
        hidden: int = 16,
        dropout: float = 0.5,
        limit: float = LIMIT,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        self.input_length, self.horizon = input_length, horizon
        self.channels, self.num_outputs = channels, num_outputs
        size = scaled_size(hidden, width)
        self.linear = nn.Linear(input_length, horizon * num_outputs)
        clip = nn.Identity() if layer == "linear" else SmoothClip(limit)
        self.kan = nn.Sequential(clip, layers.get(layer)(input_length, size), activation_before(layer))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(size, horizon * num_outputs)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.zero_()

    def forward(self, past: Tensor) -> Tensor:
        """Map ``(B, L, C)`` to ``(B, H, C, Q)``."""
        check_past(past, self.input_length, self.channels)
        rows = channels_as_rows(past)
        y: Tensor = self.linear(rows) + self.head(self.dropout(self.kan(rows)))
        return rows_as_channels(y, self.channels, self.horizon, self.num_outputs)

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the same with an ordinary hidden layer."""
        return {**model_kwargs, "layer": "linear"}
