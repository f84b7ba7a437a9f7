"""Mixtures of experts on sequences: facts of specs/timeseries/kamoe-grkan.md, sections 2, 4 and 7."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_core.layers import GatedResidualKAN, KANLinear
from kan_timeseries.layers.experts import KAMoE
from kan_timeseries.layers.gates import KANGRU, KANLSTM

F64 = torch.float64
GRU = partial(KANGRU, layer="linear")
LSTM = partial(KANLSTM, layer="linear")
LAST = partial(KANLSTM, layer="linear", return_sequences=False)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def make(expert: object = GRU, **options: object) -> KAMoE:
    return KAMoE(3, 4, expert=expert, dtype=F64, **options)


def sequences(steps: int = 5) -> torch.Tensor:
    return torch.randn(2, steps, 3, dtype=F64)


def dense_relu(in_features: int, out_features: int, **options: object) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, out_features, **options), nn.ReLU())


def dense_flatten(in_features: int, out_features: int, **options: object) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, out_features // 10, **options), nn.Flatten())


def stacked(in_features: int, out_features: int, **options: object) -> nn.Module:
    return nn.Sequential(LSTM(in_features, 7, **options), nn.Linear(7, out_features, **options))


# --- 4: parameter counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expert", "gate_layer", "expected"),
    [
        pytest.param(GRU, "linear", 98_998, id="MoE of GRUs"),
        pytest.param(GRU, "bspline(grid_size=3)", 100_846, id="KAMoE of GRUs"),
        pytest.param(LSTM, "linear", 130_198, id="MoE of LSTMs"),
        pytest.param(LSTM, "bspline(grid_size=3)", 132_046, id="KAMoE of LSTMs"),
    ],
)
def test_card_counts_of_recurrent_mixtures(expert, gate_layer, expected):
    assert count(KAMoE(6, 100, expert=expert, gate_layer=gate_layer, steps=75)) == expected


def test_card_printed_counts_include_two_grids_of_ten_values():
    mixture = KAMoE(6, 100, expert=GRU, steps=75)
    grids = [name for name, _ in mixture.gate.named_buffers() if name.endswith("knots")]
    assert len(grids) == 2  # ours are per input: (100, 10) and (3, 10); keras keeps 10 values for all inputs
    assert count(mixture) + 2 * (3 + 2 * 3 + 1) == 100_866


@pytest.mark.parametrize(("gate_layer", "expected"), [("linear", 272), ("bspline(grid_size=3)", 410)])
def test_card_counts_of_dense_mixtures_with_head(gate_layer, expected):
    mixture = KAMoE(8, 5, expert=dense_relu, gate_layer=gate_layer, device="meta")
    assert count(mixture) + count(nn.Linear(5, 1)) == expected


@pytest.mark.parametrize(
    ("a", "layer", "expected"),
    [(5, "bspline(grid_size=3)", 216), (5, "linear", 78), (100, "bspline(grid_size=3)", 2_496), (100, "linear", 648)],
)
def test_card_counts_of_the_gates(a, layer, expected):
    assert count(GatedResidualKAN(a, 3, layer=layer, device="meta")) == expected


def test_card_count_of_the_normalised_kan_with_head():
    layer = KANLinear(8, 5, basis="bspline(grid_size=3)", norm="layer", device="meta")
    assert count(layer) + count(nn.Linear(5, 1)) == 307


# --- 2: what the gate sees ------------------------------------------------------------------------------------------


def test_kamoe_equations_per_step():
    mixture = make(gating="softmax", steps=5)
    mixture.input_scale.data.uniform_(0.5, 2)
    x = sequences()
    scaled = mixture.input_scale * x
    weights = mixture.gate.network(torch.relu(mixture.gate.reduce(scaled))).softmax(-1)
    expected = sum(weights[..., e, None] * mixture.experts[e](scaled) for e in range(3))
    torch.testing.assert_close(mixture(x), expected)


@pytest.mark.parametrize("mode", ["last", "mean", "flatten"])
@pytest.mark.parametrize("expert", [GRU, LAST])
def test_kamoe_equations_with_one_weight_per_sequence(mode, expert):
    mixture = make(expert, gate=mode, steps=5)
    x = sequences()
    z = {"last": x[:, -1], "mean": x.mean(1), "flatten": x.reshape(2, 15)}[mode]
    weights = torch.sigmoid(mixture.gate.network(torch.relu(mixture.gate.reduce(z))))
    outputs = torch.stack([e(x) for e in mixture.experts], dim=1)
    expected = torch.einsum("be,be...->b...", weights, outputs)
    torch.testing.assert_close(mixture(x), expected)


@pytest.mark.parametrize(
    ("expert", "mode", "shape"),
    [
        pytest.param(LSTM, "per_step", (6, 10, 20), id="sequences"),
        pytest.param(LAST, "last", (6, 20), id="last step"),
        pytest.param("linear", "per_step", (6, 10, 20), id="dense"),
        pytest.param(dense_flatten, "flatten", (6, 20), id="flattened"),
        pytest.param(stacked, "per_step", (6, 10, 20), id="stacked"),
        pytest.param(partial(KAMoE, expert=LAST), "last", (6, 20), id="nested"),
    ],
)
def test_card_automatic_gate_and_output_shapes(expert, mode, shape):
    mixture = KAMoE(8, 20, expert=expert, steps=10)
    assert mixture.gate_mode == mode
    assert mixture(torch.randn(6, 10, 8)).shape == shape


def test_card_two_dimensional_input_is_gated_row_by_row():
    mixture = make("linear")
    x = torch.randn(7, 3, dtype=F64)
    torch.testing.assert_close(mixture(x), mixture(x[None])[0])


def test_card_scale_per_feature_leaves_the_length_free():
    mixture = make()
    assert mixture.input_scale.shape == (3,)
    assert [mixture(sequences(n)).shape[1] for n in (1, 4, 9)] == [1, 4, 9]


def test_trying_an_expert_at_construction_leaves_no_trace():
    def noisy(a: int, o: int, **options: object) -> nn.Module:
        return nn.Sequential(nn.Linear(a, o, **options), nn.Dropout(0.5), nn.BatchNorm1d(5, **options))

    torch.manual_seed(1)
    first = make(noisy, steps=5)
    assert all(module.training for module in first.modules())
    assert first.experts[0][2].num_batches_tracked == 0
    torch.manual_seed(1)
    for _ in range(3):
        noisy(3, 4, dtype=F64)
    assert torch.equal(first.gate.reduce.weight, nn.Linear(3, 4, dtype=F64).weight)  # no random number was drawn


# --- 7: invariants --------------------------------------------------------------------------------------------------


def test_card_softmax_weights_sum_to_one_and_sigmoid_weights_do_not():
    weights = make(gating="softmax").forward_with_routing(sequences())[1].weights
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, dtype=F64))
    sums = make().forward_with_routing(sequences())[1].weights.sum(-1)
    assert (sums - 1).abs().min() > 1e-3


def test_card_initial_sigmoid_weights_of_three_lie_between_0_196_and_0_804():
    mixture = make()
    mixture.gate.reduce.weight.data.normal_(0, 100)
    weights = mixture.forward_with_routing(torch.randn(50, 5, 3, dtype=F64))[1].weights
    assert weights.min() >= 0.195
    assert weights.max() <= 0.805
    assert weights.max() - weights.min() > 0.4


@pytest.mark.parametrize("expert", [GRU, LAST])
def test_card_equal_experts_under_softmax_are_one_expert(expert):
    mixture = make(expert, gating="softmax")
    for other in mixture.experts[1:]:
        other.load_state_dict(mixture.experts[0].state_dict())
    x = sequences()
    torch.testing.assert_close(mixture(x), mixture.experts[0](x))


@pytest.mark.parametrize("chosen", range(3))
def test_card_one_hot_gate_selects_its_expert(chosen):
    mixture = make(LAST, gating="softmax")
    norm = mixture.gate.network.norm
    norm.weight.data.zero_()
    norm.bias.data.copy_(torch.where(torch.arange(3) == chosen, 0.0, -1e4))
    x = sequences()
    torch.testing.assert_close(mixture(x), mixture.experts[chosen](x))


def test_card_permuting_experts_with_the_gate_outputs_changes_nothing():
    mixture = make(LAST)
    other = copy.deepcopy(mixture)
    order = [2, 0, 1]
    other.experts = nn.ModuleList([other.experts[e] for e in order])
    network = other.gate.network
    for part in (network.skip, network.norm):
        part.weight.data, part.bias.data = part.weight.data[order], part.bias.data[order]
    both = order + [3 + e for e in order]  # value and gate rows of the GLU
    network.gate.weight.data, network.gate.bias.data = network.gate.weight.data[both], network.gate.bias.data[both]
    x = sequences()
    torch.testing.assert_close(mixture(x), other(x))


def test_experts_have_their_own_weights_and_all_parameters_learn():
    mixture = make(steps=5)
    assert not torch.equal(*(next(e.parameters()) for e in mixture.experts[:2]))
    mixture(sequences()).square().sum().backward()
    assert [name for name, p in mixture.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("expert", [GRU, partial(KAMoE, expert=LAST, num_experts=2)], ids=["plain", "nested"])
def test_card_saved_and_loaded_mixtures_give_equal_outputs(expert, tmp_path):
    from safetensors.torch import load_file, save_file

    first, second = (make(expert, steps=5) for _ in range(2))
    save_file(first.state_dict(), tmp_path / "mixture.safetensors")
    x = sequences()
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(load_file(tmp_path / "mixture.safetensors"))
    assert torch.equal(first(x), second(x))


def test_card_share_of_gate_inputs_outside_the_grid_is_reported():
    mixture = make(gate_layer="bspline(grid_size=3)")
    x = sequences()
    hidden = torch.relu(mixture.gate.reduce(x))
    assert mixture.gate_outside_fraction(x) == pytest.approx((hidden > 1).double().mean().item())
    assert mixture.gate_outside_fraction(1e3 * x) > 0.3
    wide = make(gate_layer="bspline(grid_size=3, grid_range=(-1, 10000))")
    assert wide.gate_outside_fraction(1e3 * x) == 0


# --- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 1}, "num_experts must be .*at least 2"),
        ({"gate": "first"}, "gate must be one of auto, last, flatten, per_step, mean, got 'first'"),
        ({"gating": "tanh"}, "gating must be 'softmax'"),
        ({"steps": 0}, "steps must be"),
        ({"gate": "flatten"}, "gate='flatten' needs the length: give steps"),
        ({"gate": "per_step", "expert": LAST}, "gate='per_step' needs experts that return every step"),
        ({"expert": lambda a, o, **_: nn.Linear(a, o + 1)}, r"an expert must map \(1, 2, 3\) to \(1, 4\) or"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(KANError, match=message):
        KAMoE(3, 4, **({"expert": "linear"} | options))


def test_refused_inputs():
    with pytest.raises(KANError, match="made for 5 steps, got 6: leave out steps"):
        make(steps=5)(sequences(6))
    with pytest.raises(KANError, match=r"expected an input of shape \(batch, steps, 3\)"):
        make(LAST)(torch.zeros(2, 3, dtype=F64))
    with pytest.raises(KANError, match=r"expected an input of shape \(\.\.\., 3\)"):
        make("linear")(torch.zeros(2, 5, 4, dtype=F64))
    with pytest.raises(KANError, match="no KAN layer"):
        make(gate_layer="linear").gate_outside_fraction(sequences())
