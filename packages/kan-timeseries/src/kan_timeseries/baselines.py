"""Forecasts that need no training, or a closed form: what every result stands beside."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kan_timeseries.data.batches import ForecastBatch
from kan_timeseries.metrics import ForecastErrors
from kan_timeseries.models.network import ForecastNetwork


class SeasonalNaive(nn.Module):
    """The last period once more, and again; with a period of 1 the last value.

    Args:
        horizon: H.
        season: Steps in a period, at most the length of the past.
    """

    def __init__(self, horizon: int, season: int = 1) -> None:
        super().__init__()
        self.horizon, self.season = horizon, season

    def forward(self, past: Tensor) -> Tensor:
        """``(B, L, C) -> (B, H, C, 1)``."""
        season = min(self.season, past.shape[1])
        steps = torch.arange(self.horizon, device=past.device) % season
        return past[:, past.shape[1] - season :][:, steps][..., None]


class WindowMean(nn.Module):
    """The mean of the past, at every step.

    Args:
        horizon: H.
    """

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon

    def forward(self, past: Tensor) -> Tensor:
        """``(B, L, C) -> (B, H, C, 1)``."""
        return past.mean(dim=1, keepdim=True)[..., None].expand(-1, self.horizon, -1, -1)


def ridge_nlinear(
    batches: Iterable[ForecastBatch], input_length: int, horizon: int, channels: int = 1, penalty: float = 1e3
) -> ForecastNetwork:
    """NLinear in closed form: one line for all series and channels, relative to the last value.

    Args:
        batches: Training windows, gone through once.
        input_length: L.
        horizon: H.
        channels: C.
        penalty: λ on the sum of squares, not tuned.
    """
    net = ForecastNetwork(input_length, horizon, channels, model="none", scaler="last", skip="shared", penalty=penalty)
    net.fit_line(batches)
    return net


@torch.no_grad()
def score(net: nn.Module, batches: Iterable[ForecastBatch], errors: ForecastErrors) -> ForecastErrors:
    """Add a forecaster's errors on batches to `errors`; it sees nothing but the past."""
    for batch in batches:
        errors.update(net(batch.past), batch.target, batch.series)
    return errors
