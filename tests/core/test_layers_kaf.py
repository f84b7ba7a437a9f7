"""KAF: the facts of its card (specs/core/kaf.md)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kan_core import KANError, layers
from kan_core.layers.kaf import KAFLinear

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


@pytest.mark.parametrize(("sizes", "expected"), [((784, 64), 71_418), ((64, 10), 2_388)])
def test_kaf_card_real_parameter_count(sizes, expected):
    assert count(layers.get("kaf")(*sizes)) == expected


def test_kaf_card_real_parameter_count_of_the_net():
    assert count(KAFLinear(784, 64), KAFLinear(64, 10)) == 73_806


def test_kaf_card_parameter_count_with_nine_frequencies_and_no_norm():
    options = {"num_frequencies": 9, "norm": None}
    assert count(KAFLinear(784, 64, **options), KAFLinear(64, 10, **options)) == 74_656


@pytest.mark.parametrize(("sizes", "published"), [((784, 64), 58_088), ((64, 10), 1_298)])
def test_kaf_card_paper_formula_leaves_out_the_combination_and_the_scalars(sizes, published):
    """The paper counts in·M + M + 2 in + in·out + out: no matrix from 2M features to the inputs, no scalars."""
    layer = KAFLinear(*sizes)
    assert count(layer) - count(layer.mix) - layer.gelu_scale.numel() - layer.fourier_scale.numel() == published


def test_kaf_card_initial_scalars():
    layer = KAFLinear(6, 3)
    assert layer.gelu_scale.tolist() == [1.0]
    assert layer.fourier_scale.tolist() == pytest.approx([0.01])
    assert layer.linear.bias.abs().max() == 0


def test_kaf_card_initial_frequencies_and_phases():
    layer = KAFLinear(200, 3, num_frequencies=300)
    assert layer.frequencies.std().item() == pytest.approx(1 / math.sqrt(200 * 1.64), rel=0.02)
    assert layer.phases.min() >= 0
    assert layer.phases.max() < 2 * math.pi
    assert layer.phases.mean().item() == pytest.approx(math.pi, rel=0.1)
    assert layer.mix.bias.abs().max() <= 1 / math.sqrt(600)
    bound = math.sqrt(6 / 203)
    assert 0.9 * bound < layer.linear.weight.abs().max() <= bound


def test_kaf_card_sigma_is_the_moment_ratio():
    assert math.sqrt(0.168 / 0.062) == pytest.approx(1.64, abs=0.01)


def test_kaf_card_without_fourier_share_is_linear_of_gelu():
    layer = KAFLinear(6, 3, dtype=F64)
    nn.init.zeros_(layer.fourier_scale)
    x = torch.randn(9, 6, dtype=F64)
    torch.testing.assert_close(layer(x), layer.linear(F.gelu(x)), atol=0, rtol=0)


def test_kaf_card_without_gelu_share_is_a_two_layer_fourier_net():
    layer = KAFLinear(6, 3, dtype=F64)
    nn.init.zeros_(layer.gelu_scale)
    nn.init.ones_(layer.fourier_scale)
    x = torch.randn(9, 6, dtype=F64)
    angles = F.layer_norm(x, (6,)) @ layer.frequencies + layer.phases
    features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    expected = (features @ layer.mix.weight.T + layer.mix.bias) @ layer.linear.weight.T + layer.linear.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-13, rtol=0)


def test_kaf_card_zero_frequencies_give_constant_features():
    layer = KAFLinear(6, 3, dtype=F64)
    nn.init.zeros_(layer.frequencies)
    features = layer.fourier_features(torch.randn(9, 6, dtype=F64))
    expected = torch.cat([layer.phases.cos(), layer.phases.sin()]).expand(9, 16)
    torch.testing.assert_close(features, expected, atol=0, rtol=0)


def test_kaf_card_norm_affects_the_fourier_branch_only():
    layer = KAFLinear(6, 3, dtype=F64)
    x = torch.randn(9, 6, dtype=F64)
    torch.testing.assert_close(layer.fourier_features(5 * x + 2), layer.fourier_features(x), atol=1e-4, rtol=0)
    nn.init.zeros_(layer.fourier_scale)
    assert (layer(5 * x + 2) - layer(x)).abs().max() > 0.5


def test_kaf_card_no_norm_for_one_input():
    layer = KAFLinear(1, 3)
    assert layer.norm is None
    assert layer(torch.randn(9, 1)).std(dim=0).min() > 0


def test_kaf_card_eval_is_deterministic_with_dropout():
    layer = KAFLinear(6, 3, dropout=0.5)
    x = torch.randn(9, 6)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_kaf_card_state_dict_holds_the_trainable_frequencies_and_phases():
    layer = KAFLinear(6, 3, num_frequencies=4)
    state = layer.state_dict()
    assert state["frequencies"].shape == (6, 4)
    assert state["phases"].shape == (4,)
    assert layer.frequencies.requires_grad
    assert layer.phases.requires_grad
    other = KAFLinear(6, 3, num_frequencies=4)
    other.load_state_dict(state)
    x = torch.randn(9, 6)
    assert torch.equal(other(x), layer(x))


def test_kaf_card_construction_prints_nothing(capsys):
    KAFLinear(6, 3)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("reach", [1.0, 300.0], ids=["inside", "large"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["scalars", "vectors"])
def test_kaf_card_gradcheck(reach, per_channel):
    layer = KAFLinear(4, 2, num_frequencies=3, per_channel=per_channel, dtype=F64)
    names, values = zip(*layer.named_parameters(), strict=True)
    x = (reach * torch.randn(3, 4, dtype=F64)).requires_grad_()

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *(v.detach().requires_grad_() for v in values)))


def test_kaf_card_random_features_approximate_the_gaussian_kernel_within_5_percent():
    """With 4096 frequencies and the factor 1/√M, inner products are exp(−|x − y|² s² / 2), s² = 1 / (1.64 in)."""
    layer = KAFLinear(8, 1, num_frequencies=4096, norm=None, dtype=F64)
    x, y = torch.randn(2, 40, 8, dtype=F64)
    with torch.no_grad():
        kernel = layer.fourier_features(x) @ layer.fourier_features(y).T / 4096
    expected = torch.exp(-torch.cdist(x, y).square() / (1.64 * 8) / 2)
    assert (kernel - expected).abs().max() < 0.05


def test_kaf_card_angles_are_computed_in_float32_under_autocast():
    """In bfloat16 an angle of a thousand is off by whole periods."""
    layer = KAFLinear(6, 3, norm=None)
    x = 1000 * torch.randn(9, 6)
    expected = layer.fourier_features(x)
    with torch.autocast("cpu", torch.bfloat16):
        features, y = layer.fourier_features(x), layer(x)
    assert torch.equal(features, expected)
    assert y.dtype == torch.bfloat16


def test_kaf_half_precision_layer_and_input():
    layer = KAFLinear(6, 3).bfloat16()
    y = layer(torch.randn(9, 6, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


def test_kaf_per_channel_vectors_are_the_papers_scalars_when_equal():
    scalar, vector = KAFLinear(6, 3), KAFLinear(6, 3, per_channel=True)
    assert vector.gelu_scale.shape == vector.fourier_scale.shape == (6,)
    vector.load_state_dict(
        scalar.state_dict() | {k: scalar.state_dict()[k].expand(6) for k in ("gelu_scale", "fourier_scale")}
    )
    x = torch.randn(9, 6)
    torch.testing.assert_close(vector(x), scalar(x))


def test_kaf_outputs_start_at_order_one():
    assert 0.3 < KAFLinear(300, 200)(torch.randn(100, 300)).std() < 1.5


@pytest.mark.parametrize("options", [{"num_frequencies": 0}, {"norm": "instance"}])
def test_kaf_refuses_options_out_of_range(options):
    with pytest.raises(KANError, match=next(iter(options))):
        KAFLinear(6, 3, **options)


def test_kaf_refuses_an_input_of_another_size():
    with pytest.raises(KANError, match=r"\(\.\.\., 6\)"):
        KAFLinear(6, 3)(torch.zeros(2, 5))
