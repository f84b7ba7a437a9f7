"""What every forecaster is put into: scaling of windows, a linear forecast in closed form, effects of covariates."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kan_core import layers
from kan_core.errors import KANError
from kan_timeseries.data.batches import ForecastBatch
from kan_timeseries.layers.ridge import RidgeForecast
from kan_timeseries.layers.scaling import Scaler, WindowScaler
from kan_timeseries.models._registry import FORECASTERS

Skip = Literal["none", "shared", "channel", "series"]


class ForecastNetwork(nn.Module):
    r"""A forecaster on scaled windows, added to a ridge line: what is learned by gradient is what the line leaves.

    Equation: ŷ = c + s (z W + f(z) + g(k_future) − ḡ), z = (x − c)/s − (g(k_past) − ḡ)

    c and s come from the `scaler`, W from `fit_line`, f is the backbone, and g adds up learned functions of the known
    covariates (the hour's curve is the daily profile); ḡ is g where c is x: at the last step, or the mean over the
    window. A backbone that takes covariates itself gets them, and g is 0.
    With a skip, the last layer of f starts at zero where it can: training begins at the line.

    Reference: NLinear (arXiv 2205.13504) for the line, RevIN for the scaling, CycleNet (arXiv 2409.18479) for taking a
    profile out and putting it back; the combination is our own.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        model: A registered forecaster, or ``"none"``: only the line and the covariates.
        model_kwargs: Its own arguments.
        num_outputs: Q values per step and channel.
        num_known: Covariates that are known ahead.
        num_observed: Covariates of the past; only backbones that take them can use them.
        scaler: See `WindowScaler`.
        season: Steps of a period, for the scaler ``"season"``.
        skip: ``"none"``, a line ``"shared"`` by all, or with a deviation for each ``"channel"`` or each ``"series"``.
        penalty: λ of the shared line.
        group_penalty: μ of the deviations.
        num_series: How many series there are, for ``skip="series"``.
        covariate_layer: What g is made of: a layer's name, ``"linear"`` for a small ordinary network.

    Raises:
        KANError: For an unknown model or an argument out of its range.

    Shape:
        - Input: past ``(B, L, C)``, known ``(B, L + H, K)``, observed ``(B, L, P)``, series ``(B,)``
        - Output: ``(B, H, C, Q)``
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        model: str = "kan",
        model_kwargs: dict[str, Any] | None = None,
        num_outputs: int = 1,
        num_known: int = 0,
        num_observed: int = 0,
        scaler: Scaler = "last",
        season: int = 1,
        skip: Skip = "channel",
        penalty: float = 1e3,
        group_penalty: float = 1e3,
        num_series: int = 1,
        covariate_layer: str = "bspline(grid_size=12)",
    ) -> None:
        super().__init__()
        if skip not in get_args(Skip):
            raise KANError(f"skip must be one of {', '.join(get_args(Skip))}, got {skip!r}")
        self.input_length, self.horizon, self.channels = input_length, horizon, channels
        self.num_known, self.skip = num_known, skip
        self.scaler = WindowScaler(scaler, season)
        groups = {"channel": channels, "series": num_series * channels}.get(skip, 0)
        self.line = None
        if skip != "none":
            self.line = RidgeForecast(input_length, horizon, groups, penalty, group_penalty)
        self.backbone: nn.Module | None = None
        self.takes_covariates = False
        if model != "none":
            sizes: dict[str, Any] = {"num_outputs": num_outputs}
            self.takes_covariates = takes_covariates(model)
            if self.takes_covariates:
                sizes |= {"num_known": num_known, "num_observed": num_observed}
            kwargs = {"input_length": input_length, "horizon": horizon, "channels": channels, **sizes}
            self.backbone = FORECASTERS.create(model, **kwargs, **(model_kwargs or {}))
        self.effect: nn.Module | None = None
        if num_known and not self.takes_covariates:
            self.effect = covariate_effect(num_known, channels, covariate_layer)
        self.level = nn.Parameter(torch.zeros(num_outputs)) if num_outputs > 1 else None

    def forward(
        self,
        past: Tensor,
        known: Tensor | None = None,
        observed: Tensor | None = None,
        series: Tensor | None = None,
    ) -> Tensor:
        """Forecast, see the class.

        Known covariates that are not given are taken as 0, the middle of their training range; windows whose series is
        not given, or -1, get the line that all share.
        """
        center, scale = self.scaler(past)
        z = (past - center) / scale
        y = torch.zeros_like(center[..., None]).expand(-1, self.horizon, -1, -1)
        if self.effect is not None:
            if known is None:
                known = past.new_zeros(past.shape[0], self.input_length + self.horizon, self.num_known)
            effect = self.effect(known)
            effect = effect - self.scaler(effect[:, : self.input_length])[0]
            z, y = z - effect[:, : self.input_length], effect[:, self.input_length :, :, None]
        if self.line is not None:
            y = y + self.line(z.transpose(1, 2), self._groups(past, series)).transpose(1, 2)[..., None]
        if self.backbone is not None:
            y = y + (self.backbone(z, known, observed) if self.takes_covariates else self.backbone(z))
        if self.level is not None:
            y = y + self.level
        forecast: Tensor = scale[..., None] * y + center[..., None]
        return forecast

    def _groups(self, past: Tensor, series: Tensor | None) -> Tensor | None:
        """``(B, C)``: which deviation from the shared line each channel of each window has."""
        channel = torch.arange(self.channels, device=past.device).expand(past.shape[0], -1)
        if self.skip == "channel":
            return channel
        if self.skip == "series" and series is not None:
            return torch.where(series[:, None] < 0, -1, series[:, None] * self.channels + channel)
        return None

    def fit_line(self, batches: Iterable[ForecastBatch]) -> None:
        """Fit the ridge line to training windows, in closed form; of no effect without one."""
        if self.line is None:
            return

        def rows() -> Iterable[tuple[Tensor, Tensor, Tensor]]:
            for batch in batches:
                center, _ = self.scaler(batch.past)
                group = self._groups(batch.past, batch.series)
                group = torch.zeros_like(batch.past[:, 0], dtype=torch.long) if group is None else group
                yield (batch.past - center).transpose(1, 2), (batch.target - center).transpose(1, 2), group

        self.line.fit(rows())
        start_at_zero(self.backbone)


def takes_covariates(model: str) -> bool:
    """Whether a registered forecaster has inputs for covariates."""
    if model not in FORECASTERS.names():
        return False  # making it will say what is wrong
    return "num_known" in inspect.signature(FORECASTERS.factory(model)).parameters


def covariate_effect(num_known: int, channels: int, layer: str) -> nn.Module:
    """g: ``(..., K) -> (..., C)``, zero at the start."""
    last: nn.Module
    effect: nn.Module
    if layer == "linear":
        last = nn.Linear(16, channels)
        effect = nn.Sequential(nn.Linear(num_known, 16), nn.SiLU(), last)
    else:
        last = effect = layers.get(layer)(num_known, channels)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()
    return effect


@torch.no_grad()
def start_at_zero(backbone: nn.Module | None) -> None:
    """Zero the weights of a backbone's last layer, where it says which that is by an attribute ``head``."""
    head = getattr(backbone, "head", None)
    if isinstance(head, nn.Module):
        for parameter in head.parameters():
            parameter.zero_()
