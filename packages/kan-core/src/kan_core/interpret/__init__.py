"""Reading a trained KAN: figures of its functions, what its outputs depend on, and pruning what carries nothing."""

from __future__ import annotations

from kan_core.interpret.attribution import Attribution, attribute
from kan_core.interpret.plots import plot_edge_functions
from kan_core.interpret.pruning import mask_edges, prune

__all__ = ["Attribution", "attribute", "mask_edges", "plot_edge_functions", "prune"]
