"""TabKAN's variants with functions on edges: KAN layers of one basis, then one linear map to the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kan_core import layers
from kan_core.errors import KANError
from kan_core.layers import KANLinear, activation_before
from kan_tabular.models._registry import register
from kan_tabular.models.column_layer import ColumnLayer
from kan_tabular.models.kan import scaled_sizes

__all__ = ["ChebyshevKAN", "EdgewiseKAN", "FastKAN", "FourierKAN", "SplineKAN"]

Head = Literal["linear", "kan"]


def layer_arguments(layer: str | Sequence[str], given: dict[str, Any] | None, usual: dict[str, Any]) -> dict[str, Any]:
    """A variant's `usual` arguments of its layers, those `given` first; of a linear layer only these."""
    return dict(given or {}) if layer == "linear" else {**usual, **(given or {})}


class EdgewiseKAN(nn.Module):
    r"""A `ColumnLayer`, further layers of the same kind, and a head: C → h_1 → … → h_D → outputs.

    Nothing lies between the layers. With ``layer="linear"`` the same code is an MLP with SiLU.

    Args:
        cardinalities: Per column 0 when it is numeric, else the number of its codes, see `ColumnLayer`.
        num_outputs: Outputs: logits, or targets.
        hidden: Hidden sizes h_1 … h_D; without any the columns' functions add up to the outputs and there is no head.
        layer: Any layer of kan_core by name, or one for each hidden size.
        layer_kwargs: More arguments for every layer. A ``norm`` is left out of the first layer: it would mix columns,
            which are scaled already.
        width: Factor on the hidden sizes, for a twin of a given size.
        head: ``"linear"``: a linear map with a bias; ``"kan"``: one more layer of the last kind.

    Raises:
        KANError: For sizes below 1, another number of layers than of hidden sizes, an unknown head, or an argument that
            a layer refuses.

    Shape:
        - Input: ``(rows, columns)``
        - Output: ``(rows, num_outputs)``

    Parameters: those of the layers and the head, see the variants, + C · h_1 for missing values in C numeric columns.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int],
        layer: str | Sequence[str],
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        head: Head = "linear",
    ) -> None:
        super().__init__()
        if head not in get_args(Head):
            raise KANError(f"head must be one of {', '.join(get_args(Head))}, got {head!r}")
        sizes = scaled_sizes(hidden, width)
        specs = [layer] * max(1, len(sizes)) if isinstance(layer, str) else list(layer)
        if len(specs) != max(1, len(sizes)):
            raise KANError(f"layer has {len(specs)} entries for {len(sizes)} hidden layers")
        kwargs = dict(layer_kwargs or {})
        own = {key: value for key, value in kwargs.items() if key != "norm"}
        outputs = [*sizes, num_outputs]
        by_kan = outputs if head == "kan" or not sizes else sizes
        self.first = ColumnLayer(cardinalities, by_kan[0], specs[0], **own)
        self.rest = nn.ModuleList(
            layers.get(kind)(a, b, **kwargs)
            for kind, (a, b) in zip([*specs[1:], specs[-1]], pairwise(by_kan), strict=False)
        )
        self.has_head = by_kan is not outputs
        if self.has_head:
            self.rest.append(nn.Linear(sizes[-1], num_outputs))
        self.between = activation_before(layer) if isinstance(layer, str) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, columns)`` to ``(rows, num_outputs)``."""
        y: Tensor = self.first(x)
        for layer in self.rest:
            y = layer(self.between(y))
        return y

    def column_layers(self) -> list[ColumnLayer]:
        """The first layer."""
        return [self.first]

    def last_layers(self) -> list[nn.Module]:
        """The last KAN layer and a linear head, as TabKAN fine-tunes them; the first layer only when it is alone."""
        return list(self.rest[-2 if self.has_head else -1 :]) or [self.first]

    @torch.no_grad()
    def fit_grid(self, x: Tensor) -> None:
        """Knots of adaptive bases at the quantiles of what each layer sees of encoded rows `x`, front to back."""
        self.first.fit_grid(x)
        y = self.first(x)
        for layer in self.rest:
            y = self.between(y)
            if isinstance(layer, KANLinear) and layer.basis.adaptive:
                layer.update_grid(y)
            y = layer(y)


@register("chebyshev-kan")
class ChebyshevKAN(EdgewiseKAN):
    r"""y_o = Σ_i Σ_{d≤n} C[o,i,d] T_d(tanh x_i) in every layer, then a linear head.

    One degree for each hidden layer: ``layer=("chebyshev(degree=2)", "chebyshev(degree=6)")``. C starts so that outputs
    have variance 1; TabKAN's standard deviation 1/(in (n + 1)) lets it fade with each layer.

    Parameters: in · out · (n + 1) per layer, without a bias, h_D · outputs + outputs of the head, + C · h_1 for missing
    values in C numeric columns.

    Reference: TabKAN (arXiv 2504.06559), ChebyKAN (arXiv 2405.07200).
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64,),
        layer: str | Sequence[str] = "chebyshev(degree=3)",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        head: Head = "linear",
    ) -> None:
        kwargs = layer_arguments(layer, layer_kwargs, {"base": None, "bias": False})
        super().__init__(cardinalities, num_outputs, hidden, layer, kwargs, width, head)


@register("fourier-kan")
class FourierKAN(EdgewiseKAN):
    r"""y_o = b_o + Σ_i Σ_{1≤k≤G} (A[o,i,k] cos k x_i + B[o,i,k] sin k x_i) in every layer, then a linear head.

    Functions have period 2π, and scaled values lie within ±3, inside one period; hidden values are not squashed. A and
    B start normal with standard deviation 1/√(in G), as in TabKAN: outputs have variance 1 for any input.

    Parameters: 2 · in · out · G + out per layer, h_D · outputs + outputs of the head, + C · h_1 for missing values in C
    numeric columns.

    Reference: TabKAN (arXiv 2504.06559), FourierKAN (repository GistNoesis/FourierKAN).
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64,),
        layer: str | Sequence[str] = "fourier(num_frequencies=3)",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        head: Head = "linear",
    ) -> None:
        kwargs = layer_arguments(layer, layer_kwargs, {"base": None})
        super().__init__(cardinalities, num_outputs, hidden, layer, kwargs, width, head)


@register("fast-kan")
class FastKAN(EdgewiseKAN):
    r"""y_o = b_o + Σ_i (Σ_k C[o,i,k] exp(-((z_i - c_k)/h)²) + W[o,i] SiLU(x_i)), z = LayerNorm(x), then a linear head.

    8 centres on [-2, 2], h their spacing 4/7. The first layer has no LayerNorm: it would mix the columns, which are
    scaled already. C starts near 0, so that W carries early training (TabKAN: a truncated normal of 0.1).

    Parameters: 9 · in · out + out per layer, + 2 · in for the LayerNorm of each but the first, h_D · outputs + outputs
    of the head, + C · h_1 for missing values in C numeric columns.

    Reference: TabKAN (arXiv 2504.06559), FastKAN (arXiv 2405.06721).
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64,),
        layer: str | Sequence[str] = "rbf(num_centers=8, grid_range=(-2, 2))",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        head: Head = "linear",
    ) -> None:
        kwargs = layer_arguments(layer, layer_kwargs, {"base": "silu", "norm": "layer"})
        super().__init__(cardinalities, num_outputs, hidden, layer, kwargs, width, head)


@register("spline-kan")
class SplineKAN(EdgewiseKAN):
    r"""y_o = b_o + Σ_i (Σ_k C[o,i,k] B_k(x_i) + W[o,i] SiLU(x_i)) in every layer, the last one included.

    B-splines of G intervals and order k, by default on (-3, 3), where scaled values lie; `fit_grid` moves the knots of
    every layer to quantiles.

    Parameters: in · out · (G + k + 1) + out per layer, + C · h_1 for missing values in C numeric columns.

    Reference: TabKAN (arXiv 2504.06559), spl-KAN; KAN (arXiv 2404.19756).
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (16,),
        layer: str | Sequence[str] = "bspline(grid_size=5, order=3, grid_range=(-3, 3))",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        head: Head = "kan",
    ) -> None:
        super().__init__(cardinalities, num_outputs, hidden, layer, layer_kwargs, width, head)
