"""The KAN of this package: an additive part that can be read, and hidden units for interactions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kan_core import layers
from kan_core.errors import KANError
from kan_core.layers import LayerFactory, activation_before
from kan_tabular.models._registry import register
from kan_tabular.models.column_layer import ColumnLayer
from kan_tabular.models.monotone import monotone_factories

LIMIT = 3.0
"""Scaled values and hidden values lie in (-LIMIT, LIMIT), where the grids are."""

SPLINE = "bspline(grid_size=12, grid_range=(-3, 3))"


@register("kan")
class TabularKAN(nn.Module):
    r"""f(x) = Σ_j φ_j(x_j) + b + g(h), h = clip(Σ_j ψ_j(x_j)): main effects, and a KAN for what is not additive.

    φ and ψ are `ColumnLayer`; g is one KAN layer per further hidden size and one to the outputs. clip is
    u/√(1 + (u/3)²), which keeps hidden values on the grids without any statistics. Without hidden sizes the model is
    additive: its curves are the whole model. With ``layer="linear"`` the same code is an MLP with a linear shortcut.

    Args:
        cardinalities: Per column 0 when it is numeric, else the number of its codes, see `ColumnLayer`.
        num_outputs: Outputs: logits, or targets.
        hidden: Hidden sizes.
        layer: Any layer of kan_core by name.
        layer_kwargs: More arguments for every layer.
        width: Factor on the hidden sizes, for a twin of a given size.
        dropout: Of hidden values.
        activation: Between layers when `layer` is ``"linear"``: ``"silu"``, ``"relu"`` or ``"gelu"``.
        monotone: Per column 1 (outputs never decrease with it), -1 (never increase) or 0; None: all 0. Guaranteed by
            construction, see `kan_tabular.models.monotone`.

    Raises:
        KANError: For sizes below 1, or an argument that a layer refuses.

    Shape:
        - Input: ``(rows, columns)``
        - Output: ``(rows, num_outputs)``
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (32,),
        layer: str = SPLINE,
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        dropout: float = 0.0,
        activation: str = "silu",
        monotone: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        kwargs = dict(layer_kwargs or {})
        sizes = scaled_sizes(hidden, width)
        factories: Sequence[LayerFactory | str] = [layer] * (len(sizes) + 2)
        if monotone is not None and any(monotone):
            factories = monotone_factories(layer, cardinalities, monotone, sizes, num_outputs)
        self.additive = ColumnLayer(cardinalities, num_outputs, factories[0], init_scale=0.0, **kwargs)
        self.first: ColumnLayer | None = None
        self.rest = nn.ModuleList()
        self.between = nn.Sequential(
            activation_before(layer, activation) if layer == "linear" else SmoothClip(), nn.Dropout(dropout)
        )
        if sizes:
            self.first = ColumnLayer(cardinalities, sizes[0], factories[1], **kwargs)
            ends = pairwise([*sizes, num_outputs])
            self.rest.extend(layers.get(make)(a, b, **kwargs) for make, (a, b) in zip(factories[2:], ends, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, columns)`` to ``(rows, num_outputs)``."""
        y: Tensor = self.additive(x)
        if self.first is None:
            return y
        hidden = self.first(x)
        for layer in self.rest:
            hidden = layer(self.between(hidden))
        total: Tensor = y + hidden
        return total

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the MLP of the same code, which knows no constraints."""
        kept = {key: value for key, value in model_kwargs.items() if key not in ("layer_kwargs", "monotone")}
        return {**kept, "layer": "linear"}

    def column_layers(self) -> list[ColumnLayer]:
        """The layers that see the columns: the additive part, then that of the hidden units."""
        return [self.additive] if self.first is None else [self.additive, self.first]

    def fit_grid(self, x: Tensor) -> None:
        """Knots of adaptive bases at the quantiles of encoded rows `x`; hidden layers keep theirs on (-3, 3)."""
        for layer in self.column_layers():
            layer.fit_grid(x)


class SmoothClip(nn.Module):
    """u/√(1 + (u/3)²): increasing, about u near 0, within (-3, 3)."""

    def forward(self, u: Tensor) -> Tensor:
        """Element by element."""
        return smooth_clip(u)


def smooth_clip(u: Tensor) -> Tensor:
    """u/√(1 + (u/3)²)."""
    return u / torch.sqrt(1 + (u / LIMIT).square())


def scaled_sizes(hidden: Sequence[int], width: float) -> list[int]:
    """Hidden sizes times `width`, rounded, at least 1.

    Raises:
        KANError: For a size or a width that is not positive.
    """
    if any(size < 1 for size in hidden) or not width > 0:
        raise KANError(f"hidden sizes and width must be positive, got {list(hidden)} and {width}")
    return [max(1, round(size * width)) for size in hidden]
