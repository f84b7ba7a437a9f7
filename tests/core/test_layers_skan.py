"""SKAN's card (af-kan-all-kan, section 6): edges with one parameter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kan_core import KANError, layers
from kan_core.layers import SKANLinear, _edges

F64 = torch.float64
FUNCTIONS = {
    "softplus": lambda x, k: torch.log(1 + torch.exp(k * x)) - math.log(2),
    "swish": lambda x, k: x / (1 + torch.exp(-k * x)),
    "arctan": lambda x, k: k * torch.atan(x),
    "sin": lambda x, k: k * torch.sin(x),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


@every_function
def test_skan_card_layer_is_the_sum_of_f_of_x_and_k(name):
    layer = SKANLinear(5, 3, function=name, dtype=F64)
    x = torch.randn(9, 5, dtype=F64) * 3
    values = FUNCTIONS[name](x[:, None], layer.weight)
    torch.testing.assert_close(layer(x), values.sum(-1) + layer.bias, atol=1e-13, rtol=0)
    torch.testing.assert_close(layer.edge_function(2, 4)(x[:, 4]), values[:, 2, 4], atol=1e-14, rtol=0)


@pytest.mark.parametrize(("name", "activation"), [("arctan", torch.atan), ("sin", torch.sin)])
def test_skan_card_functions_linear_in_k_are_a_linear_layer(name, activation, monkeypatch):
    layer = SKANLinear(5, 3, function=name, dtype=F64)
    linear = nn.Linear(5, 3, dtype=F64)
    linear.load_state_dict(layer.state_dict())
    x = torch.randn(9, 5, dtype=F64)
    monkeypatch.setattr(_edges, "in_pieces", None)  # no tensor over the edges is made
    torch.testing.assert_close(layer(x), linear(activation(x)), atol=1e-14, rtol=0)


@every_function
def test_skan_card_parameter_counts(name):
    net = nn.Sequential(SKANLinear(784, 64, function=name), SKANLinear(64, 10, function=name))
    assert sum(p.numel() for p in net.parameters()) == 64 * 785 + 10 * 65 == 50_890
    normed = nn.Sequential(*(SKANLinear(i, o, function=name, norm="layer") for i, o in ((784, 64), (64, 10))))
    assert sum(p.numel() for p in normed.parameters()) == 52_586
    normed(torch.randn(8, 784)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in normed.parameters())


def test_skan_norm_comes_before_the_edges():
    layer = layers.get("skan(norm='layer')")(5, 3, dtype=F64)
    x = torch.randn(9, 5, dtype=F64) * 4 + 1
    z = nn.functional.layer_norm(x, (5,))
    edges = sum(layer.edge_function(1, i)(z[:, i]) for i in range(5))
    torch.testing.assert_close(layer(x)[:, 1], edges + layer.bias[1], atol=1e-13, rtol=0)


def test_skan_card_softplus_does_not_overflow_and_is_exact_in_float64():
    layer = SKANLinear(1, 1, bias=False, dtype=F64)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    x = torch.tensor([1e4, -1e4, 25.0, 39.9, 40.1, 0.0], dtype=F64)[:, None].requires_grad_()
    y = layer(x)
    y.sum().backward()
    expected = torch.logaddexp(x, torch.zeros_like(x)) - math.log(2)
    torch.testing.assert_close(y, expected, atol=0, rtol=1e-15)
    torch.testing.assert_close(x.grad, torch.sigmoid(x), atol=1e-15, rtol=0)


@every_function
def test_skan_gradcheck(name):
    layer = SKANLinear(4, 3, function=name, norm="layer", dtype=F64)
    names = [n for n, _ in layer.named_parameters()]
    x = torch.randn(5, 4, dtype=F64, requires_grad=True)

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *layer.parameters()))


@every_function
@pytest.mark.parametrize("value", [1e4, -1e4, 1e-42, 0.0])
def test_skan_is_finite_at_extremes(name, value):
    layer = SKANLinear(3, 2, function=name)
    x = torch.full((5, 3), value, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in (x, *layer.parameters()))


@every_function
def test_skan_what_depends_on_k_starts_with_unit_variance(name):
    torch.manual_seed(0)
    layer = SKANLinear(400, 60, function=name, bias=False)
    x = torch.randn(300, 400)
    y = layer(x)
    if name == "swish":  # by definition every output holds this sum, whatever k is
        y = y - x.sum(-1, keepdim=True) / 2
    assert y.std().item() == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize(("options", "named"), [({"function": "elu"}, "function"), ({"norm": "group"}, "norm")])
def test_skan_refuses_what_it_does_not_know(options, named):
    with pytest.raises(KANError, match=named):
        SKANLinear(2, 2, **options)
