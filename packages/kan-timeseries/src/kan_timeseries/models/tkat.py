"""TKAT: a forecaster with variable selection, a TKAN encoder and decoder, and self-attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_core.layers import GatedResidualKAN, LayerFactory
from kan_timeseries.layers._scan import Candidate
from kan_timeseries.layers.sub_layers import SubLayer
from kan_timeseries.layers.tkan import TKAN
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models._window import check_lengths, check_past, scaled_size
from kan_timeseries.models.tkan import check_counts, covariate, default_sub_width, replaced

__all__ = ["SelfAttention", "TKATForecaster", "VariableSelection"]


class VariableSelection(nn.Module):
    r"""A weighted sum of variables, each through a net of its own, with weights from all of them.

    Equation: y = Σ_v w_v GRN_v(x_v), w = softmax(GRN(concat(x_1 … x_V)))

    References: TKAT's use of the variable selection network of temporal fusion transformers (arXiv 1912.09363).

    Args:
        variables: V.
        embedding: E, size of a variable.
        units: Size of the sum.

    Shape:
        - Input: ``(..., V, E)``
        - Output: ``(..., units)``
    """

    def __init__(self, variables: int, embedding: int, units: int) -> None:
        super().__init__()
        self.weights = GatedResidualKAN(variables * embedding, variables, hidden_features=units, layer="linear")
        self.each = nn.ModuleList(GatedResidualKAN(embedding, units, layer="linear") for _ in range(variables))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., V, E) -> (..., units)``."""
        weights = self.weights(x.flatten(-2)).softmax(dim=-1)
        nets = torch.stack([net(part) for net, part in zip(self.each, x.unbind(-2), strict=True)], dim=-1)
        y: Tensor = (nets @ weights.unsqueeze(-1)).squeeze(-1)
        return y


class SelfAttention(nn.Module):
    """Attention of every step to every step, with heads as wide as the input itself.

    Args:
        units: Size of a step and of the keys of each head.
        heads: Number of heads.

    Shape:
        - Input and output: ``(B, T, units)``
    """

    def __init__(self, units: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(units, 3 * heads * units)
        self.out = nn.Linear(heads * units, units)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, units) -> (B, T, units)``."""
        parts = self.project(x).unflatten(-1, (3, self.heads, -1)).movedim(2, 0).transpose(2, 3)  # (3, B, heads, T, u)
        y: Tensor = self.out(F.scaled_dot_product_attention(*parts.unbind()).transpose(1, 2).flatten(2))
        return y


@FORECASTERS.register("tkat")
class TKATForecaster(nn.Module):
    r"""Temporal Kolmogorov-Arnold transformer: variables are selected, one TKAN reads the past, another the future.

    Every scalar of a step is embedded by its own affine map. The past is a selection of all variables, the future of
    those known in advance. The decoder starts from the encoder's h, c and memories. Both outputs, one after the other
    in time, pass a gate and are added to what was selected; a gated residual network, attention without a mask and one
    dense layer over all steps follow.

    References: TKAT (arXiv 2406.02486). Its output is one channel; here it is all of them. The published summary of
    its network does not say how wide the TKAN sub-layers are; see `sub_width`.

    Avoids: its slice of the future when nothing is known in advance, which takes all columns, unknown ones too.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: The sub-layers of both TKANs, as in :class:`~kan_timeseries.models.tkan.TKANForecaster`. The gated
            residual networks are dense, as published.
        width: Factor on `units`, for a twin of a given size.
        units: Size of everything inside.
        embedding: E, size of an embedded scalar.
        heads: Of the attention, each with keys as wide as `units`.
        sub_layers: See :data:`~kan_timeseries.layers.sub_layers.SubLayer`.
        sub_width: Width of the sub-layers; None for `units` within 8 and 20.
        candidate: See :class:`~kan_timeseries.layers.tkan.TKANCell`.
        num_known: K, covariates known in advance, at least 1.
        num_observed: P, covariates known in the past.

    Raises:
        KANError: For a size below 1, no covariate that is known in advance, an argument that TKAN refuses, or windows
            or covariates of another shape.

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
        units: int = 100,
        embedding: int = 1,
        heads: int = 4,
        sub_layers: Sequence[SubLayer] = (None,),
        sub_width: int | None = None,
        candidate: Candidate = "sigmoid",
        num_known: int = 0,
        num_observed: int = 0,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        check_counts(num_known, num_observed)
        check_at_least("embedding", embedding, 1)
        check_at_least("heads", heads, 1)
        if num_known == 0:
            raise KANError(
                "tkat needs covariates that are known in advance (num_known >= 1), for its decoder reads them: add "
                "calendar features such as hour and weekday, or use the forecaster 'tkan'"
            )
        self.input_length, self.horizon = input_length, horizon
        self.channels, self.num_outputs = channels, num_outputs
        self.num_known, self.num_observed = num_known, num_observed
        units, variables = scaled_size(units, width), channels + num_observed + num_known
        self.embed_weight = nn.Parameter(torch.empty(variables, embedding))
        self.embed_bias = nn.Parameter(torch.zeros(variables, embedding))
        nn.init.uniform_(self.embed_weight, -1, 1)  # as nn.Linear of one input
        self.select_past = VariableSelection(variables, embedding, units)
        self.select_future = VariableSelection(num_known, embedding, units)
        sub_width = sub_width or default_sub_width(units)
        self.encoder, self.decoder = (
            TKAN(
                units,
                units,
                sub_layers=replaced(sub_layers, layer),
                sub_inputs=sub_width,
                sub_outputs=sub_width,
                candidate=candidate,
                return_state=True,
            )
            for _ in range(2)
        )
        self.gate = nn.Linear(units, 2 * units)
        self.norm = nn.LayerNorm(units)
        self.enrich = GatedResidualKAN(units, units, layer="linear")
        self.attention = SelfAttention(units, heads)
        self.head = nn.Linear((input_length + horizon) * units, horizon * channels * num_outputs)

    def forward(self, past: Tensor, known: Tensor | None = None, observed: Tensor | None = None) -> Tensor:
        """Forecast from windows of the past and covariates of past and horizon."""
        check_past(past, self.input_length, self.channels)
        (ahead,) = covariate("known", known, len(past), self.input_length + self.horizon, self.num_known)
        seen = [past, *covariate("observed", observed, len(past), self.input_length, self.num_observed)]
        of_past, of_known = self._embed(torch.cat([*seen, ahead[:, : self.input_length]], dim=-1), ahead)
        selected = torch.cat([self.select_past(of_past), self.select_future(of_known)], dim=1)
        encoded, state = self.encoder(selected[:, : self.input_length])
        decoded, _ = self.decoder(selected[:, self.input_length :], state)
        gated = F.glu(self.gate(torch.cat([encoded, decoded], dim=1)), dim=-1)
        attended = self.attention(self.enrich(self.norm(gated + selected)))
        y: Tensor = self.head(attended.flatten(1))
        return y.view(-1, self.horizon, self.channels, self.num_outputs)

    def _embed(self, past: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded variables ``(B, L, V, E)`` of the past, and ``(B, H, K, E)``, the last K of them, of the future."""
        future = known[:, self.input_length :].unsqueeze(-1)
        weight, bias = self.embed_weight, self.embed_bias
        last = slice(-self.num_known, None)
        return past.unsqueeze(-1) * weight + bias, future * weight[last] + bias[last]
