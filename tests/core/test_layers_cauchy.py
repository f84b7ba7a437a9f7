"""Facts of xnet-cauchy.md: the Cauchy activation, its shape, its limits, and XNet."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import Cauchy, CauchyLinear
from kan_core.training.levenberg_marquardt import levenberg_marquardt

F64 = torch.float64
EPS = 1e-12


def cauchy(lambda1: float, lambda2: float, d: float, eps: float = EPS) -> Cauchy:
    """One unit with these numbers (up to rounding)."""
    module = Cauchy(1, eps=eps, dtype=F64)
    with torch.no_grad():
        module.lambda1.fill_(lambda1)
        module.lambda2.fill_(lambda2)
        module.rho.fill_(math.log(math.expm1(math.sqrt(d * d - eps))))
    return module


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)[:, None]


UNITS = [(1.0, 0.5, 0.7), (-0.4, 1.3, 2.0), (2.0, -1.0, 1e-3)]
every_unit = pytest.mark.parametrize("unit", UNITS, ids=str)


@every_unit
def test_xnet_4_analytic_value(unit):
    l1, l2, d = unit
    x = torch.linspace(-5, 5, 101, dtype=F64)[:, None]
    torch.testing.assert_close(cauchy(*unit)(x), l1 * x / (x**2 + d**2) + l2 / (x**2 + d**2))


@every_unit
def test_xnet_1_is_the_real_part_of_a_cauchy_kernel_with_its_pole_at_i_d(unit):
    l1, l2, d = unit
    x = torch.linspace(-5, 5, 101, dtype=F64)[:, None]
    torch.testing.assert_close(cauchy(*unit)(x), ((l1 - 1j * l2 / d) / (x - 1j * d)).real)


@every_unit
def test_xnet_2_value_and_slope_at_0(unit):
    l1, l2, d = unit
    x = column(0.0).requires_grad_()
    y = cauchy(*unit)(x)
    y.backward()
    assert y.item() == pytest.approx(l2 / d**2)
    assert x.grad.item() == pytest.approx(l1 / d**2)


@pytest.mark.parametrize("d", [0.3, 1.0, 4.0])
def test_xnet_2_odd_part_peaks_at_d_with_height_lambda1_over_2d(d):
    module = cauchy(1.7, 0.0, d)
    x = column(-d, d).requires_grad_()
    y = module(x)
    y.sum().backward()
    torch.testing.assert_close(y.detach(), column(-1.7 / (2 * d), 1.7 / (2 * d)))
    assert x.grad.abs().max() < 1e-12


def test_xnet_2_and_4_decay_is_1_over_x_for_lambda1_and_1_over_x_squared_for_lambda2():
    far = column(-1e4, 1e4)
    torch.testing.assert_close(cauchy(1.7, 0.0, 1.0)(far), 1.7 / far, rtol=1e-7, atol=0)
    torch.testing.assert_close(cauchy(0.0, 1.7, 1.0)(far), 1.7 / far**2, rtol=1e-7, atol=0)
    assert cauchy(1.7, 2.0, 1.0)(column(1e4)).item() == pytest.approx(1.7 / 1e4, rel=2e-4)


@every_unit
def test_xnet_2_derivative_by_d(unit):
    l1, l2, d = unit
    x = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    module = cauchy(*unit)
    s = nn.functional.softplus(module.rho.detach())
    module(x).sum().backward()
    slope = (-2 * s * (l1 * x + l2) / (x**2 + d**2) ** 2).sum() * (1 - torch.exp(-s))  # d softplus / d rho
    torch.testing.assert_close(module.rho.grad[0], slope[0] if slope.ndim else slope, rtol=1e-8, atol=0)


def test_xnet_4_the_width_has_no_sign_and_no_zero():
    module = Cauchy(3, dtype=F64)
    with torch.no_grad():
        module.rho.copy_(torch.tensor([-1e3, -5.0, 5.0]))
    assert (module.squared_width >= 1e-6).all()
    assert module(torch.zeros(1, 3, dtype=F64)).isfinite().all()


@every_unit
def test_xnet_4_gradcheck_in_x_and_all_parameters(unit):
    module = cauchy(*unit)
    names, values = zip(*module.named_parameters(), strict=True)
    scale = unit[2]  # the function's own length, so that finite differences resolve it

    def function(z, *values):
        return scale**2 * torch.func.functional_call(module, dict(zip(names, values, strict=True)), (scale * z,))

    z = column(-2.0, -0.3, 0.4, 3.0).requires_grad_()
    assert torch.autograd.gradcheck(function, (z, *values), eps=1e-6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("value", [math.inf, 1e30, 1e4, 1e-45, 0.0])
def test_xnet_4_infinite_and_huge_inputs_give_0_not_nan_with_finite_gradients(value, dtype):
    module = Cauchy(2, dtype=dtype)
    with torch.no_grad():
        module.lambda1.fill_(300.0)
    x = torch.tensor([[value, -value]], dtype=dtype, requires_grad=True)
    y = module(x)
    y.sum().backward()
    if value == math.inf:
        assert y.abs().max() == 0
    elif value == 1e30:
        assert y.abs().max() < 1e-27
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert module(torch.full((1, 2), math.nan, dtype=dtype)).isnan().all()


def test_xnet_4_float16_is_evaluated_in_float32_beyond_the_square_of_255():
    module, x = Cauchy(4), torch.full((2, 4), 1e3, dtype=torch.float16)
    with torch.autocast("cpu", torch.float16):
        y = module(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), torch.full((2, 4), 1e-3), atol=1e-5, rtol=0)


def test_xnet_4_without_lambda1_the_net_is_a_sum_of_lorentzian_bumps():
    layer = CauchyLinear(5, 1, dtype=F64)
    with torch.no_grad():
        layer.activation.lambda1.zero_()
    x = torch.randn(20, 5, dtype=F64)
    bumps = layer.activation.lambda2 / (x**2 + layer.activation.squared_width)
    torch.testing.assert_close(layer(x), bumps @ layer.linear.weight.T + layer.linear.bias)
    torch.testing.assert_close(layer(-x), layer(x))


def test_xnet_4_a_net_of_64_units_is_a_sum_of_cauchy_terms_exactly_when_poles_match():
    torch.manual_seed(0)
    centres, widths = torch.linspace(-1, 1, 64, dtype=F64), torch.rand(64, dtype=F64) + 0.2
    p, q, w = torch.randn(3, 64, dtype=F64).unbind()
    net = nn.Sequential(nn.Linear(1, 64), CauchyLinear(64, 1, eps=1e-12)).double()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(-centres)
        net[1].activation.lambda1.copy_(p)
        net[1].activation.lambda2.copy_(q)
        net[1].activation.rho.copy_(torch.log(torch.expm1((widths**2 - 1e-12).sqrt())))
        net[1].linear.weight.copy_(w)
    x = torch.linspace(-2, 2, 201, dtype=F64)[:, None]
    target = (w * (p * (x - centres) + q) / ((x - centres) ** 2 + widths**2)).sum(1, keepdim=True)
    torch.testing.assert_close(net(x), target, atol=1e-11, rtol=1e-11)


def test_xnet_2_adds_three_parameters_per_unit_or_three_in_all():
    assert count_parameters(CauchyLinear(64, 32)) == 64 * 32 + 32 + 3 * 64
    assert count_parameters(CauchyLinear(64, 32, per_feature=False)) == 64 * 32 + 32 + 3
    assert count_parameters(nn.Sequential(nn.Linear(2, 20), CauchyLinear(20, 1))) == 60 + 60 + 21


@pytest.mark.parametrize("per_feature", [True, False])
def test_the_layer_is_the_sum_of_its_edges_and_keeps_the_variance(per_feature):
    torch.manual_seed(0)
    layer = CauchyLinear(256, 8192, per_feature=per_feature)  # F has a mean: the average over outputs needs many
    assert abs(layer(torch.randn(256, 256)).square().mean().item() - 1) < 0.05
    small = CauchyLinear(5, 3, per_feature=per_feature, dtype=F64)
    x = torch.randn(7, 5, dtype=F64)
    edges = [sum(small.edge_function(o, i)(x[:, i]) for i in range(5)) for o in range(3)]
    torch.testing.assert_close(small(x), torch.stack(edges, dim=1) + small.linear.bias)


def test_a_layer_starts_at_lambda_and_d_1():
    x = torch.linspace(-3, 3, 7, dtype=F64)[:, None]
    torch.testing.assert_close(Cauchy(1, dtype=F64)(x), (x + 1) / (x**2 + 1), atol=2e-6, rtol=0)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(KANError, match="eps must be a finite number above zero, got 0"):
        Cauchy(4, eps=0)
    with pytest.raises(KANError, match="num_features must be a whole number of at least 1, got 0"):
        Cauchy(0)
    with pytest.raises(KANError, match=r"expected an input of shape \(\.\.\., 4\), got \(2, 3\)"):
        Cauchy(4)(torch.zeros(2, 3))


@pytest.mark.parametrize("seed", range(3))
def test_xnet_4_heaviside_1_64_1_reaches_1e_5_away_from_the_jump(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, 64), CauchyLinear(64, 1)).double()
    x = (torch.arange(400, dtype=F64)[:, None] + 0.5) / 200 - 1
    steps = list(levenberg_marquardt(net, x, (x > 0).double(), steps=120, every=40))
    assert steps[-1] == 120
    test = torch.linspace(-1, 1, 3001, dtype=F64)[:, None]
    errors = (net(test) - (test > 0).double()).square()
    assert errors[test.abs() > 0.01].mean() < 1e-5
