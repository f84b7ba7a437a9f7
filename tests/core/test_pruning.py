"""What the card kan-pykan.md (sections 3, 8) says of pruning."""

from __future__ import annotations

import copy

import pytest
import torch

from kan_core import KAN, KANError
from kan_core.interpret import mask_edges, prune
from kan_core.layers.product import edges_and_owners

F64 = torch.float64


def weaken(net: KAN, layer: int, node: int, *, side: str, size: float = 1e-4) -> None:
    """Scale the edges into or out of one hidden node after `layer`, until they carry nothing."""
    into, owners = edges_and_owners(net.layers[layer])
    with torch.no_grad():
        if side == "in":
            into.weight[:, :, [owner == node for owner in owners]] *= size
        else:
            edges_and_owners(net.layers[layer + 1])[0].weight[:, node] *= size


def masked(net: KAN, layer: int, node: int) -> KAN:
    """All edges of one node set to zero."""
    net = copy.deepcopy(net)
    weaken(net, layer, node, side="in", size=0)
    weaken(net, layer, node, side="out", size=0)
    return net


def data(seed: int = 0) -> torch.Tensor:
    return torch.rand(100, 3, generator=torch.Generator().manual_seed(seed), dtype=F64) * 2 - 1


@pytest.mark.parametrize("options", [{}, {"edge_scale": True, "bias": False}, {"norm": "batch"}], ids=str)
def test_section_8_the_pruned_net_equals_the_masked_net_exactly(spec, options):
    torch.manual_seed(0)
    net = KAN([3, 4, 5, 2], spec, init_scale=1.0, dtype=F64, **options)
    if net.layers[0].basis.adaptive:
        net.update_grid(data().sin().exp())  # every input has its own knots
    net(data())  # moves batch statistics
    weaken(net, 0, 2, side="in")
    weaken(net, 1, 0, side="out")
    small = prune(net, data(), threshold=1e-3)
    assert small.widths == [3, 3, 4, 2]
    expected = masked(masked(net, 0, 2), 1, 0)
    for mode in (False, True):
        x = data(1)
        torch.testing.assert_close(small.train(mode)(x), expected.train(mode)(x), atol=1e-14, rtol=1e-14)
    fresh = KAN(small.widths, spec, dtype=F64, **options)
    fresh.load_state_dict(small.state_dict())
    assert torch.equal(fresh(x), small(x))


@pytest.mark.parametrize("node", [0, 1, 2, 3])
def test_product_nodes_are_pruned_with_all_their_factors(node):
    torch.manual_seed(0)
    net = KAN([3, [2, 2], 2], mult_arity=[(2, 3), 2], init_scale=1.0, dtype=F64)
    weaken(net, 0, node, side="out")
    small = prune(net, data())
    assert small.widths == [3, [1, 2] if node < 2 else [2, 1], 2]
    assert small.layers[0].arities == {2: (3,), 3: (2,)}.get(node, (2, 3))
    expected = masked(net, 0, node)
    torch.testing.assert_close(small(data(1)), expected(data(1)), atol=1e-14, rtol=1e-14)
    again = KAN(small.widths, mult_arity=[small.layers[0].arities, 2], dtype=F64)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(data(1)), small(data(1)))


def test_affines_of_sub_nodes_and_nodes_are_pruned_too():
    torch.manual_seed(0)
    net = KAN([3, [1, 2], [2, 0]], affine=True, init_scale=1.0, dtype=F64)
    with torch.no_grad():
        for layer in net.layers:
            layer.subnode_affine.normal_()
            layer.node_affine.normal_()
    weaken(net, 0, 1, side="out")
    small = prune(net, data())
    assert small.widths == [3, [1, 1], [2, 0]]
    torch.testing.assert_close(small(data(1)), masked(net, 0, 1)(data(1)), atol=1e-14, rtol=1e-14)


def test_section_3_a_node_needs_a_strong_edge_in_and_a_strong_edge_out():
    net = KAN([2, 3, 2], base=None, bias=False, dtype=F64)
    with torch.no_grad():
        net.layers[0].weight.fill_(1)  # splines sum to 1: every edge is 1 inside the grid
        net.layers[1].weight.fill_(1)
        net.layers[0].weight[:, :, 0] *= 0.0099  # both edges into node 0 are weak
        net.layers[0].weight[:, 0, 1] *= 0.0099  # one edge into node 1 is weak, the other is not
        net.layers[1].weight[:, 2, 0] *= 0.0099  # one edge out of node 2 is weak, the other is not
        net.layers[0].weight[:, :, 1:] *= 0.4  # hidden values stay inside the grid
    x = data()[:, :2] * 0.9
    assert prune(net, x).widths == [2, 2, 2]
    assert prune(net, x, threshold=0.009).widths == [2, 3, 2]


def test_section_8_options_and_frozen_parameters_are_kept():
    spec = "bspline(grid_size=4, order=2, grid_range=(-2, 1), edge='linear', grid_eps=0.5)"
    net = KAN([3, 4, 2], spec, base="gelu", norm="batch", input_norm=False, backend="reference", edge_scale=True)
    net = net.to(F64)
    net.layers[0].weight.requires_grad_(False)
    net.update_grid(data())
    weaken(net, 0, 1, side="out")
    net.eval()
    with torch.no_grad():
        net.layers[1].scale[0, 1] = 1e-6
    small = prune(net, data())
    assert small.widths == [3, 3, 2]
    for before, after in zip(net.layers, small.layers, strict=True):
        assert (after.basis.order, after.basis.edge, after.basis.grid_eps) == (2, "linear", 0.5)
        assert (after.base, after.backend, type(after.norm)) == ("gelu", "reference", type(before.norm))
        assert {name: p.requires_grad for name, p in after.named_parameters()} == {
            name: p.requires_grad for name, p in before.named_parameters()
        }
        assert {t.dtype for t in after.parameters()} == {F64}
    assert torch.equal(small.layers[0].basis.knots, net.layers[0].basis.knots)
    assert torch.equal(small.layers[1].basis.knots, net.layers[1].basis.knots[[0, 2, 3]])
    assert not small.training
    assert net.widths == [3, 4, 2]  # the original is left alone


def test_the_pruned_net_trains_saves_and_refines():
    net = KAN([3, 4, 2], dtype=F64)
    weaken(net, 0, 3, side="in")
    small = prune(net, data())
    small(data()).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in small.parameters())
    fresh = KAN(small.widths, dtype=F64)
    fresh.load_state_dict(small.state_dict())
    assert torch.equal(fresh(data()), small(data()))
    before = small(data())
    small.refine(10)
    torch.testing.assert_close(small(data()), before, atol=1e-10, rtol=0)


@pytest.mark.parametrize("widths", [[3, 4, 2], [3, [2, 2], 2], [3, 2]], ids=str)
def test_a_net_with_nothing_to_prune_comes_back_equal_and_apart(widths):
    net = KAN(widths, norm="layer", init_scale=1.0, dtype=F64)
    same = prune(net, data())
    assert same.widths == net.widths
    assert torch.equal(same(data()), net(data()))
    assert same.state_dict().keys() == net.state_dict().keys()
    with torch.no_grad():
        next(same.parameters()).zero_()
    assert not torch.equal(same(data()), net(data()))


def test_a_hidden_layer_of_zeros_is_refused_not_emptied():
    net = KAN([3, 4, 4, 2], dtype=F64)
    with torch.no_grad():
        net.layers[1].weight.zero_()
    with pytest.raises(
        KANError, match=r"threshold 0\.01 leaves no node of hidden layer 1: the strongest of its 4 has 0"
    ):
        prune(net, data())


def test_pruning_before_a_layer_norm_is_refused():
    net = KAN([3, 4, 2], norm="layer", dtype=F64)
    weaken(net, 0, 2, side="out")
    with pytest.raises(KANError, match="layer norm"):
        prune(net, data())


def test_masked_edges_are_zero_and_the_others_as_before():
    torch.manual_seed(0)
    net = KAN([3, [2, 1], 2], init_scale=1.0, edge_scale=True, dtype=F64)
    weak = [(0, 2, 3), (0, 0, 1), (1, 1, 0)]  # layer, input, sub-node
    with torch.no_grad():
        for layer, i, o in weak:
            edges_and_owners(net.layers[layer])[0].weight[:, i, o] *= 1e-3
    sparse = mask_edges(net, data())
    for level, (before, after) in enumerate(zip(net.layers, sparse.layers, strict=True)):
        before, after = edges_and_owners(before)[0].weight, edges_and_owners(after)[0].weight
        for i in range(before.shape[1]):
            for o in range(before.shape[2]):
                expected = torch.zeros_like(before[:, i, o]) if (level, i, o) in weak else before[:, i, o]
                assert torch.equal(after[:, i, o], expected)
    assert torch.equal(mask_edges(net, data(), threshold=0)(data()), net(data()))


def test_masking_then_pruning_takes_out_nodes_without_edges():
    torch.manual_seed(0)
    net = KAN([3, 4, 2], init_scale=1.0, dtype=F64)
    weaken(net, 0, 1, side="in", size=1e-2)
    sparse = mask_edges(net, data())
    assert (sparse.layers[0].weight[:, :, 1] == 0).all()
    small = prune(sparse, data(), threshold=0)
    assert small.widths == [3, 3, 2]


def test_the_strength_of_an_edge_is_measured_over_all_samples():
    net = KAN([1, 2, 1], base=None, bias=False, dtype=F64)
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.layers[0].weight[-1, 0, 0] = 1.0  # node 0 answers at the right end alone
        net.layers[0].weight[:, 0, 1] = 0.5
    x = torch.cat([torch.full((999, 1), -0.9, dtype=F64), torch.full((1, 1), 1.0, dtype=F64)])
    value = net.layers[0].edge_function(0, 0)(x[-1:]).item() / 1000
    assert 1e-5 < value < 1e-3
    assert prune(net, x, threshold=0.9 * value).widths == [1, 2, 1]
    assert prune(net, x, threshold=1.1 * value).widths == [1, 1, 1]


def test_no_samples_are_refused():
    with pytest.raises(KANError, match="at least one sample"):
        prune(KAN([3, 2, 1]), torch.zeros(0, 3))
