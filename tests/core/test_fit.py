"""Function fitting: stated accuracies are reached, extension keeps functions, held-out points choose, bad calls end."""

from __future__ import annotations

import copy
import itertools
import math
import statistics

import pytest
import torch
from torch import nn

from kan_core import KAN
from kan_core.compare import mlp
from kan_core.errors import KANError
from kan_core.training.fit import fit
from kan_core.training.levenberg_marquardt import levenberg_marquardt

SPLINE = "bspline(grid_size=3, grid_eps=1.0)"


def toy(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)


def wave(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(x) * torch.sin(3 * x)


def points(function, inputs, seed, count=1000):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, inputs, dtype=torch.float64, generator=generator) * 2 - 1
    return x, function(x)


def kan(widths, basis=SPLINE, seed=0, **options):
    torch.manual_seed(seed)
    return KAN(widths, basis, dtype=torch.float64, **options)


def rmse(net, x, y):
    with torch.no_grad():
        return (net(x) - y).square().mean().sqrt().item()


# Accuracy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lbfgs", "lm"])
def test_a_smooth_function_of_one_variable_below_1e_4(optimizer):
    net, train, unseen = kan([1, 1]), points(wave, 1, 0, 300), points(wave, 1, 2)
    fit(net, *train, validation=points(wave, 1, 1), grids=(5, 10, 20), steps=40, optimizer=optimizer)
    assert rmse(net, *unseen) < 1e-4


def errors_by_grid(seed, grids):
    net, train, held_out, unseen = kan([2, 1, 1], seed=seed), *(points(toy, 2, 3 * seed + i) for i in range(3))
    errors = {}
    for grid in grids:
        fit(net, *train, validation=held_out, grids=(grid,), steps=50, optimizer="lm")
        errors[grid] = rmse(net, *unseen)
    return errors


def slope(errors):
    logs = [(math.log(grid), math.log(error)) for grid, error in errors.items()]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_kan_pykan_card_slope_of_log_rmse_over_log_grid(seed):
    """Card: slope in [-4.5, -3] for G from 5 to 20; the docs' table has 4.04e-5 at G = 20."""
    errors = errors_by_grid(seed, (3, 5, 10, 20))
    assert -4.5 <= slope({grid: errors[grid] for grid in (5, 10, 20)}) <= -3
    assert errors[20] <= 5e-5


def test_kan_pykan_card_continual_learning_in_one_dimension():
    """Five bumps, one after the other: local functions leave the earlier ones alone (card: 3.99e-6)."""
    centers = torch.linspace(-0.8, 0.8, 5, dtype=torch.float64)
    x = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None]
    y = torch.exp(-300 * (x - centers) ** 2).sum(dim=1, keepdim=True)
    net = kan([1, 1], "bspline(grid_size=200)", base=None, bias=False, init_scale=1e-9)
    for phase in zip(x.split(100), y.split(100), strict=True):
        fit(net, *phase, validation=phase, update_grid=False, steps=100, patience=1)
    assert rmse(net, x, y) < 1e-5


def test_lbfgs_gets_below_the_absolute_curvature_threshold_of_torch():
    """Torch's LBFGS drops curvature pairs with y·s < 1e-10; without a loss scaled to 1 it would slow down at 1e-5."""
    net, train = kan([1, 1]), points(wave, 1, 0, 300)
    fit(net, *train, validation=points(wave, 1, 1, 300), grids=(20, 40), steps=150)
    assert rmse(net, *points(wave, 1, 2)) < 1e-6


def test_adam_with_batches_fits_a_kan():
    net = kan([1, 1])
    train, held_out = points(wave, 1, 0, 256), points(wave, 1, 1)
    fit(net, *train, validation=held_out, grids=(5, 10), optimizer="adam", steps=150, batch_size=64, lr=0.05)
    assert rmse(net, *held_out) < 1e-2


@pytest.mark.parametrize("options", [{"optimizer": "lm"}, {"optimizer": "lbfgs"}, {"optimizer": "adam", "lr": 0.1}])
def test_any_module_can_be_fitted(options):
    torch.manual_seed(0)
    net = mlp([1, 8, 1], "tanh")
    train, held_out = ((x.float(), y.float()) for x, y in (points(wave, 1, 0, 200), points(wave, 1, 1, 200)))
    before = rmse(net, *held_out)
    result = fit(net, *train, validation=held_out, steps=100, **options)
    assert rmse(net, *held_out) < 0.3 * before
    assert {record.grid_size for record in result.history} == {None}


def test_penalty_lowers_the_edges_l1_norm():
    x, y = points(toy, 2, 0, 200)
    norms = []
    for penalty in (0.0, 0.5):
        net = kan([2, 3, 1])
        fit(net, x, y, validation=(x, y), steps=40, penalty=penalty)
        norms.append(net.regularization(x)[0].item())
    assert norms[1] < 0.5 * norms[0]


# Levenberg-Marquardt --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "parameters"), [(40, 8), (5, 8)], ids=["primal", "dual"])
def test_levenberg_marquardt_solves_linear_least_squares(samples, parameters):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, parameters, dtype=torch.float64, generator=generator)
    y = torch.randn(samples, 1, dtype=torch.float64, generator=generator)
    net = nn.Linear(parameters, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    assert list(levenberg_marquardt(net, x, y, 30, 30))[-1:] in ([30], [])  # it may end when nothing is left to gain
    solution = torch.linalg.pinv(x) @ y  # from zero, also the dual system walks to the solution of least norm
    torch.testing.assert_close(net.weight.T.detach(), solution, atol=1e-7, rtol=0)


def test_levenberg_marquardt_leaves_frozen_parameters_and_memory_layout_alone():
    net = mlp([1, 4, 1], "tanh").double()
    net[0].bias.requires_grad_(False)
    frozen = net[0].bias.clone()
    x, y = points(wave, 1, 0, 100)
    before = rmse(net, x, y)
    fit(net, x, y, validation=(x, y), optimizer="lm", steps=10)
    assert rmse(net, x, y) < before
    assert torch.equal(net[0].bias, frozen)
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in net.parameters())


# Stages, history and the best state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lbfgs", "lm"])
def test_grid_extension_keeps_the_function_on_nested_grids(optimizer):
    result = fit(
        kan([2, 2, 1], "bspline(grid_size=3, grid_range=(-6, 6))"),
        *points(toy, 2, 0, 300),
        validation=points(toy, 2, 1, 300),
        grids=(3, 6, 12),
        update_grid=False,
        optimizer=optimizer,
        steps=10,
    )
    stages = [list(records) for _, records in itertools.groupby(result.history, key=lambda record: record.grid_size)]
    assert [stage[0].grid_size for stage in stages] == [3, 6, 12]
    for before, after in itertools.pairwise(stages):
        best = min(before, key=lambda record: record.validation_rmse)
        assert after[0].step == 0
        assert after[0].train_rmse == pytest.approx(best.train_rmse, abs=1e-9)
        assert after[0].validation_rmse == pytest.approx(best.validation_rmse, abs=1e-9)
    assert [record.seconds for record in result.history] == sorted(record.seconds for record in result.history)


def test_overfitting_ends_the_extension_and_the_best_state_comes_back_grid_included():
    x, y = points(wave, 1, 0, 60)
    noisy = y + 0.2 * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(7))
    held_out = points(wave, 1, 1)
    net = kan([1, 1])
    grids = (3, 5, 20, 50, 100)
    result = fit(net, x, noisy, validation=held_out, grids=grids, steps=20, optimizer="lm", evaluate_every=7)
    assert result.history[-1].grid_size < 100
    assert result.best.grid_size < result.history[-1].grid_size
    assert result.best.validation_rmse == min(record.validation_rmse for record in result.history)
    assert net.layers[0].basis.grid_size == result.best.grid_size
    assert rmse(net, *held_out) == result.best.validation_rmse
    assert rmse(net, x, noisy) == result.best.train_rmse
    assert net.training


def test_patience_ends_a_stage():
    x, y = points(wave, 1, 0, 30)
    result = fit(
        kan([1, 1]), x, y, validation=(x, -y), steps=100, patience=2, evaluate_every=5, optimizer="adam", lr=0.02
    )
    after = [record.step for record in result.history if record.step > result.best.step]
    assert len(after) == 2
    assert result.history[-1].step < 100


def test_the_last_evaluation_is_after_the_last_step():
    x, y = points(toy, 2, 0, 50)
    for optimizer in ("lbfgs", "adam", "lm"):
        net = kan([2, 1, 1], "bspline")  # with uneven knots after the first update
        result = fit(net, x, y, validation=(x, y), steps=7, evaluate_every=5, optimizer=optimizer)
        assert [record.step for record in result.history] == [0, 5, 7]


class Cliff(nn.Module):
    """w x, and NaN when w passes 1."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return torch.where(self.w > 1, torch.nan, self.w * x)


@pytest.mark.parametrize("options", [{"optimizer": "lbfgs"}, {"optimizer": "adam", "lr": 0.1}, {"optimizer": "lm"}])
def test_a_loss_that_is_no_longer_finite_ends_the_stage_at_the_last_good_state(options):
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    net = Cliff()
    result = fit(net, x, 2 * x, validation=(x, 2 * x), steps=60, evaluate_every=1, **options)
    assert 0 <= net.w.item() <= 1
    assert result.best.train_rmse == rmse(net, x, 2 * x)
    if options["optimizer"] == "adam":  # the other two try a shorter step
        assert result.history[-1].step < 60


def test_a_loss_that_is_not_finite_at_the_start_is_refused():
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    net = Cliff()
    nn.init.constant_(net.w, 2.0)
    with pytest.raises(KANError, match="not finite at the start"):
        fit(net, x, x, validation=(x, x))


# Randomness -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam", "lm"])
def test_kan_pykan_card_trap_the_global_generator_is_neither_used_nor_reseeded(optimizer):
    x, y = points(toy, 2, 0, 64)
    net = kan([2, 1, 1])
    options = {"batch_size": 16} if optimizer == "adam" else {}
    before = torch.get_rng_state()
    fit(net, x, y, validation=(x, y), grids=(3, 5), steps=3, optimizer=optimizer, **options)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_the_order_of_the_batches():
    x, y = points(toy, 2, 0, 64)
    weights = []
    for seed in (0, 0, 1):
        net = kan([2, 1, 1])
        fit(net, x, y, validation=(x, y), steps=6, optimizer="adam", batch_size=16, seed=seed)
        weights.append(copy.deepcopy(net.layers[0].weight))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "lbfgs, adam, lm, got 'sgd'"),
        ({"optimizer": "lbfgs", "batch_size": 8}, "batch_size is for optimizer='adam' only"),
        ({"optimizer": "lm", "batch_size": 8}, "batch_size is for optimizer='adam' only"),
        ({"optimizer": "lbfgs", "lr": 0.1}, "lr is for optimizer='adam' only"),
        ({"optimizer": "lm", "seed": 1}, "seed is for optimizer='adam' only"),
        ({"optimizer": "lm", "penalty": 0.1}, "penalty is for optimizer='lbfgs' or 'adam' only"),
        ({"optimizer": "adam", "lr": 0.0}, "lr must be positive"),
        ({"optimizer": "adam", "batch_size": 0}, "batch_size must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
        ({"grids": ()}, "ascending"),
        ({"grids": (5, 3)}, "ascending"),
        ({"grids": (0, 3)}, "ascending"),
    ],
)
def test_options_out_of_range_or_of_another_optimiser_are_refused(options, message):
    x, y = points(toy, 2, 0, 20)
    with pytest.raises(KANError, match=message):
        fit(kan([2, 1, 1]), x, y, validation=(x, y), **options)


@pytest.mark.parametrize("options", [{"grids": (3, 5)}, {"update_grid": True}, {"penalty": 0.1}])
def test_options_that_the_model_cannot_serve_are_refused(options):
    x, y = points(toy, 2, 0, 20)
    with pytest.raises(KANError, match=r"needs a model with a method .* got Sequential"):
        fit(mlp([2, 3, 1]).double(), x, y, validation=(x, y), **options)


@pytest.mark.parametrize("which", ["x, y", "validation"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x, torch.full_like(y, torch.nan)), "finite"),
        (lambda x, y: (torch.full_like(x, torch.inf), y), "finite"),
        (lambda x, y: (x[:0], y[:0]), "finite"),
        (lambda x, y: (x, y[:, 0]), r"\(20, 1\) for inputs \(20, 2\), got \(20,\)"),
        (lambda x, y: (x, y[:-1]), r"got \(19, 1\)"),
        (lambda x, y: (x, y.expand(-1, 2)), r"got \(20, 2\)"),
    ],
    ids=["nan target", "infinite input", "no points", "flat target", "missing target", "too many outputs"],
)
def test_points_that_do_not_fit_are_refused(which, spoil, message):
    good = points(toy, 2, 0, 20)
    train, validation = (spoil(*good), good) if which == "x, y" else (good, spoil(*good))
    with pytest.raises(KANError, match=rf"^{which}: .*{message}"):
        fit(kan([2, 1, 1]), *train, validation=validation)
