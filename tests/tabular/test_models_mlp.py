"""fair-comparison.md, baselines: the MLP, one B-spline per unit, and piecewise-linear embeddings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kan_core import KANError
from kan_core.compare import count_parameters, published_spline_mlp_cost
from kan_core.compare import mlp as plain_mlp
from kan_tabular import models
from kan_tabular.models.activations import UnitSpline
from kan_tabular.models.piecewise import PiecewiseLinear

F64 = torch.float64
NAN = float("nan")


def make(name: str, columns: int = 6, outputs: int = 2, **kwargs) -> nn.Module:
    return models.create(name, cardinalities=[0] * columns, num_outputs=outputs, **kwargs)


@pytest.mark.parametrize(("activation", "function"), [("relu", F.relu), ("silu", F.silu)])
def test_the_mlp_is_linear_maps_with_activations_between(activation, function):
    model = make("mlp", hidden=(5, 4), activation=activation)
    x = torch.randn(10, 6)
    y = F.linear(x, model.first.numeric.weight, model.first.bias)
    for linear in model.rest:
        y = linear(function(y))
    torch.testing.assert_close(model(x), y)


def test_the_mlp_counts_as_the_comparison_s_mlp_and_the_missing_values():
    model = make("mlp", hidden=(16, 8))
    assert count_parameters(model) == count_parameters(plain_mlp([6, 16, 8, 2])) + 6 * 16


def test_without_hidden_sizes_the_mlp_is_a_linear_model():
    model = make("mlp", hidden=())
    x, y = torch.randn(5, 6), torch.randn(5, 6)
    torch.testing.assert_close(model(x + y) + model(torch.zeros(5, 6)), model(x) + model(y))


def test_section_2_the_spline_mlp_counts_as_published_but_for_the_activation_of_the_outputs():
    for grid_size, order in ((3, 2), (10, 3)):
        spec = f"spline(grid_size={grid_size}, order={order})"
        model = make("mlp-spline", hidden=(7, 5), activation=spec)
        published = published_spline_mlp_cost([6, 7, 5, 2], grid_size, order).parameters
        assert count_parameters(model) == published - 2 * (grid_size + order) + 6 * 7


def test_a_unit_spline_starts_as_silu_and_goes_on_along_its_tangents():
    spline = UnitSpline(3).double()
    x = torch.linspace(-3, 3, 601, dtype=F64)[:, None].expand(-1, 3)
    assert (spline(x) - F.silu(x)).abs().max() < 0.01
    far = torch.tensor([[-9.0], [-6.0], [-3.0], [3.0], [6.0], [9.0]], dtype=F64).expand(-1, 3)
    y = spline(far)
    torch.testing.assert_close(y[1] - y[0], y[2] - y[1])
    torch.testing.assert_close(y[5] - y[4], y[4] - y[3])


def test_each_unit_has_a_spline_of_its_own():
    spline = UnitSpline(3)
    before = spline(torch.ones(1, 3)).detach()
    with torch.no_grad():
        spline.coefficients[:, 1] += 1
    torch.testing.assert_close(spline(torch.ones(1, 3)) - before, torch.tensor([[0.0, 1.0, 0.0]]))


def reference_embedding(x: float, edges: np.ndarray) -> list[float]:
    """The definition of arXiv 2203.05556, bin by bin."""
    values = []
    last = len(edges) - 1
    for t in range(1, last + 1):
        if x < edges[t - 1] and t > 1:
            values.append(0.0)
        elif x >= edges[t] and t < last:
            values.append(1.0)
        else:
            values.append((x - edges[t - 1]) / (edges[t] - edges[t - 1]))
    return values


def test_the_piecewise_linear_embedding_is_the_paper_s():
    basis = PiecewiseLinear(5).bind(1, dtype=F64)
    basis.update_grid(torch.randn(400, 1, dtype=F64).exp())
    edges = basis.edges[0].numpy()
    x = np.concatenate([np.linspace(edges[0] - 1, edges[-1] + 1, 57), edges])
    expected = [reference_embedding(value, edges) for value in x]
    torch.testing.assert_close(basis(torch.from_numpy(x)[:, None])[:, 0], torch.tensor(expected, dtype=F64))


def test_bins_lie_at_the_training_quantiles():
    basis = PiecewiseLinear(4).bind(2)
    x = torch.stack([torch.arange(101.0), torch.arange(101.0).square()], dim=1)
    basis.update_grid(x[torch.randperm(101)])
    torch.testing.assert_close(basis.edges, torch.tensor([[0.0, 25, 50, 75, 100], [0.0, 625, 2500, 5625, 10000]]))


def test_repeated_quantiles_halve_the_widest_bins_and_a_single_value_keeps_its_bins():
    basis = PiecewiseLinear(4).bind(3)
    before = basis.edges.clone()
    zeros = torch.zeros(100)
    x = torch.stack([zeros, torch.cat([zeros[:95], torch.arange(1.0, 6)]), (torch.arange(100) % 2).float()], dim=1)
    basis.update_grid(x)
    torch.testing.assert_close(basis.edges[0], before[0])
    torch.testing.assert_close(basis.edges[1], torch.tensor([0.0, 1.25, 2.5, 3.75, 5.0]))
    torch.testing.assert_close(basis.edges[2], torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert (basis.edges.diff(dim=1) > 0).all()


def test_single_valued_columns_and_missing_values_work_in_the_embedding_mlp():
    model = make("mlp-ple", columns=3, hidden=(4,))
    x = torch.randn(50, 3)
    x[:, 1], x[::7, 2] = 0.0, NAN
    model.fit_grid(x)
    assert torch.isfinite(model(x)).all()
    assert torch.isfinite(model(x + 1)).all()
    edges = model.first.numeric.basis.edges
    known = x[:, 2][~x[:, 2].isnan()]
    torch.testing.assert_close(edges[2, [0, -1]], torch.stack([known.min(), known.max()]))


def test_the_first_map_of_the_embedding_mlp_is_linear_in_every_bin():
    model = make("mlp-ple", columns=1, hidden=(4,), layer="piecewise-linear(num_bins=3)").double()
    model.fit_grid(torch.randn(200, 1, dtype=F64))
    edges = model.first.numeric.basis.edges[0]
    assert len(edges) == 4
    assert not model.first.numeric.basis.outside(edges[:, None]).any()
    bounds = torch.cat([edges[:1] - 2, edges[1:-1], edges[-1:] + 2])
    for low, high in itertools.pairwise(bounds):
        y = model.first((low + (high - low) * torch.linspace(0, 1, 9, dtype=F64))[:, None])
        torch.testing.assert_close(y.diff(n=2, dim=0), torch.zeros(7, 4, dtype=F64), atol=1e-12, rtol=0)


def test_the_embedding_mlp_counts_one_weight_for_each_bin():
    model = make("mlp-ple", hidden=(5,), layer="piecewise-linear(num_bins=8)")
    assert count_parameters(model) == 6 * 8 * 5 + 5 + 6 * 5 + 5 * 2 + 2


def test_bad_arguments():
    with pytest.raises(KANError, match="unexpected keyword argument 'bins'"):
        make("mlp-ple", layer="piecewise-linear(bins=8)")
    with pytest.raises(KANError, match="num_bins must be a whole number of at least 1, got 0"):
        make("mlp-ple", layer="piecewise-linear(num_bins=0)")
    with pytest.raises(KANError, match="finite samples"):
        PiecewiseLinear().bind(1).update_grid(torch.tensor([[NAN]]))
