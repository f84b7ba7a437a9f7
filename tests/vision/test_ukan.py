"""U-KAN: the facts of its card (u-kan, sections 1-5, 10 and 11), and what every segmentation network does."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kan_core import KANConv2d, KANError, KANLinear
from kan_core.compare import count_parameters, match_width
from kan_core.layers import kan_layers
from kan_core.ops import use_backend
from kan_vision.models import ukan
from kan_vision.models._segmenter import SEGMENTERS, Segmenter, create_segmenter, pad_to_multiple, register_segmenter
from kan_vision.models.ukan import UKAN, DoubleConv, PatchEmbed, TokenBlock, TokenLayer

DIMS = {"ukan_small": (64, 96, 128), "ukan_base": (128, 160, 256), "ukan_large": (256, 320, 512)}
TINY = (16, 8, 8)
TWINS = [{}, {"layer": "linear"}, {"mixer": "conv"}]
twins = pytest.mark.parametrize("kwargs", TWINS, ids=["kan", "mlp", "conv"])


def on_meta(name: str = "ukan_base", **kwargs) -> UKAN:
    with torch.device("meta"):
        return create_segmenter(name, **kwargs)


def images(height: int, width: int, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def make(**kwargs) -> UKAN:
    """A tiny U-KAN in evaluation mode whose splines and normalisation are not at their quiet start."""
    torch.manual_seed(0)
    net = UKAN(**{"dims": TINY, **kwargs})
    with torch.no_grad():
        for _, layer in kan_layers(net):
            layer.weight[:-1].normal_(0, 0.03)  # more would amplify rounding errors, through twelve layers
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        net(images(128, 128, channels=net.in_chans))
    return net.eval()


@pytest.fixture(scope="module")
def tiny() -> UKAN:
    """Shared; tests leave it as it is."""
    return make(num_classes=2)


def token_blocks(net: UKAN) -> list[TokenBlock]:
    return [stage.block for stage in (*net.encoder_tokens, *net.decoder_tokens)]


# Counts (section 5) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "rest", "base", "spline", "scale"),
    [
        ("ukan_small", 1_848_633, 681_273, 116_736, 933_888, 116_736),
        ("ukan_base", 6_356_689, 2_363_089, 399_360, 3_194_880, 399_360),
        ("ukan_large", 25_359_265, 9_384_865, 1_597_440, 12_779_520, 1_597_440),
    ],
)
def test_parameter_counts(name, total, rest, base, spline, scale):
    net = on_meta(name)
    kan = [layer for _, layer in kan_layers(net)]
    assert count_parameters(net) == total
    assert sum(layer.weight[:-1].numel() for layer in kan) == spline
    assert sum(layer.weight[-1].numel() for layer in kan) == base
    assert sum(layer.scale.numel() for layer in kan) == scale
    assert total - spline - base - scale == rest


@pytest.mark.parametrize(
    ("name", "conv", "everything"),
    [("ukan_small", 0.454, 0.723), ("ukan_base", 1.727, 2.647), ("ukan_large", 6.838, 10.518)],
)
def test_gigamacs_at_256_pixels(name, conv, everything):
    """Convolutions alone, and with the matrix products of the KAN layers."""
    with FlopCounterMode(display=False) as counter, use_backend("reference"), torch.no_grad():
        on_meta(name).eval()(torch.empty(1, 3, 256, 256, device="meta"))
    flops = counter.get_flop_counts()["Global"]
    assert round(flops[torch.ops.aten.convolution] / 2e9, 3) == conv
    assert round(sum(flops.values()) / 2e9, 3) == everything


def test_parameters_of_the_default_by_module():
    net = on_meta()
    assert [count_parameters(m) for m in net.encoder] == [2_832, 14_016, 185_088]
    assert [count_parameters(m) for m in net.embed] == [184_800, 369_408]
    assert [count_parameters(m) for m in token_blocks(net)] == [774_080, 1_975_808, 774_080, 496_384]
    assert [count_parameters(m) for m in net.decoder] == [959_712, 415_584, 184_800, 13_968, 4_704]
    assert count_parameters(net.head) == 17
    assert sum(count_parameters(stage.norm) for stage in (*net.encoder_tokens, *net.decoder_tokens)) == 1_408


def test_closed_forms_of_the_parameter_counts():
    a, b = 24, 40
    assert count_parameters(DoubleConv(a, b, b)) == 9 * a * b + 9 * b**2 + 6 * b
    assert count_parameters(DoubleConv(a, a, b)) == 9 * a**2 + 9 * a * b + 3 * a + 3 * b
    assert count_parameters(PatchEmbed(a, b)) == 9 * a * b + 3 * b
    d1, d2, d0 = 24, 56, 16
    blocks = token_blocks(UKAN(dims=(d0, d1, d2)))
    assert [count_parameters(block) for block in blocks] == [30 * d * d + 38 * d for d in (d1, d2, d1, d0)]


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        ({"in_chans": 12}, 6_357_985),
        ({"num_classes": 5}, 6_356_689 + 4 * (128 // 8 + 1)),
        ({"layer": "linear"}, 2_764_561),
    ],
    ids=["channels", "classes", "mlp-twin"],
)
def test_parameters_of_variants_of_the_default(kwargs, count):
    assert count_parameters(on_meta(**kwargs)) == count


@twins
def test_shapes_of_every_stage_at_256_pixels(kwargs):
    net = on_meta(**kwargs)
    shapes = []
    stages = [*net.encoder, *net.encoder_tokens, *net.decoder_tokens, *net.decoder, net.head]
    for stage in stages:
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    net(torch.empty(1, 3, 256, 256, device="meta"))
    assert shapes == [
        *((16, 256, 256), (32, 128, 128), (128, 64, 64)),  # before their max pooling
        *((160, 16, 16), (256, 8, 8)),
        *((160, 8, 8), (160, 16, 16), (128, 16, 16), (128, 32, 32)),  # before their upsampling, and the token stages
        *((32, 32, 32), (16, 64, 64), (16, 128, 128), (1, 256, 256)),
    ]


# Invariants (section 10) ----------------------------------------------------------------------------------------------


@twins
def test_block_is_the_identity_when_its_last_normalisation_is_zero(kwargs):
    for block in token_blocks(make(**kwargs)):
        x = torch.randn(2, 3, 4, block.norm.normalized_shape[0])
        assert not torch.equal(block(x), x)
        norm = block.layers[-1].spatial[1]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
        torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def first_layer(net: UKAN) -> KANLinear:
    layer = token_blocks(net)[0].layers[0].on_tokens
    assert isinstance(layer, KANLinear)
    return layer


def test_layer_without_splines_is_a_linear_map_of_silu(tiny):
    layer = copy.deepcopy(first_layer(tiny))
    nn.init.zeros_(layer.weight[:-1].detach())
    x = torch.randn(5, 8)
    torch.testing.assert_close(layer(x), F.silu(x) @ layer.base_weight.T)
    assert layer.bias is None


def test_bases_sum_to_one_on_the_grid_and_run_out_beyond(tiny):
    basis = first_layer(tiny).basis
    assert basis.num_functions == 8
    x = torch.tensor([-2.3, -2.2, -1.5, -1.0, -0.37, 0.0, 0.8, 1.0, 1.2, 2.19, 2.2, 3.0])
    total = basis.planes(x[:, None].expand(-1, 8))[..., 0].sum(1)
    inside, gone = x.abs() <= 1, x.abs() >= 2.2 - 1e-6
    torch.testing.assert_close(total[inside], torch.ones(int(inside.sum())))
    torch.testing.assert_close(total[gone], torch.zeros(int(gone.sum())), rtol=0, atol=1e-6)
    assert (total[~inside & ~gone] < 1).all()
    assert (total[~inside & ~gone] > 0).all()


def test_tokens_are_independent_in_a_kan_layer(tiny):
    layer = first_layer(tiny)
    x, order = torch.randn(2, 12, 8), torch.randperm(12)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def test_layer_on_tokens_is_a_1x1_kan_convolution(tiny):
    layer = first_layer(tiny)
    conv = KANConv2d(8, 8, 1, basis="bspline(grid_size=5, order=3)", bias=False, edge_scale=True)
    with torch.no_grad():
        conv.weight.copy_(layer.weight.permute(2, 0, 1)[..., None, None])
        conv.scale.copy_(layer.scale.permute(2, 0, 1)[..., None, None])
    x = torch.randn(2, 4, 5, 8)
    torch.testing.assert_close(conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), layer(x))


@pytest.mark.parametrize("size", [(240, 240), (250, 256), (256, 272), (1, 1), (1, 33), (20, 7), (64, 96)])
def test_any_size_is_padded_by_reflection_and_cropped(tiny, size):
    x = images(*size)
    logits = tiny(x)
    assert logits.shape == (2, 2, *size)
    rows, columns = (reflected(n) for n in size)
    torch.testing.assert_close(logits, tiny.forward_logits(x[:, :, rows][..., columns])[..., : size[0], : size[1]])


def reflected(size: int) -> list[int]:
    """Pixel numbers up to a multiple of 32: to and fro once, then the first pixel again."""
    return [*range(size), *(max(0, size - 2 - k) for k in range(-size % 32))]


def test_padding_keeps_gradients():
    x = images(5, 40).requires_grad_()
    pad_to_multiple(x, 32).sum().backward()
    assert (x.grad >= 1).all()
    assert x.grad.sum() == 2 * 3 * 32 * 64


@pytest.mark.parametrize("axis", [2, 3])
def test_translation_by_32_pixels_translates_the_output_away_from_borders(axis):
    """The receptive field reaches 440 pixels."""
    net = make().double()
    x = images(32, 1024, batch=1).double()
    moved = torch.cat([images(32, 32, batch=1).double(), x[..., :-32]], dim=3)
    if axis == 2:
        x, moved = x.mT, moved.mT
    with torch.no_grad():
        y, y_moved = net(x), net(moved)
    inside = y.narrow(axis, 448, 96)
    torch.testing.assert_close(y_moved.narrow(axis, 480, 96), inside, rtol=0, atol=1e-12)
    assert inside.std() > 0.01
    assert (y_moved.narrow(axis, 464, 96) - inside).abs().max() > 0.01


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (4, 3), (13, 9)])
def test_other_channels_and_classes(channels, classes):
    net = UKAN(in_chans=channels, num_classes=classes, dims=TINY)
    assert net(images(40, 64, channels=channels)).shape == (2, classes, 40, 64)


def test_batch_of_one_in_evaluation(tiny):
    x = images(64, 64, batch=3)
    torch.testing.assert_close(tiny(x[1:2]), tiny(x)[1:2], rtol=0, atol=1e-4)


def test_after_layer_norm_a_third_lies_outside_the_grid(tiny):
    """31 % outside [-1, 1], and 2.8 % where all splines are zero."""
    torch.manual_seed(0)
    z = F.layer_norm(torch.randn(4096, 128), (128,))
    layer = KANLinear(128, 1, basis="bspline(grid_size=5, order=3)")
    assert layer.outside_fraction(z).item() == pytest.approx(0.31, abs=0.01)
    dead = (layer.basis.planes(z) == 0).all(dim=1).float().mean().item()
    assert dead == pytest.approx(0.028, abs=0.003)


def unused_coefficients(layer: KANLinear) -> int:
    """How many of a layer's planes of coefficients have no gradient."""
    return int((layer.weight.grad[:-1].abs().amax(dim=(1, 2)) == 0).sum())


def test_two_of_eight_coefficients_in_the_second_and_third_layer_are_never_used_until_the_grid_is_moved():
    net = make().train()
    layers = [layer.on_tokens for block in token_blocks(net) for layer in block.layers]
    inputs: dict[nn.Module, Tensor] = {}
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, x: inputs.update({module: x[0].detach()}))
    net(images(128, 128)).square().sum().backward()
    assert [unused_coefficients(layer) for layer in layers] == [0, 2, 2] * 4
    assert all((inputs[layer] >= 0).all() for k, layer in enumerate(layers) if k % 3)
    layer = layers[1]
    layer.update_grid(inputs[layer])
    layer.weight.grad = None
    layer(inputs[layer]).square().sum().backward()
    assert unused_coefficients(layer) == 0


# Initialisation (section 2) -------------------------------------------------------------------------------------------


def test_token_stages_and_embeddings_start_as_in_the_paper():
    torch.manual_seed(0)
    net = UKAN(layer="linear", dims=(64, 96, 128))
    for stage in (*net.encoder_tokens, *net.decoder_tokens):
        for layer in stage.block.layers:
            linear, conv = layer.on_tokens, layer.spatial[0]
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)  # depthwise: fan_out is 9
            assert not linear.bias.any()
            assert not conv.bias.any()
    for embed in net.embed:
        assert embed.conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * embed.conv.out_channels)), rel=0.05)
        assert not embed.conv.bias.any()


def test_convolutions_elsewhere_keep_torchs_start():
    torch.manual_seed(0)
    conv = UKAN(dims=TINY).decoder[1][0]
    bound = 1 / math.sqrt(9 * conv.in_channels)
    assert 0.95 * bound < conv.weight.abs().max() <= bound
    assert conv.bias.any()


def test_splines_start_near_zero_beside_the_base_branch():
    layer = first_layer(UKAN(dims=(16, 160, 8)))
    x = torch.randn(500, 160)
    base = F.silu(x) @ layer.base_weight.T
    assert (layer(x) - base).std() < 0.01 * base.std()


# Twins (sections 10 and 11) -------------------------------------------------------------------------------------------


def test_mlp_twin_has_no_kan_layer_left():
    """The reference's switch is never passed on to its blocks."""
    net = on_meta(layer="linear")
    assert not kan_layers(net)
    layers = [layer.on_tokens for block in token_blocks(net) for layer in block.layers]
    assert [type(layer) for layer in layers] == [nn.Linear] * 12


def test_conv_twin_differs_in_its_token_layers_only():
    kan, twin = on_meta(), on_meta(mixer="conv")
    layers = [layer for block in token_blocks(twin) for layer in block.layers]
    assert len(layers) == 12
    for layer in layers:
        assert isinstance(layer.on_tokens, nn.Identity)
        conv, norm, act = layer.spatial
        assert (type(conv), conv.kernel_size, conv.groups) == (nn.Conv2d, (3, 3), 1)
        assert (type(norm), type(act)) == (nn.BatchNorm2d, nn.ReLU)

    def rest(net: nn.Module) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in net.state_dict().items() if ".block.layers." not in name}

    assert rest(twin) == rest(kan)


def test_conv_mixer_takes_kan_convolutions_too():
    net = UKAN(dims=TINY, mixer="conv", layer="rbf(num_centers=3)")
    assert {type(layer) for _, layer in kan_layers(net)} == {KANConv2d}
    assert net(images(32, 32)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(("dims", "tolerance"), [((128, 160, 256), 0.01), ((16, 24, 32), 0.05)], ids=["base", "narrow"])
@pytest.mark.parametrize("twin", TWINS[1:], ids=["mlp", "conv"])
def test_twins_of_equal_size_exist(dims, tolerance, twin):
    target = count_parameters(on_meta(dims=dims))
    match_width(lambda width: on_meta(dims=dims, width=width, **twin), target, tolerance=tolerance)


def test_layer_arguments_come_on_top_of_the_papers():
    layer = first_layer(make(layer="rbf", layer_kwargs={"bias": True, "base": None}))
    assert layer.bias is not None
    assert layer.scale is not None
    assert layer.base is None
    assert isinstance(token_blocks(make(layer="gr-kan"))[0].layers[0], TokenLayer)


def test_no_argument_is_ignored():
    """The reference takes in_chans, depths, drop_rate and others, and ignores them."""
    changes = {
        "in_chans": 4,
        "num_classes": 2,
        "dims": (24, 8, 8),
        "layer": "linear",
        "layer_kwargs": {"bias": True},
        "mixer": "conv",
        "width": 2.0,
    }
    plain = repr(UKAN(dims=TINY)), count_parameters(UKAN(dims=TINY))
    for name, value in changes.items():
        net = UKAN(**{"dims": TINY, name: value})
        assert (repr(net), count_parameters(net))[1] != plain[1], name
    assert {*changes, "drop_path"} == set(inspect.signature(UKAN).parameters)


def test_drop_path_leaves_out_branches_of_samples_in_training_only():
    block = token_blocks(make(drop_path=0.5))[0]
    torch.manual_seed(0)
    x = torch.randn(64, 2, 2, 8)
    same = (block.train()(x) == x).flatten(1).all(dim=1)
    assert 16 < same.sum() < 48
    block.eval()
    assert torch.equal(block(x), x + block.layers(block.norm(x)))


# As a module ----------------------------------------------------------------------------------------------------------


@twins
def test_every_parameter_gets_a_gradient(kwargs):
    net = UKAN(dims=TINY, **kwargs)
    net(images(64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_it_learns_a_mask():
    torch.manual_seed(0)
    net = UKAN(in_chans=1, dims=(16, 16, 16))
    x = images(32, 32, batch=4, channels=1)
    mask = (F.avg_pool2d(x, 9, 1, 4) > 0).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(net(x), mask)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_copies_and_saved_weights_give_the_same_logits(tiny, tmp_path):
    x = images(40, 40)
    torch.save(tiny.state_dict(), tmp_path / "weights.pt")
    loaded = UKAN(num_classes=2, dims=TINY).eval()
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for net in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny)), loaded):
        assert torch.equal(net(x), tiny(x))


def test_half_precision(tiny):
    x = images(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = tiny(x)
    assert logits.dtype == torch.bfloat16
    want = tiny(x)
    assert (logits - want).square().mean() < 0.1**2 * want.var()


@pytest.fixture
def short(monkeypatch) -> UKAN:
    """One layer in each block instead of three: export takes its time for every KAN layer."""
    monkeypatch.setattr(ukan, "LAYERS_PER_BLOCK", 1)
    return make(num_classes=2)


def test_torch_export_of_one_size_through_the_padding(short):
    x = images(40, 70)
    program = torch.export.export(short, (x,))
    torch.testing.assert_close(program.module()(x), short(x))


# Names and errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DIMS))
def test_presets_are_registered(name):
    assert name in SEGMENTERS.names()
    net = on_meta(name, num_classes=2)
    assert isinstance(net, Segmenter)
    assert (net.embed[0].conv.in_channels, *(e.conv.out_channels for e in net.embed)) == DIMS[name]
    assert (net.num_classes, net.in_chans, net.multiple) == (2, 3, 32)


def test_a_name_of_another_package_can_be_registered(monkeypatch):
    monkeypatch.setattr(SEGMENTERS, "_factories", dict(SEGMENTERS._factories))
    register_segmenter("mine")(lambda **kwargs: UKAN(dims=TINY, **kwargs))
    assert create_segmenter("mine", num_classes=3).num_classes == 3
    with pytest.raises(KANError, match="already registered"):
        register_segmenter("ukan_base")(UKAN)


def wrong(build: Callable[[], object], message: str) -> None:
    with pytest.raises(KANError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "no-net"}, "unknown segmentation model 'no-net': choose one of .*ukan_base, ukan_large, ukan_small"),
        ({"no_kan": True}, "'ukan_small' refuses its arguments: .*no_kan"),
        ({"layer_kwargs": {"nobias": 1}}, "nobias"),
        ({"layer": "splines"}, "unknown layer 'splines'"),
        ({"mixer": "attention"}, "mixer must be one of tokens, conv, got 'attention'"),
        ({"dims": (64, 96)}, "dims must be three positive widths"),
        ({"dims": (64, 0, 96)}, "dims must be three positive widths"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"layer": "gr-kan", "mixer": "conv"}, "has no convolution"),
    ],
)
def test_arguments_that_do_not_fit(kwargs, message):
    wrong(lambda: create_segmenter(**{"name": "ukan_small", **kwargs}), message)


@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (3, 32, 32), (1, 3, 0, 32)])
def test_images_of_another_shape(tiny, shape):
    wrong(lambda: tiny(torch.zeros(shape)), r"images must have the shape \(batch, 3, height, width\)")


def test_public_names():
    assert ukan.__all__ == ["UKAN"]
