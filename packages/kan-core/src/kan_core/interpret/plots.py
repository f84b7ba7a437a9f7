"""Figures of what a KAN has learned; needs matplotlib (extra ``kan-core[lightning]``)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from kan_core.layers import KANLayer, kan_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 200
_COLUMNS = 8


def plot_edge_functions(model: nn.Module, max_layers: int = 4, max_edges: int = 8) -> Figure | None:
    """The learned edge functions that vary most, a few for each KAN layer.

    Each panel is one φ_{o,i} over the basis's domain (dashed: its base branch alone; shaded: outside the grid). Edges
    are ranked by the standard deviation of the function over the domain.

    Args:
        model: Any module; its KAN layers are shown in the order of definition.
        max_layers: Show at most so many layers: the first ones.
        max_edges: Show at most so many edges of each layer.

    Returns:
        The figure, or None when the model has no KAN layer.
    """
    from matplotlib.figure import Figure

    layers = kan_layers(model)[:max_layers]
    if not layers:
        return None
    counts = [min(max_edges, layer.coefficients.shape[0] * layer.coefficients.shape[1]) for _, layer in layers]
    rows = [math.ceil(count / _COLUMNS) for count in counts]
    figure = Figure(figsize=(1.7 * _COLUMNS, 1.6 * sum(rows) + 0.5 * len(rows)), layout="constrained")
    for subfigure, (name, layer), count, height in zip(
        figure.subfigures(len(layers), 1, height_ratios=rows, squeeze=False)[:, 0], layers, counts, rows, strict=True
    ):
        subfigure.suptitle(
            f"{name or type(layer).__name__}: {count} of {_edges(layer)} edges, the most varied first{_key(layer)}",
            fontsize=9,
        )
        axes = subfigure.subplots(height, _COLUMNS, squeeze=False).flat
        low, high = _domain(layer)
        margin = 0.15 * (high - low)
        x = torch.linspace(low - margin, high + margin, _POINTS).to(layer.weight)
        for axis, (output, index) in zip(axes, _most_varied(layer, count), strict=False):
            with torch.no_grad():
                axis.plot(x.cpu().float(), layer.edge_function(output, index)(x).cpu().float(), linewidth=1.5)
                if layer.base is not None and layer.base_weight is not None:
                    base = layer.base_weight[output, index] * layer._base(x)
                    axis.plot(x.cpu().float(), base.cpu().float(), linewidth=0.8, linestyle="--", color="0.6")
            for outside in ((low - margin, low), (high, high + margin)):
                axis.axvspan(*outside, color="0.93", linewidth=0)
            axis.set_title(f"{index} → {output}", fontsize=7)
            axis.tick_params(labelsize=6)
        for axis in list(axes)[count:]:
            axis.set_axis_off()
    return figure


def _key(layer: KANLayer) -> str:
    """How to read the panels."""
    return " (grey: outside the grid" + (f"; dashed: the {layer.base} branch alone)" if layer.base else ")")


def _edges(layer: KANLayer) -> int:
    return layer.coefficients.shape[0] * layer.coefficients.shape[1]


def _domain(layer: KANLayer) -> tuple[float, float]:
    """Where to draw: the grid when there is one (the widest, when inputs have their own), else [-3, 3]."""
    from kan_core.bases import BSpline

    if isinstance(layer.basis, BSpline):
        return float(layer.basis.grid[:, 0].min()), float(layer.basis.grid[:, -1].max())
    return layer.basis.domain or (-3.0, 3.0)


@torch.no_grad()
def _most_varied(layer: KANLayer, count: int) -> list[tuple[int, int]]:
    """(output, input) of the `count` edges whose function varies most over the domain."""
    low, high = _domain(layer)
    x = torch.linspace(low, high, 64).to(layer.weight)
    inputs = layer.coefficients.shape[1]
    features = layer._planes(x[:, None].expand(-1, inputs))
    planes = layer.as_planes(layer.effective_weight())
    if layer.base is not None:
        features = torch.cat([features, layer._base(x)[:, None, None].expand(-1, 1, inputs)], dim=1)
    # Var[Σ_p w_p f_p] = wᵀ Cov(f) w, so that no tensor of points x edges is made
    centred = features - features.mean(dim=0)
    covariance = torch.einsum("npi,nqi->ipq", centred, centred) / len(x)
    variance = torch.einsum("pie,ipq,qie->ei", planes, covariance.to(planes.dtype), planes)
    best = variance.flatten().argsort(descending=True)[:count]
    return [(int(b) // inputs, int(b) % inputs) for b in best]
