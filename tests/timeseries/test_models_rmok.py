"""Mixtures of KAN experts: forecasting-conventions.md, section 7.1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_core.compare import match_width
from kan_core.layers import WavKANLinear
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models.network import ForecastNetwork
from kan_timeseries.models.rmok import MMK, RMOK_EXPERTS, RMOK_PAPER_EXPERTS, RMoK, make_expert

F64 = torch.float64
PLAIN = {"affine": False, "dropout": 0.0}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", [RMOK_EXPERTS, RMOK_PAPER_EXPERTS], ids=["ours", "paper"])
def test_card_7_1_111_570_parameters_for_96_to_96_with_7_channels(experts):
    model = RMoK(96, 96, 7, layer=experts)
    assert count(model) == 111_570 == 130_002 - 18_432
    assert count(model.affine) == 14
    assert count(RMoK(96, 96, 7, layer=experts, affine=False)) == 111_570 - 14


def test_card_7_1_296_282_parameters_of_mmk():
    with torch.device("meta"):
        assert count(MMK(96, 96, 7)) == 296_282


# --- gate -----------------------------------------------------------------------------------------------------------


def test_card_7_1_gate_rows_sum_to_1():
    model = RMoK(24, 4, 2)
    _, routing = model.mixture.forward_with_routing(10 * torch.randn(50, 24))
    torch.testing.assert_close(routing.all_weights().sum(-1), torch.ones(50))


def test_rmok_is_the_gated_sum_of_its_experts():
    model = RMoK(24, 4, 2, num_outputs=3, **PLAIN).double().eval()
    past = torch.randn(5, 24, 2, dtype=F64)
    for channel in range(2):
        x = past[:, :, channel]
        weights = model.mixture.gate(x).softmax(-1)
        y = sum(weights[:, e, None] * expert(x) for e, expert in enumerate(model.mixture.experts))
        torch.testing.assert_close(model(past)[:, :, channel], y.view(5, 4, 3))


def test_card_7_1_with_one_expert_there_is_no_gate():
    model = RMoK(24, 4, 2, layer=["linear"], **PLAIN)
    assert count(model) == 24 * 4 + 4
    past = torch.randn(5, 24, 2)
    torch.testing.assert_close(model(past)[..., 0], model.mixture(past.transpose(1, 2)).transpose(1, 2))


# --- experts --------------------------------------------------------------------------------------------------------


def test_card_7_1_taylor_with_the_first_power_alone_is_a_linear_model():
    linear, taylor = nn.Linear(24, 4, dtype=F64), make_expert("taylor(order=3)", 24, 4).double()
    with torch.no_grad():
        taylor.weight.zero_()
        taylor.weight[1] = linear.weight.T
        taylor.bias.copy_(linear.bias)
    x = 5 * torch.randn(10, 24, dtype=F64)
    torch.testing.assert_close(taylor(x), linear(x))


def test_taylor_spans_the_powers_below_its_order():
    expert = make_expert("taylor(order=4)", 1, 1).double()
    t = torch.linspace(-4, 4, 50, dtype=F64)
    powers = torch.stack([t**p for p in range(4)], dim=1)
    planes = expert.basis.planes(t[:, None])[..., 0]
    residual = planes - powers @ torch.linalg.lstsq(powers, planes).solution
    assert residual.abs().max() < 1e-9
    assert torch.linalg.matrix_rank(planes) == 4


def test_card_7_1_batch_statistics_fail_on_one_row_and_layer_norm_does_not():
    past = torch.randn(1, 24, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        RMoK(24, 4, layer=RMOK_PAPER_EXPERTS)(past)
    assert RMoK(24, 4)(past).isfinite().all()


def test_a_forecast_does_not_depend_on_the_other_windows_of_the_batch():
    past = torch.randn(6, 24, 2, dtype=F64)
    alone, tied = (RMoK(24, 4, 2, layer=e, dropout=0.0).double() for e in (RMOK_EXPERTS, RMOK_PAPER_EXPERTS))
    torch.testing.assert_close(alone(past)[:3], alone(past[:3]))
    assert (tied(past)[:3] - tied(past[:3])).abs().max() > 1e-3


def test_norm_goes_behind_any_expert_but_not_over_one_output():
    expert = make_expert("linear(norm='layer')", 24, 4)
    assert [type(m) for m in expert] == [nn.Linear, nn.LayerNorm]
    assert count(expert) == 24 * 4 + 2 * 4
    single = make_expert("wavelet(num_centers=3, norm='layer')", 24, 1)
    assert single(torch.randn(50, 24)).std() > 0.1
    assert isinstance(make_expert("wav-kan(mother='dog')", 24, 4), WavKANLinear)


# --- window ---------------------------------------------------------------------------------------------------------


def test_affine_starts_as_the_identity_and_is_undone():
    model = RMoK(24, 24, 3, layer=["linear"], dropout=0.0).double()
    past = torch.randn(2, 24, 3, dtype=F64)
    assert torch.equal(model.affine(past), past)
    with torch.no_grad():
        model.mixture.weight.copy_(torch.eye(24))
        model.mixture.bias.zero_()
        model.affine.log_scale.normal_()
        model.affine.shift.normal_()
    assert (model.affine(past) - past).abs().min() > 0
    torch.testing.assert_close(model(past)[..., 0], past)


@pytest.mark.parametrize("name", ["rmok", "mmk"])
def test_card_7_1_and_9_output_moves_with_the_window(name):
    network = ForecastNetwork(24, 4, 3, model=name, scaler="standard", skip="none").double().eval()
    past = torch.randn(5, 24, 3, dtype=F64)
    a, b = torch.tensor([0.5, 1.0, 20.0], dtype=F64), torch.tensor([7.0, -3.0, 100.0], dtype=F64)
    torch.testing.assert_close(network(past + b), network(past) + b[:, None])
    torch.testing.assert_close(network(a * past + b), a[:, None] * network(past) + b[:, None], rtol=0, atol=0.02)


def test_channels_share_gate_and_experts():
    model = RMoK(24, 4, 3, **PLAIN).eval()
    past = torch.randn(5, 24, 3)
    torch.testing.assert_close(model(past[..., [2, 0, 1]]), model(past)[:, :, [2, 0, 1]])


# --- twins and starts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [RMoK, MMK])
def test_linear_makes_a_mixture_of_linear_experts_of_equal_size(model):
    with torch.device("meta"):
        target = count(model(96, 96, 7))
        twin = match_width(lambda width: model(96, 96, 7, layer="linear", width=width), target)
    assert abs(twin.residual) < 0.05
    assert {type(m).__name__ for m in twin.model.modules() if not list(m.children()) and list(m.parameters())} == {
        "Linear",
        "ChannelAffine",
    }


def test_width_repeats_the_experts_in_order():
    model = RMoK(24, 4, layer=["linear", "taylor(order=2)"], width=2.5)
    assert [type(e).__name__ for e in model.mixture.experts] == ["Linear", "KANLinear"] * 2 + ["Linear"]


def test_mmk_has_an_activation_between_linear_experts_and_a_clip_between_others():
    assert sum(isinstance(m, nn.SiLU) for m in MMK(24, 4, layer="linear").modules()) == 2
    kan = MMK(24, 4, hidden=8, dropout=0.0)
    assert kan(1e3 * torch.randn(8, 24, 1)).isfinite().all()
    assert kan.network[1](1e9 * torch.randn(8)).abs().max() <= 3.0


@pytest.mark.parametrize("layer", [RMOK_EXPERTS, RMOK_PAPER_EXPERTS, "linear"], ids=["ours", "paper", "linear"])
def test_a_head_of_zeros_still_learns_and_equal_experts_part(layer):
    model = RMoK(24, 4, 2, layer=layer, dropout=0.0)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    past = torch.randn(16, 24, 2)
    assert model(past).abs().max() == 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model(past) - past[:, -4:, :, None]).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    first, second = model.mixture.experts[:2]
    assert (first.weight - second.weight).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ([], "at least one expert"),
        (["taylor(order=1)"], "order must be a whole number of at least 2"),
        (["taylor(degree=2)"], "expert 'taylor' takes order and norm, got degree"),
        (["wavelet(norm='rms')"], "norm must be None, 'layer' or 'batch', got 'rms'"),
        (["waves"], "unknown layer 'waves'"),
        (["wavelet(3)"], "cannot read the expert"),
    ],
    ids=["none", "order", "argument", "norm", "unknown", "unreadable"],
)
def test_bad_experts(layer, message):
    with pytest.raises(KANError, match=message):
        FORECASTERS.create("rmok", input_length=24, horizon=4, layer=layer)


def test_bad_sizes():
    with pytest.raises(KANError, match="depth must be"):
        MMK(24, 4, depth=0)
    with pytest.raises(KANError, match=r"expected windows of shape \(B, 24, 1\)"):
        RMoK(24, 4)(torch.zeros(2, 12, 1))
