"""The first layer of every model: an edge from each column of a table to each output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import layers
from kan_core.errors import KANError
from kan_core.layers import KANLinear, LayerFactory

ONE_TABLE = 10
"""Up to so many categories each has its own value on every edge; above, the edges of a column share a few factors."""

RANK = 8
"""Numbers that describe one category of a column with many of them."""

_QUANTILES = 4096

UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Codes of a category that training never saw, of a missing one, and of the first that there is."""


class ColumnLayer(nn.Module):
    r"""y_o = Σ_j φ_{o,j}(x_j) + bias_o over the columns j of a table, whatever their kind.

    A numeric column's edge is a learned function of its scaled value, by `layer`; where the value is missing (NaN) it
    is φ_{o,j}(0) + M[j, o]: the answer at the median and a learned difference. A categorical column's edge is a table
    of values, T[c, o]; with more than `ONE_TABLE` categories T[c, o] = Σ_r U[c, r] V[r, o] with r < `RANK`. Tables are
    0 for unknown and missing codes until training meets them.

    Args:
        cardinalities: Per column 0 when it is numeric, else the number of its codes: its categories and `FIRST`.
        out_features: Outputs.
        layer: Any layer factory of kan_core for the numeric columns; ``"linear"`` gives an ordinary first layer.
        bias: Add one constant per output.
        init_scale: Standard deviation of what the tables add to an output at the start.
        layer_kwargs: More arguments of `layer`.

    Attributes:
        numeric: The layer of the numeric columns, or None without any.
        missing: M, shape ``(numeric columns, out_features)``.

    Raises:
        KANError: For no columns, a cardinality of 1 or below 0, or what `layer` refuses.

    Shape:
        - Input: ``(rows, columns)``: scaled values with NaN for missing ones, and codes
        - Output: ``(rows, out_features)``

    Parameters: those of `layer` without a bias, + numeric columns · out for M, + codes · out for each column of up to
    `ONE_TABLE` categories, + (codes + out) · `RANK` for each other one, + out with bias.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        out_features: int,
        layer: LayerFactory | str = "bspline",
        *,
        bias: bool = True,
        init_scale: float = 1.0,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        if not cardinalities or any(count < 0 or 0 < count < FIRST for count in cardinalities):
            raise KANError(f"cardinalities must be 0 or at least {FIRST} for each column, got {list(cardinalities)}")
        self.cardinalities = list(cardinalities)
        self.out_features = out_features
        self.numeric_columns = [j for j, count in enumerate(cardinalities) if count == 0]
        small = [j for j, count in enumerate(cardinalities) if 0 < count <= ONE_TABLE + FIRST]
        large = [j for j, count in enumerate(cardinalities) if count > ONE_TABLE + FIRST]
        self.small_columns, self.large_columns = small, large
        self.init_scale = init_scale
        self.numeric: nn.Module | None = None
        self.missing: nn.Parameter | None = None
        if self.numeric_columns:
            self.numeric = layers.get(layer)(len(self.numeric_columns), out_features, bias=False, **layer_kwargs)
            self.missing = nn.Parameter(torch.zeros(len(self.numeric_columns), out_features))
        self.table: nn.Parameter | None = None
        self.factors: nn.Parameter | None = None
        self.mixing: nn.Parameter | None = None
        self.small_offsets: Tensor
        self.large_offsets: Tensor
        self.register_buffer("small_offsets", self._offsets(small), persistent=False)
        self.register_buffer("large_offsets", self._offsets(large), persistent=False)
        if small:
            self.table = nn.Parameter(torch.empty(sum(cardinalities[j] for j in small), out_features))
        if large:
            self.factors = nn.Parameter(torch.empty(sum(cardinalities[j] for j in large), RANK))
            self.mixing = nn.Parameter(torch.empty(len(large), RANK, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.reset_tables()

    @property
    def categorical_columns(self) -> list[int]:
        """Indices of the columns that hold codes, in order."""
        return sorted(self.small_columns + self.large_columns)

    def _offsets(self, columns: list[int]) -> Tensor:
        """Where each column's rows begin in the common table."""
        starts, total = [], 0
        for j in columns:
            starts.append(total)
            total += self.cardinalities[j]
        return torch.tensor(starts, dtype=torch.long)

    @torch.no_grad()
    def reset_tables(self) -> None:
        """Draw tables anew from torch's global generator; the rows of unknown and missing codes are 0."""
        spread = self.init_scale / math.sqrt(max(1, len(self.categorical_columns)))
        if self.table is not None and not self.table.is_meta:
            self.table.normal_(0, spread)
            self._silence(self.table, self.small_offsets)
        if self.factors is not None and self.mixing is not None and not self.factors.is_meta:
            self.factors.normal_()
            self._silence(self.factors, self.large_offsets)
            self.mixing.normal_(0, spread / math.sqrt(RANK))

    @staticmethod
    def _silence(table: Tensor, offsets: Tensor) -> None:
        for code in (UNKNOWN, MISSING):
            table[offsets + code] = 0

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, columns)`` to ``(rows, out_features)``."""
        parts = []
        if self.numeric is not None and self.missing is not None:
            z, missing = self.split_missing(x)
            parts.append(self.numeric(z) + missing.to(z.dtype) @ self.missing)
        if self.table is not None:
            parts.append(self._small(x).sum(dim=1))
        if self.factors is not None:
            parts.append(self._large(x).sum(dim=1))
        y = torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
        return y if self.bias is None else y + self.bias

    def split_missing(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The numeric columns with 0 (the median) for missing values, and where those are."""
        z = x[:, self.numeric_columns] if self.categorical_columns else x
        missing = torch.isnan(z)
        return torch.where(missing, torch.zeros_like(z), z), missing

    def _codes(self, x: Tensor, columns: list[int], offsets: Tensor) -> Tensor:
        return x[:, columns].long() + offsets

    def _small(self, x: Tensor) -> Tensor:
        assert self.table is not None
        return F.embedding(self._codes(x, self.small_columns, self.small_offsets), self.table)

    def _large(self, x: Tensor) -> Tensor:
        assert self.factors is not None
        assert self.mixing is not None
        factors = F.embedding(self._codes(x, self.large_columns, self.large_offsets), self.factors)
        return torch.einsum("bjr,jro->bjo", factors, self.mixing)

    def contributions(self, x: Tensor) -> Tensor:
        """Value of every edge, ``(rows, columns, out_features)``; their sum over columns and the bias are the output.

        Raises:
            KANError: When `layer` mixes columns, as a normalisation over features does: it has no edges then.
        """
        edges = torch.zeros(len(x), len(self.cardinalities), self.out_features, dtype=self._dtype, device=x.device)
        if self.numeric is not None and self.missing is not None:
            z, missing = self.split_missing(x)
            numeric = edges_of(self.numeric, z) + missing.to(z.dtype)[..., None] * self.missing
            edges[:, self.numeric_columns] = numeric.to(edges.dtype)
        if self.table is not None:
            edges[:, self.small_columns] = self._small(x)
        if self.factors is not None:
            edges[:, self.large_columns] = self._large(x)
        return edges

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @torch.no_grad()
    def fit_grid(self, x: Tensor) -> None:
        """Put the knots of adaptive bases at the quantiles of the values; a no-op for other layers.

        A value that many rows share counts for at most half an interval, for it would draw the other knots to itself.
        """
        if not (isinstance(self.numeric, KANLinear) and self.numeric.basis.adaptive):
            return
        z, missing = self.split_missing(x)
        # as many quantiles as say where the knots go, however many rows there are
        places = (torch.arange(_QUANTILES, device=z.device, dtype=torch.float64) + 0.5) / _QUANTILES
        quantiles = z.new_zeros(_QUANTILES, z.shape[1])
        for j in range(z.shape[1]):
            values, counts = torch.unique(z[~missing[:, j], j], return_counts=True)  # sorted
            if len(values):
                most = counts.sum() / (2 * self.numeric.basis.num_functions)
                share = counts.clamp_max(most.ceil().long()).cumsum(0).double()
                quantiles[:, j] = values[torch.searchsorted(share, places * share[-1])]
        self.numeric.update_grid(quantiles)

    def extra_repr(self) -> str:
        """The columns, for ``repr``."""
        return f"numeric={len(self.numeric_columns)}, categorical={len(self.categorical_columns)}"


def edges_of(layer: nn.Module, z: Tensor) -> Tensor:
    """Value of every edge of a fully connected layer without a bias: ``(rows, in) -> (rows, in, out)``.

    Raises:
        KANError: When the layer's outputs are no sums of functions of single inputs.
    """
    if isinstance(layer, nn.Linear):
        return z[..., None] * layer.weight.T
    if isinstance(layer, KANLinear) and layer.norm is None:
        features = layer._planes(z)
        if layer.base is not None:
            features = torch.cat([features, layer._base(z).unsqueeze(-2).to(features.dtype)], dim=-2)
        return torch.einsum("bki,kio->bio", features, layer.effective_weight().to(features.dtype))
    return _edges_by_difference(layer, z)


def _edges_by_difference(layer: nn.Module, z: Tensor) -> Tensor:
    """g(z_i e_i) - g(0), and an equal share of g(0): the edges of any additive g."""
    rows, columns = z.shape
    alone = torch.diag_embed(z).reshape(rows * columns, columns)
    at_zero = layer(torch.zeros_like(z[:1]))
    edges: Tensor = layer(alone).reshape(rows, columns, -1) - at_zero + at_zero / columns
    whole = layer(z)
    if not torch.allclose(edges.sum(dim=1), whole, rtol=1e-3, atol=1e-3 * float(whole.detach().abs().max()) + 1e-6):
        raise KANError(f"{type(layer).__name__} mixes its inputs, so that no edge belongs to one column")
    return edges
