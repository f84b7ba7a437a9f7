"""The TKAN forecaster: stacked TKAN layers over the window, and one dense map to the horizon."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.layers import LayerFactory, get
from kan_timeseries.layers._scan import Candidate
from kan_timeseries.layers.sub_layers import SubLayer
from kan_timeseries.layers.tkan import tkan_stack
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models._window import check_lengths, check_past, scaled_sizes

__all__ = ["TKANForecaster"]


@FORECASTERS.register("tkan")
class TKANForecaster(nn.Module):
    r"""TKAN layers over the steps of the past, all channels and covariates in every step, then one dense layer.

    Equation: ŷ = W h_L + b, where h_L is the last layer's output of the last step.

    References: TKAN (arXiv 2405.07344, section IV), whose stack is 100 → 100 → dense. Its output is one channel; here
    it is all of them.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: The sub-layers: ``"bspline"`` for those of `sub_layers`; ``"linear"`` for as many dense ones with SiLU,
            the twin without splines; otherwise any layer of kan_core in their place.
        width: Factor on `hidden`, for a twin of a given size.
        hidden: Units of the TKAN layers.
        sub_layers: See :data:`~kan_timeseries.layers.sub_layers.SubLayer`; ``(0, 1, 2, 3, 4)`` is the paper's bank.
        sub_width: Width of the sub-layers of all TKAN layers. None for the size of a layer's input, but at least 8 and
            at most 20: so it is 19, then 20 for the 19 series of the authors' example.
        candidate: See :class:`~kan_timeseries.layers.tkan.TKANCell`.
        dropout: Of the inputs of every TKAN layer, one mask per window.
        recurrent_dropout: Of h_{t−1}, likewise.
        num_known: K, covariates known in advance; only their past is seen.
        num_observed: P, covariates known in the past.

    Raises:
        KANError: For a size below 1, an argument that a TKAN layer refuses, or windows or covariates of another shape.

    Shape:
        - Input: ``(B, L, C)``, known ``(B, L + H, K)``, observed ``(B, L, P)``
        - Output: ``(B, H, C, Q)``
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        layer: LayerFactory | str = "bspline",
        width: float = 1.0,
        hidden: Sequence[int] = (100, 100),
        sub_layers: Sequence[SubLayer] = (None,),
        sub_width: int | None = None,
        candidate: Candidate = "sigmoid",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        num_known: int = 0,
        num_observed: int = 0,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        check_counts(num_known, num_observed)
        self.input_length, self.horizon = input_length, horizon
        self.channels, self.num_outputs = channels, num_outputs
        self.num_known, self.num_observed = num_known, num_observed
        sizes = scaled_sizes(hidden, width)
        inputs = channels + num_known + num_observed
        self.recurrent = tkan_stack(
            inputs,
            sizes,
            [sub_width or default_sub_width(size) for size in (inputs, *sizes[:-1])],
            sub_layers=replaced(sub_layers, layer),
            candidate=candidate,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
        )
        self.head = nn.Linear(sizes[-1], horizon * channels * num_outputs)

    def forward(self, past: Tensor, known: Tensor | None = None, observed: Tensor | None = None) -> Tensor:
        """Forecast from windows of the past and their covariates."""
        check_past(past, self.input_length, self.channels)
        length = self.input_length
        steps = [past, *covariate("observed", observed, len(past), length, self.num_observed)]
        steps += [v[:, :length] for v in covariate("known", known, len(past), length + self.horizon, self.num_known)]
        y: Tensor = self.head(self.recurrent(torch.cat(steps, dim=-1)))
        return y.view(-1, self.horizon, self.channels, self.num_outputs)


def default_sub_width(inputs: int) -> int:
    """Width of sub-layers for a layer of `inputs` inputs: their number within 8 and 20."""
    return min(max(inputs, 8), 20)


def replaced(sub_layers: Sequence[SubLayer], layer: LayerFactory | str) -> list[SubLayer]:
    """The sub-layers when `layer` is ``"bspline"``, else as many of that layer; ``"linear"`` ones with SiLU."""
    if layer == "bspline":
        return list(sub_layers)
    return ["silu" if layer == "linear" else get(layer)] * len(sub_layers)


def check_counts(num_known: int, num_observed: int) -> None:
    """Refuse negative numbers of covariates.

    Raises:
        KANError: When one is.
    """
    if num_known < 0 or num_observed < 0:
        raise KANError(f"num_known and num_observed must not be negative, got {num_known} and {num_observed}")


def covariate(name: str, values: Tensor | None, batch: int, steps: int, count: int) -> list[Tensor]:
    """`values` in a list when the model has such covariates, otherwise an empty list.

    Raises:
        KANError: When they are missing or have another shape than ``(batch, steps, count)``.
    """
    if not count:
        return []
    if values is None or values.shape != (batch, steps, count):
        found = "none" if values is None else f"shape {tuple(values.shape)}"
        raise KANError(f"the model needs {name} covariates of shape {(batch, steps, count)}, got {found}")
    return [values]
