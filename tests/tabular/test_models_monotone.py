"""Monotone columns hold by construction: over random weights, far inputs, refitted grids and training steps."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from kan_core import KANError
from kan_core.bases import BSpline
from kan_tabular import models
from kan_tabular.estimators import KANClassifier
from kan_tabular.models.monotone import BLOCKED, MonotoneKANLinear, check_monotone, monotone_factories

CARDINALITIES = [0, 0, 6, 0, 0]
MONOTONE = [1, 0, 0, -1, 0]
NAN = float("nan")
F64 = torch.float64


def make(hidden=(6,), monotone=MONOTONE, cardinalities=CARDINALITIES, outputs: int = 1, **kwargs) -> torch.nn.Module:
    own = {"layer": "bspline(grid_size=6, grid_range=(-3, 3))", "hidden": hidden, "monotone": monotone, **kwargs}
    return models.create("kan", cardinalities=cardinalities, num_outputs=outputs, **own)


def rows(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 5, generator=generator, dtype=F64) * 6 - 3
    x[:, 2] = torch.randint(6, (count,), generator=generator)
    x[torch.rand(count, generator=generator) < 0.2, 1] = NAN
    x[torch.rand(count, generator=generator) < 0.2, 3] = NAN
    return x


def randomised(model: torch.nn.Module, seed: int, scale: float = 2.0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=F64))
    return model


def worst_step(model: torch.nn.Module, column: int, sign: int, x: torch.Tensor) -> float:
    """The worst change in the wrong direction along a column, relative to the outputs' range: 0 when there is none."""
    path = torch.cat([torch.linspace(-3, 3, 201, dtype=F64), torch.tensor([-1e4, -50.0, -4.0, 4.0, 50.0, 1e4])])
    path = path.to(F64).sort().values
    grid = x.repeat_interleave(len(path), dim=0)
    grid[:, column] = path.repeat(len(x))
    with torch.no_grad():
        y = model(grid).reshape(len(x), len(path), -1)
    return float((-sign * y.diff(dim=1)).max() / (y.max() - y.min()))


def assert_monotone(model: torch.nn.Module, x: torch.Tensor, monotone=MONOTONE) -> None:
    for column, sign in enumerate(monotone):
        if sign:
            assert worst_step(model, column, sign, x) <= 1e-12, column


@pytest.mark.parametrize("hidden", [(), (6,), (7, 4), (1,)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_outputs_follow_the_constraints_whatever_the_weights(hidden, seed):
    model = make(hidden).double().eval()
    assert_monotone(randomised(model, seed), rows(12, seed))


@pytest.mark.parametrize("layer", ["bspline(grid_size=3, order=1)", "bspline(grid_size=4, order=2, edge='clamp')"])
def test_any_b_spline_will_do(layer):
    model = make((5,), layer=layer).double().eval()
    assert_monotone(randomised(model, 0), rows(12))


def test_they_hold_on_knots_at_quantiles():
    model = make((6,)).double()
    x = rows(300)
    x[:, 0] = x[:, 0].exp()  # unevenly spread, and beyond the first grid
    model.fit_grid(x)
    assert not model.column_layers()[0].numeric.basis.uniform
    assert_monotone(randomised(model.eval(), 1), rows(12))


@pytest.mark.parametrize("hidden", [(), (6,)], ids=str)
def test_they_hold_after_training_on_a_target_that_goes_the_other_way(hidden):
    x = rows(400)
    y = -x[:, :1] + x[:, 3:4].nan_to_num() + (2 * x[:, 4:5]).sin()
    model = make(hidden).double()
    model.fit_grid(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert_monotone(model.eval(), rows(12, 1))


def test_it_learns_what_agrees_with_the_constraints():
    x = rows(400)
    x[:, 3] = x[:, 3].nan_to_num()
    y = torch.tanh(2 * x[:, :1]) - 0.3 * x[:, 3:4] + 0.5 * (2 * x[:, 4:5]).sin()
    model = make((8,)).double()
    model.fit_grid(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * y.var()


def test_a_free_column_is_free():
    model = randomised(make((6,)).double().eval(), 3)
    assert worst_step(model, 1, 1, rows(12)) > 0.01
    assert worst_step(model, 1, -1, rows(12)) > 0.01


def test_all_columns_monotone_leaves_no_free_unit():
    factories = monotone_factories("bspline", [0, 0], [1, -1], [5], 2)
    first = factories[1](2, 5)
    assert not (first.signs == BLOCKED).any()
    model = randomised(make((5,), [1, -1], [0, 0], outputs=2).double().eval(), 0)
    assert_monotone(model, rows(8)[:, [0, 4]], [1, -1])


def test_free_units_see_no_constrained_column_and_no_monotone_unit():
    factories = monotone_factories("bspline", CARDINALITIES, MONOTONE, [4, 3], 1)
    _, first, second, last = (
        factory(n_in, n_out).signs.tolist()
        for factory, (n_in, n_out) in zip(factories, [(4, 1), (4, 4), (4, 3), (3, 1)], strict=True)
    )
    b = BLOCKED
    assert first == [[1, 1, b, b], [0, 0, 0, 0], [-1, -1, b, b], [0, 0, 0, 0]]
    assert second == [[1, 1, b], [1, 1, b], [0, 0, 0], [0, 0, 0]]
    assert last == [[1], [1], [0]]


def test_edges_are_what_the_layer_adds_up_and_of_their_kind():
    signs = torch.tensor([[1, -1, 0], [BLOCKED, 0, 1]])
    layer = MonotoneKANLinear(2, 3, "bspline(grid_size=4, grid_range=(-3, 3))", signs=signs, dtype=F64)
    randomised(layer, 0)
    x = torch.linspace(-5, 5, 101, dtype=F64)
    both = torch.stack([x, x.flip(0)], dim=1)
    total = sum(torch.stack([layer.edge_function(o, i)(both[:, i]) for o in range(3)], dim=1) for i in range(2))
    torch.testing.assert_close(layer(both), total + layer.bias)
    assert (layer.edge_function(0, 0)(x).diff() >= -1e-12).all()
    assert (layer.edge_function(1, 0)(x).diff() <= 1e-12).all()
    assert not layer.edge_function(0, 1)(x).any()


def test_without_constraints_it_is_the_ordinary_layer():
    torch.manual_seed(3)
    layer = MonotoneKANLinear(3, 2, "bspline(edge='clamp')", signs=torch.zeros(3, 2))
    assert torch.equal(layer.effective_weight(), layer.weight)


@pytest.mark.parametrize("what", ["update", "refine"])
def test_a_new_grid_keeps_the_functions(what):
    signs = torch.tensor([[1, -1, 0], [BLOCKED, 1, 1]])
    layer = MonotoneKANLinear(2, 3, "bspline(grid_size=6, grid_range=(-3, 3))", signs=signs, dtype=F64)
    with torch.no_grad():
        layer.weight.add_(0.2 * torch.rand_like(layer.weight))
    x = torch.rand(400, 2, dtype=F64) * 6 - 3
    before = copy.deepcopy(layer)(x)
    if what == "update":
        layer.update_grid(x)
    else:
        layer.refine(12)
    # refined splines hold the old ones; at moved knots the fit is close
    assert (layer(x) - before).abs().max() < (0.02 if what == "update" else 1e-3) * before.std()


def test_constrained_edges_start_small_and_with_gradients_everywhere():
    model = make((8,)).double()
    y = model(rows(200))
    assert 0.05 < y.std() < 2
    y.square().sum().backward()
    layer = model.column_layers()[1].numeric
    there = (layer.signs != BLOCKED).expand_as(layer.weight)
    assert (layer.weight.grad[there] != 0).double().mean() > 0.99


def test_bad_constraints_are_told_by_their_column():
    for monotone, message in (
        ([1, 0], "monotone has 2 entries for a table of 5 columns"),
        ([2, 0, 0, 0, 0], r"monotone\[0\] must be 1, -1 or 0, got 2"),
        ([0, 0, 1, 0, 0], r"monotone\[2\] is 1, but column 2 is categorical and has no order"),
    ):
        with pytest.raises(KANError, match=message):
            check_monotone(monotone, CARDINALITIES)
    assert check_monotone(np.array([1, 0, 0, -1, 0]), CARDINALITIES) == MONOTONE


def test_other_layers_are_refused():
    for layer in ("chebyshev", "linear"):
        with pytest.raises(KANError, match=r"monotone columns need layer='bspline\.\.\.', got"):
            monotone_factories(layer, [0], [1], [], 1)
    with pytest.raises(KANError, match="monotone columns need the basis 'bspline', got Fourier"):
        MonotoneKANLinear(1, 1, "fourier", signs=torch.ones(1, 1))


def test_the_prototype_of_a_basis_is_left_alone():
    basis = BSpline(4)
    MonotoneKANLinear(1, 1, basis, signs=torch.ones(1, 1))
    assert basis.edge == "decay"


def test_estimators_keep_the_constraints_of_named_columns():
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"a": rng.normal(size=80), "b": rng.normal(size=80)})
    y = (x["a"] + rng.normal(size=80) < 0).to_numpy()  # falls with a
    est = KANClassifier(monotone={"a": 1}, hidden=(4,), max_epochs=2, random_state=0).fit(x, y)
    path = pd.DataFrame({"a": np.linspace(-100, 100, 400), "b": 0.3})
    assert (np.diff(est.predict_proba(path)[:, 1]) >= -1e-12).all()


def test_of_several_classes_none_can_be_monotone():
    x = pd.DataFrame({"a": np.arange(12.0)})
    with pytest.raises(KANError, match="monotone"):
        KANClassifier(monotone=[1], max_epochs=1).fit(x, np.arange(12) % 3)
