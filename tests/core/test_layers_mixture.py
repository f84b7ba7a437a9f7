"""Mixtures of experts: the facts of MLP-KAN (specs/kernels/MLP-KAN.md, 8) and KAMoE (timeseries/kamoe-grkan.md, 7)."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from kan_core import KANError, layers
from kan_core.layers.mixture import MixtureOfExperts, Routing, kamoe, mlp_kan

F64 = torch.float64
linear = partial(nn.Linear)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def reference(layer: MixtureOfExperts, x: Tensor) -> Tensor:
    """The definition, row by row and expert by expert, with its own choice of experts and its own softmax."""
    outputs = []
    for row in x:
        scaled = row if layer.input_scale is None else row * layer.input_scale
        logits = layer.gate(scaled)
        if layer.top_k is None:
            weights = torch.sigmoid(logits) if layer.gating == "sigmoid" else logits.exp() / logits.exp().sum()
            chosen = range(len(logits))
        else:
            # sorted() is stable: the lower index first among equals
            chosen = sorted(range(len(logits)), key=lambda e: -logits[e].item())[: layer.top_k]
            p = logits.exp() / logits.exp().sum()
            weights = p / sum(p[e] for e in chosen) if layer.top_k > 1 else p
        outputs.append(sum(weights[e] * layer.experts[e](scaled) for e in chosen))
    return torch.stack(outputs)


def small(top_k: int | None = 2, **options: object) -> MixtureOfExperts:
    experts = ["linear", "rbf(num_centers=4)", "linear", "chebyshev(degree=2)", "kaf"]
    return MixtureOfExperts(4, 3, experts=experts, top_k=top_k, dtype=F64, **options)


# --- 1 to 5: routing and evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [2, 3, 5])
def test_mlp_kan_card_1_weights_sum_to_1_and_exactly_k_experts_are_chosen(top_k):
    routing = small(top_k).forward_with_routing(torch.randn(50, 4, dtype=F64))[1]
    weights = routing.all_weights()
    torch.testing.assert_close(weights.sum(-1), torch.ones(50, dtype=F64))
    assert ((weights > 0).sum(-1) == top_k).all()


def test_mlp_kan_card_2_all_experts_chosen_is_the_dense_mixture():
    sparse, dense = small(5), small(None)
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(50, 4, dtype=F64)
    direct = sum(sparse.gate(x).softmax(-1)[:, [e]] * sparse.experts[e](x) for e in range(5))
    torch.testing.assert_close(sparse(x), direct, atol=1e-13, rtol=0)
    torch.testing.assert_close(dense(x), direct, atol=1e-13, rtol=0)


@pytest.mark.parametrize("top_k", [2, 3, None])
def test_mlp_kan_card_3_equal_experts_are_one_expert_whatever_the_router(top_k):
    layer = MixtureOfExperts(4, 3, experts="rbf", num_experts=5, top_k=top_k, dtype=F64)
    for expert in layer.experts[1:]:
        expert.load_state_dict(layer.experts[0].state_dict())
    x = torch.randn(50, 4, dtype=F64)
    torch.testing.assert_close(layer(x), layer.experts[0](x), atol=1e-13, rtol=0)


def test_mlp_kan_card_4_permuted_tokens_give_permuted_outputs():
    layer, x, order = small(), torch.randn(50, 4, dtype=F64), torch.randperm(50)
    torch.testing.assert_close(layer(x[order]), layer(x)[order], atol=1e-14, rtol=0)


@pytest.mark.parametrize("top_k", [2, None])
def test_mlp_kan_card_4_relabelled_experts_with_their_gate_rows_give_the_same_output(top_k):
    layer = small(top_k)
    x = torch.randn(50, 4, dtype=F64)
    before = layer(x)
    order = [3, 0, 4, 2, 1]
    layer.experts = nn.ModuleList(layer.experts[e] for e in order)
    with torch.no_grad():
        layer.gate.weight.copy_(layer.gate.weight[order])
        layer.gate.bias.copy_(layer.gate.bias[order])
    torch.testing.assert_close(layer(x), before, atol=1e-13, rtol=0)


@pytest.mark.parametrize("top_k", [1, 2, 3, 5, None])
@pytest.mark.parametrize("input_scale", [False, True], ids=["plain", "scaled"])
def test_mlp_kan_card_5_grouped_evaluation_equals_the_loop_and_so_do_gradients(top_k, input_scale):
    layer = small(top_k, input_scale=input_scale)
    x = torch.randn(30, 4, dtype=F64, requires_grad=True)
    inputs = (x, *layer.parameters())
    target = torch.randn(30, 3, dtype=F64)
    grouped, loop = layer(x), reference(layer, x)
    torch.testing.assert_close(grouped, loop, atol=1e-13, rtol=0)
    ours = torch.autograd.grad((grouped * target).sum(), inputs)
    theirs = torch.autograd.grad((loop * target).sum(), inputs, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_mlp_kan_card_5_float32_within_1e_5_of_the_loop():
    layer = mlp_kan(12, 6)
    x = torch.randn(64, 12)
    torch.testing.assert_close(layer(x), reference(layer, x), atol=1e-5, rtol=0)


def test_mlp_kan_card_5_an_expert_without_tokens_has_a_gradient_of_exactly_zero():
    layer = small(2)
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias.copy_(torch.tensor([3.0, 0.0, -9.0, 5.0, 1.0]))
    layer(torch.randn(30, 4, dtype=F64)).square().sum().backward()
    for number, expert in enumerate(layer.experts):
        largest = max(p.grad.abs().max().item() for p in expert.parameters())
        assert (largest > 0) == (number in (0, 3))


@pytest.mark.parametrize("rows", [1, 7])
def test_mlp_kan_card_5_one_token_and_all_tokens_to_one_expert(rows):
    layer = small(1)
    with torch.no_grad():
        layer.gate.bias[3] = 50.0
    x = torch.randn(rows, 4, dtype=F64)
    routing = layer.forward_with_routing(x)[1]
    assert (routing.experts == 3).all()
    torch.testing.assert_close(layer(x), layer.experts[3](x), atol=1e-12, rtol=0)


def test_mlp_kan_card_5_repeated_runs_agree_bitwise():
    layer, x = mlp_kan(12, 6), torch.randn(64, 12)
    assert torch.equal(layer(x), layer(x))


# --- 6 and 7: experts and counts ------------------------------------------------------------------------------------


def test_mlp_kan_card_6_rswaf_basis_of_the_experts():
    basis = mlp_kan(6, 6, dtype=F64).experts[-1][0].basis
    centers = torch.linspace(-2, 2, 8, dtype=F64)
    x = torch.linspace(-3, 3, 101, dtype=F64)[:, None].expand(-1, 6)
    values = basis(x)
    assert values.min() > 0
    assert values.max() <= 1
    at = basis(centers[:, None].expand(-1, 6))[:, 0]
    torch.testing.assert_close(at.diagonal(), torch.ones(8, dtype=F64), atol=1e-15, rtol=0)
    shifted = [basis((centers + d)[:, None].expand(-1, 6))[:, 0].diagonal() for d in (0.33, -0.33)]
    golden = torch.full((8,), 0.41997434161402614, dtype=F64)
    torch.testing.assert_close(shifted[0], golden, atol=1e-14, rtol=0)
    torch.testing.assert_close(shifted[1], golden, atol=1e-14, rtol=0)


def test_mlp_kan_card_7_parameter_counts():
    layer = layers.get("mlp-kan")(192, 192, device="meta")
    assert [count(e) for e in layer.experts] == [74_112] * 4 + [295_488] * 4
    assert count(layer.gate) == 1_536
    assert count(layer) == 1_479_936
    assert round(12 * count(layer) / 1e6, 1) == 17.8


def test_mlp_kan_card_7_active_parameters_of_a_token():
    mlp, kan = (count(mlp_kan(192, 192, device="meta").experts[e]) for e in (0, 7))
    assert mlp + kan == 369_600
    assert (2 * mlp // 1000, round(2 * kan / 1000)) == (148, 591)


def test_mlp_kan_card_7_no_unused_parameters_with_all_experts_chosen():
    layer = mlp_kan(6, 5, num_experts=4, top_k=4, dtype=F64)
    layer(torch.randn(50, 6, dtype=F64)).square().sum().backward()
    assert [n for n, p in layer.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_mlp_kan_card_3_experts_are_mlps_then_fasterkans_with_a_layer_norm():
    layer = mlp_kan(12, 6, num_experts=4, activation="silu")
    assert isinstance(layer.experts[1][1], nn.SiLU)
    assert isinstance(mlp_kan(12, 6).experts[0][1], nn.GELU)
    assert [(k.in_features, k.out_features, k.base, k.bias) for k in layer.experts[2]] == [
        (12, 6, None, None),
        (6, 6, None, None),
    ]
    x = torch.randn(9, 12)
    torch.testing.assert_close(layer.experts[2](5 * x + 1), layer.experts[2](x), atol=1e-3, rtol=0)


# --- 8 to 10: the router --------------------------------------------------------------------------------------------


def test_mlp_kan_card_8_router_gradient_with_the_selection_held():
    """Gradcheck moves logits by 1e-6, less than any gap between them, so the selection stays."""
    layer = small(2)
    x = torch.randn(6, 4, dtype=F64)
    gate = [p.detach().requires_grad_() for p in layer.gate.parameters()]

    def function(weight, bias):
        return torch.func.functional_call(layer, {"gate.weight": weight, "gate.bias": bias}, (x,))

    assert torch.autograd.gradcheck(function, gate)


def test_mlp_kan_card_8_jacobian_of_the_renormalised_weights():
    """Renormalised over the chosen, w = softmax of the chosen logits: ∂w_a/∂l_b = w_a (δ_ab − w_b), 0 elsewhere."""
    layer = small(2)
    layer.gate = nn.Identity()
    layer.in_features = 5
    logits = torch.tensor([0.3, 2.0, -1.0, 1.1, 0.2], dtype=F64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer._route(v).all_weights(), logits)
    w = torch.zeros(5, dtype=F64)
    w[[1, 3]] = logits[[1, 3]].softmax(-1)
    torch.testing.assert_close(jacobian, torch.diag(w) - torch.outer(w, w), atol=1e-14, rtol=0)


@pytest.mark.parametrize("make", [partial(mlp_kan, num_experts=4), kamoe, partial(kamoe, gating="softmax")])
def test_mlp_kan_card_9_autocast_keeps_the_softmax_in_float32(make):
    layer = make(8, 4)
    x = torch.randn(20, 8)
    expected = layer.forward_with_routing(x)[1]
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = layer.forward_with_routing(x)
    assert y.dtype == torch.bfloat16
    assert routing.weights.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(routing, expected, strict=True))
    if layer.gating == "softmax":
        torch.testing.assert_close(routing.weights.sum(-1), torch.ones(20), atol=1e-6, rtol=0)
    y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_half_precision_module_widens_the_logits():
    routing = mlp_kan(8, 4).bfloat16().forward_with_routing(torch.randn(20, 8, dtype=torch.bfloat16))[1]
    assert routing.weights.dtype == torch.float32


@pytest.mark.parametrize("num_experts", [4, 40])
def test_mlp_kan_card_9_ties_go_to_the_lowest_index(num_experts):
    layer = MixtureOfExperts(4, 3, experts="linear", num_experts=num_experts, top_k=2)
    nn.init.zeros_(layer.gate.weight)
    nn.init.zeros_(layer.gate.bias)
    x = torch.randn(100, 4)
    assert (layer.forward_with_routing(x)[1].experts == torch.tensor([0, 1])).all()
    nn.init.constant_(layer.gate.bias[-1:], 1.0)
    assert (layer.forward_with_routing(x)[1].experts == torch.tensor([num_experts - 1, 0])).all()


def test_mlp_kan_card_10_load_balance_loss_is_1_when_uniform():
    experts = torch.tensor([[0, 1], [2, 3]])
    routing = Routing(torch.zeros(2, 4, dtype=F64), experts, torch.full((2, 2), 0.5, dtype=F64))
    assert routing.load().tolist() == [0.25] * 4
    assert routing.load_balance_loss().item() == pytest.approx(1, abs=1e-15)


def test_load_balance_loss_is_the_number_of_experts_when_one_takes_all():
    logits = torch.tensor([[60.0, 0, 0, 0]], dtype=F64).expand(5, 4)
    routing = Routing(logits, torch.zeros(5, 1, dtype=torch.long), torch.ones(5, 1, dtype=F64))
    assert routing.load_balance_loss().item() == pytest.approx(4)


def test_load_balance_loss_equals_its_definition_and_trains_the_router_towards_balance():
    layer = small(2)
    nn.init.constant_(layer.gate.bias[:1], 4.0)
    x = torch.randn(200, 4, dtype=F64)
    routing = layer.forward_with_routing(x)[1]
    loads = torch.stack([(routing.experts == e).double().sum() / 400 for e in range(5)])
    expected = 5 * (loads * routing.logits.softmax(-1).mean(0)).sum()
    torch.testing.assert_close(routing.load_balance_loss(), expected)
    optimizer = torch.optim.SGD(layer.gate.parameters(), lr=2.0)
    for _ in range(50):
        optimizer.zero_grad()
        layer.forward_with_routing(x)[1].load_balance_loss().backward()
        optimizer.step()
    assert expected > 1.5
    assert layer.forward_with_routing(x)[1].load_balance_loss() < 1.1


def test_z_loss_is_the_mean_squared_log_partition():
    logits = torch.randn(3, 7, 5, dtype=F64)
    routing = Routing(logits, torch.zeros(3, 7, 1, dtype=torch.long), torch.ones(3, 7, 1, dtype=F64))
    torch.testing.assert_close(routing.z_loss(), logits.exp().sum(-1).log().square().mean())
    assert routing.load_balance_loss().isfinite()


def test_load_balance_loss_of_a_dense_mixture_is_1():
    assert small(None).forward_with_routing(torch.randn(9, 4, dtype=F64))[1].load_balance_loss().item() == (
        pytest.approx(1)
    )


def test_one_row_without_a_batch_dimension():
    layer, x = small(2), torch.randn(4, dtype=F64)
    y, routing = layer.forward_with_routing(x)
    torch.testing.assert_close(y, reference(layer, x[None])[0], atol=1e-13, rtol=0)
    expected = 5 * routing.logits.softmax(-1)[routing.experts].sum() / 2
    torch.testing.assert_close(routing.load_balance_loss(), expected)


def test_losses_of_an_empty_batch_are_zero():
    y, routing = small(2).forward_with_routing(torch.zeros(0, 4, dtype=F64))
    assert y.shape == (0, 3)
    assert routing.load_balance_loss() == 0
    assert routing.z_loss() == 0


def test_top_1_weight_is_the_probability_so_that_the_router_learns():
    layer = small(1)
    x = torch.randn(30, 4, dtype=F64)
    y, routing = layer.forward_with_routing(x)
    torch.testing.assert_close(routing.weights, routing.logits.softmax(-1).amax(-1, keepdim=True))
    y.square().sum().backward()
    assert layer.gate.weight.grad.abs().max() > 1e-3


def test_routing_under_checkpointing_gives_the_same_gradients():
    layer = small(2)
    x = torch.randn(30, 4, dtype=F64)

    def loss(x):
        y, routing = layer.forward_with_routing(x)
        return y.square().mean() + routing.load_balance_loss() + routing.z_loss()

    plain = torch.autograd.grad(loss(x), layer.parameters())
    again = torch.autograd.grad(
        torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False), list(layer.parameters())
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


# --- KAMoE -----------------------------------------------------------------------------------------------------------


def dense_relu(in_features: int, out_features: int, **options: object) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, out_features, **options), nn.ReLU())


@pytest.mark.parametrize(("gate_layer", "expected"), [("linear", 272), ("bspline(grid_size=3)", 410)])
def test_kamoe_card_parameter_counts_with_dense_experts_and_head(gate_layer, expected):
    assert count(nn.Sequential(kamoe(8, 5, expert=dense_relu, gate_layer=gate_layer), nn.Linear(5, 1))) == expected


def test_kamoe_card_softmax_weights_sum_to_1_and_sigmoid_weights_do_not():
    x = torch.randn(50, 8, dtype=F64)
    soft = kamoe(8, 5, gating="softmax", dtype=F64).forward_with_routing(x)[1].weights
    assert soft.min() > 0
    torch.testing.assert_close(soft.sum(-1), torch.ones(50, dtype=F64))
    gate = kamoe(8, 5, dtype=F64).forward_with_routing(x)[1].weights
    assert (gate.sum(-1) - 1).abs().max() > 0.1


@pytest.mark.parametrize("num_experts", [2, 3, 6])
def test_kamoe_card_initial_logits_are_normalised_and_bounded(num_experts):
    layer = kamoe(8, 5, num_experts=num_experts, dtype=F64)
    routing = layer.forward_with_routing(torch.randn(500, 8, dtype=F64))[1]
    assert routing.logits.mean(-1).abs().max() < 1e-10
    bound = math.sqrt(num_experts - 1)
    assert routing.logits.abs().max() <= bound
    low, high = (1 / (1 + math.exp(s * bound)) for s in (1, -1))
    assert routing.weights.min() >= low
    assert routing.weights.max() <= high
    if num_experts == 3:
        assert (round(low, 3), round(high, 3)) == (0.196, 0.804)


def test_kamoe_card_one_expert_is_refused():
    with pytest.raises(KANError, match="num_experts must be a whole number of at least 2, got 1"):
        kamoe(8, 5, num_experts=1)


def test_kamoe_card_equal_experts_and_softmax_are_one_expert():
    layer = kamoe(8, 5, gating="softmax", dtype=F64)
    for expert in layer.experts[1:]:
        expert.load_state_dict(layer.experts[0].state_dict())
    x = torch.randn(50, 8, dtype=F64)
    torch.testing.assert_close(layer(x), layer.experts[0](x), atol=1e-13, rtol=0)


@pytest.mark.parametrize("chosen", range(3))
def test_kamoe_card_one_hot_gate_selects_its_expert(chosen):
    layer = kamoe(8, 5, gating="softmax", dtype=F64)
    norm = layer.gate[-1].norm
    nn.init.zeros_(norm.weight)
    with torch.no_grad():
        norm.bias.copy_(torch.where(torch.arange(3) == chosen, 0.0, -1e4))
    assert layer.input_scale.tolist() == [1.0] * 8
    x = torch.randn(50, 8, dtype=F64)
    torch.testing.assert_close(layer(x), layer.experts[chosen](x), atol=0, rtol=0)


def test_kamoe_card_permuting_experts_with_the_gate_outputs_changes_nothing():
    layer = kamoe(8, 5, dtype=F64)
    x = torch.randn(50, 8, dtype=F64)
    before = layer(x)
    order = [2, 0, 1]
    network = layer.gate[-1]
    layer.experts = nn.ModuleList(layer.experts[e] for e in order)
    with torch.no_grad():
        for parameter in (network.skip.weight, network.skip.bias, network.norm.weight, network.norm.bias):
            parameter.copy_(parameter[order])
        rows = [*order, *(3 + e for e in order)]  # value and gate halves of the GLU
        network.gate.weight.copy_(network.gate.weight[rows])
        network.gate.bias.copy_(network.gate.bias[rows])
    torch.testing.assert_close(layer(x), before, atol=1e-13, rtol=0)


def test_kamoe_card_dense_mixture_equals_its_definition():
    layer = kamoe(8, 5, dtype=F64)
    nn.init.uniform_(layer.input_scale, 0.5, 1.5)
    x = torch.randn(20, 8, dtype=F64)
    torch.testing.assert_close(layer(x), reference(layer, x), atol=1e-13, rtol=0)


def test_kamoe_card_input_scale_is_per_feature_so_that_sequences_may_have_any_length():
    layer = kamoe(8, 5)
    assert layer.input_scale.shape == (8,)
    for length in (10, 75):
        assert layer(torch.randn(4, length, 8)).shape == (4, length, 5)


def test_kamoe_card_the_gate_works_per_time_step():
    layer = kamoe(8, 5, dtype=F64)
    x = torch.randn(4, 10, 8, dtype=F64)
    y, routing = layer.forward_with_routing(x)
    assert routing.weights.shape == (4, 10, 3)
    assert routing.weights.std(dim=1).min() > 0
    torch.testing.assert_close(y[2, 7], layer(x[2, 7]), atol=1e-13, rtol=0)


def test_kamoe_card_experts_have_their_own_fresh_weights():
    layer = kamoe(8, 5)
    assert not torch.equal(layer.experts[0].weight, layer.experts[1].weight)


NESTED = {
    "kamoe-of-mixture": "kamoe(expert='mixture(experts=\"rbf\", num_experts=3, top_k=2)')",
    "mixture-of-kamoe": "mixture(experts=('kamoe', 'mlp-kan(num_experts=2)', 'linear'), top_k=2)",
    "mixture-of-grkan": "mixture(experts='grkan', num_experts=3)",
}


@pytest.mark.parametrize("described", NESTED.values(), ids=NESTED.keys())
def test_kamoe_card_nested_experts_save_and_load_to_equal_outputs(described, tmp_path):
    layer = layers.get(described)(6, 4)
    x = torch.randn(3, 9, 6)
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    other = layers.get(described)(6, 4)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(x), layer(x))
    torch.save(layer, tmp_path / "layer.pt")
    for twin in (torch.load(tmp_path / "layer.pt", weights_only=False), copy.deepcopy(layer)):
        assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize("described", NESTED.values(), ids=NESTED.keys())
def test_nested_mixture_equals_its_definition(described):
    layer = layers.get(described)(6, 4, dtype=F64)
    x = torch.randn(20, 6, dtype=F64)
    torch.testing.assert_close(layer(x), reference(layer, x), atol=1e-12, rtol=0)


# --- compilation, options -------------------------------------------------------------------------------------------


def test_export_with_a_dynamic_batch_gives_the_grouped_numbers():
    layer = mlp_kan(6, 4, num_experts=4, dtype=F64).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (torch.randn(5, 6, dtype=F64),), dynamic_shapes=({0: batch},))
    x = torch.randn(33, 6, dtype=F64)
    torch.testing.assert_close(program.module()(x), layer(x), atol=1e-13, rtol=0)


def test_compile_without_graph_breaks_gives_the_grouped_numbers_and_gradients():
    layer = mlp_kan(6, 4, num_experts=4, dtype=F64)
    x = torch.randn(33, 6, dtype=F64)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x), atol=1e-13, rtol=0)
    ours = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    theirs = torch.autograd.grad(compiled(x).square().sum(), list(layer.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_bias_false_reaches_the_gate_and_every_expert():
    layer = layers.get("mixture")(6, 4, bias=False)
    assert not [n for n, _ in layer.named_parameters() if "bias" in n]


def test_reset_parameters_redraws_nested_experts():
    layer = layers.get(NESTED["kamoe-of-mixture"])(6, 4)
    before = {k: v.clone() for k, v in layer.named_parameters()}
    nn.init.zeros_(layer.input_scale)
    layer.reset_parameters()
    drawn = [k for k in before if k.endswith("weight") and "norm" not in k]
    assert drawn
    assert not [k for k in drawn if torch.equal(before[k], layer.get_parameter(k))]
    assert layer.input_scale.tolist() == [1.0] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, "top_k must be None or 1 to 4"),
        ({"top_k": 0}, "top_k must be None or 1 to 4"),
        ({"gating": "sigmoid", "top_k": 2}, "gating must be 'softmax'"),
        ({"gating": "relu"}, "gating must be 'softmax'"),
        ({"num_experts": 1}, "at least 2"),
        ({"experts": ["linear"]}, "at least 2 experts, got 1"),
        ({"experts": ["linear", "rbf"], "num_experts": 2}, "lists 2"),
        ({"experts": "no-such-layer"}, "unknown layer"),
    ],
)
def test_refuses_options_out_of_range(options, message):
    with pytest.raises(KANError, match=message):
        MixtureOfExperts(6, 4, **options)


def test_mlp_kan_refuses_an_odd_number_of_experts():
    with pytest.raises(KANError, match="even"):
        mlp_kan(6, 4, num_experts=3)
