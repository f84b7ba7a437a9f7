"""MLPs of the fair comparison: plain, with a B-spline for each unit, and behind a piecewise-linear embedding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from kan_core.layers import LayerFactory
from kan_tabular.models._registry import register
from kan_tabular.models.activations import PLAIN, activations
from kan_tabular.models.column_layer import ColumnLayer
from kan_tabular.models.kan import scaled_sizes
from kan_tabular.models.piecewise import numeric_factory

__all__ = ["MLP", "EmbeddingMLP", "SplineMLP"]


@register("mlp")
class MLP(nn.Module):
    r"""Linear maps with an activation between them; the first map is a `ColumnLayer`, which also takes categories.

    Args:
        cardinalities: Per column 0 when it is numeric, else the number of its codes, see `ColumnLayer`.
        num_outputs: Outputs: logits, or targets.
        hidden: Hidden sizes; without any the model is linear in what `layer` makes of the columns.
        layer: How numeric columns enter the first map: ``"linear"``, ``"piecewise-linear(num_bins=16)"`` (see
            `kan_tabular.models.piecewise.PiecewiseLinear`), or any layer of kan_core.
        layer_kwargs: More arguments of `layer`.
        width: Factor on the hidden sizes, for a twin of a given size.
        activation: Of every hidden layer, or one for each, see `kan_tabular.models.activations.make_activation`.
        dropout: Of hidden values.

    Raises:
        KANError: For sizes below 1, an unknown activation, or an argument that a layer refuses.

    Shape:
        - Input: ``(rows, columns)``
        - Output: ``(rows, num_outputs)``

    Parameters, for C numeric columns and layer ``"linear"``: Σ_l d_{l+1} (d_l + 1) over the sizes C, hidden, outputs,
    + C · d_1 for missing values, + those of the activations.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64, 64),
        layer: LayerFactory | str = "linear",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        activation: str | Sequence[str] = "silu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = scaled_sizes(hidden, width)
        outputs = [*sizes, num_outputs]
        self.first = ColumnLayer(cardinalities, outputs[0], numeric_factory(layer), **(layer_kwargs or {}))
        self.activations = activations(activation, sizes)
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(outputs))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, columns)`` to ``(rows, num_outputs)``."""
        y: Tensor = self.first(x)
        for act, linear in zip(self.activations, self.rest, strict=True):
            y = linear(self.dropout(act(y)))
        return y

    def column_layers(self) -> list[ColumnLayer]:
        """The first map."""
        return [self.first]

    def last_layers(self) -> list[nn.Module]:
        """The last map."""
        return list(self.rest[-1:]) or [self.first]

    def fit_grid(self, x: Tensor) -> None:
        """Bins or knots of the first map at the quantiles of encoded rows `x`; activations keep theirs."""
        self.first.fit_grid(x)

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The same MLP with plain parts: `model_kwargs` themselves when it has no others."""
        ordinary = dict(model_kwargs)
        if ordinary.get("layer", "linear") != "linear":
            ordinary = {key: value for key, value in ordinary.items() if key not in ("layer", "layer_kwargs")}
        if ordinary.get("activation", "silu") not in PLAIN:
            del ordinary["activation"]
        return ordinary


class _Variant(MLP):
    """An MLP with a part that is not ordinary, and what takes its place in the twin."""

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The plain MLP with SiLU."""
        rest = {key: value for key, value in model_kwargs.items() if key != "layer_kwargs"}
        return {**rest, "layer": "linear", "activation": "silu"}


@register("mlp-spline")
class SplineMLP(_Variant):
    r"""An MLP whose activation is one learned B-spline per unit: the ablation of the fair comparison.

    Parameters: those of the `MLP`, + (G + k) for each hidden unit. The paper's accounting also has an activation behind
    the last layer, with (G + k) more for each output; logits here have none.

    Reference: Yu, Yu, Wang, "KAN or MLP: A Fairer Comparison" (arXiv 2407.16674).
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64, 64),
        activation: str | Sequence[str] = "spline(grid_size=5, order=3)",
        **kwargs: Any,
    ) -> None:
        super().__init__(cardinalities, num_outputs, hidden, activation=activation, **kwargs)


@register("mlp-ple")
class EmbeddingMLP(_Variant):
    r"""An MLP behind the piecewise-linear embedding of each numeric column, with bins at the training quantiles.

    Parameters: those of the `MLP`, with C · T · d_1 in the place of C · d_1 in the first map, for T bins.

    Reference: "On Embeddings for Numerical Features in Tabular Deep Learning" (arXiv 2203.05556).
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64, 64),
        layer: LayerFactory | str = "piecewise-linear(num_bins=16)",
        **kwargs: Any,
    ) -> None:
        super().__init__(cardinalities, num_outputs, hidden, layer, **kwargs)
