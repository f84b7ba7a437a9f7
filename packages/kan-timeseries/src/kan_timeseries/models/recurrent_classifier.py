"""Recurrent classifiers of sensor windows: the plain LSTM, and the one with KAN layers in its gates."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from kan_core.layers import LayerFactory
from kan_timeseries.layers.gates import Wiring
from kan_timeseries.models._registry import CLASSIFIERS
from kan_timeseries.models._window import LIMIT, scaled_size
from kan_timeseries.models.recurrent import Cell, recurrent, squash
from kan_timeseries.models.sequence_head import check_window


class RecurrentClassifier(nn.Module):
    r"""A recurrent stack over the window, and a linear map from its state after the last valid step to the classes.

    Steps outside the mask leave the state as it is, wherever they are.

    Args:
        num_samples: T, samples of a window.
        channels: C.
        num_classes: Outputs.
        layer: What all gates are made of; ``"linear"`` is the twin of every other.
        width: Factor on the hidden size.
        cell: ``"lstm"`` or ``"gru"``.
        hidden: Size of the state.
        num_layers: Stacked layers.
        wiring: See `KANLSTM`.
        bidirectional: Run backwards too.
        dropout: Between stacked layers.
        limit: Bound of what KAN layers see, as in `RecurrentForecaster`; None for no clip.

    Raises:
        KANError: For an option out of its range, or a window or mask of another shape.

    Shape:
        - Input: ``(B, T, C)`` and optionally ``(B, T)``, False on padding
        - Output: ``(B, classes)``
    """

    def __init__(
        self,
        num_samples: int,
        channels: int,
        num_classes: int,
        *,
        layer: LayerFactory | str = "linear",
        width: float = 1.0,
        cell: Cell = "lstm",
        hidden: int = 64,
        num_layers: int = 1,
        wiring: Wiring = "split",
        bidirectional: bool = False,
        dropout: float = 0.0,
        limit: float | None = LIMIT,
    ) -> None:
        super().__init__()
        self.num_samples, self.channels = num_samples, channels
        self.squash = squash(layer, limit)
        self.stack = recurrent(cell)(
            channels,
            scaled_size(hidden, width),
            layer=layer,
            wiring=wiring,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            return_sequences=False,
        )
        self.linear = nn.Linear(self.stack.output_size, num_classes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the windows."""
        check_window(x, self.num_samples, self.channels)
        if mask is not None and not torch.compiler.is_compiling() and bool(mask.all()):
            mask = None  # the common case, in which torch's kernel can run; a graph cannot branch on it
        logits: Tensor = self.linear(self.stack(self.squash(x), mask))
        return logits


CLASSIFIERS.register("lstm")(partial(RecurrentClassifier, layer="linear"))
CLASSIFIERS.register("kan_lstm")(partial(RecurrentClassifier, layer="bspline"))
