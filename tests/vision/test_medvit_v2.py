"""MedViTV2: the card's counts, the definition of its blocks, and every defect of the published code that it names."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn
from torch.nn import functional as F

import kan_vision.models.medvit_v2 as medvit_v2
from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import KANLinear, kan_layers
from kan_core.training.optim import parameter_groups
from kan_vision.models.medvit_v2 import GlobalBlock, LocalBlock, MedViTV2, PooledAttention

CARD = {  # live parameters, those of the KANs, and the total of the published code with its unused modules
    "tiny": (10_735_517, 7_607_616, 11_719_845),
    "small": (27_337_077, 21_505_872, 30_087_295),
    "base": (60_855_017, 48_380_624, 66_995_571),
    "large": (107_417_099, 86_003_280, 118_291_477),
}
SIZES = {"depths": (1, 2, 3, 1), "dims": (8, 16, 16, 24), "stem": (8, 8, 8, 8), "head_dim": 8}


def small(**kwargs) -> MedViTV2:
    torch.manual_seed(0)
    return MedViTV2(**{**SIZES, "in_chans": 1, "num_classes": 5, **kwargs})


def local_block(inputs=8, channels=8, stride=1, **kwargs) -> LocalBlock:
    torch.manual_seed(0)
    options = {"kernel": 3, "head_dim": 4, "dilation": 1, "drop_path": 0.0, "double_skip": False, **kwargs}
    return LocalBlock(inputs, channels, stride, **options).eval()


def global_block(inputs=8, channels=16, stride=1, layer=medvit_v2.FASTERKAN, **kwargs) -> GlobalBlock:
    torch.manual_seed(0)
    options = {
        "pooling": 1,
        "head_dim": 4,
        "drop_path": 0.0,
        "layer_kwargs": medvit_v2.FASTERKAN_KWARGS,
        "hidden": 2 * channels,
        **kwargs,
    }
    return GlobalBlock(inputs, channels, stride, layer=layer, **options).eval()


def blocks(model):
    return [[b for b in stage if isinstance(b, LocalBlock | GlobalBlock)] for stage in model.stages]


def images(height=28, width=28, batch=2):
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(1))


def normed(x, norm):
    """What a BatchNorm2d gives in training, by its definition."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (variance + norm.eps).sqrt()


# Sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", CARD)
def test_parameters_are_the_cards(size):
    """Our parameters and the eight fixed nodes of each KAN layer, which the card counts and which are buffers here."""
    live, in_kans, _ = CARD[size]
    with torch.device("meta"):
        model = timm.create_model(f"medvit_v2_{size}")
    kans = [layer for _, layer in kan_layers(model)]
    nodes = sum(layer.basis.centers.numel() for layer in kans)
    assert nodes == 8 * len(kans)
    assert count_parameters(model) + nodes == live
    assert sum(count_parameters(layer) for layer in kans) + nodes == in_kans


@pytest.mark.parametrize("size", CARD)
def test_what_is_missing_from_the_published_total_is_its_unused_modules(size):
    """A feed-forward of expansion and squeeze 2 in each global block: 4 C² + 38 C + 2 parameters without a gradient."""
    live, _, published = CARD[size]
    with torch.device("meta"):
        model = timm.create_model(f"medvit_v2_{size}")
    widths = [b.ffn_norm.num_features for stage in blocks(model) for b in stage if isinstance(b, GlobalBlock)]
    assert live + sum(4 * c * c + 38 * c + 2 for c in widths) == published


def test_layout_of_the_blocks():
    with torch.device("meta"):
        model = timm.create_model("medvit_v2_small")
    layout = ["".join("L" if isinstance(b, LocalBlock) else "G" for b in stage) for stage in blocks(model)]
    assert layout == ["LL", "LG", "LLGLLG", "GG"]
    pooling = [
        b.attention.pool[0].kernel_size for stage in blocks(model)[1:3] for b in stage if isinstance(b, GlobalBlock)
    ]
    assert pooling == [4, 2, 2]
    assert all(isinstance(b.attention.pool, nn.Identity) for b in blocks(model)[3])
    assert [b.ffn[2][0].kernel_size for b in (blocks(model)[0][0], blocks(model)[2][0])] == [(7, 7), (3, 3)]


@pytest.mark.parametrize(("size", "rate"), [("tiny", 0.1), ("small", 0.1), ("base", 0.2), ("large", 0.2)])
def test_drop_path_rises_to_the_presets_rate(size, rate):
    with torch.device("meta"):
        model = timm.create_model(f"medvit_v2_{size}")
    rates = [b.drop_path.drop_prob for stage in blocks(model) for b in stage]
    steps = [b - a for a, b in pairwise(rates)]
    assert (rates[0], rates[-1]) == (0, pytest.approx(rate))
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert any(isinstance(m, DropPath) for m in model.modules())


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 10), (16, 32)])
def test_a_fasterkan_layer_has_2_i_plus_8_i_o_parameters(inputs, outputs):
    layer = KANLinear(inputs, outputs, medvit_v2.FASTERKAN, **medvit_v2.FASTERKAN_KWARGS)
    assert count_parameters(layer) == 2 * inputs + 8 * inputs * outputs


def test_the_feed_forward_of_384_channels_has_the_cards_parameters():
    with torch.device("meta"):
        block = global_block(384, 384, hidden=768, head_dim=32)
    assert count_parameters(block.ffn) == 2 * 384 + 2 * 768 + 16 * 384 * 768 == 4_720_896


# The KAN ---------------------------------------------------------------------------------------------------------


def test_the_kan_layer_is_fasterkans_equation():
    layer = KANLinear(6, 4, medvit_v2.FASTERKAN, **medvit_v2.FASTERKAN_KWARGS, dtype=torch.float64)
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    z = F.layer_norm(x, (6,))
    nodes = torch.linspace(-2, 2, 8, dtype=torch.float64)
    basis = 1 - torch.tanh((z[..., None] - nodes) / 0.33).square()
    torch.testing.assert_close(layer(x), torch.einsum("...ik,oik->...o", basis, layer.coefficients))


def test_a_basis_function_is_one_at_its_node_and_vanishes_far_away():
    basis = KANLinear(8, 1, medvit_v2.FASTERKAN, **medvit_v2.FASTERKAN_KWARGS).double().basis
    at_nodes = basis(basis.centers[None].clone())[0]
    assert torch.equal(at_nodes.diagonal(), torch.ones(8, dtype=torch.float64))
    assert basis(torch.full((1, 8), 40.0, dtype=torch.float64)).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)], ids=str)
def test_the_kan_takes_any_leading_shape(shape):
    """The published one flattens all but the first axis."""
    layer = global_block().ffn
    x = torch.randn(*shape, 16)
    torch.testing.assert_close(layer(x), layer(x.reshape(-1, 16)).reshape(*shape, 16))


def test_swapping_two_pixels_before_the_kan_swaps_its_outputs():
    """Without its mixing of pixels a global block is a function of one pixel; not where a map is only reshaped."""
    block = global_block()
    nn.init.zeros_(block.attention.proj.weight)
    nn.init.zeros_(block.conv_attention[-1].weight)
    x = torch.randn(2, 8, 3, 5)
    swapped = x.clone()
    swapped[:, :, 0, 1], swapped[:, :, 2, 4] = x[:, :, 2, 4], x[:, :, 0, 1]
    y, z = block(x), block(swapped)
    assert not torch.allclose(y[:, :, 0, 1], y[:, :, 2, 4], atol=1e-2)
    torch.testing.assert_close(z[:, :, 0, 1], y[:, :, 2, 4])
    torch.testing.assert_close(z[:, :, 2, 4], y[:, :, 0, 1])
    torch.testing.assert_close(z[:, :, 1], y[:, :, 1])


def test_the_kan_sees_the_channels_of_one_pixel():
    block = global_block()
    seen = {}
    block.ffn_norm.register_forward_hook(lambda module, args, out: seen.update(map=out))
    block.ffn.register_forward_hook(lambda module, args, out: seen.update(kan=args[0]))
    block(torch.randn(2, 8, 3, 5))
    assert torch.equal(seen["kan"][1, 2, 4], seen["map"][1, :, 2, 4])


# The blocks ------------------------------------------------------------------------------------------------------


def test_neighbourhood_attention_sees_a_window_of_pixels():
    """One pixel changes what is at most three pixels away; a reshaped map would spread it over channels and places."""
    block = local_block()
    block.ffn[-1][1].weight.data.zero_()
    x = torch.randn(1, 8, 15, 17)  # from the middle of these, no window of a pixel at the border reaches
    other = x.clone()
    other[:, :, 7, 8] += 1
    changed = (block(x) - block(other)).abs().amax((0, 1)) > 1e-6
    expected = torch.zeros(15, 17, dtype=torch.bool)
    expected[4:11, 5:12] = True
    assert torch.equal(changed, expected)


def test_a_local_block_without_its_branches_is_the_identity():
    block = local_block()
    nn.init.zeros_(block.ffn[-1][1].weight)
    nn.init.zeros_(block.attention.proj.weight)
    nn.init.zeros_(block.attention.proj.bias)
    x = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(block(x), x)


def test_one_skip_in_the_local_feed_forward_and_the_published_second_behind_its_flag():
    block, published = local_block(), local_block(double_skip=True)
    published.load_state_dict(block.state_dict())
    x = torch.randn(2, 8, 5, 6)
    attended = x + block.attention(block.attention_norm(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    inside = block.ffn_norm(attended)
    torch.testing.assert_close(block(x), attended + block.ffn(inside))
    torch.testing.assert_close(published(x), attended + (inside + block.ffn(inside)))


def test_the_squeeze_of_the_local_feed_forward_is_three_wide():
    excite = local_block(channels=16).ffn[4]
    assert excite.fc1.weight.shape == (3, 48, 1, 1)
    assert excite.fc2.weight.shape == (48, 3, 1, 1)


def test_a_global_block_whose_kan_is_zero_is_attention_beside_convolution():
    block = global_block(channels=16)
    nn.init.zeros_(block.ffn[2].weight)
    x = torch.randn(2, 8, 4, 5)
    a = block.embed(x)
    a = a + block.attention(block.attention_norm(a))
    c = block.projection(a)
    torch.testing.assert_close(block(x), torch.cat([a, c + block.conv_attention(c)], dim=1))
    assert a.shape[1] == 12  # three quarters


@pytest.mark.parametrize(
    ("channels", "head_dim", "attending"), [(128, 32, 96), (192, 32, 160), (384, 32, 288), (64, 32, 32), (96, 32, 64)]
)
def test_the_attending_channels_are_whole_heads(channels, head_dim, attending):
    with torch.device("meta"):
        assert global_block(64, channels, head_dim=head_dim).attention.query.in_features == attending


def test_unpooled_attention_is_plain_attention():
    attention = PooledAttention(8, 4, 1)
    plain = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
        plain.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key_value.bias]))
        plain.out_proj.load_state_dict(attention.proj.state_dict())
    x = torch.randn(2, 8, 3, 5)
    tokens = x.flatten(2).transpose(1, 2)
    expected = plain(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_keys_and_values_are_means_over_squares_of_pixels():
    """Not over runs of the flattened map; a square that stands out of the map is the mean of what lies in it."""
    attention = PooledAttention(8, 4, 2).train()
    x = torch.randn(2, 8, 3, 4)
    pooled = torch.stack(
        [torch.stack([x[..., r : r + 2, c : c + 2].mean((2, 3)) for c in (0, 2)], -1) for r in (0, 2)], -2
    )
    tokens = normed(pooled, attention.pool[1]).flatten(2).transpose(1, 2)
    key, value = attention.key_value(tokens).chunk(2, -1)
    query = attention.query(x.flatten(2).transpose(1, 2))
    heads = [
        (q @ k.transpose(1, 2) / 2).softmax(-1) @ v
        for q, k, v in zip(query.split(4, -1), key.split(4, -1), value.split(4, -1), strict=True)
    ]
    expected = attention.proj(torch.cat(heads, -1)).transpose(1, 2).view(x.shape)
    torch.testing.assert_close(attention(x), expected)


# The net ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(224, 224), (224, 192), (64, 64), (28, 28), (37, 19), (3, 5)], ids=str)
def test_any_height_and_width(height, width):
    model = small().eval()
    with torch.no_grad():
        logits, (*_, last) = model(images(height, width)), model.forward_intermediates(images(height, width))[1]
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    assert last.shape == (2, 24, -(-height // 32), -(-width // 32))


def test_the_preset_at_its_own_size():
    model = timm.create_model("medvit_v2_tiny").eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 224, 224)).shape == (1, 1000)


def test_feature_maps_and_their_reductions():
    model = small().eval()
    assert [(f["num_chs"], f["reduction"]) for f in model.feature_info] == [(8, 4), (16, 8), (16, 16), (24, 32)]
    with torch.no_grad():
        last, maps = model.forward_intermediates(images(64, 96))
        assert [m.shape[1:] for m in maps] == [(8, 16, 24), (16, 8, 12), (16, 4, 6), (24, 2, 3)]
        torch.testing.assert_close(last, model.forward_features(images(64, 96)))


@pytest.mark.parametrize("options", [{}, {"layer": "linear"}, {"dilation": "dina"}, {"double_skip": True}], ids=str)
def test_every_parameter_changes_the_loss(options):
    """The published global blocks hold a feed-forward that is never called, of 9 % of all parameters."""
    model = small(drop_path_rate=0.0, **options).double().train()
    F.cross_entropy(model(images(64, 64, batch=8).double()), torch.arange(8) % 5).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert still == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_same_seed_same_logits():
    x = images()
    assert torch.equal(small().eval()(x), small().eval()(x))
    other = MedViTV2(**SIZES, in_chans=1, num_classes=5).eval()  # the next numbers of the same generator
    assert not torch.equal(small().eval()(x), other(x))


def test_rounding_stays_small_through_the_net():
    """Functions of width 0.33 on normalised inputs magnify it, so the branches start weak."""
    model, x = small(depths=(2, 2, 6, 2)).eval(), images(64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x).double(), model.double()(x.double()), atol=1e-5, rtol=0)


def test_checkpointing_keeps_outputs_and_gradients():
    model, x = small().eval(), images()
    model(x).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)


def test_dina_alternates_one_and_the_largest_dilation_in_each_stage():
    def dilations(**kwargs):
        model = small(depths=(3, 3, 6, 1), **kwargs)
        return [[b.attention.dilation for b in stage if isinstance(b, LocalBlock)] for stage in blocks(model)]

    assert dilations() == [[1, 1, 1], [1, 1], [1, 1, 1, 1], []]
    assert dilations(dilation="dina") == [[1, None, 1], [1, None], [1, None, 1, None], []]


def test_dina_has_the_same_parameters_and_another_reach():
    model, dilated = small(depths=(2, 1, 1, 1)).eval(), small(depths=(2, 1, 1, 1), dilation="dina").eval()
    dilated.load_state_dict(model.state_dict())
    x = images(64, 64)
    with torch.no_grad():
        assert not torch.allclose(model(x), dilated(x))
        torch.testing.assert_close(model(images()), dilated(images()))  # 7 x 7: nothing left to dilate


def test_the_twin_is_an_mlp_of_the_same_code():
    twin = small(layer="linear", width=3.0)
    ffn = blocks(twin)[3][0].ffn
    assert kan_layers(twin) == []
    assert [type(m) for m in ffn] == [nn.Linear, nn.GELU, nn.Linear]
    assert ffn[0].out_features == 3 * 2 * 24
    assert all(type(m) is not nn.GELU for m in small().modules())


@pytest.mark.parametrize("width", [0.5, 1.0, 1.7])
def test_width_is_that_of_the_kan(width):
    layer = blocks(small(width=width))[3][0].ffn[0]
    assert (layer.in_features, layer.out_features) == (24, round(48 * width))


@pytest.mark.parametrize("layer", ["bspline", "chebyshev(degree=2)", "rbf(num_centers=4)"])
def test_every_basis_gets_fasterkans_form_by_default(layer):
    kans = [kan for _, kan in kan_layers(small(layer=layer))]
    assert all(kan.norm is not None and kan.base is None and kan.bias is None for kan in kans)
    assert small(layer=layer).eval()(images()).isfinite().all()


def test_layer_kwargs_replace_the_default_and_other_layers_get_none():
    kans = [kan for _, kan in kan_layers(small(layer_kwargs={"base": "silu"}))]
    assert all(kan.norm is None and kan.base == "silu" and kan.bias is not None for kan in kans)
    assert small(layer="gr-kan(groups=4)").eval()(images()).isfinite().all()


def test_bias_tables_and_norms_do_not_decay():
    model = small()
    names = model.no_weight_decay()
    assert len(names) == 4  # one per local block
    assert names <= dict(model.named_parameters()).keys()
    tables = {id(model.get_parameter(name)) for name in names}
    decayed, kept = parameter_groups(model, 0.05)
    assert tables <= {id(p) for p in kept["params"]}
    assert all(p.ndim > 1 for p in decayed["params"])


def test_a_checkpoint_of_three_channels_starts_a_net_of_one(tmp_path):
    """The first layer is an ordinary convolution, so timm adapts it by itself."""
    timm.models.save_for_hf(timm.create_model("medvit_v2_tiny", num_classes=5, **SIZES), tmp_path, model_args=SIZES)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=1, num_classes=2)
    assert loaded(images()).shape == (2, 2)


def test_one_batch_is_memorised():
    model = small(drop_path_rate=0.0, depths=(1, 1, 1, 1), dims=(16, 16, 16, 32))
    x, labels = images(batch=10), torch.arange(10) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    assert torch.equal(model(x).argmax(1), labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 1, 1)}, r"depths must be four positive numbers, got \(1, 1, 1\)"),
        ({"depths": (1, 0, 1, 1)}, r"depths must be four positive numbers, got \(1, 0, 1, 1\)"),
        ({"dims": (8, 16, 20, 24)}, r"dims must be multiples of head_dim=8, .* got \(8, 16, 20, 24\)"),
        ({"dims": (8, 8, 16, 24)}, r"all but the first at least 16, got \(8, 8, 16, 24\)"),
        ({"stem": (8, 8)}, r"stem must be four positive numbers, got \(8, 8\)"),
        ({"dilation": "largest"}, "dilation must be one of none, dina, got 'largest'"),
        ({"layer": "splines"}, "unknown layer 'splines'"),
    ],
    ids=str,
)
def test_errors(options, message):
    with pytest.raises(KANError, match=message):
        small(**options)
