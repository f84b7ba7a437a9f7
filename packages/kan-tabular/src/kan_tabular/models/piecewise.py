"""The piecewise-linear embedding of a number, as a basis: the baseline that is closest to a spline layer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kan_core.bases import Basis
from kan_core.bases._base import check_at_least, check_interval
from kan_core.errors import KANError
from kan_core.layers import KANLinear, LayerFactory
from kan_core.registry import parse_spec

NAME = "piecewise-linear"


class PiecewiseLinear(Basis):
    r"""T ramps between the edges of T bins: 0 before a bin, 1 behind it, linear inside.

    The first ramp goes on below the first bin and the last beyond the last one. Numbers embedded so, then a linear map,
    are a first layer of piecewise-linear functions.

    Equation: φ_t(x) = clip((x - b_{t-1})/(b_t - b_{t-1}), 0, 1), t = 1 … T, without the lower bound at t = 1 and
    without the upper one at t = T

    Reference: "On Embeddings for Numerical Features in Tabular Deep Learning" (arXiv 2203.05556), section 3.2.

    Avoids: bins of no width where quantiles repeat. They halve the widest bins instead, so that T stays; an input with
    a single value keeps its bins.

    Args:
        num_bins: T, at least 1.
        grid_range: First and last edge until there is data.

    Raises:
        KANError: For an argument out of its range.
    """

    adaptive = True

    def __init__(self, num_bins: int = 16, grid_range: tuple[float, float] = (-3.0, 3.0)) -> None:
        super().__init__()
        self.num_functions = check_at_least("num_bins", num_bins, 1)
        low, high = check_interval("grid_range", grid_range)
        self.edges: Tensor  # (in_features, T + 1); a prototype has one row for all
        self.register_buffer("edges", torch.linspace(low, high, num_bins + 1, dtype=torch.float64)[None])

    def bind(
        self, in_features: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PiecewiseLinear:
        """A fresh copy with one row of edges for each input."""
        bound = super().bind(in_features, device, dtype)
        bound.edges = bound.edges[:1].repeat(in_features, 1)
        return bound

    @property
    def flops_per_input(self) -> int:
        """Difference, scale and two bounds for each function."""
        return 4 * self.num_functions

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., T, in_features)``."""
        edges = self.edges.T.to(x.dtype)
        ramp = (x.unsqueeze(-2) - edges[:-1]) / edges.diff(dim=0)
        below = torch.zeros_like(edges[:-1])
        above = torch.ones_like(below)
        below[0], above[-1] = -torch.inf, torch.inf
        return torch.minimum(torch.maximum(ramp, below), above)

    @torch.no_grad()
    def update_grid(self, x: Tensor) -> None:
        """Put every input's edges at the quantiles of its samples.

        Args:
            x: Samples, shape ``(samples, in_features)``.

        Raises:
            KANError: When `x` is empty or holds a NaN or an infinity.
        """
        if x.numel() == 0 or not torch.isfinite(x).all():
            raise KANError(
                f"update_grid needs finite samples, got shape {tuple(x.shape)} with NaN, infinity or no rows"
            )
        ordered = x.to(self.edges.dtype).sort(dim=0).values
        share = torch.linspace(0, 1, self.num_functions + 1, dtype=torch.float64, device=x.device)
        rank = (share * (len(x) - 1)).round().long()
        for row, samples in zip(self.edges, ordered[rank].T, strict=True):
            edges = samples.unique()
            if len(edges) > 1:
                row.copy_(_halved(edges, self.num_functions))

    def fit_points(self) -> Tensor:
        """The edges and the middle of every bin: shape ``(points, in_features)``, float64."""
        edges = self.edges.double().T
        return torch.cat([edges, (edges[:-1] + edges[1:]) / 2])

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"num_bins={self.num_functions}"


def _halved(edges: Tensor, bins: int) -> Tensor:
    """`edges` with the widest bin halved until there are so many."""
    while len(edges) <= bins:
        widest = int(edges.diff().argmax())
        middle = (edges[widest] + edges[widest + 1]) / 2
        edges = torch.cat([edges[: widest + 1], middle[None], edges[widest + 1 :]])
    return edges


def numeric_factory(layer: LayerFactory | str) -> LayerFactory | str:
    """`layer` as a `ColumnLayer` takes it: ``"piecewise-linear(num_bins=16)"`` is known here, and all else to kan_core.

    Raises:
        KANError: For arguments that do not fit.
    """
    if not isinstance(layer, str):
        return layer
    name, arguments = parse_spec(layer, kind="layer")
    if name != NAME:
        return layer
    try:
        return partial(KANLinear, basis=PiecewiseLinear(**arguments), base=None)
    except TypeError as error:
        raise KANError(f"layer {layer!r}: {error}") from None
