"""What every registered model does alike: shapes, missing values, unknown categories, gradients, copies, twins."""

from __future__ import annotations

import copy

import pytest
import torch

from kan_core import KANError
from kan_core.compare import count_parameters, match_width
from kan_core.training.model_task import twin_kwargs
from kan_tabular import models
from kan_tabular.models import ColumnLayer

CARDINALITIES = [0, 5, 0, 40, 0]
NAN = float("nan")
SMALL = {"kan-mixer": {"depth": 2, "token_dim": 6, "channels": 8}}

every_model = pytest.mark.parametrize("name", models.names())


def rows(count: int = 40, seed: int = 0) -> torch.Tensor:
    """Encoded rows: scaled values, some missing; codes, some unknown (0) or missing (1); one constant column."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, len(CARDINALITIES), generator=generator) * 5.8 - 2.9
    for j, codes in enumerate(CARDINALITIES):
        if codes:
            x[:, j] = torch.randint(codes, (count,), generator=generator)
    x[:, 4] = 0.0
    x[torch.rand(count, generator=generator) < 0.2, 0] = NAN
    x[0, [1, 3]], x[1, [1, 3]] = 0.0, 1.0
    return x


def make(name: str, cardinalities=CARDINALITIES, num_outputs: int = 3, **kwargs) -> torch.nn.Module:
    return models.create(
        name, cardinalities=list(cardinalities), num_outputs=num_outputs, **{**SMALL.get(name, {}), **kwargs}
    )


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """No parameter at a value that it only starts from."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def fitted(name: str, **kwargs) -> torch.nn.Module:
    model = make(name, **kwargs)
    model.fit_grid(rows())
    return perturbed(model)


def test_all_models_are_here():
    variants = {"chebyshev-kan", "fourier-kan", "fast-kan", "spline-kan", "fkan", "jacobi-rkan", "pade-rkan"}
    assert variants | {"kan", "kan-mixer", "mlp", "mlp-spline", "mlp-ple"} <= set(models.names())


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_missing_values_and_unknown_categories_give_finite_outputs_of_the_right_shape_and_type(name, dtype):
    model = fitted(name).to(dtype).eval()
    x = rows(20, seed=1).to(dtype)
    y = model(x)
    assert y.shape == (20, 3)
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    nothing = torch.tensor([[NAN, 1, NAN, 1, NAN]], dtype=dtype)
    assert torch.isfinite(model(nothing)).all()


@every_model
def test_a_row_does_not_see_the_others(name):
    model, x = fitted(name).double().eval(), rows(12).double()
    alone = torch.cat([model(row[None]) for row in x])
    torch.testing.assert_close(alone, model(x), rtol=1e-9, atol=1e-9)


@every_model
@pytest.mark.parametrize("cardinalities", [[0], [4], [30, 3], [0] * 12], ids=str)
def test_tables_of_one_kind_of_columns(name, cardinalities):
    model = make(name, cardinalities, 1)
    x = torch.stack([torch.full((9,), 2.0) if c else torch.linspace(-2, 2, 9) for c in cardinalities], dim=1)
    model.fit_grid(x)
    assert model(x).shape == (9, 1)
    assert torch.isfinite(model(x)).all()


@every_model
def test_single_valued_and_all_missing_columns_fit_a_grid(name):
    model = make(name)
    x = rows()
    x[:, 0], x[:, 2] = NAN, 1.5
    model.fit_grid(x)
    assert torch.isfinite(model(x)).all()


@every_model
def test_every_parameter_gets_a_gradient(name):
    model = fitted(name)
    # none of what holds for a symmetric loss
    (model(rows(200)) * torch.randn(200, 3, generator=torch.Generator().manual_seed(1))).sum().backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@every_model
def test_a_copy_is_equal_and_its_own(name):
    model, x = fitted(name).eval(), rows()
    before = model(x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), before)
    perturbed(twin)
    assert torch.equal(model(x), before)
    assert not torch.equal(twin(x), before)


@every_model
def test_the_state_dict_restores_the_function(name):
    model, x = fitted(name).eval(), rows()
    other = make(name).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


@every_model
def test_it_is_built_and_run_on_the_meta_device(name):
    with torch.device("meta"):
        model = make(name)
        assert model(torch.empty(7, 5)).shape == (7, 3)
    assert count_parameters(model) == count_parameters(make(name))


@every_model
def test_the_first_layers_see_all_columns(name):
    layers = make(name).column_layers()
    assert layers
    assert all(isinstance(layer, ColumnLayer) and layer.cardinalities == CARDINALITIES for layer in layers)


@every_model
def test_the_twin_has_ordinary_layers_and_comes_in_the_same_size(name):
    if name == "mlp":
        assert make(name).twin_kwargs({}) == {}  # it is ordinary already
        assert make(name).twin_kwargs({"activation": "spline", "width": 2.0}) == {"width": 2.0}
        return
    kwargs = SMALL.get(name, {})
    model = make(name)
    ordinary = twin_kwargs(model, kwargs)
    twin = make(name, **ordinary)
    kinds = {type(m).__name__ for m in twin.modules()}
    assert not kinds & {"KANLinear", "UnitSpline", "FractionalJacobi", "JacobiRKAN", "PadeRKAN"}, kinds
    with torch.device("meta"):
        match = match_width(lambda width: make(name, **{**ordinary, "width": width}), count_parameters(model))
    assert abs(match.residual) <= 0.05


@every_model
def test_models_refuse_in_one_line(name):
    with pytest.raises(KANError, match=f"model '{name}' refuses its arguments.*wdth"):
        make(name, wdth=2.0)
    with pytest.raises(KANError, match="positive"):
        make(name, width=0.0)
    with pytest.raises(KANError, match="unknown layer"):
        make(name, layer="bsplin")


def test_an_unknown_model_is_told_the_near_names():
    with pytest.raises(KANError, match="did you mean fast-kan"):
        make("fastkan")
