"""KAMoE as a forecaster: a recurrent stack whose first layer is a mixture of recurrent experts."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from kan_core.layers import LayerFactory
from kan_timeseries.layers.experts import GateMode, KAMoE
from kan_timeseries.layers.gates import KANGRU, KANLSTM
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models._window import LIMIT, check_lengths, scaled_size
from kan_timeseries.models.recurrent import Cell, HorizonHead, WindowInputs, recurrent, squash


@FORECASTERS.register("kamoe")
class KAMoEForecaster(nn.Module):
    r"""Recurrent experts under a KAN gate, a second recurrent layer, and a dense layer to the whole horizon.

    Only the first layer is a mixture, as published. Every expert runs: time and parameters of that layer are those of
    `num_experts` layers. The plain network to compare with is ``"gru"`` or ``"lstm"`` with two layers.

    Reference: KAMoE (arXiv 2409.15161), the experiment on trading volumes.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: The KANs of the gate; ``"linear"`` makes a GRN of it: the plain mixture of experts (MoE).
        width: Factor on the hidden size.
        cell: ``"gru"`` or ``"lstm"``, of the experts and of the second layer.
        hidden: Size of the states, and of the gate's hidden layer.
        num_experts: At least 2.
        expert_layer: What the gates of all recurrent cells are made of.
        gate: See `KAMoE`.
        gating: ``"sigmoid"`` or ``"softmax"``.
        dropout: Probability of a zero in the gate.
        scale_per_step: Give the scale of the inputs a factor for every step and feature, as published, instead of one
            for every feature.
        limit: Bound of what cells made of KAN layers see, as in `RecurrentForecaster`.
        num_known: K covariates that are known ahead.
        num_observed: P covariates of the past.

    Raises:
        KANError: For an option out of its range, or inputs of another shape.

    Shape:
        - Input: past ``(B, L, C)``, known ``(B, L + H, K)``, observed ``(B, L, P)``
        - Output: ``(B, H, C, Q)``

    Parameters: those of the mixture on C + K + P features, see `KAMoE`, + a recurrent layer, + the dense layer.
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        layer: LayerFactory | str = "bspline(grid_size=3)",
        width: float = 1.0,
        cell: Cell = "gru",
        hidden: int = 100,
        num_experts: int = 3,
        expert_layer: LayerFactory | str = "linear",
        gate: GateMode = "auto",
        gating: str = "sigmoid",
        dropout: float = 0.0,
        scale_per_step: bool = True,
        limit: float | None = LIMIT,
        num_known: int = 0,
        num_observed: int = 0,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        self.inputs = WindowInputs(input_length, horizon, channels, num_known, num_observed)
        self.squash = squash(expert_layer, limit)
        size = scaled_size(hidden, width)
        expert = partial[KANLSTM | KANGRU](recurrent(cell), layer=expert_layer)
        self.mixture = KAMoE(
            self.inputs.features,
            size,
            expert=expert,
            num_experts=num_experts,
            gate=gate,
            gating=gating,
            gate_layer=layer,
            dropout=dropout,
            steps=input_length if scale_per_step else None,
        )
        self.recurrent = expert(size, size, return_sequences=False)
        self.head = HorizonHead(size, horizon, channels, num_outputs, num_known)

    def forward(self, past: Tensor, known: Tensor | None = None, observed: Tensor | None = None) -> Tensor:
        """``(B, L, C)`` to ``(B, H, C, Q)``."""
        x, future = self.inputs(past, known, observed)
        y: Tensor = self.head(self.recurrent(self.mixture(self.squash(x))), future)
        return y
