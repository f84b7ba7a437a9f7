"""What the figures of learned functions show."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from kan_core import KAN, KANConv2d, KANLinear
from kan_core.interpret import plot_edge_functions


def test_a_model_without_kan_layers_has_no_figure():
    assert plot_edge_functions(nn.Linear(3, 2)) is None


def test_the_curves_are_the_edge_functions_and_the_most_varied_come_first():
    layer = KANLinear(3, 2, base=None)
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.weight[:, 1, 0] = torch.linspace(-2, 2, 8)  # edge 1 -> 0 outweighs all others
    figure = plot_edge_functions(nn.Sequential(layer), max_edges=3)
    axes = figure.get_axes()
    shown = [axis for axis in axes if axis.lines]
    assert len(shown) == 3
    assert shown[0].get_title() == "1 → 0"
    x, y = shown[0].lines[0].get_data()
    expected = layer.edge_function(0, 1)(torch.as_tensor(np.asarray(x))).detach()
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert x.min() < -1  # beyond the grid, shaded
    assert x.max() > 1


def test_every_layer_has_a_part_up_to_the_limit(spec):
    net = nn.Sequential(KANConv2d(1, 2, 3, basis=spec), nn.Flatten(), KAN([8, 3, 2], spec))
    figure = plot_edge_functions(net, max_layers=2, max_edges=4)
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert [title.split(":")[0] for title in titles] == ["0", "2.layers.0"]
    assert "4 of 18 edges" in titles[0]
    assert "4 of 24 edges" in titles[1]


def test_a_layer_after_a_grid_update_is_drawn_over_its_new_range():
    layer = KANLinear(2, 2)
    layer.update_grid(torch.rand(100, 2) * 10 + 5)
    axis = plot_edge_functions(layer).get_axes()[0]
    assert axis.lines[0].get_xdata().max() > 14
