"""AF-KAN, PRKAN, SechKAN: the facts of their card (specs/core/af-kan-all-kan.md)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kan_core import KANError, layers
from kan_core.bases.af import AF
from kan_core.layers.reduced import ReducedKANLinear, af_kan, pr_kan, sech_kan

F64 = torch.float64
NAMES = ["af-kan", "pr-kan", "sech-kan"]
REDUCTIONS = ["attention", "scaled-attention", "linear", "sum"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def net(name: str, **options: object) -> list[nn.Module]:
    make = layers.get(name)
    return [make(784, 64, **options), make(64, 10, **options)]


# --- parameter counts ------------------------------------------------------------------------------------------------


def test_af_kan_card_parameter_count_less_one_constant_per_layer():
    """52,552 in the card; softmax does not see a constant added to all scores, so there is none in our two layers."""
    assert count(*net("af-kan")) == 52_552 - 2
    for layer, (inputs, outputs) in zip(net("af-kan"), [(784, 64), (64, 10)], strict=True):
        card = inputs * outputs + 2 * inputs + (6 + 1) + 2 * 6 + 1
        assert count(layer) == card - 1


def test_pr_kan_card_parameter_count_less_one_constant_per_layer():
    assert count(*net("pr-kan")) == 52_604 - 2


def test_sech_kan_card_parameter_count_less_three_redundant_scalars_per_layer():
    """54,320 in the card; v scales the bells already, and the norm takes out the basis's and the sum's constants."""
    assert count(*net("sech-kan")) == 54_320 - 2 * 3


def test_sech_kan_card_parameter_count_without_input_norm():
    """The card's scripts: n = 4, no first norm."""
    assert count(*net("sech-kan", num_centers=4, input_norm=None)) == 50_890 + 2 * (784 + 64) + 2 * (4 + 4)


def test_card_constant_in_the_scores_would_have_no_effect():
    layer = af_kan(6, 3, dtype=F64)
    planes = torch.rand(9, 6, 6, dtype=F64)
    scores = torch.einsum("k,nki->ni", layer.reduce_weight, planes)
    torch.testing.assert_close((scores + 0.7).softmax(-1), scores.softmax(-1), atol=1e-15, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_card_no_unused_parameters(name):
    layer = layers.get(name)(6, 3, dtype=F64)
    layer(torch.randn(20, 6, dtype=F64)).square().sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 1e-9, parameter_name


# --- the reductions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_card_reduction_equals_its_definition(reduction):
    layer = ReducedKANLinear(6, 3, basis="rbf(num_centers=4)", reduction=reduction, dtype=F64)
    features = layer.basis(2 * torch.randn(9, 6, dtype=F64))  # (9, 6, 4)
    if reduction == "sum":
        expected = features.sum(-1)
    elif reduction == "linear":
        expected = features @ layer.reduce_weight
    else:
        scores = features @ layer.reduce_weight
        if reduction == "scaled-attention":
            assert layer.temperature.item() == pytest.approx(math.sqrt(6))
            scores = scores / max(layer.temperature.item(), 1)
        expected = 6 * (scores.softmax(dim=-1).unsqueeze(-1) * features).sum(-1)
    torch.testing.assert_close(layer.reduce(features.mT), expected, atol=1e-14, rtol=0)


def test_card_attention_after_the_norm_is_the_cards_form_without_the_factor():
    """Weights that sum to 1 instead of `in`: LayerNorm takes the factor out, its ε aside."""
    layer = pr_kan(6, 3, dtype=F64)
    layer.norm.eps = 0.0
    x = torch.randn(9, 6, dtype=F64)
    features = layer.basis(x)
    weights = (features @ layer.reduce_weight + 0.3).softmax(dim=-1)  # over the inputs, with the card's constant
    g = (weights.unsqueeze(-1) * features).sum(-1)
    expected = F.silu(F.layer_norm(g, (6,), eps=0.0)) @ layer.linear.weight.T + layer.linear.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_attention_weights_of_mean_one_keep_many_inputs_above_the_epsilon_of_the_norm():
    layer = pr_kan(4000, 3)
    g = layer.reduce(layer.basis.planes(torch.randn(5, 4000)))
    assert layer.norm(g).std().item() == pytest.approx(1, abs=0.01)
    assert layer.norm(g / 4000).std() < 0.5  # what weights that sum to 1 would leave of it


def test_card_temperature_below_one_counts_as_one():
    layer = af_kan(6, 3, dtype=F64)
    planes = torch.rand(9, 6, 6, dtype=F64)
    nn.init.constant_(layer.temperature, 1.0)
    at_one = layer.reduce(planes)
    nn.init.constant_(layer.temperature, 0.2)
    torch.testing.assert_close(layer.reduce(planes), at_one, atol=0, rtol=0)


@pytest.mark.parametrize("chosen", range(4))
def test_card_reduction_with_delta_weights_picks_a_single_function(chosen):
    layer = ReducedKANLinear(
        5, 3, basis="chebyshev(degree=3)", reduction="linear", norm=None, act="identity", dtype=F64
    )
    with torch.no_grad():
        layer.reduce_weight.copy_(torch.eye(4, dtype=F64)[chosen])
        layer.reduce_bias.zero_()
    x = torch.randn(9, 5, dtype=F64)
    torch.testing.assert_close(layer(x), layer.linear(layer.basis(x)[..., chosen]), atol=1e-14, rtol=0)


def test_card_linear_reduction_without_a_norm_has_its_constant():
    layer = ReducedKANLinear(5, 3, reduction="linear", norm=None, dtype=F64)
    x = torch.randn(9, 5, dtype=F64)
    g = layer.basis(x) @ layer.reduce_weight + layer.reduce_bias
    torch.testing.assert_close(layer(x), layer.linear(F.silu(g)), atol=1e-14, rtol=0)
    assert ReducedKANLinear(5, 3, reduction="linear").reduce_bias is None


# --- AF-KAN ----------------------------------------------------------------------------------------------------------


def test_af_kan_card_defaults_silu_quad1_global_attention():
    layer = af_kan(5, 3, dtype=F64)
    x = torch.randn(9, 5, dtype=F64)
    low = torch.arange(-3, 3, dtype=F64) / 3
    features = (F.silu(x[..., None] - low) * F.silu(low + 4 / 3 - x[..., None])).square()
    weights = (features @ layer.reduce_weight / math.sqrt(5)).softmax(-1)
    g = F.layer_norm(5 * weights * features.sum(-1), (5,))
    torch.testing.assert_close(layer(x), F.silu(g) @ layer.linear.weight.T, atol=1e-12, rtol=0)
    assert layer.linear.bias is None


def test_af_kan_card_relu_quad1_without_norm_is_unnormalised_relu_kan_bumps():
    layer = ReducedKANLinear(
        5, 5, basis=AF(act="relu", combine="quad1"), reduction="sum", norm=None, act="identity", bias=False, dtype=F64
    )
    nn.init.eye_(layer.linear.weight)
    x = 2 * torch.randn(50, 5, dtype=F64)
    start = torch.arange(-3, 3, dtype=F64) / 3
    bumps = ((start + 4 / 3 - x[..., None]).relu() * (x[..., None] - start).relu()).square()
    torch.testing.assert_close(layer(x), bumps.sum(-1), atol=1e-13, rtol=0)


def test_af_kan_card_shifts_are_trainable_and_shared_across_inputs():
    layer = af_kan(50, 3)
    assert count(layer.basis) == 12


@pytest.mark.parametrize("name", NAMES)
def test_card_rows_are_independent_of_an_outlier_in_the_batch(name):
    """The reference's whole-tensor min-max moved other rows by 0.0125."""
    layer = layers.get(name)(6, 3, dtype=F64)
    x = torch.randn(10, 6, dtype=F64)
    before = layer(x)
    x[4] = 1e3
    after = layer(x)
    keep = torch.arange(10) != 4
    torch.testing.assert_close(after[keep], before[keep], atol=1e-14, rtol=0)


def test_af_kan_card_batch_norm_is_the_one_option_that_couples_rows():
    layer = af_kan(6, 3, norm="batch", dtype=F64)
    x = torch.randn(10, 6, dtype=F64)
    before = layer(x)
    x[4] = 0.9
    assert (layer(x) - before)[0].abs().max() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_card_constant_batches_are_finite(name):
    layer = layers.get(name)(6, 3)
    x = torch.full((8, 6), 0.5, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))


# --- PRKAN and SechKAN -----------------------------------------------------------------------------------------------


def test_pr_kan_card_basis_is_eight_gaussians_on_1_5():
    basis = pr_kan(5, 3).basis
    torch.testing.assert_close(basis.centers, torch.linspace(-1.5, 1.5, 8))


def test_pr_kan_card_norm_position_1_normalises_the_input():
    layer = pr_kan(5, 3, input_norm="layer", norm=None, dtype=F64)
    x = torch.randn(9, 5, dtype=F64)
    plain = pr_kan(5, 3, norm=None, dtype=F64)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("input_norm")})
    torch.testing.assert_close(layer(x), plain(F.layer_norm(x, (5,))), atol=1e-14, rtol=0)


def test_sech_kan_card_equation():
    layer = sech_kan(5, 3, dtype=F64)
    x = torch.randn(9, 5, dtype=F64)
    centers = torch.linspace(-2, 2, 8, dtype=F64)
    features = 1 / torch.cosh(F.layer_norm(x, (5,))[..., None] - centers)
    g = F.layer_norm(features @ layer.reduce_weight, (5,))
    torch.testing.assert_close(layer(x), layer.linear(F.silu(g)), atol=1e-12, rtol=0)
    assert layer.basis.centers.requires_grad


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reach", [1.0, 50.0], ids=["inside", "saturated"])
def test_card_gradcheck(name, reach):
    layer = layers.get(name)(4, 2, dtype=F64)
    names, values = zip(*layer.named_parameters(), strict=True)
    x = (reach * torch.randn(3, 4, dtype=F64)).requires_grad_()

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *(v.detach().requires_grad_() for v in values)))


@pytest.mark.parametrize("name", NAMES)
def test_one_input_has_no_norm_and_no_attention_and_every_parameter_counts(name):
    layer = layers.get(name)(1, 3, dtype=F64)
    assert layer.norm is None
    y = layer(torch.randn(9, 1, dtype=F64))
    y.square().sum().backward()
    assert y.std(dim=0).min() > 0
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_autocast_computes_the_reduction_in_float32(name):
    layer = layers.get(name)(16, 3)
    x = torch.randn(9, 16)
    seen = []
    layer.linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(seen[1], seen[0])


@pytest.mark.parametrize("name", NAMES)
def test_outputs_start_at_order_one(name):
    assert 0.2 < layers.get(name)(300, 200)(torch.randn(100, 300)).std() < 1.5


def test_any_basis_reduces():
    for basis in ("bspline", "fourier(num_frequencies=3)", "rswaf"):
        assert pr_kan(5, 3, basis=basis)(torch.randn(2, 4, 5)).shape == (2, 4, 3)


@pytest.mark.parametrize(
    "options", [{"reduction": "conv2d"}, {"act": "sign"}, {"norm": "instance"}, {"basis": "no-such-basis"}]
)
def test_refuses_unknown_options(options):
    with pytest.raises(KANError, match=next(iter(options))):
        ReducedKANLinear(5, 3, **options)
