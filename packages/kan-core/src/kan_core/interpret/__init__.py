"""Reading a trained KAN: figures of its learned functions."""

from __future__ import annotations

from kan_core.interpret.plots import plot_edge_functions

__all__ = ["plot_edge_functions"]
