"""What the card conv_kan_bodner.md says of the nets; the convolution alone is tested in tests/core/test_conv.py."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

import kan_vision.models.kkan as kkan
from kan_core import KANConv2d, KANError, KANLinear
from kan_core.compare import count_parameters
from kan_core.layers import kan_layers

F64 = torch.float64
FINE = "bspline(grid_size=20)"


def make(name: str, **kwargs) -> kkan.KKAN:
    return timm.create_model(name, **{"in_chans": 1, "num_classes": 10, **kwargs})


def by_edges(conv: KANConv2d, x: torch.Tensor) -> torch.Tensor:
    """R's order: pad the input, unfold it, and put every patch through one KANLinear per group."""
    (top, bottom), (left, right) = conv.padding
    x = F.pad(x, [left, right, top, bottom])
    patches = F.unfold(x, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
    patches = patches.unflatten(1, (conv.groups, -1))
    out = []
    for group, weight in enumerate(conv.weight.chunk(conv.groups)):
        scale = conv.scale.chunk(conv.groups)[group]
        layer = KANLinear(patches.shape[2], len(weight), conv.basis, bias=False, edge_scale=True, dtype=x.dtype)
        flat = {"weight": weight.flatten(2).permute(1, 2, 0), "scale": scale.flatten(2).permute(1, 2, 0)}
        out.append(torch.func.functional_call(layer, flat, (patches[:, group].transpose(1, 2),)).transpose(1, 2))
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    size = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, conv.stride, strict=True)]
    return torch.cat(out, dim=1).unflatten(2, size)


@pytest.mark.parametrize(
    ("name", "kwargs", "total"),
    [
        ("cnn_small", {}, 1_540),
        ("conv_kan_small", {}, 19_030),
        ("conv_kan_small", {"head_layer": FINE}, 31_530),
        ("kanc_mlp_small", {}, 5_310),
        ("kanc_mlp_small", {"layer": FINE}, 8_010),
        ("kanc_mlp_medium", {}, 9_935),
        ("kanc_mlp_medium", {"layer": FINE}, 14_885),
        ("kanc_mlp_big", {}, 33_535),
        ("kanc_mlp_big", {"layer": FINE}, 38_485),
        ("kkan_small", {}, 22_800),
        ("kkan_small", {"layer": FINE}, 38_000),
        ("kkan_medium", {}, 44_925),
        ("kkan_medium", {"layer": FINE}, 74_875),
    ],
    ids=str,
)
def test_card_section_2_exact_totals(name, kwargs, total):
    """G = 20 beyond the small nets is the card's rounded thousands (14.89 K, 38.48 K, 74.88 K, 31.53 K)."""
    with torch.device("meta"):
        assert count_parameters(make(name, **kwargs)) == total


def test_card_section_7_counts_of_single_layers():
    convolutions = [stage[0] for stage in (*make("kkan_small").stages, make("kkan_medium").stages[1])]
    assert [count_parameters(conv) for conv in convolutions] == [675, 3_375, 6_750]
    assert all(conv.bias is None and conv.base == "silu" for conv in convolutions)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"padding": 1, "stride": 2},
        {"padding": 2, "dilation": 2, "groups": 2},
        {"padding": (2, 1), "kernel_size": (3, 2), "stride": (1, 2), "dilation": (2, 1)},
        {"padding": "same", "kernel_size": (2, 4), "groups": 4},
    ],
    ids=str,
)
def test_padded_convolution_with_scalers_equals_unfolding_and_a_linear_layer(kwargs):
    """R's order (zeros go through the function) where R has no counterpart: uneven, dilated, not square."""
    conv = KANConv2d(
        **{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **kwargs},
        basis="bspline(grid_size=3)",
        bias=False,
        edge_scale=True,
        padding_mode="input_zeros",
        dtype=F64,
    )
    with torch.no_grad():
        conv.scale.uniform_(-2, 2)
        conv.weight.uniform_(-1, 1)
    x = torch.randn(2, 4, 9, 8, dtype=F64, requires_grad=True)
    y, expected = conv(x), by_edges(conv, x)
    torch.testing.assert_close(y, expected, atol=1e-11, rtol=1e-11)
    cotangent = torch.randn_like(y)
    leaves = [x, conv.weight, conv.scale]
    torch.testing.assert_close(
        torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), atol=1e-10, rtol=0
    )


def test_kkan_is_two_edge_convolutions_pooled_and_an_edge_head_with_nothing_between():
    net = make("kkan_small", img_size=14).to(F64).eval()
    x = torch.randn(3, 1, 14, 14, dtype=F64)
    y = x
    for stage in net.stages:
        y = F.max_pool2d(by_edges(stage[0], y), 2)
    assert y.shape == (3, 5, 2, 2)
    torch.testing.assert_close(net(x), net.head.fc(y.flatten(1)), atol=1e-11, rtol=0)
    assert isinstance(net.head.fc, KANLinear)
    assert len(kan_layers(net)) == 3


def test_kanc_big_has_two_linear_layers_with_nothing_between():
    net = make("kanc_mlp_big").eval()
    x = torch.randn(2, 1, 28, 28)
    flat = net.forward_features(x).flatten(1)
    hidden = F.linear(flat, net.head.hidden[0].weight, net.head.hidden[0].bias)
    assert flat.shape == (2, 250)
    torch.testing.assert_close(net.forward_head(net.forward_features(x), pre_logits=True), hidden)
    torch.testing.assert_close(net(x), F.linear(hidden, net.head.fc.weight, net.head.fc.bias))
    assert net.num_features == net.head_hidden_size == 100


def test_the_linear_twin_has_biases_and_relu_after_each_convolution():
    net = make("cnn_small").eval()
    x = y = torch.randn(2, 1, 28, 28)
    for stage in net.stages:
        y = F.max_pool2d(F.relu(F.conv2d(y, stage[0].weight, stage[0].bias)), 2)
    torch.testing.assert_close(net(x), F.linear(y.flatten(1), net.head.fc.weight, net.head.fc.bias))


@pytest.mark.parametrize("name", ["kanc_mlp_big", "kkan_medium", "conv_kan_small"])
def test_every_net_has_a_twin_without_kan_layers(name):
    arguments = {"layer_kwargs": {"base": None}, "drop_rate": 0.1}
    assert kan_layers(make(name, **arguments))
    twin = make(name, **kkan.KKAN.twin_kwargs(arguments))
    assert not kan_layers(twin)
    assert twin.drop_rate == twin.head.drop_rate == 0.1
    assert count_parameters(make(name, **kkan.KKAN.twin_kwargs({"width": 2.0}))) > count_parameters(twin)


def test_layer_kwargs_reach_convolutions_and_head():
    plain = make("kkan_small", layer_kwargs={"edge_scale": False, "base": None, "bias": True})
    assert count_parameters(plain) == (45 + 225 + 1250) * 13 + 5 + 5 + 10
    assert {layer.base for _, layer in kan_layers(plain)} == {None}


def test_a_kan_layer_of_any_basis_takes_the_place_of_the_spline():
    net = make("kkan_small", layer="chebyshev(degree=3)", head_layer="rbf(num_centers=4)")
    assert count_parameters(net) == (45 + 225) * 6 + 1250 * 6
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("size", [10, (10, 37), 28, (32, 28)], ids=str)
def test_any_size_that_leaves_a_pixel(size):
    net = make("kanc_mlp_small", img_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert net(torch.randn(2, 1, height, width)).shape == (2, 10)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(KANError, match=r"at least 10 x 10 pixels, got \(9, 28\)"):
        make("kkan_small", img_size=(9, 28))
    with pytest.raises(
        KANError, match=r"feature maps of shape \(5, 5, 5\), got \(5, 6, 6\): make the model with img_size"
    ):
        make("kkan_small")(torch.zeros(1, 1, 32, 32))
    with pytest.raises(KANError, match="global_pool must be empty"):
        make("kkan_small", global_pool="avg")
    with pytest.raises(KANError, match="global_pool must be empty"):
        make("kkan_small").reset_classifier(3, "avg")
    with pytest.raises(KANError, match="unknown layer 'splines'"):
        make("kkan_small", layer="splines")


def test_feature_extractor_has_no_dead_head():
    net = make("kanc_mlp_big", features_only=True)
    maps = net(torch.randn(2, 1, 28, 28))
    assert [tuple(m.shape[1:]) for m in maps] == [(5, 13, 13), (10, 5, 5)]
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert count_parameters(net) == 675 + 6_750


def test_a_small_kkan_learns():
    torch.manual_seed(0)
    net = make("kanc_mlp_small", img_size=14, num_classes=4)
    x, y = torch.rand(32, 1, 14, 14) * 2 - 1, torch.arange(32) % 4
    x[torch.arange(32), 0, 3 * y] += 1  # a bright row says the class
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).float().mean() >= 0.9
