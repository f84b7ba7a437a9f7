"""The gated residual KAN: the facts of its card (specs/timeseries/kamoe-grkan.md, sections 1, 4 and 7)."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kan_core import KANError, KANLinear, layers
from kan_core.layers.gated_residual import GatedResidualKAN

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("described", "inputs", "expected"),
    [
        ("grkan", 5, 216),
        ("grkan(layer='linear')", 5, 78),
        ("grkan", 100, 2_496),
        ("grkan(layer='linear')", 100, 648),
    ],
)
def test_grkan_card_parameter_counts(described, inputs, expected):
    assert count(layers.get(described)(inputs, 3)) == expected


@pytest.mark.parametrize("a", [3, 7])
@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize(("grid_size", "order"), [(3, 3), (5, 2)])
def test_grkan_card_parameter_formula(a, n, grid_size, order):
    layer = GatedResidualKAN(a, n, layer=f"bspline(grid_size={grid_size}, order={order})")
    per_edge = 1 + grid_size + order
    assert count(layer) == (a * n + n) + a * n * per_edge + n * n * per_edge + 2 * (n * n + n) + 2 * n


def test_grkan_card_equations():
    layer = GatedResidualKAN(5, 3, hidden_features=4, dtype=F64).eval()
    x = torch.randn(9, 5, dtype=F64)
    spline1 = torch.einsum("nik,oik->no", layer.first.basis(x), layer.first.coefficients)
    e1 = F.elu(x) @ layer.first.base_weight.T + spline1
    spline2 = torch.einsum("nik,oik->no", layer.second.basis(e1), layer.second.coefficients)
    e2 = F.silu(e1) @ layer.second.base_weight.T + spline2
    value, gate = layer.gate(e2).split(3, dim=-1)
    skip = x @ layer.skip.weight.T + layer.skip.bias
    expected = F.layer_norm(skip + value * torch.sigmoid(gate), (3,))
    torch.testing.assert_close(layer(x), expected, atol=1e-13, rtol=0)


def test_grkan_card_grn_twin_equations():
    layer = GatedResidualKAN(5, 3, layer="linear", dtype=F64)
    x = torch.randn(9, 5, dtype=F64)
    value, gate = layer.gate(layer.second(F.elu(layer.first(x)))).split(3, dim=-1)
    expected = F.layer_norm(layer.skip(x) + value * torch.sigmoid(gate), (3,))
    torch.testing.assert_close(layer(x), expected, atol=1e-13, rtol=0)


def test_grkan_card_code_form_has_relu_in_the_second_kan():
    make = partial(KANLinear, basis="bspline(grid_size=3)", bias=False)
    pair = (partial(make, base="elu"), partial(make, base="relu"))
    layer = GatedResidualKAN(5, 3, layer=pair)
    assert (layer.first.base, layer.second.base) == ("elu", "relu")
    assert count(layer) == 216


def test_grkan_card_identity_skip_of_the_paper_where_the_widths_agree():
    assert isinstance(GatedResidualKAN(5, 5, project_skip=False).skip, nn.Identity)
    assert isinstance(GatedResidualKAN(5, 5).skip, nn.Linear)
    assert isinstance(GatedResidualKAN(5, 3, project_skip=False).skip, nn.Linear)


def test_grkan_card_kans_without_bias():
    layer = GatedResidualKAN(5, 3)
    assert layer.first.bias is None
    assert layer.second.bias is None


def test_grkan_card_zero_kans_and_zero_value_path_is_the_norm_of_the_skip():
    layer = GatedResidualKAN(5, 3, dtype=F64)
    with torch.no_grad():
        layer.first.weight.zero_()
        layer.second.weight.zero_()
        layer.gate.weight[:3] = 0
        layer.gate.bias[:3] = 0
    x = torch.randn(9, 5, dtype=F64)
    assert torch.equal(layer(x), F.layer_norm(layer.skip(x), (3,)))


def test_grkan_card_outputs_start_with_zero_mean_and_unit_variance():
    y = GatedResidualKAN(5, 64, dtype=F64)(torch.randn(9, 5, dtype=F64))
    torch.testing.assert_close(y.mean(dim=-1), torch.zeros(9, dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var(dim=-1, correction=0), torch.ones(9, dtype=F64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "tanh"])
def test_grkan_card_output_activation(activation):
    plain = GatedResidualKAN(5, 3, dtype=F64)
    layer = GatedResidualKAN(5, 3, activation=activation, dtype=F64)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(9, 5, dtype=F64)
    function = partial(torch.softmax, dim=-1) if activation == "softmax" else getattr(torch, activation)
    torch.testing.assert_close(layer(x), function(plain(x)), atol=0, rtol=0)


def test_grkan_card_dropout_after_the_second_kan():
    layer = GatedResidualKAN(5, 3, dropout=0.5)
    x = torch.randn(9, 5)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_grkan_card_norm_of_one_output_would_be_constant_and_is_left_out():
    layer = GatedResidualKAN(5, 1)
    assert layer.norm is None
    assert layer(torch.randn(9, 5)).std() > 0


@pytest.mark.parametrize("layer", ["bspline(grid_size=3)", "linear", "kaf", ("rbf", "linear")])
def test_grkan_every_parameter_gets_a_gradient(layer):
    module = GatedResidualKAN(5, 3, layer=layer, dtype=F64)
    module(torch.randn(200, 5, dtype=F64)).pow(3).sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_grkan_gradcheck():
    layer = GatedResidualKAN(3, 2, layer="bspline(grid_size=2, order=3)", dtype=F64)
    layer(x := torch.randn(3, 3, dtype=F64).requires_grad_())
    names, values = zip(*layer.named_parameters(), strict=True)

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *(v.detach().requires_grad_() for v in values)))


def test_grkan_names_the_gated_residual_layer():
    assert isinstance(layers.get("grkan")(8, 8), GatedResidualKAN)


def test_grkan_reset_parameters_redraws_every_layer():
    layer = GatedResidualKAN(5, 3)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    nn.init.constant_(layer.norm.weight, 7.0)
    layer.reset_parameters()
    after = layer.state_dict()
    assert after["norm.weight"].tolist() == [1.0] * 3
    for name in ("skip.weight", "first.weight", "second.weight", "gate.weight", "gate.bias"):
        assert not torch.equal(after[name], before[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_grkan_autocast_dtype_and_float32_gradients(dtype):
    layer = GatedResidualKAN(5, 3, activation="softmax")
    with torch.autocast("cpu", dtype):
        y = layer(torch.randn(9, 5))
    assert y.dtype == dtype
    y[:, 0].float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("options", [{"activation": "step"}, {"layer": "no-such-layer"}, {"hidden_features": 0}])
def test_grkan_refuses_options_out_of_range(options):
    with pytest.raises(KANError):
        GatedResidualKAN(5, 3, **options)
