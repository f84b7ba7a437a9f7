"""Mixtures of KAN experts on the window: RMoK (one mixture) and MMK (several in a row)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from kan_core import bases, layers
from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_core.layers import KANLinear, LayerFactory, MixtureOfExperts, activation_before
from kan_core.layers._norm import make_norm
from kan_core.registry import parse_spec
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models._window import (
    ChannelAffine,
    SmoothClip,
    channels_as_rows,
    check_lengths,
    check_past,
    output_part,
    rows_as_channels,
    scaled_size,
)

__all__ = ["MMK", "MMK_EXPERTS", "RMOK_EXPERTS", "RMOK_PAPER_EXPERTS", "ExpertSpec", "RMoK", "make_expert"]

ExpertSpec = LayerFactory | str

RMOK_EXPERTS = (*("taylor(order=3)",) * 2, *("wavelet(num_centers=3, norm='layer')",) * 2)
"""The paper's two kinds, as many numbers per edge; wavelets with positions that all edges share."""

RMOK_PAPER_EXPERTS = (*("taylor(order=3)",) * 2, *("wav-kan(norm='batch')",) * 2)
"""The paper's: a position and a scale of its own for every edge's wavelet, tens of times slower."""

MMK_EXPERTS = (*("taylor(order=4)",) * 2, *("jacobi(degree=4)",) * 2)


@FORECASTERS.register("rmok")
class RMoK(nn.Module):
    r"""A softmax gate weights the forecasts of E experts, each one layer from the window to the horizon.

    All channels share gate and experts. Normalising the window is the caller's (``ForecastNetwork``), but for the
    learned scale of the channels.

    Equation: ŷ = Σ_e g_e Expert_e(x), g = softmax(W x + b)

    Reference: RMoK (arXiv 2408.11306).

    Avoids: the released wavelet's unused weights (2 L H), and batch statistics, which tie a forecast to the other
    windows of its batch and fail on a batch of one (RMOK_PAPER_EXPERTS have them).

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: One expert for each entry, see :func:`make_expert`; a single one stands for four. With one entry there
            is no gate.
        width: Factor on the number of experts, which repeat in order: the hidden width of this model.
        dropout: Of the window's values.
        affine: Scale and shift every channel by learned numbers and undo it at the end (RevIN's).

    Raises:
        KANError: For no expert, an argument out of its range, or windows of another shape.

    Shape:
        - Input: ``(B, L, C)``
        - Output: ``(B, H, C, Q)``

    Parameters: 2 C + E (L + 1) + those of the experts; 111 570 for 96 → 96, 7 channels and these experts or the
    paper's (the release has 18 432 more that no output uses).
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        layer: ExpertSpec | Sequence[ExpertSpec] = RMOK_EXPERTS,
        width: float = 1.0,
        dropout: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        self.input_length, self.horizon = input_length, horizon
        self.channels, self.num_outputs = channels, num_outputs
        specs = _list(layer)
        repeated = [specs[i % len(specs)] for i in range(scaled_size(len(specs), width))]
        self.affine = ChannelAffine(channels) if affine else None
        self.dropout = nn.Dropout(dropout)
        self.mixture = _mixture(input_length, horizon * num_outputs, repeated)

    def forward(self, past: Tensor) -> Tensor:
        """Map ``(B, L, C)`` to ``(B, H, C, Q)``."""
        check_past(past, self.input_length, self.channels)
        rows = channels_as_rows(self.dropout(past if self.affine is None else self.affine(past)))
        y = rows_as_channels(self.mixture(rows), self.channels, self.horizon, self.num_outputs)
        return y if self.affine is None else self.affine.inverse(y)

    @property
    def head(self) -> nn.Module:
        """What to set to zero so that training starts at a forecast of zeros; not the gate: it tells equals apart."""
        return _head(self.mixture)


@FORECASTERS.register("mmk")
class MMK(nn.Module):
    r"""Mixtures of KAN experts in a row, from the window over hidden values to the horizon.

    Equation: ŷ = M_n(clip(… M_1(x))), M_l(u) = Σ_e g_e Expert_{l,e}(u), g = softmax(W_l u + b_l)

    Reference: MMK (arXiv 2408.11306, second version).

    Avoids: cubes of cubes: hidden values pass u/√(1 + (u/3)²) before the next mixture. In front of ``"linear"``
    experts there is a SiLU instead.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: The experts of every mixture, as in :class:`RMoK`.
        width: Factor on `hidden`, for a twin of a given size.
        hidden: Values between two mixtures.
        depth: Mixtures.
        dropout: Of hidden values.
        affine: Scale and shift every channel by learned numbers and undo it at the end (RevIN's).

    Raises:
        KANError: For no expert, an argument out of its range, or windows of another shape.

    Shape:
        - Input: ``(B, L, C)``
        - Output: ``(B, H, C, Q)``

    Parameters: 296 282 for 96 → 96, 7 channels and the defaults, as published.
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        layer: ExpertSpec | Sequence[ExpertSpec] = MMK_EXPERTS,
        width: float = 1.0,
        hidden: int = 64,
        depth: int = 3,
        dropout: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        check_at_least("depth", depth, 1)
        self.input_length, self.horizon = input_length, horizon
        self.channels, self.num_outputs = channels, num_outputs
        specs = _list(layer)
        size = scaled_size(hidden, width)
        self.affine = ChannelAffine(channels) if affine else None
        parts: list[nn.Module] = []
        for n_in, n_out in pairwise([input_length, *[size] * (depth - 1), horizon * num_outputs]):
            if parts:
                linear = all(spec == "linear" for spec in specs)
                parts += [activation_before("linear") if linear else SmoothClip(), nn.Dropout(dropout)]
            parts.append(_mixture(n_in, n_out, specs))
        self.network = nn.Sequential(*parts)

    def forward(self, past: Tensor) -> Tensor:
        """Map ``(B, L, C)`` to ``(B, H, C, Q)``."""
        check_past(past, self.input_length, self.channels)
        rows = channels_as_rows(past if self.affine is None else self.affine(past))
        y = rows_as_channels(self.network(rows), self.channels, self.horizon, self.num_outputs)
        return y if self.affine is None else self.affine.inverse(y)

    @property
    def head(self) -> nn.Module:
        """What to set to zero so that training starts at a forecast of zeros; not the gate: it tells equals apart."""
        return _head(self.network[-1])


def make_expert(spec: ExpertSpec, in_features: int, out_features: int) -> nn.Module:
    """One expert of a mixture.

    Args:
        spec: ``"taylor(order=3)"``: a polynomial of `order` terms on every edge and a constant, written in Hermite
            polynomials, which are uncorrelated for normal inputs, where powers are not. Any other basis: a
            ``KANLinear`` without base branch and without a constant beside its functions. Any other layer: as it is.
            All take one more argument in their name: ``norm='layer'`` or ``norm='batch'`` normalises what they return,
            ``'layer'`` not where that is one number, which would become a constant.
        in_features: Size of each input sample.
        out_features: Size of each output sample.

    Raises:
        KANError: For an unknown layer or norm, an argument that it refuses, or an order below 2.
    """
    if not isinstance(spec, str):
        return spec(in_features, out_features)
    name, arguments = parse_spec(spec, kind="expert")
    norm = make_norm(arguments.pop("norm", None), out_features, None, None)
    factory = _expert_factory(name, arguments)
    if norm is None:
        return factory(in_features, out_features)
    return nn.Sequential(factory(in_features, out_features, bias=False), norm)


def _expert_factory(name: str, arguments: dict[str, Any]) -> LayerFactory:
    if name == "taylor":
        if arguments.keys() - {"order"}:
            raise KANError(f"expert 'taylor' takes order and norm, got {', '.join(arguments)}")
        return partial(_taylor, **arguments)
    factory = layers.get(f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
    return partial(factory, base=None, bias=False) if name in bases.names() else factory


def _taylor(in_features: int, out_features: int, *, order: int = 3, bias: bool = True) -> KANLinear:
    basis = bases.Hermite(check_at_least("order", order, 2) - 1, squash=False)
    return KANLinear(in_features, out_features, basis, base=None, bias=bias)


def _list(layer: ExpertSpec | Sequence[ExpertSpec]) -> list[ExpertSpec]:
    """One entry for each expert."""
    specs = [layer] * 4 if callable(layer) or isinstance(layer, str) else list(layer)
    if not specs:
        raise KANError("a mixture needs at least one expert, got an empty list as `layer`")
    return specs


def _mixture(in_features: int, out_features: int, specs: Sequence[ExpertSpec]) -> nn.Module:
    """The experts under a gate; one alone needs none."""
    if len(specs) == 1:
        return make_expert(specs[0], in_features, out_features)

    def make(spec: ExpertSpec, n_in: int, n_out: int, **_: Any) -> nn.Module:
        return make_expert(spec, n_in, n_out)

    return MixtureOfExperts(in_features, out_features, experts=[partial(make, spec) for spec in specs])


def _head(mixture: nn.Module) -> nn.Module:
    """The output part of every expert."""
    experts = mixture.experts if isinstance(mixture, MixtureOfExperts) else [mixture]
    return nn.ModuleList(output_part(e[-1] if isinstance(e, nn.Sequential) else e) for e in experts)
