"""What a forecasting task takes at a time."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ForecastBatch(NamedTuple):
    """Windows: L steps of the past, H steps to come.

    Attributes:
        past: ``(B, L, C)`` values up to the cutoff; missing ones are filled, see `mask`.
        mask: ``(B, L, C)`` True where `past` was observed. Elsewhere it repeats the last value before it in the window,
            or where there is none the first one after it, so that no filled value comes from beyond the cutoff.
        known: ``(B, L + H, K)`` covariates that are known ahead, over past and horizon.
        observed: ``(B, L, P)`` covariates of the past alone.
        target: ``(B, H, C)`` values after the cutoff, NaN where unknown.
        series: ``(B,)`` number of the series.
        start: ``(B,)`` the window's first step in its series; negative where the series is shorter than L and was
            continued to the left by its first value.
    """

    past: Tensor
    mask: Tensor
    known: Tensor
    observed: Tensor
    target: Tensor
    series: Tensor
    start: Tensor
