"""KAN-HAR: spline layers on statistics of a window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.layers import LayerFactory, activation_before
from kan_timeseries.features import kan_har_features, kan_har_names, physical_features, physical_names
from kan_timeseries.models._registry import CLASSIFIERS
from kan_timeseries.models._window import scaled_size
from kan_timeseries.models.imu import spline_layer
from kan_timeseries.models.sequence_head import check_window

Statistics = Literal["physical", "corrected", "literal"]

LITERAL_LAYERS = (
    "bspline(grid_size=10, order=1, grid_range=(-1, 4))",
    "bspline(grid_size=10, order=1, grid_range=(-1, 1))",
)
"""The two layers of the paper's code."""

_ROWS, _CHUNK = 512, 32
"""Windows whose statistics are computed at once: of all training windows, and of a batch of unlike lengths."""


@CLASSIFIERS.register("kan_har")
class KanHAR(nn.Module):
    r"""Statistics of a window, standardised by the training windows, and KAN layers on them.

    Standardised statistics are bent into the grid by limit · tanh(z/limit), since they have long tails and a spline
    beyond its grid is blind. The answer is skip(z) + KAN(dropout(z)): an additive, linear part, and one hidden layer of
    curves. With ``layer="linear"`` it is an ordinary network with SiLU, skip included: the twin.

    The paper's own network is ``statistics="literal", layer=LITERAL_LAYERS, hidden=[100], limit=None, skip=False,
    dropout=0``, which is registered as ``kan_har_literal``: 54 600 parameters for 3 channels and 6 classes.

    Reference: KAN-HAR (arXiv 2508.11186). Statistics "physical", limit, skip and dropout are ours.

    Args:
        num_samples: T, samples of a window.
        channels: C.
        num_classes: Outputs.
        statistics: ``"physical"``: :func:`~kan_timeseries.features.physical_features`, from physical units; or the
            twelve of the paper, ``"literal"`` or ``"corrected"``, from z-scores.
        rate: Samples per second; of ``"physical"`` alone.
        hidden: Sizes of the hidden layers; ``[]``: one layer of curves from the statistics to the classes.
        layer: What makes the layers, or one for each of them.
        limit: Where standardised statistics are bent to, or None to leave them as they are.
        skip: Add a linear map of the statistics.
        dropout: Probability with which a statistic is hidden from the network while it trains.
        edge_scale: One more factor per edge.
        width: Factor on the hidden sizes.

    Raises:
        KANError: For an unknown choice, a size below 1, another number of layers than `layer` has, or channels that do
            not come in threes ("physical").

    Shape:
        - Input: ``(B, T, C)`` and optionally ``(B, T)``, False on padding, which comes last
        - Output: ``(B, classes)``

    Attributes:
        raw_input: Whether the network takes physical units instead of z-scores.
    """

    def __init__(
        self,
        num_samples: int,
        channels: int,
        num_classes: int,
        *,
        statistics: Statistics = "physical",
        rate: float = 50.0,
        hidden: Sequence[int] = (16,),
        layer: LayerFactory | str | Sequence[str] = "bspline(grid_size=4, grid_range=(-3, 3))",
        limit: float | None = 3.0,
        skip: bool = True,
        dropout: float = 0.3,
        edge_scale: bool = False,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if statistics not in get_args(Statistics):
            raise KANError(f"statistics must be one of {', '.join(get_args(Statistics))}, got {statistics!r}")
        if limit is not None and not limit > 0:
            raise KANError(f"limit must be above 0 or None, got {limit}")
        self.num_samples, self.channels = num_samples, channels
        self.statistics, self.rate, self.limit = statistics, rate, limit
        self.raw_input = statistics == "physical"
        size = len(self.feature_names([str(i) for i in range(channels)]))
        self.center: Tensor
        self.scale: Tensor
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        sizes = [size, *(scaled_size(n, width) for n in hidden), num_classes]
        kinds = [layer] * (len(sizes) - 1) if isinstance(layer, str) or callable(layer) else list(layer)
        if len(kinds) != len(sizes) - 1:
            raise KANError(f"layer has {len(kinds)} entries for {len(sizes) - 1} layers: give one, or one for each")
        self.skip = nn.Linear(size, num_classes) if skip else None
        self.dropout = nn.Dropout(dropout)
        parts: list[nn.Module] = []
        for kind, (n_in, n_out) in zip(kinds, pairwise(sizes), strict=True):
            parts += [activation_before(kind)] if parts else []
            parts.append(spline_layer(kind, edge_scale)(n_in, n_out))
        self.layers = nn.Sequential(*parts)

    def feature_names(self, channels: list[str]) -> list[str]:
        """What the statistics of these channels are called, in the order of the first layer's inputs."""
        return physical_names(channels, self.rate) if self.raw_input else kan_har_names(channels)

    @torch.no_grad()
    def extract(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Statistics of windows, ``(B, F)``, not yet standardised.

        Windows of like length are taken together, so that a batch does not cost what its longest recording costs.
        """
        check_window(x, self.num_samples, self.channels)
        if mask is None or bool(mask.all()):
            return self._statistics(x, None)
        length = mask.sum(dim=1)
        order = length.argsort()
        parts = [self._statistics(x[i, : length[i[-1]]], mask[i, : length[i[-1]]]) for i in torch.split(order, _CHUNK)]
        return torch.cat(parts)[order.argsort()]

    def _statistics(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x.float()
        if self.raw_input:
            return physical_features(x, mask, rate=self.rate)
        return kan_har_features(x, mask, corrected=self.statistics == "corrected")

    def fit_statistics(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take mean and deviation of the statistics from training windows; a constant one is left as it is."""
        masks = [None] * len(x) if mask is None else torch.split(mask, _ROWS)
        self.standardise_by(
            torch.cat([self.extract(*part) for part in zip(torch.split(x, _ROWS), masks, strict=False)])
        )

    @torch.no_grad()
    def standardise_by(self, features: Tensor) -> None:
        """Take mean and deviation from the ``(n, F)`` statistics of training windows."""
        std = features.double().std(dim=0, correction=0)
        self.center.copy_(features.double().mean(dim=0))
        self.scale.copy_(torch.where(std > 1e-6, std, 1.0))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of windows."""
        return self.classify(self.extract(x, mask))

    def classify(self, features: Tensor) -> Tensor:
        """Logits of ``(B, F)`` statistics."""
        z = (features - self.center) / self.scale
        if self.limit is not None:
            z = self.limit * torch.tanh(z / self.limit)
        z = self.dropout(z)
        y: Tensor = self.layers(z)
        return y if self.skip is None else y + self.skip(z)


@CLASSIFIERS.register("kan_har_literal")
class LiteralKanHAR(KanHAR):
    """The network of KAN-HAR's code: 36 statistics, 100 hidden units, piecewise linear splines, one scaler per edge.

    Standardised statistics below −1.5 see no spline, as there. Of another number of channels or classes it has
    12·C → 100 → classes.

    Args:
        num_samples: T, samples of a window.
        channels: C.
        num_classes: Outputs.
        layer: What makes the layers; None for the paper's, which have two different grids.
        edge_scale: One more factor per edge: 54 600 parameters for 3 channels and 6 classes, else 50 400.
        width: Factor on the hidden size.
    """

    def __init__(
        self,
        num_samples: int,
        channels: int,
        num_classes: int,
        *,
        layer: LayerFactory | str | Sequence[str] | None = None,
        edge_scale: bool = True,
        width: float = 1.0,
    ) -> None:
        super().__init__(
            num_samples,
            channels,
            num_classes,
            statistics="literal",
            hidden=(100,),
            layer=LITERAL_LAYERS if layer is None else layer,
            limit=None,
            skip=False,
            dropout=0.0,
            edge_scale=edge_scale,
            width=width,
        )
