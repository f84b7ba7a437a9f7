"""The plain KAN forecaster: layers from the flattened window to the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

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
    output_part,
    rows_as_channels,
    scaled_sizes,
)

__all__ = ["SPLINE", "DenseForecaster"]

SPLINE = "bspline(grid_size=5, grid_range=(-3, 3))"


@FORECASTERS.register("kan")
class DenseForecaster(nn.Module):
    r"""A KAN from the L values of a window to H · Q forecasts, the same for every channel.

    Before every KAN layer values pass u/√(1 + (u/limit)²), so that they lie on its grid whatever the data: windows
    hold outliers also when normalised, and hidden values drift in training. With ``layer="linear"`` the same code is an
    MLP with an activation behind every hidden layer and no clip.

    Equation: ŷ = KAN_n(clip(… KAN_1(clip(x))))

    Reference: the KAN of neuralforecast (an efficient-KAN on the window, hidden 512).

    Avoids: that model's grid of [-1, 1] under series that are not scaled, where its splines are 0 and only the SiLU
    branch works; ``limit=None`` with another grid does the same here.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: Any layer of kan_core.
        layer_kwargs: More arguments for every layer, such as ``{"bias": False}``.
        width: Factor on the hidden sizes, for a twin of a given size.
        hidden: Hidden sizes.
        dropout: Of hidden values.
        activation: Behind hidden layers when `layer` is ``"linear"``: ``"silu"``, ``"relu"`` or ``"gelu"``.
        limit: Bound of what KAN layers see; it should be where their grid ends. None for no clip.
        channel_mixing: All channels in one row: L · C values to H · C · Q, instead of one row for each channel.

    Raises:
        KANError: For a size below 1, an argument that a layer refuses, or windows of another shape.

    Shape:
        - Input: ``(B, L, C)``
        - Output: ``(B, H, C, Q)``

    Parameters: of the layers alone; for the default, with G + k = 8 functions, 9 L h + h + 9 h H Q + H Q.
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        layer: LayerFactory | str = SPLINE,
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        hidden: Sequence[int] = (64,),
        dropout: float = 0.1,
        activation: str = "silu",
        limit: float | None = LIMIT,
        channel_mixing: bool = False,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        self.input_length, self.horizon = input_length, horizon
        self.channels, self.num_outputs = channels, num_outputs
        self.channel_mixing = channel_mixing
        rows = channels if channel_mixing else 1
        sizes = [rows * input_length, *scaled_sizes(hidden, width), rows * horizon * num_outputs]
        kwargs = layer_kwargs or {}
        clip = nn.Identity() if layer == "linear" or limit is None else SmoothClip(limit)
        parts: list[nn.Module] = []
        for index, (n_in, n_out) in enumerate(pairwise(sizes)):
            if index:
                parts += [activation_before(layer, activation), nn.Dropout(dropout)]
            parts += [clip, layers.get(layer)(n_in, n_out, **kwargs)]
        self.network = nn.Sequential(*parts)

    def forward(self, past: Tensor) -> Tensor:
        """Map ``(B, L, C)`` to ``(B, H, C, Q)``."""
        check_past(past, self.input_length, self.channels)
        rows = past.transpose(1, 2).flatten(1) if self.channel_mixing else channels_as_rows(past)
        return rows_as_channels(self.network(rows), self.channels, self.horizon, self.num_outputs)

    @property
    def head(self) -> nn.Module:
        """What to set to zero so that training starts at a forecast of zeros."""
        return output_part(self.network[-1])

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the MLP of the same code; `layer_kwargs` are those of another layer."""
        return {key: value for key, value in model_kwargs.items() if key != "layer_kwargs"} | {"layer": "linear"}
