"""Graph attention and pooling: sizes, symmetry, equivariance, temperature, and KAN maps in place of linear ones."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from kan_audio.layers.graph import GraphAttention, GraphPool, HeterogeneousGraphAttention
from kan_core import KANLinear
from kan_core.errors import KANError
from kan_core.layers import kan_layers
from kan_core.ops import _native
from kan_core.ops._dispatch import explain

F64 = torch.float64
SPLINE = "bspline(grid_size=16, order=4)"
KAN = {"layer": SPLINE, "layer_kwargs": {"base": "prelu", "edge_scale": True, "bias": False}}
every_layer = pytest.mark.parametrize("maps", [{}, KAN], ids=["linear", "kan"])


def size(module):
    return sum(p.numel() for p in module.parameters())


def prepared(module, seed=0):
    """In float64 and evaluation mode, splines large enough to matter, batch statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    for _, layer in kan_layers(module):
        layer.init_scale = 0.5
        layer.reset_parameters()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return module.double().eval()


def nodes(n, d, batch=2, seed=1):
    return torch.randn(batch, n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_linear_parameter_counts():
    assert size(GraphAttention(64, 64)) == 12_672
    assert size(GraphAttention(24, 24)) == 1_872
    assert size(HeterogeneousGraphAttention(64, 32)) == 20_992
    assert size(HeterogeneousGraphAttention(32, 32)) == 8_640
    assert size(HeterogeneousGraphAttention(24, 32)) == 6_192
    assert (size(GraphPool(64, 0.5)), size(GraphPool(32, 0.5))) == (65, 33)


def test_kan_parameter_counts():
    assert size(KANLinear(64, 32, SPLINE, **KAN["layer_kwargs"])) == 45_057 == 22 * 64 * 32 + 1
    assert size(GraphAttention(64, 64, **KAN)) == 270_531
    assert size(HeterogeneousGraphAttention(64, 32, **KAN)) == 450_760
    assert size(HeterogeneousGraphAttention(32, 32, **KAN)) == 180_424
    assert (size(GraphPool(64, 0.5, **KAN)), size(GraphPool(32, 0.5, **KAN))) == (1_409, 705)


# --- attention -------------------------------------------------------------------------------------------------------


@every_layer
def test_pair_logits_are_exactly_symmetric_and_rows_sum_to_one(maps):
    attention = prepared(GraphAttention(6, 5, temperature=0.5, **maps))
    heterogeneous = prepared(HeterogeneousGraphAttention(6, 5, temperature=0.5, **maps))
    x = nodes(9, 6)
    for logits, matrix in [
        (attention.pair_logits(x), attention.attention_matrix(x)),
        (heterogeneous.pair_logits(x, 4), heterogeneous.attention_matrix(x, 4)),
    ]:
        assert torch.equal(logits, logits.mT)
        torch.testing.assert_close(matrix.sum(dim=2), torch.ones(2, 9, dtype=F64))
        assert (matrix - matrix.mT).abs().max() > 1e-3


def all_pairs(module, x, n1=None):
    """The logits of all N² ordered pairs, block by block, as the definition has them."""
    projected = torch.tanh(module.attention(x[:, :, None] * x[:, None]))
    if n1 is None:
        return (projected @ module.attention_weight).squeeze(3)
    logits = (projected @ module.attention_weight_across).squeeze(3)
    logits[:, :n1, :n1] = (projected[:, :n1, :n1] @ module.attention_weight_first).squeeze(3)
    logits[:, n1:, n1:] = (projected[:, n1:, n1:] @ module.attention_weight_second).squeeze(3)
    return logits


@every_layer
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("n1", [None, 1, 4])
def test_half_the_pairs_give_what_all_pairs_give_with_gradients(maps, checkpoint, n1):
    kind = GraphAttention if n1 is None else HeterogeneousGraphAttention
    module = prepared(kind(6, 5, temperature=0.5, checkpoint=checkpoint, **maps))
    results = []
    for logits in (module.pair_logits, lambda *args: all_pairs(module, *args)):
        module.zero_grad()
        x = nodes(9, 6).requires_grad_()
        y = logits(x) if n1 is None else logits(x, n1)
        (y * torch.arange(162, dtype=F64).view_as(y).cos()).sum().backward()
        results.append([y, x.grad, *(p.grad.clone() for p in module.parameters() if p.grad is not None)])
    assert len(results[0]) >= 4
    for ours, full in zip(*results, strict=True):
        torch.testing.assert_close(ours, full, rtol=1e-6, atol=1e-12)


def test_the_map_of_pairs_sees_half_of_them_and_runs_fused():
    module = GraphAttention(64, 64, **KAN).eval()
    rows = []
    module.attention.register_forward_hook(lambda _, args, out: rows.append(args[0].shape[1]))
    x = torch.randn(1, 67, 64)
    choices = explain(module, x)
    assert rows == [2278]  # 67 * 68 / 2, not 67^2 = 4489
    assert len(choices) == 3
    expected = "cpu" if _native.unavailable() else "sparse"
    assert {choice.name for choice in choices} == {expected}


@every_layer
def test_attention_is_permutation_equivariant(maps):
    module = prepared(GraphAttention(6, 5, **maps))
    x, order = nodes(9, 6), torch.randperm(9, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x)[:, order], module(x[:, order]), rtol=1e-9, atol=1e-12)


@every_layer
def test_heterogeneous_attention_is_equivariant_within_each_kind(maps):
    module = prepared(HeterogeneousGraphAttention(6, 5, **maps))
    a, b, m = nodes(5, 6), nodes(4, 6, seed=2), nodes(1, 6, seed=3)
    p, q = torch.randperm(5, generator=torch.Generator().manual_seed(3)), torch.tensor([2, 0, 3, 1])
    y, z, stack = module(a, b, m)
    for ours, expected in zip(module(a[:, p], b[:, q], m), (y[:, p], z[:, q], stack), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@every_layer
def test_output_does_not_depend_on_batch_companions(maps):
    module = prepared(HeterogeneousGraphAttention(6, 5, **maps))
    a, b = nodes(5, 6, batch=3), nodes(4, 6, batch=3, seed=2)
    stack = nodes(1, 6, batch=1, seed=3)
    for together, alone in zip(module(a, b, stack), module(a[1:2], b[1:2], stack), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-12)


def test_a_constant_added_to_the_logits_changes_nothing():
    module = prepared(GraphAttention(6, 5))
    x = nodes(9, 6)
    before = module(x)
    logits = module.pair_logits
    module.pair_logits = lambda x: logits(x) + 7.5
    torch.testing.assert_close(module(x), before)


@every_layer
def test_without_attention_weights_every_node_gets_the_mean(maps):
    module = prepared(GraphAttention(6, 5, **maps))
    with torch.no_grad():
        module.attention_weight.zero_()
    module.norm, module.activation = nn.Identity(), nn.Identity()
    x = nodes(9, 6)
    expected = module.with_attention(x.mean(dim=1, keepdim=True).expand(-1, 9, -1)) + module.without_attention(x)
    torch.testing.assert_close(module(x), expected)


def test_a_high_temperature_averages_and_a_low_one_picks():
    x = nodes(9, 6)
    module = prepared(GraphAttention(6, 5, temperature=1e9))
    torch.testing.assert_close(module.attention_matrix(x), torch.full((2, 9, 9), 1 / 9, dtype=F64))
    module.temperature = 1e-6
    matrix = module.attention_matrix(x)
    assert torch.equal(matrix.argmax(dim=2), module.pair_logits(x).argmax(dim=2))
    assert matrix.amax(dim=2).min() > 0.999


def test_temperature_100_keeps_attention_near_uniform_at_the_start():
    torch.manual_seed(0)
    module = HeterogeneousGraphAttention(64, 32, temperature=100.0)
    x = torch.randn(4, 31, 64)
    bound = max(w.abs().sum() for name, w in module.named_parameters() if name.startswith("attention_weight_")) / 100
    assert (module.pair_logits(x, 20) / 100).abs().max() <= bound
    shares = 31 * module.attention_matrix(x, 20)
    assert 0.97 < shares.min() < shares.max() < 1.03


# --- the stack node --------------------------------------------------------------------------------------------------


@every_layer
def test_the_stack_node_is_not_seen_by_the_nodes(maps):
    module = prepared(HeterogeneousGraphAttention(6, 5, **maps))
    a, b = nodes(5, 6), nodes(4, 6, seed=2)
    one, two = module(a, b, nodes(1, 6, seed=3)), module(a, b, nodes(1, 6, seed=4))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.allclose(one[2], two[2])


@every_layer
def test_without_a_stack_node_the_mean_of_the_projected_nodes_starts(maps):
    module = prepared(HeterogeneousGraphAttention(6, 5, **maps))
    a, b = nodes(5, 6), nodes(4, 6, seed=2)
    mean = torch.cat([module.project_first(a), module.project_second(b)], dim=1).mean(dim=1, keepdim=True)
    for ours, expected in zip(module(a, b), module(a, b, mean), strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_stack_update_is_its_definition():
    module = prepared(HeterogeneousGraphAttention(6, 5, temperature=0.7))
    a, b, m = nodes(5, 6), nodes(4, 6, seed=2), nodes(1, 6, seed=3)
    x = torch.cat([module.project_first(a), module.project_second(b)], dim=1)
    expected = []
    for sample, stack in zip(x, m, strict=True):
        logits = torch.stack(
            [torch.tanh(module.attention_stack(n * stack[0])) @ module.attention_weight_stack[:, 0] for n in sample]
        )
        gathered = (torch.softmax(logits / 0.7, dim=0)[:, None] * sample).sum(dim=0)
        expected.append(module.with_attention_stack(gathered) + module.without_attention_stack(stack[0]))
    torch.testing.assert_close(module(a, b, m)[2][:, 0], torch.stack(expected))


def test_activation_is_selu_or_none():
    plain = prepared(HeterogeneousGraphAttention(6, 5, activation="none"))
    curved = prepared(HeterogeneousGraphAttention(6, 5, activation="selu"))
    curved.load_state_dict(plain.state_dict())
    a, b = nodes(5, 6), nodes(4, 6, seed=2)
    y, z = plain(a, b), curved(a, b)
    assert y[0].min() < -1.8  # below what SELU reaches
    for before, after in zip(y[:2], z[:2], strict=True):
        torch.testing.assert_close(nn.functional.selu(before), after)
    torch.testing.assert_close(y[2], z[2])


# --- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "ratio", "kept"),
    [
        *[(23, 0.5, 11), (29, 0.7, 20), (11, 0.5, 5), (20, 0.5, 10)],  # AASIST
        *[(23, 0.4, 9), (29, 0.5, 14), (9, 0.7, 6), (14, 0.7, 9)],  # AASIST-L
        *[(42, 0.5, 21), (67, 0.7, 46), (21, 0.5, 10), (46, 0.5, 23)],  # AASIST3
        (1, 0.5, 1),
    ],
)
def test_pool_sizes(n, ratio, kept):
    assert GraphPool(4, ratio)(torch.randn(2, n, 4)).shape == (2, kept, 4)


@every_layer
def test_pooling_keeps_the_best_in_falling_order_and_forgets_the_order_of_the_nodes(maps):
    pool = prepared(GraphPool(6, 0.5, **maps))
    x, order = nodes(9, 6), torch.randperm(9, generator=torch.Generator().manual_seed(3))
    scores = torch.sigmoid(pool.score(x)).squeeze(2)
    best = scores.argsort(dim=1, descending=True)[:, :4]
    expected = torch.stack([row[i] * s[i, None] for row, s, i in zip(x, scores, best, strict=True)])
    torch.testing.assert_close(pool(x), expected)
    torch.testing.assert_close(pool(x[:, order]), expected)


# --- KAN maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [GraphAttention, HeterogeneousGraphAttention, GraphPool])
def test_without_splines_and_with_slope_one_the_maps_are_linear_without_bias(make):
    sizes = (6, 0.5) if make is GraphPool else (6, 5)
    kan = make(*sizes, **KAN)
    linear = make(*sizes, layer_kwargs={"bias": False})
    for name, layer in kan_layers(kan):
        with torch.no_grad():
            layer.weight[:-1] = 0
            layer.slope.fill_(1)
            linear.get_submodule(name).weight.copy_(layer.weight[-1].T)
    vectors = {name: value for name, value in kan.state_dict().items() if name.startswith("attention_weight")}
    linear.load_state_dict(vectors, strict=False)
    kan, linear = kan.double().eval(), linear.double().eval()
    inputs = (nodes(5, 6), nodes(4, 6, seed=2)) if make is HeterogeneousGraphAttention else (nodes(9, 6),)
    ours, theirs = kan(*inputs), linear(*inputs)
    for a, b in zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]:
        torch.testing.assert_close(a, b)


def test_a_kan_map_does_not_care_how_leading_axes_are_batched():
    layer = prepared(KANLinear(6, 5, SPLINE, **KAN["layer_kwargs"]))
    x = nodes(12, 6)
    torch.testing.assert_close(layer(x).view(-1, 5), layer(x.view(-1, 6)))
    torch.testing.assert_close(layer(x), layer(x.view(2, 3, 4, 6)).view(2, 12, 5))


# --- training --------------------------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("checkpoint", [False, True])
def test_every_parameter_gets_a_gradient_in_training_and_inputs_stay(maps, checkpoint):
    torch.manual_seed(0)
    module = HeterogeneousGraphAttention(6, 5, temperature=2.0, checkpoint=checkpoint, **maps)
    a, b = (t.float() for t in (nodes(5, 6), nodes(4, 6, seed=2)))
    kept = a.clone(), b.clone()
    outputs = module(a, b)
    sum((t * torch.randn_like(t)).sum() for t in outputs).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in module.named_parameters())
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])


def test_checkpointing_draws_the_same_dropout():
    results = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        module = GraphAttention(6, 5, checkpoint=checkpoint, **KAN)
        x = nodes(9, 6).float().requires_grad_()
        module(x).square().sum().backward()
        results.append(x.grad)
    torch.testing.assert_close(*results)


def test_attention_weights_start_xavier_normal():
    torch.manual_seed(0)
    weight = GraphAttention(8, 4000).attention_weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 4001), rel=0.05)


def test_modules_can_be_copied_and_counted_without_memory():
    module = GraphAttention(6, 5, **KAN).eval()
    x = nodes(9, 6).float()
    torch.testing.assert_close(copy.deepcopy(module)(x), module(x))
    with torch.device("meta"):
        assert GraphAttention(64, 32, **KAN)(torch.zeros(2, 67, 64)).shape == (2, 67, 32)


def test_bad_options_are_refused_in_one_line():
    for make, message in [
        (lambda: GraphAttention(4, 4, temperature=0), "the temperature of an attention must be positive, got 0"),
        (
            lambda: HeterogeneousGraphAttention(4, 4, activation="relu"),
            "activation must be one of none, selu, got 'relu'",
        ),
        (lambda: GraphPool(4, 0), r"the ratio of nodes to keep must lie in \(0, 1\], got 0"),
        (lambda: GraphPool(4, 0.5, layer="nope"), "unknown layer 'nope'"),
    ]:
        with pytest.raises(KANError, match=f"^{message}"):
            make()


@every_layer
def test_attention_and_pooling_export_with_any_batch(maps):
    net = nn.Sequential(GraphAttention(6, 5, **maps), GraphPool(5, 0.5, **maps)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(net, (nodes(9, 6).float(),), dynamic_shapes=({0: batch},), strict=False)
    x = nodes(9, 6, batch=5).float()
    torch.testing.assert_close(exported.module()(x), net(x))
