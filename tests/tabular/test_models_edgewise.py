"""tabkan.md, variants with functions on edges: acceptance facts 1 to 5 and 7, and the shell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import KANLinear
from kan_tabular import models

NAN = float("nan")
C, H, O = 7, 5, 3  # noqa: E741


def make(name: str, columns: int = C, outputs: int = O, **kwargs) -> nn.Module:
    return models.create(name, cardinalities=[0] * columns, num_outputs=outputs, **kwargs).double()


def first(model: nn.Module) -> KANLinear:
    """The layer of the numeric columns."""
    layer = model.column_layers()[0].numeric
    assert isinstance(layer, KANLinear)
    return layer


def test_fact_1_chebyshev_degree_0_is_constant_in_x():
    layer = first(make("chebyshev-kan", hidden=(H,)))
    with torch.no_grad():
        layer.weight[1:] = 0
    y = layer(torch.randn(50, C).double() * 10)
    torch.testing.assert_close(y, layer.weight[0].sum(dim=0).expand_as(y))


def test_fact_1_chebyshev_degree_1_is_a_linear_map_of_tanh():
    layer = first(make("chebyshev-kan", hidden=(H,), layer="chebyshev(degree=1)"))
    with torch.no_grad():
        layer.weight[0] = 0
    x = torch.randn(50, C).double()
    torch.testing.assert_close(layer(x), torch.tanh(x) @ layer.weight[1])


def test_fact_2_chebyshev_is_bounded_by_its_coefficients_for_every_finite_x():
    layer = first(make("chebyshev-kan", hidden=(H,), layer="chebyshev(degree=5)"))
    x = torch.cat([torch.randn(200, C).double() * 5, torch.full((1, C), 1e30), torch.full((1, C), -1e30)])
    bound = layer.weight.abs().sum(dim=(0, 1))
    assert (layer(x).abs() <= bound * (1 + 1e-12)).all()
    ends = layer.basis.planes(torch.tensor([[1e30], [-1e30]], dtype=torch.float64).expand(-1, C))[..., 0]
    torch.testing.assert_close(ends[0], torch.ones_like(ends[0]))
    torch.testing.assert_close(ends[1], torch.tensor([(-1.0) ** d for d in range(6)], dtype=torch.float64))


def test_fact_3_fourier_has_period_2_pi_in_each_column():
    model = make("fourier-kan", hidden=(H, 4), layer="fourier(num_frequencies=4)")
    x = torch.randn(30, C).double()
    for j in range(C):
        moved = x.clone()
        moved[:, j] += 2 * math.pi
        torch.testing.assert_close(model(moved), model(x), rtol=0, atol=1e-5)


def test_fact_4_fourier_starts_with_variance_1():
    outputs = 10_000
    layer = first(make("fourier-kan", hidden=(outputs,), layer="fourier(num_frequencies=3)"))
    x = (torch.rand(20, C).double() * 2 - 1) * math.pi
    assert layer(x).var().item() == pytest.approx(1.0, rel=0.1)
    assert layer.weight.std().item() == pytest.approx(1 / math.sqrt(C * 3), rel=0.02)


def test_chebyshev_starts_with_variance_about_1():
    layer = first(make("chebyshev-kan", hidden=(2000,)))
    assert layer(torch.randn(100, C).double()).var().item() == pytest.approx(1.0, rel=0.15)


def test_fact_5_fast_kan_is_1_at_a_centre_and_1_over_e_at_the_next():
    basis = first(make("fast-kan", hidden=(H,))).basis
    centres = torch.linspace(-2, 2, 8, dtype=torch.float64)
    values = basis.planes(centres[:, None].expand(-1, C))[..., 0]
    torch.testing.assert_close(values.diagonal(), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(values.diagonal(1), torch.full((7,), math.exp(-1), dtype=torch.float64))


def test_fast_kan_normalises_hidden_values_and_not_columns():
    model = make("fast-kan", hidden=(H, 4))
    assert first(model).norm is None
    assert isinstance(model.rest[0].norm, nn.LayerNorm)
    assert model.rest[0].base == "silu"


@pytest.mark.parametrize(
    ("name", "kwargs", "layer_count", "head_is_linear"),
    [
        ("chebyshev-kan", {"layer": "chebyshev(degree=4)"}, lambda i, o: i * o * 5, True),
        ("fourier-kan", {"layer": "fourier(num_frequencies=6)"}, lambda i, o: 2 * i * o * 6 + o, True),
        ("fast-kan", {}, lambda i, o: 9 * i * o + o + (0 if i == C else 2 * i), True),
        ("spline-kan", {"layer": "bspline(grid_size=7, order=2)"}, lambda i, o: i * o * (7 + 2 + 1) + o, False),
    ],
)
def test_fact_7_parameter_counts(name, kwargs, layer_count, head_is_linear):
    widths = [C, 6, 5, *([] if head_is_linear else [O])]
    head = 5 * O + O if head_is_linear else 0
    missing = C * 6
    expected = sum(map(layer_count, widths[:-1], widths[1:])) + head + missing
    assert count_parameters(make(name, hidden=(6, 5), **kwargs)) == expected


def test_one_degree_for_each_layer():
    model = make("chebyshev-kan", hidden=(4, 3), layer=("chebyshev(degree=2)", "chebyshev(degree=6)"))
    assert [first(model).basis.degree, model.rest[0].basis.degree] == [2, 6]
    with pytest.raises(KANError, match="layer has 3 entries for 2 hidden layers"):
        make("chebyshev-kan", hidden=(4, 3), layer=["chebyshev"] * 3)


@pytest.mark.parametrize("name", ["chebyshev-kan", "fourier-kan", "fast-kan", "spline-kan"])
def test_without_hidden_sizes_the_columns_add_up_to_the_outputs(name):
    model = make(name, hidden=())
    x = torch.randn(20, C).double()
    x[3, 2] = NAN
    layer = model.column_layers()[0]
    bias = 0 if layer.bias is None else layer.bias
    torch.testing.assert_close(layer.contributions(x).sum(dim=1) + bias, model(x))


def test_the_head_is_chosen():
    assert isinstance(make("spline-kan", head="linear").rest[-1], nn.Linear)
    assert isinstance(make("chebyshev-kan", head="kan").rest[-1], KANLinear)
    with pytest.raises(KANError, match="head must be one of linear, kan, got 'mlp'"):
        make("chebyshev-kan", head="mlp")


def test_the_linear_twin_is_an_mlp_with_silu():
    model = make("spline-kan", hidden=(6, 5), layer="linear")
    x = torch.randn(9, C).double()
    y = x @ model.first.numeric.weight.T + model.first.bias
    for linear in model.rest:
        y = linear(nn.functional.silu(y))
    torch.testing.assert_close(model(x), y)


def test_spline_kan_puts_the_knots_of_every_layer_where_its_values_are():
    model = make("spline-kan", hidden=(6,))
    x = torch.randn(500, C).double().exp()
    model.fit_grid(x)
    hidden = model.first(x)
    for layer, values in ((first(model), x), (model.rest[0], hidden)):
        assert layer.outside_fraction(values) == 0
        inside = layer.basis.grid[0]
        share = torch.stack([(values[:, 0] < knot).double().mean() for knot in inside])
        assert (share - torch.linspace(0, 1, len(inside)).double()).abs().max() < 0.05


def test_arguments_of_layers_reach_every_kan_layer_and_not_the_linear_twin():
    model = make("chebyshev-kan", hidden=(6, 5), layer_kwargs={"base": "silu"})
    assert first(model).base == model.rest[0].base == "silu"
    assert make("chebyshev-kan", layer="linear").first.bias is not None
