"""Recurrent forecasters: the plain LSTM and GRU, and those with learned functions in the gates."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.layers import LayerFactory
from kan_timeseries.layers.gates import KANGRU, KANLSTM, Wiring
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models._window import LIMIT, SmoothClip, check_lengths, check_past, scaled_size

Cell = Literal["lstm", "gru"]
RECURRENT: dict[str, type[KANLSTM] | type[KANGRU]] = {"lstm": KANLSTM, "gru": KANGRU}


class RecurrentForecaster(nn.Module):
    r"""A recurrent stack over the window, and a dense layer from its last state to the whole horizon.

    The window's channels and its covariates enter together, step by step; known covariates of the steps to come add to
    their step's forecast by one linear map that all steps share. KAN layers see u/(m √(1 + (u/m)²)), m = `limit`: in
    (-1, 1) as the states, where their default grids are. Linear ones see u itself.

    Equation: ŷ_s = W_s h_L + b_s + V k_s, h = RNN([past, observed, known]) after step L

    Reference: the recurrent baselines of TKAN (arXiv 2405.07344) and KAMoE (arXiv 2409.15161), two layers of 100; KAN
    gates as in QKAN-LSTM (arXiv 2512.05049).

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: What all gates are made of; ``"linear"`` is the twin of every other.
        width: Factor on the hidden size.
        cell: ``"lstm"`` or ``"gru"``.
        hidden: Size of the state.
        num_layers: Stacked layers.
        wiring: See `KANLSTM`; ``"bottleneck"`` with QKAN layers is the HQKAN-LSTM.
        bidirectional: Run backwards too.
        dropout: Between stacked layers.
        limit: m, for KAN layers; None for no clip.
        num_known: K covariates that are known ahead.
        num_observed: P covariates of the past.

    Raises:
        KANError: For an option out of its range, or inputs of another shape.

    Shape:
        - Input: past ``(B, L, C)``, known ``(B, L + H, K)``, observed ``(B, L, P)``
        - Output: ``(B, H, C, Q)``

    Parameters: those of the stack on C + K + P features, + (hidden + 1) · H · C · Q, + K · C · Q.
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        layer: LayerFactory | str = "linear",
        width: float = 1.0,
        cell: Cell = "lstm",
        hidden: int = 32,
        num_layers: int = 1,
        wiring: Wiring = "split",
        bidirectional: bool = False,
        dropout: float = 0.0,
        limit: float | None = LIMIT,
        num_known: int = 0,
        num_observed: int = 0,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        self.inputs = WindowInputs(input_length, horizon, channels, num_known, num_observed)
        self.squash = squash(layer, limit)
        self.stack = recurrent(cell)(
            self.inputs.features,
            scaled_size(hidden, width),
            layer=layer,
            wiring=wiring,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            return_sequences=False,
        )
        self.head = HorizonHead(self.stack.output_size, horizon, channels, num_outputs, num_known)

    def forward(self, past: Tensor, known: Tensor | None = None, observed: Tensor | None = None) -> Tensor:
        """``(B, L, C)`` to ``(B, H, C, Q)``."""
        x, future = self.inputs(past, known, observed)
        y: Tensor = self.head(self.stack(self.squash(x)), future)
        return y


class WindowInputs(nn.Module):
    """Past and covariates as one sequence ``(B, L, features)``, and the known covariates of the horizon."""

    def __init__(self, input_length: int, horizon: int, channels: int, num_known: int, num_observed: int) -> None:
        super().__init__()
        if min(num_known, num_observed) < 0:
            raise KANError(f"num_known and num_observed must not be negative, got {num_known} and {num_observed}")
        self.input_length, self.horizon, self.channels = input_length, horizon, channels
        self.num_known, self.num_observed = num_known, num_observed

    @property
    def features(self) -> int:
        """C + P + K."""
        return self.channels + self.num_observed + self.num_known

    def forward(
        self, past: Tensor, known: Tensor | None = None, observed: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The sequence, and ``(B, H, K)`` or None without known covariates."""
        check_past(past, self.input_length, self.channels)
        parts = [past]
        if self.num_observed:
            parts.append(_checked("observed", observed, past, self.input_length, self.num_observed))
        if not self.num_known:
            return torch.cat(parts, dim=-1), None
        both = _checked("known", known, past, self.input_length + self.horizon, self.num_known)
        parts.append(both[:, : self.input_length])
        return torch.cat(parts, dim=-1), both[:, self.input_length :]


def _checked(name: str, covariates: Tensor | None, past: Tensor, steps: int, size: int) -> Tensor:
    shape = (past.shape[0], steps, size)
    if covariates is None or covariates.shape != shape:
        found = "none" if covariates is None else tuple(covariates.shape)
        raise KANError(f"expected covariates {name!r} of shape {shape}, got {found}")
    return covariates


class HorizonHead(nn.Module):
    """A dense layer from a summary ``(B, features)`` to ``(B, H, C, Q)``, plus what known covariates add to each step.

    Parameters: (features + 1) · H · C · Q + K · C · Q.
    """

    def __init__(self, features: int, horizon: int, channels: int, num_outputs: int, num_known: int) -> None:
        super().__init__()
        self.shape = (horizon, channels, num_outputs)
        self.dense = nn.Linear(features, horizon * channels * num_outputs)
        self.known = nn.Linear(num_known, channels * num_outputs, bias=False) if num_known else None

    def forward(self, summary: Tensor, future: Tensor | None) -> Tensor:
        """Forecasts, from the summary and the known covariates of the horizon ``(B, H, K)``."""
        y: Tensor = self.dense(summary).unflatten(-1, self.shape)
        if self.known is not None and future is not None:
            y = y + self.known(future).unflatten(-1, self.shape[1:])
        return y


class _Squash(nn.Module):
    """u/(m √(1 + (u/m)²)): into (-1, 1)."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.clip = SmoothClip(limit)

    def forward(self, u: Tensor) -> Tensor:
        y: Tensor = self.clip(u) / self.clip.limit
        return y


def squash(layer: LayerFactory | str, limit: float | None) -> nn.Module:
    """What stands before gates made of `layer`: a clip to (-1, 1), or nothing for linear ones and without a limit."""
    return nn.Identity() if layer == "linear" or limit is None else _Squash(limit)


def recurrent(cell: str) -> type[KANLSTM] | type[KANGRU]:
    """The layer for a cell's name.

    Raises:
        KANError: For another name.
    """
    if cell not in get_args(Cell):
        raise KANError(f"cell must be one of {', '.join(get_args(Cell))}, got {cell!r}")
    return RECURRENT[cell]


_FORMS = {
    "lstm": partial(RecurrentForecaster, cell="lstm"),
    "gru": partial(RecurrentForecaster, cell="gru"),
    "kan_lstm": partial(RecurrentForecaster, cell="lstm", layer="bspline"),
    "kan_gru": partial(RecurrentForecaster, cell="gru", layer="bspline"),
    "qkan_lstm": partial(RecurrentForecaster, cell="lstm", layer="qkan(reps=1)"),
    "hqkan_lstm": partial(RecurrentForecaster, cell="lstm", layer="qkan(reps=1)", wiring="bottleneck"),
}
for _name, _form in _FORMS.items():
    FORECASTERS.register(_name)(_form)
