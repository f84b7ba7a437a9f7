"""tabkan.md, variants with node activations: facts 6 and 7, pitfalls of section 10."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.special import binom, eval_jacobi, eval_legendre
from torch import nn

from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import JacobiRKAN
from kan_core.layers.rkan import jacobi
from kan_tabular import models
from kan_tabular.models.activations import FractionalJacobi, PadeRKAN, make_activation

F64 = torch.float64
X = torch.linspace(-6, 6, 301, dtype=F64)
U = torch.linspace(-1, 1, 101, dtype=F64)

node_models = pytest.mark.parametrize("name", ["fkan", "jacobi-rkan", "pade-rkan"])


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


def pade(p: int = 4, q: int = 3) -> PadeRKAN:
    return PadeRKAN(p, q).double()


def series(weights, x: torch.Tensor, alpha: float = 1.0, gamma: float = 0.5) -> torch.Tensor:
    """w_0 + w_1 z + Σ w_d P_d of the card, by scipy."""
    z = torch.sigmoid(x)
    total = weights[0] + weights[1] * z
    for degree, weight in enumerate(weights[2:], start=2):
        total = total + weight * torch.from_numpy(eval_jacobi(degree, alpha, alpha, 2 * z.numpy() ** gamma - 1))
    return total


@pytest.mark.parametrize("degree", [1, 2, 3, 6])
def test_fact_6_jacobi_identities(degree):
    legendre = jacobi(degree, number(0.0), number(0.0), U)
    torch.testing.assert_close(legendre, torch.from_numpy(eval_legendre(degree, U.numpy())))
    at_one = jacobi(degree, number(0.7), number(-0.3), number(1.0))
    torch.testing.assert_close(at_one, number(binom(degree + 0.7, degree)))
    half = jacobi(degree, number(-0.5), number(-0.5), U)
    torch.testing.assert_close(half / half[-1], torch.cos(degree * torch.acos(U)), atol=1e-9, rtol=0)


def test_fact_6_pade_with_a_denominator_of_1_is_the_numerator_alone():
    activation = pade(5, 4)
    with torch.no_grad():
        activation.above.normal_()
        activation.below.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(activation(X), activation.numerator(X), rtol=0, atol=0)
    torch.testing.assert_close(activation(X), series(activation.above.detach(), X))


def test_pade_is_p_over_q_where_q_is_not_held():
    activation = pade(4, 3)
    q = series([1, 1, 1], X)
    assert q.min() > 0.1
    torch.testing.assert_close(activation(X), series([1, 1, 1, 1], X) / q)


def test_fkan_is_the_jacobi_polynomial_of_a_power_of_the_sigmoid():
    for degree in (1, 3, 5):
        expected = eval_jacobi(degree, 1.0, 1.0, 2 * torch.sigmoid(X).numpy() ** 0.5 - 1)
        torch.testing.assert_close(FractionalJacobi(degree).double()(X), torch.from_numpy(expected))


@node_models
def test_fact_7_parameters_are_those_of_the_mlp_and_a_few_per_hidden_layer(name):
    columns, outputs, hidden = 9, 2, (8, 6, 4)
    extra = {"fkan": 3, "jacobi-rkan": 3, "pade-rkan": 6 + 4 + 3}[name]
    sizes = [columns, *hidden, outputs]
    mlp = sum(o * (i + 1) for i, o in itertools.pairwise(sizes))
    missing = columns * hidden[0]
    model = models.create(name, cardinalities=[0] * columns, num_outputs=outputs, hidden=hidden)
    assert count_parameters(model) == mlp + extra * len(hidden) + missing


@node_models
def test_the_activation_is_shared_by_all_units_and_no_function_is_on_an_edge(name):
    model = models.create(name, cardinalities=[0] * 3, num_outputs=1, hidden=(6, 5))
    assert not any(hasattr(module, "edge_function") for module in model.modules())
    activation = model.activations[0]
    h = torch.randn(10, 6)
    order = torch.randperm(6)
    torch.testing.assert_close(activation(h[:, order]), activation(h)[:, order])


def test_pitfall_pade_denominator_that_crosses_zero_is_held():
    activation = pade(3, 3)
    with torch.no_grad():
        activation.below.copy_(torch.tensor([1.0, -2.0, 0.0]))  # Q = 1 - 2 z is 0 at x = 0
    x = torch.linspace(-1, 1, 2001, dtype=F64, requires_grad=True)
    q = activation.denominator(x)
    assert q.min() < 0 < q.max()
    y = activation(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert (y.abs() <= 10 * activation.numerator(x).abs() + 1e-12).all()
    free = q > 0.1
    torch.testing.assert_close(y[free], (activation.numerator(x) / q)[free], rtol=0, atol=0)


def test_pitfall_pade_of_one_coefficient_is_refused_not_an_index_error():
    for sizes in ({"numerator": 1}, {"denominator": 2}):
        with pytest.raises(KANError, match="at least 3"):
            PadeRKAN(**sizes)


def test_pitfall_fkan_of_degree_0_is_refused():
    with pytest.raises(KANError, match="degree must be a whole number of at least 1, got 0"):
        FractionalJacobi(0)


@pytest.mark.parametrize("spec", ["fractional-jacobi(degree=3)", "pade", "rational-jacobi(degree=3)"])
def test_pitfall_slopes_are_finite_far_out_on_both_sides(spec):
    x = torch.tensor([-1e4, -200.0, -40.0, 0.0, 40.0, 1e4], requires_grad=True)
    activation = make_activation(spec, 6)
    y = activation(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in activation.parameters())


@pytest.mark.parametrize("raw", [-1e3, -5.0, 50.0])
def test_elu_keeps_the_exponents_above_minus_1_for_every_raw_value(raw):
    activation = FractionalJacobi(3)
    with torch.no_grad():
        activation.functions.raw_alpha.fill_(raw)
        activation.functions.raw_beta.fill_(raw)
    assert torch.isfinite(activation(X.float())).all()


def test_jacobi_rkan_is_the_polynomial_of_a_rational_map_for_negative_x_too():
    u = X / torch.sqrt(X**2 + 1)
    expected = torch.from_numpy(eval_jacobi(3, 1.0, 1.0, u.numpy()))
    torch.testing.assert_close(JacobiRKAN(3).double()(X), expected, rtol=1e-6, atol=1e-6)


def test_one_degree_for_each_layer_and_bad_names():
    specs = ["fractional-jacobi(degree=2)", "fractional-jacobi(degree=6)"]
    model = models.create("fkan", cardinalities=[0], num_outputs=1, hidden=(4, 4), activation=specs)
    assert [activation.degree for activation in model.activations] == [2, 6]
    for activation, message in (
        (specs[:1], "activation has 1 entries for 2 hidden layers"),
        ("jacobi", "unknown activation 'jacobi': choose one of relu"),
        ("pade(order=3)", "unexpected keyword argument 'order'"),
    ):
        with pytest.raises(KANError, match=message):
            models.create("fkan", cardinalities=[0], num_outputs=1, hidden=(4, 4), activation=activation)


def test_an_activation_answers_in_the_type_of_its_input():
    for spec in ("fractional-jacobi", "rational-jacobi", "pade", "spline"):
        assert make_activation(spec, 4)(torch.randn(2, 4).half()).dtype == torch.float16


def test_plain_activations_are_those_of_torch():
    assert isinstance(make_activation("relu", 3), nn.ReLU)
