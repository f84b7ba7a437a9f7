"""What the cards s-kan.md and sconvkan_metacluster.md say of selection among bases."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn

from kan_core import KANError, KANLinear, compare, layers
from kan_core.layers import KANLayer, SelectKANLinear, select_all

F64 = torch.float64
POOL = ("bspline", "rbf", "chebyshev", "fourier")


def hard_gates(layer: SelectKANLinear, winner: int) -> None:
    """Gates of exactly 1 and 0: what annealing ends in."""
    with torch.no_grad():
        layer.logits.zero_()
        layer.logits[winner] = 1
    layer.anneal(1e-4)
    assert layer.gates.tolist() == [float(m == winner) for m in range(len(layer.members))]


def test_gates_sum_to_one_and_start_equal():
    layer = SelectKANLinear(3, 2, dtype=F64)
    assert layer.gates.tolist() == [0.25] * 4
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([3.0, -200.0, 0.5, 2.0]))
    for temperature in (10.0, 1.0, 1e-3):
        layer.anneal(temperature)
        torch.testing.assert_close(layer.gates.sum().item(), 1.0)
        expected = torch.exp(layer.logits / temperature - layer.logits.max() / temperature)
        torch.testing.assert_close(layer.gates, expected / expected.sum())


def test_gate_entropy_is_log_m_undecided_and_zero_decided_with_finite_gradients():
    layer = SelectKANLinear(3, 2, dtype=F64)
    assert layer.gate_entropy().item() == pytest.approx(math.log(4))
    hard_gates(layer, 2)
    entropy = layer.gate_entropy()
    entropy.backward()
    assert entropy.item() == 0
    assert torch.isfinite(layer.logits.grad).all()


def test_less_temperature_is_less_entropy():
    layer = SelectKANLinear(3, 2, dtype=F64)
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([0.1, 0.4, 0.2, 0.0]))
    entropies = []
    for temperature in (1.0, 0.5, 0.1, 0.01):
        layer.anneal(temperature)
        entropies.append(layer.gate_entropy().item())
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[-1] < 1e-6


# --- limiting cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "layer", "batch"])
@pytest.mark.parametrize("basis", POOL)
def test_one_candidate_is_the_plain_layer_of_the_same_seed_through_training(basis, norm):
    torch.manual_seed(0)
    layer = SelectKANLinear(4, 3, bases=(basis,), norm=norm, dtype=F64)
    torch.manual_seed(0)
    plain = KANLinear(4, 3, basis, norm=norm, init_scale=1.0, dtype=F64)
    x = torch.randn(50, 4, dtype=F64)
    for net in (layer, plain):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(5):
            optimizer.zero_grad()
            (net(x) - x[:, :3].sin()).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.select()(x), plain(x), atol=1e-12, rtol=0)
    assert layer.logits.grad.item() == 0


@pytest.mark.parametrize("winner", range(4))
def test_one_hot_gates_equal_the_plain_layer_of_the_winning_basis(winner):
    layer = SelectKANLinear(4, 3, dtype=F64)
    hard_gates(layer, winner)
    plain = KANLinear(4, 3, POOL[winner], dtype=F64)
    with torch.no_grad():
        plain.weight.copy_(torch.cat([layer.members[winner].weight, layer.base_weight[None]]))
        plain.bias.copy_(layer.bias)
    x = torch.randn(50, 4, dtype=F64)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)


def test_equal_gates_of_the_same_basis_are_the_average():
    layer = SelectKANLinear(4, 3, bases=("rbf",) * 3, dtype=F64)
    x = torch.randn(20, 4, dtype=F64)
    plain = copy.deepcopy(layer.select())
    with torch.no_grad():
        plain.weight[:-1] = sum(member.weight for member in layer.members) / 3
    torch.testing.assert_close(layer(x), plain(x), atol=1e-13, rtol=0)


def test_identical_candidates_get_identical_gradients_and_their_gates_none():
    layer = SelectKANLinear(4, 3, bases=("rbf", "rbf"), dtype=F64)
    layer.members[1].load_state_dict(layer.members[0].state_dict())
    layer(torch.randn(20, 4, dtype=F64)).square().sum().backward()
    assert torch.equal(layer.members[0].weight.grad, layer.members[1].weight.grad)
    assert layer.members[0].weight.grad.abs().min() > 0
    torch.testing.assert_close(layer.logits.grad, torch.zeros(2, dtype=F64), atol=1e-12, rtol=0)


def test_ties_go_to_the_lowest_index():
    layer = SelectKANLinear(2, 2)
    assert layer.winner == 0
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([0.0, 2.0, 1.0, 2.0]))
    assert layer.winner == 1


def test_every_candidate_starts_with_variance_one_so_that_none_wins_by_its_scale():
    torch.manual_seed(0)
    layer = SelectKANLinear(64, 256)
    x = torch.randn(500, 64)
    for member in layer.members:
        assert member(x).var().item() == pytest.approx(1, rel=0.1)


def test_the_norm_is_one_and_all_candidates_see_what_it_gives():
    layer = SelectKANLinear(4, 3, norm="layer", base=None, bias=False, dtype=F64)
    assert all(member.norm is None for member in layer.members)
    x = torch.randn(9, 4, dtype=F64) * 5 + 3
    z = nn.functional.layer_norm(x, (4,))
    torch.testing.assert_close(layer(x), sum(member(z) for member in layer.members) / 4, atol=1e-12, rtol=0)


def test_edge_function_is_the_gated_sum_of_the_members():
    layer = SelectKANLinear(4, 3, dtype=F64)
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([0.3, 1.0, -1.0, 0.0]))
    x = torch.randn(11, 4, dtype=F64)
    edges = [torch.stack([layer.edge_function(o, i)(x[:, i]) for i in range(4)]).sum(0) for o in range(3)]
    torch.testing.assert_close(layer(x), torch.stack(edges, dim=1) + layer.bias, atol=1e-12, rtol=0)


# --- the third stage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "base"), [("layer", "silu"), ("batch", None), (None, "gelu"), (None, None)])
@pytest.mark.parametrize("winner", range(4))
def test_after_selection_the_plain_layer_equals_the_hard_gated_one_bit_for_bit(winner, norm, base):
    layer = SelectKANLinear(4, 3, norm=norm, base=base, dtype=F64).eval()
    layer.members[0].update_grid(torch.rand(30, 4, dtype=F64) ** 2)  # grids of their own are kept
    hard_gates(layer, winner)
    chosen = layer.select()
    x = torch.randn(50, 4, dtype=F64)
    assert type(chosen) is KANLinear
    assert torch.equal(chosen(x), layer(x))


def test_after_selection_the_fused_b_spline_layer_equals_the_hard_gated_one_to_1e_12():
    """Its SiLU branch is one more plane of the same sum, so the order of the sum is another one."""
    layer = SelectKANLinear(4, 3, dtype=F64)
    hard_gates(layer, 0)
    x = torch.randn(50, 4, dtype=F64)
    torch.testing.assert_close(layer.select()(x), layer(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("winner", range(4))
def test_selection_folds_the_gate_into_the_coefficients(winner):
    layer = SelectKANLinear(4, 3, dtype=F64)
    with torch.no_grad():
        layer.logits[winner] = 1.5
    x = torch.randn(50, 4, dtype=F64)
    base = nn.functional.silu(x) @ layer.base_weight + layer.bias
    gate = math.exp(1.5) / (math.exp(1.5) + 3)
    torch.testing.assert_close(layer.select()(x), gate * layer.members[winner](x) + base, atol=1e-12, rtol=0)


@pytest.mark.parametrize("winner", range(4))
def test_selection_keeps_the_function_when_the_winner_has_all_but_1e_6(winner):
    layer = SelectKANLinear(4, 3, dtype=F64)
    with torch.no_grad():
        layer.logits[winner] = math.log(3 * (1e6 - 1))
    assert layer.gates[winner].item() == pytest.approx(1 - 1e-6, abs=1e-12)
    x = torch.randn(50, 4, dtype=F64)
    torch.testing.assert_close(layer.select()(x), layer(x), atol=1e-5, rtol=0)


def test_selection_owns_its_weights_and_touches_no_random_number():
    layer = SelectKANLinear(4, 3)
    state = torch.get_rng_state()
    chosen = layer.select()
    assert torch.equal(state, torch.get_rng_state())
    before = layer(torch.ones(1, 4))
    with torch.no_grad():
        for parameter in chosen.parameters():
            parameter.zero_()
    assert torch.equal(layer(torch.ones(1, 4)), before)


def test_select_all_replaces_layers_in_place_and_the_whole_trains_on():
    net = nn.Sequential(SelectKANLinear(3, 8), nn.Sequential(nn.LayerNorm(8), SelectKANLinear(8, 2)))
    hard_gates(net[0], 3)
    hard_gates(net[1][1], 1)
    x = torch.randn(20, 3)
    before = net(x)
    assert select_all(net) is net
    assert [type(m.basis).__name__ for m in net.modules() if isinstance(m, KANLayer)] == ["Fourier", "GaussianRBF"]
    torch.testing.assert_close(net(x), before)
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert type(select_all(SelectKANLinear(3, 2))) is KANLinear


# --- counts, state, options ------------------------------------------------------------------------------------------


def test_parameters_are_the_sum_over_the_pool_plus_one_gate_each_and_then_those_of_the_winner():
    layer = SelectKANLinear(7, 5)
    planes = 8 + 8 + 5 + 10
    assert compare.count_parameters(layer) == 7 * 5 * (planes + 1) + 5 + 4
    for winner, basis in enumerate(POOL):
        hard_gates(layer, winner)
        plain = KANLinear(7, 5, basis)
        assert compare.count_parameters(layer.select()) == compare.count_parameters(plain)
        assert layer.select().state_dict().keys() == plain.state_dict().keys()


def test_a_checkpoint_carries_gates_and_temperature():
    layer = SelectKANLinear(3, 2)
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([0.1, 0.7, 0.2, 0.0]))
    layer.anneal(0.25)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    again = SelectKANLinear(3, 2)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again.gates, layer.gates)
    assert again.temperature.item() == 0.25
    x = torch.randn(5, 3)
    assert torch.equal(again(x), layer(x))


def test_reset_is_the_first_stage_again_and_follows_the_seed():
    torch.manual_seed(1)
    layer = SelectKANLinear(3, 2)
    first = copy.deepcopy(layer.state_dict())
    hard_gates(layer, 1)
    torch.manual_seed(1)
    layer.reset_parameters()
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in first.items())


def test_flops_are_those_of_all_candidates():
    x = torch.zeros(1, 6)
    members = sum(compare.count_flops(KANLinear(6, 4, basis, base=None), x) for basis in POOL)
    assert compare.count_flops(SelectKANLinear(6, 4), x) == members + 2 * 6 * 4 + 5 * 6


def test_mistakes_are_named():
    with pytest.raises(KANError, match="bases must be a sequence"):
        SelectKANLinear(2, 2, bases="rbf")
    with pytest.raises(KANError, match="bases must be a sequence"):
        SelectKANLinear(2, 2, bases=())
    with pytest.raises(KANError, match="base must be None or one of"):
        SelectKANLinear(2, 2, base="sine")
    with pytest.raises(KANError, match="unknown basis 'splines'"):
        SelectKANLinear(2, 2, bases=("rbf", "splines"))
    with pytest.raises(KANError, match="norm must be"):
        SelectKANLinear(2, 2, norm="group")
    with pytest.raises(KANError, match=r"expected an input of shape \(\.\.\., 2\)"):
        SelectKANLinear(2, 2)(torch.zeros(3, 4))
    with pytest.raises(KANError, match="does not exist"):
        SelectKANLinear(2, 2).edge_function(2, 0)
    with pytest.raises(KANError, match="temperature must be a finite number above zero, got 0"):
        SelectKANLinear(2, 2).anneal(0)
    assert len(layers.get("s-kan(bases=('rbf', 'fourier'))")(2, 3).members) == 2


# --- does it choose what generated the data? -------------------------------------------------------------------------

CANDIDATES = ("bspline(order=1)", "rbf", "chebyshev(squash=False)", "fourier")


def chosen_for(basis: str, seed: int) -> str:
    """One edge of `basis` with random coefficients makes the data; the layer's stages as the cards have them."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(200, 1, generator=generator, dtype=F64) * 2 - 1
    with torch.no_grad():
        y = KANLinear(1, 1, basis, base=None, bias=False, dtype=F64)(x)
        y = (y - y.mean()) / y.std()
    (x_train, x_val), (y_train, y_val) = x.split(100), y.split(100)
    layer = SelectKANLinear(1, 1, bases=CANDIDATES, base=None, dtype=F64)

    def adam(parameters, loss, steps):
        optimizer = torch.optim.Adam(parameters, lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    def full_training():  # every candidate for itself
        return sum((member(x_train) + layer.bias - y_train).square().mean() for member in layer.members)

    adam([*layer.members.parameters(), layer.bias], full_training, steps=200)
    adam([layer.logits], lambda: (layer(x_val) - y_val).square().mean(), steps=100)  # they compete on validation data
    assert layer.gate_entropy() < math.log(4) - 0.3
    return CANDIDATES[layer.winner]


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["bspline(order=1)", "chebyshev(squash=False)", "fourier"])
def test_the_gates_pick_the_family_of_the_data_in_four_of_five_seeds(basis):
    """Fourier edge: Fourier; smooth polynomial: Chebyshev; piecewise linear: B-spline."""
    picks = [chosen_for(basis, seed) for seed in range(5)]
    assert picks.count(basis) >= 4, picks
