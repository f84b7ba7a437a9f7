"""What the card multkan-kan2.md says of product nodes."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from kan_core import KANError, KANLinear, compare, layers
from kan_core.layers import MultKANLinear

F64 = torch.float64
ARITIES = {"arity 1": (3, 1), "arity 2": (3, 2), "arity 3": (2, 3), "mixed": (4, (2, 3, 1, 3)), "runs": (3, (2, 2, 4))}
every_arity = pytest.mark.parametrize(("products", "arity"), ARITIES.values(), ids=list(ARITIES))


def blocks(arity: int | tuple[int, ...], products: int) -> list[int]:
    return [arity] * products if isinstance(arity, int) else list(arity)


# --- 2: forward ------------------------------------------------------------------------------------------------------


def test_section_2_without_products_it_is_the_plain_layer_of_the_same_seed_bit_for_bit(spec):
    x = torch.randn(40, 4)
    torch.manual_seed(0)
    plain = KANLinear(4, 3, spec)
    torch.manual_seed(0)
    mult = MultKANLinear(4, 3, products=0, basis=spec)
    for _ in range(2):
        assert torch.equal(mult(x), plain(x))
        for layer in (mult, plain):
            layer(x).square().sum().backward()
            torch.optim.SGD(layer.parameters(), 1e-3).step()
    torch.manual_seed(5)
    plain.reset_parameters()
    torch.manual_seed(5)
    mult.reset_parameters()
    assert torch.equal(mult(x), plain(x))


@every_arity
def test_section_2_factors_are_consecutive_sub_nodes(products, arity):
    layer = MultKANLinear(3, products + 2, products=products, arity=arity, dtype=F64)
    x = torch.randn(20, 3, dtype=F64)
    sub = layer.inner(x)
    assert sub.shape == (20, 2 + sum(blocks(arity, products)))
    expected, start = [sub[:, 0], sub[:, 1]], 2
    for a in blocks(arity, products):
        expected.append(sub[:, start : start + a].prod(dim=1))
        start += a
    torch.testing.assert_close(layer(x), torch.stack(expected, dim=1), atol=1e-14, rtol=1e-14)
    owners = [0, 1, *(2 + m for m, a in enumerate(blocks(arity, products)) for _ in range(a))]
    assert layer.owners == owners


def test_section_2_a_product_of_arity_one_is_a_sum_node():
    torch.manual_seed(0)
    ones = MultKANLinear(4, 5, products=3, arity=1)
    torch.manual_seed(0)
    sums = MultKANLinear(4, 5, products=0)
    x = torch.randn(10, 4)
    assert torch.equal(ones(x), sums(x))


def test_section_2_affines_scale_and_shift_sub_nodes_and_nodes_and_start_at_identity():
    torch.manual_seed(0)
    layer = MultKANLinear(3, 4, products=2, arity=(2, 3), affine=True, dtype=F64)
    torch.manual_seed(0)
    plain = MultKANLinear(3, 4, products=2, arity=(2, 3), dtype=F64)
    x = torch.randn(10, 3, dtype=F64)
    assert torch.equal(layer(x), plain(x))
    with torch.no_grad():
        layer.subnode_affine.normal_()
        layer.node_affine.normal_()
    scale, constant = layer.subnode_affine
    sub = scale * layer.inner(x) + constant
    nodes = torch.stack([sub[:, 0], sub[:, 1], sub[:, 2] * sub[:, 3], sub[:, 4] * sub[:, 5] * sub[:, 6]], dim=1)
    torch.testing.assert_close(layer(x), layer.node_affine[0] * nodes + layer.node_affine[1])
    layer(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
    torch.manual_seed(0)
    layer.reset_parameters()
    assert torch.equal(layer(x), plain(x))


# --- 3: counts -------------------------------------------------------------------------------------------------------


def test_section_3_affines_add_two_per_sub_node_and_node():
    sizes = {affine: MultKANLinear(4, 5, products=3, arity=(2, 3, 2), affine=affine) for affine in (False, True)}
    assert compare.count_parameters(sizes[True]) - compare.count_parameters(sizes[False]) == 2 * (2 + 7) + 2 * 5
    assert sizes[False].inner.out_features == 9


def test_half_of_the_nodes_are_products_unless_said():
    layer = layers.get("multkan")(6, 5)
    assert (layer.sums, layer.products, layer.arities) == (3, 2, (2, 2))
    assert layers.get("multkan(products=3, arity=(2, 3, 4))")(6, 5).inner.out_features == 2 + 9


# --- 10.2: gradients -------------------------------------------------------------------------------------------------


@every_arity
def test_section_10_autograd_is_the_product_rule(products, arity):
    layer = MultKANLinear(3, products + 1, products=products, arity=arity, dtype=F64)
    x = torch.randn(6, 3, dtype=F64)
    weight = torch.randn(6, products + 1, dtype=F64)
    sub = layer.inner(x).detach().requires_grad_()
    layer.inner.register_forward_hook(lambda *_: sub)
    (layer(x) * weight).sum().backward()
    expected, start = [weight[:, 0]], 1
    for node, a in enumerate(blocks(arity, products), start=1):
        factors = range(start, start + a)
        for f in factors:
            others = [g for g in factors if g != f]
            expected.append(weight[:, node] * sub.detach()[:, others].prod(dim=1))
        start += a
    torch.testing.assert_close(sub.grad, torch.stack(expected, dim=1), atol=1e-14, rtol=1e-13)


@pytest.mark.parametrize("zeros", [1, 2, 3])
def test_section_10_zero_factors_give_the_exact_finite_gradient(zeros):
    """d(abc) = bc, ac, ab, also where several factors are 0."""
    layer = MultKANLinear(2, 1, products=1, arity=3, dtype=F64)
    values = torch.tensor([[2.0, 3.0, 5.0]], dtype=F64)
    values[0, :zeros] = 0
    sub = values.requires_grad_()
    layer.inner.register_forward_hook(lambda *_: sub)
    y = layer(torch.zeros(1, 2, dtype=F64))
    y.backward()
    assert y.item() == 0
    assert sub.grad.tolist() == {1: [[15.0, 0, 0]], 2: [[0.0, 0, 0]], 3: [[0.0, 0, 0]]}[zeros]


def test_gradients_of_first_and_second_order_with_a_zero_factor():
    layer = MultKANLinear(3, 3, products=2, arity=(2, 3), basis="chebyshev", affine=True, dtype=F64)
    with torch.no_grad():
        layer.inner.weight[:, :, 2] = 0
        layer.inner.bias[2] = 0
    x = torch.randn(4, 3, dtype=F64, requires_grad=True)
    assert (layer.inner(x)[:, 2] == 0).all()
    assert gradcheck(layer, (x,))
    assert gradgradcheck(layer, (x,))


def test_a_layer_of_zeros_has_finite_gradients():
    layer = MultKANLinear(3, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    x = torch.randn(5, 3, requires_grad=True)
    layer(x).sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (x, *layer.parameters()))


# --- helpers and mistakes --------------------------------------------------------------------------------------------


def test_grids_are_updated_and_refined_and_functions_kept():
    layer = MultKANLinear(3, 4, products=2, basis="bspline(grid_size=4)", dtype=F64)
    x = torch.randn(300, 3, dtype=F64).clamp(-1, 1)
    before = layer(x)
    layer.refine(8)
    torch.testing.assert_close(layer(x), before, atol=1e-10, rtol=0)
    assert layer.inner.weight.shape[0] == 8 + 3 + 1
    knots = layer.inner.basis.knots.clone()
    layer.update_grid(x / 2)
    assert not torch.equal(layer.inner.basis.knots, knots)
    assert layer.regularization(x) == layer.inner.regularization(x)


def test_half_precision_products_are_taken_in_float32_and_have_autocasts_type():
    layer = MultKANLinear(3, 3, products=3, arity=4)
    x = torch.randn(50, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sub, y = layer.inner(x), layer(x)
    assert y.dtype == torch.bfloat16
    exact = torch.stack([part.prod(dim=1) for part in sub.float().split(4, dim=1)], dim=1)
    assert torch.equal(y, exact.bfloat16())


def test_mistakes_are_named():
    with pytest.raises(KANError, match="products must lie between 0 and out_features = 3, got 4"):
        MultKANLinear(2, 3, products=4)
    with pytest.raises(KANError, match="one for each of the 2 product nodes"):
        MultKANLinear(2, 3, products=2, arity=(2,))
    with pytest.raises(KANError, match="arity must be at least 1, got 0"):
        MultKANLinear(2, 3, arity=0)
    with pytest.raises(KANError, match=r"arity must be at least 1, got \(2, 0\)"):
        MultKANLinear(2, 3, products=2, arity=(2, 0))
    with pytest.raises(KANError, match="at least 1, got 0 and 3"):
        MultKANLinear(0, 3)
    with pytest.raises(KANError, match=r"layer 'multkan'"):
        layers.get("multkan(factors=3)")
