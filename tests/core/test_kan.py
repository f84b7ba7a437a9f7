"""The plain KAN: it learns a function, and its helpers work through the whole stack."""

from __future__ import annotations

import pytest
import torch

from kan_core import KAN, KANError, KANLinear, compare
from kan_core.layers import MultKANLinear
from kan_core.registry import parse_spec


def target(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)


@pytest.mark.slow
def test_refinement_lowers_the_error_of_the_papers_first_example():
    """exp(sin(pi x) + y^2) with [2, 5, 1]: each extension starts where the coarser grid ended, and gets below it."""
    generator = torch.Generator().manual_seed(0)
    x, held_out = (torch.rand(1000, 2, dtype=torch.float64, generator=generator) * 2 - 1 for _ in range(2))
    net = KAN([2, 5, 1], "bspline(grid_size=3)", dtype=torch.float64)
    net.update_grid(x)
    errors = []
    for grid_size in (3, 6, 12):
        if grid_size > 3:
            net.update_grid(x)  # training moved the hidden layer's inputs; functions are kept inside the grid
            before = net(x)
            net.refine(grid_size)
            torch.testing.assert_close(net(x), before, atol=1e-6, rtol=1e-6)
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=120, line_search_fn="strong_wolfe", history_size=10)

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = (net(x) - target(x)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        errors.append((net(held_out) - target(held_out)).square().mean().sqrt().item())
    assert errors[1] < errors[0]
    assert errors[2] < errors[1]
    assert errors[2] < 5e-3


def test_regularization_sums_the_layers_and_reaches_every_parameter(spec):
    net = KAN([3, 4, 2], spec, bias=False, dtype=torch.float64)
    x = torch.randn(30, 3, dtype=torch.float64)
    l1, entropy = net.regularization(x)
    first, second = net.layers[0].regularization(x), net.layers[1].regularization(net.layers[0](x))
    torch.testing.assert_close(l1, first[0] + second[0])
    torch.testing.assert_close(entropy, first[1] + second[1])
    (l1 + entropy).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_specs_are_read_without_evaluating_anything():
    assert parse_spec("rbf") == ("rbf", {})
    assert parse_spec(" gr-kan ") == ("gr-kan", {})
    assert parse_spec("bspline(grid_size=8, grid_range=(-2.5, 2))") == (
        "bspline",
        {"grid_size": 8, "grid_range": (-2.5, 2)},
    )


# --- product nodes (multkan-kan2.md) ---------------------------------------------------------------------------------


def test_multkan_card_section_1_pairs_of_widths_build_product_layers():
    net = KAN([2, [5, 2], 3, [0, 1]], mult_arity=3)
    assert [type(layer) for layer in net.layers] == [MultKANLinear, KANLinear, MultKANLinear]
    assert [(layer.in_features, layer.out_features) for layer in net.layers] == [(2, 7), (7, 3), (3, 1)]
    assert net.layers[0].inner.out_features == 5 + 2 * 3
    assert net.widths == [2, [5, 2], 3, [0, 1]]
    mixed = KAN([2, [1, 2], [2, 1]], mult_arity=[(2, 4), 3])
    assert [layer.arities for layer in mixed.layers] == [(2, 4), (3,)]


@pytest.mark.parametrize(("widths", "edges", "count"), [([2, [0, 2], 1], 10, 80), ([4, [0, 2], 1], 18, 144)], ids=str)
def test_multkan_card_section_3_parameter_counts(widths, edges, count):
    net = KAN(widths, "bspline(grid_size=3)", edge_scale=True, bias=False)
    assert compare.count_parameters(net) == count == edges * (3 + 3 + 2)


def test_multkan_card_section_10_without_products_a_pair_is_the_plain_kan_bit_for_bit():
    x = torch.randn(30, 2)
    torch.manual_seed(0)
    plain = KAN([2, 5, 1])
    torch.manual_seed(0)
    pairs = KAN([[2, 0], [5, 0], 1])
    assert torch.equal(plain(x), pairs(x))
    for net in (plain, pairs):
        net.update_grid(x)
        net.refine(10)
    assert torch.equal(plain(x), pairs(x))
    assert torch.equal(torch.stack(plain.regularization(x)), torch.stack(pairs.regularization(x)))


def test_a_product_node_holds_the_product_of_two_inputs_exactly():
    """xy on [2, [0, 1], 1] with identity edges: two factors, one product, one edge."""
    net = KAN([2, [0, 1], 1], base="identity", bias=False, dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.layers[0].inner.weight[-1] = torch.eye(2, dtype=torch.float64)
        net.layers[1].weight[-1] = 1
    x = torch.randn(40, 2, dtype=torch.float64)
    torch.testing.assert_close(net(x)[:, 0], x[:, 0] * x[:, 1], atol=1e-15, rtol=1e-15)


def test_helpers_reach_the_layers_before_and_after_products():
    net = KAN([2, [2, 1], 2], "bspline(grid_size=4)", dtype=torch.float64)
    x = torch.rand(200, 2, dtype=torch.float64) * 2 - 1
    net.update_grid(x)
    before = net(x)
    net.refine(8)
    torch.testing.assert_close(net(x), before, atol=1e-9, rtol=1e-9)
    hidden = net.layers[0](x)
    first, second = net.layers[0].inner.regularization(x), net.layers[1].regularization(hidden)
    l1, entropy = net.regularization(x)
    torch.testing.assert_close(l1, first[0] + second[0])
    torch.testing.assert_close(entropy, first[1] + second[1])
    (l1 + entropy).backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if not name.endswith("bias"))
    assert net.layers[1].basis.grid[:, 0].le(hidden.min(dim=0).values).all()


def test_wrong_widths_and_arities_are_named():
    with pytest.raises(KANError, match="at least an input and an output size"):
        KAN([3])
    for wrong in (0, -1, [1], [1, 2, 3], [0, 0], [2, -1]):
        with pytest.raises(KANError, match="an entry of widths must be"):
            KAN([2, wrong, 1])
    with pytest.raises(KANError, match="first entry of widths"):
        KAN([[1, 1], 2])
    with pytest.raises(KANError, match="mult_arity must be one number or one entry for each of the 2 layers"):
        KAN([2, [1, 1], 1], mult_arity=[2])
    with pytest.raises(KANError, match="arity must be one number or one for each of the 1 product nodes"):
        KAN([2, [1, 1], 1], mult_arity=[(2, 3), 2])
