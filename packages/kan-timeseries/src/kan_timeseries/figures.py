"""What forecasts look like, as figures of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan_timeseries.conformal import ConformalIntervals, windows_needed
from kan_timeseries.metrics import ForecastErrors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kan_timeseries.data.forecast import ForecastData

LEVELS = (95, 80)
"""Intervals that are drawn, in percent, the wide one first."""
_WINDOWS = 2000
_EXAMPLES = 4


@torch.no_grad()
def forecast_figures(task: Any, data: ForecastData) -> Iterator[tuple[str, Figure]]:
    """Examples of test forecasts with intervals, errors by step ahead, and the curves of the known covariates.

    Intervals are split conformal, from the residuals of the validation windows; with quantiles they are the outermost.
    """
    yield "forecasts", examples_figure(task, data)
    yield "error_by_step", steps_figure({task.model_name: task.test_errors, **task.tested_baselines})
    effect = task.forecaster.effect
    if effect is not None:
        yield "covariates", covariates_figure(effect, data.known_names, data.channel_names)


def examples_figure(task: Any, data: ForecastData) -> Figure:
    """The last test window of up to four series or channels, in original units."""
    from matplotlib.figure import Figure

    windows = data.parts["test"]
    series = np.unique(windows.series)[:_EXAMPLES]
    last = [int(np.flatnonzero(windows.series == s)[-1]) for s in series]
    panels = [(row, channel) for row in range(len(last)) for channel in range(data.channels)][:_EXAMPLES]
    batch = windows[last]
    output = task(batch)
    figure = Figure(figsize=(9, 2.2 * len(panels)), layout="constrained")
    for axes, (row, channel) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        s = int(series[row])
        center, scale = data.scaler.center[s, channel], data.scaler.scale[s, channel]

        def original(values: Tensor | NDArray[np.float64], center: float = center, scale: float = scale) -> Any:
            return np.asarray(values) * scale + center

        forecast = output[row, :, channel]
        ends = {} if task.quantiles else intervals(task, data, channel)
        bands = {level: (low * scale, high * scale) for level, (low, high) in ends.items()}
        name = data.panel.ids[s] if data.channels == 1 else f"{data.panel.ids[s]}: {data.channel_names[channel]}"
        _draw_window(axes, original(batch.past[row, :, channel]), original(batch.target[row, :, channel]), name)
        _draw_forecast(axes, original(forecast), bands, data.input_length)
    figure.axes[0].legend(loc="upper left", fontsize="small", ncols=4)
    figure.axes[-1].set_xlabel("steps from the cutoff")
    return figure


def _draw_window(axes: Axes, past: NDArray[np.float64], future: NDArray[np.float64], name: str) -> None:
    shown = min(len(past), 4 * len(future))
    axes.plot(np.arange(-shown, 0), past[-shown:], color="0.4", label="past")
    axes.plot(np.arange(len(future)), future, color="black", label="true")
    axes.set_title(name, fontsize="small", loc="left")


def _draw_forecast(axes: Axes, forecast: NDArray[np.float64], bands: dict[int, Any], input_length: int) -> None:
    steps = np.arange(len(forecast))
    middle = forecast[:, forecast.shape[1] // 2]
    if forecast.shape[1] > 1:
        axes.fill_between(steps, forecast[:, 0], forecast[:, -1], alpha=0.3, lw=0, label="outer quantiles")
    for level, (low, high) in bands.items():
        axes.fill_between(steps, middle + low, middle + high, alpha=0.2, color="C0", lw=0, label=f"{level} %")
    axes.plot(steps, middle, color="C0", label="forecast")


def intervals(
    task: Any, data: ForecastData, channel: int
) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Lower and upper ends ``(H,)`` of `LEVELS` around a forecast, in scaled units, from validation windows.

    Of more than 2,000 windows, evenly spaced ones are used; a level that needs more windows than there are is left out.
    """
    windows = data.parts["val"]
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _WINDOWS)).astype(np.int64))
    errors = []
    for rows in np.array_split(chosen, max(1, len(chosen) // 256)):
        batch = windows[rows.tolist()]
        errors.append((batch.target[..., channel] - task(batch)[..., channel, 0]).double().numpy())
    found = ConformalIntervals.of(np.concatenate(errors), np.ones(len(chosen)))
    return {level: found.bounds(level) for level in LEVELS if found.count >= windows_needed(level)}


def steps_figure(errors: dict[str, ForecastErrors]) -> Figure:
    """Mean absolute error of each step ahead, of several forecasts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, counted in errors.items():
        values = counted.by_step()["mae"].cpu()
        axes.plot(np.arange(1, len(values) + 1), values, label=name)
    axes.set_xlabel("steps ahead")
    axes.set_ylabel("mean absolute error (scaled)")
    axes.legend()
    return figure


def covariates_figure(effect: torch.nn.Module, known: Sequence[str], channels: Sequence[str]) -> Figure:
    """What each known covariate adds to each channel, the others at the middle of their range."""
    from matplotlib.figure import Figure

    shown = list(known)[:6]
    figure = Figure(figsize=(4 * len(shown), 3.2), layout="constrained")
    grid = torch.linspace(-1, 1, 201)
    for index, (axes, name) in enumerate(zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True)):
        inputs = torch.zeros(len(grid), len(known))
        inputs[:, index] = grid
        curves = effect(inputs) - effect(torch.zeros(1, len(known)))
        for channel, curve in zip(channels[:10], curves.T[:10], strict=True):
            axes.plot(grid, curve, label=channel)
        axes.set_xlabel(f"{name} (training range as -1 to 1)")
    figure.axes[0].set_ylabel("effect, in deviations of the window")
    figure.axes[0].legend(fontsize="x-small")
    return figure
