"""Linear forecasters learned by gradient: NLinear and DLinear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models._window import check_lengths, check_past

__all__ = ["DLinear", "NLinear"]


class _Linear(nn.Module):
    """Base of both: linear maps of L values to H · Q ones, shared by the channels or one for each.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        individual: One map for each channel instead of one for all.

    Raises:
        KANError: For a length or a count below 1, or windows of another shape.

    Shape:
        - Input: ``(B, L, C)``
        - Output: ``(B, H, C, Q)``
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        individual: bool = False,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        self.input_length, self.channels, self.num_outputs = input_length, channels, num_outputs
        self.size, self.individual = horizon * num_outputs, individual

    def make_map(self) -> nn.Module:
        """A map ``(B, C, L) -> (B, C, H · Q)``."""
        if self.individual:
            return _MapPerChannel(self.channels, self.input_length, self.size)
        return nn.Linear(self.input_length, self.size)

    def make_forecast(self, y: Tensor) -> Tensor:
        """``(B, C, H · Q)`` to ``(B, H, C, Q)``."""
        return y.reshape(*y.shape[:2], -1, self.num_outputs).transpose(1, 2)

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """There is none.

        Raises:
            KANError: Always.
        """
        raise KANError("a linear forecaster has ordinary layers already and so no twin; use --twin none")


class _MapPerChannel(nn.Module):
    """``(B, C, L) -> (B, C, out)``, a weight and a bias for each channel, drawn as ``nn.Linear`` draws them."""

    def __init__(self, channels: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(channels, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bcl,chl->bch", x, self.weight) + self.bias


@FORECASTERS.register("nlinear")
class NLinear(_Linear):
    r"""The last value is subtracted, one linear map makes the forecast, the last value is added again.

    Equation: ŷ = W (x − x_L) + b + x_L

    Reference: "Are Transformers Effective for Time Series Forecasting?" (arXiv 2205.13504).

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        individual: One map for each channel instead of one for all.

    Raises:
        KANError: For a length or a count below 1, or windows of another shape.

    Shape:
        - Input: ``(B, L, C)``
        - Output: ``(B, H, C, Q)``

    Parameters: H Q (L + 1), times C when individual.
    """

    def __init__(self, input_length: int, horizon: int, channels: int = 1, **options: Any) -> None:
        super().__init__(input_length, horizon, channels, **options)
        self.head = self.make_map()

    def forward(self, past: Tensor) -> Tensor:
        """Map ``(B, L, C)`` to ``(B, H, C, Q)``."""
        check_past(past, self.input_length, self.channels)
        x = past.transpose(1, 2)
        last = x[..., -1:]
        return self.make_forecast(self.head(x - last) + last)


@FORECASTERS.register("dlinear")
class DLinear(_Linear):
    r"""A moving average splits the window into trend and rest, and each has a linear map.

    Equation: ŷ = W_t m + b_t + W_s (x − m) + b_s, m the mean of `kernel_size` values around each, ends repeated

    Reference: "Are Transformers Effective for Time Series Forecasting?" (arXiv 2205.13504).

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        individual: Two maps for each channel instead of two for all.
        kernel_size: Values of the moving average, odd.

    Raises:
        KANError: For a length or a count below 1, an even `kernel_size`, or windows of another shape.

    Shape:
        - Input: ``(B, L, C)``
        - Output: ``(B, H, C, Q)``

    Parameters: 2 H Q (L + 1), times C when individual.
    """

    def __init__(
        self, input_length: int, horizon: int, channels: int = 1, *, kernel_size: int = 25, **options: Any
    ) -> None:
        super().__init__(input_length, horizon, channels, **options)
        if check_at_least("kernel_size", kernel_size, 1) % 2 == 0:
            raise KANError(f"kernel_size must be odd, so that the mean is centred, got {kernel_size}")
        self.kernel_size = kernel_size
        self.head = nn.ModuleDict({"trend": self.make_map(), "rest": self.make_map()})

    def forward(self, past: Tensor) -> Tensor:
        """Map ``(B, L, C)`` to ``(B, H, C, Q)``."""
        check_past(past, self.input_length, self.channels)
        x = past.transpose(1, 2)
        trend = moving_average(x, self.kernel_size)
        return self.make_forecast(self.head["trend"](trend) + self.head["rest"](x - trend))


def moving_average(x: Tensor, kernel_size: int) -> Tensor:
    """Centred mean of `kernel_size` (odd) values along the last dimension of ``(B, C, L)``; the ends are repeated."""
    side = kernel_size // 2
    return F.avg_pool1d(F.pad(x, (side, side), mode="replicate"), kernel_size, stride=1)
