"""Errors of forecasts over all windows, by series, step and channel, independent of how they came in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric


class ForecastErrors(Metric):
    r"""Sums of errors of every window; unknown targets have no part in them.

    Errors are of the scaled values, as the field reports them for wide sets; sMAPE and the errors in original units
    undo the scale, and MASE divides by the seasonal naive error of each series' training rows.

    Args:
        center: ``(S, C)`` of the scale.
        scale: ``(S, C)`` of the scale.
        seasonal_error: ``(S, C)`` training error of the seasonal naive forecast in original units, NaN where unknown.
        horizon: H.
        quantiles: The levels that the last axis of a forecast holds; empty for a point forecast.
    """

    full_state_update = False
    absolute: Tensor
    squared: Tensor
    relative: Tensor
    count: Tensor
    pinball: Tensor
    below: Tensor

    def __init__(
        self,
        center: NDArray[np.float64],
        scale: NDArray[np.float64],
        seasonal_error: NDArray[np.float64],
        horizon: int,
        quantiles: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.quantiles = list(quantiles)
        for name, array in (("center", center), ("scale", scale), ("seasonal_error", seasonal_error)):
            self.register_buffer(name, torch.as_tensor(array, dtype=torch.float64), persistent=False)
        series, channels = center.shape
        for name in ("absolute", "squared", "relative", "count"):
            zeros = torch.zeros(series, horizon, channels, dtype=torch.float64)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")
        for name in ("pinball", "below"):
            self.add_state(name, default=torch.zeros(len(self.quantiles), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor, series: Tensor) -> None:
        """Add windows.

        Args:
            output: ``(B, H, C, Q)`` forecasts; the middle one of sorted quantiles is the point forecast.
            target: ``(B, H, C)``, NaN where unknown.
            series: ``(B,)``.
        """
        output, target = output.detach().double(), target.double()
        known = target.isfinite()
        point = output[..., output.shape[-1] // 2]
        error = torch.where(known, point - target, 0.0)
        if len(self.count) > 1:
            self._add_relative(point, target, series)
        for state, value in ((self.absolute, error.abs()), (self.squared, error.square()), (self.count, known)):
            state.index_add_(0, series, value.double())
        for i, level in enumerate(self.quantiles):
            gap = torch.where(known, target - output[..., i], 0.0)
            self.pinball[i] += torch.maximum(level * gap, (level - 1) * gap).sum()
            self.below[i] += (known & (target <= output[..., i])).sum()

    def _add_relative(self, point: Tensor, target: Tensor, series: Tensor) -> None:
        """200 |ŷ − y|/(|ŷ| + |y|) in original units, 0 where both are 0."""
        center, scale = (cast(Tensor, getattr(self, name))[series][:, None] for name in ("center", "scale"))
        size = (point * scale + center).abs() + (target * scale + center).abs()
        relative = 200 * ((point - target) * scale).abs() / size
        self.relative.index_add_(0, series, torch.where(size > 0, relative, 0.0))

    def compute(self) -> dict[str, Tensor]:
        """The mse, mae of scaled values; means over series of mase, smape, mae_units; pinball loss and coverage."""
        count = self.count.sum()
        values = {"mse": self.squared.sum() / count, "mae": self.absolute.sum() / count}
        if len(self.count) > 1:
            units = self.mean_by_series(self.absolute) * cast(Tensor, self.scale)
            values["mae_units"] = units.nanmean()
            values["smape"] = self.mean_by_series(self.relative).nanmean()
            values["mase"] = (units / cast(Tensor, self.seasonal_error)).nanmean()
        if self.quantiles:
            values["pinball"] = self.pinball.sum() / count / len(self.quantiles)
            share = self.below / count
            values["coverage"] = share[-1] - share[0]
        return values

    def mean_by_series(self, state: Tensor) -> Tensor:
        """``(S, C)`` mean over windows and steps, NaN for a series without windows."""
        return state.sum(dim=1) / self.count.sum(dim=1)

    def by_step(self) -> dict[str, Tensor]:
        """``(H,)`` mse and mae of each step ahead."""
        count = self.count.sum(dim=(0, 2))
        return {"mse": self.squared.sum(dim=(0, 2)) / count, "mae": self.absolute.sum(dim=(0, 2)) / count}
