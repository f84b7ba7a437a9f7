"""ViKAN: the facts, invariants and pitfalls of its card (sections 2, 5, 6, 7)."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models.vision_transformer import init_weights_vit_timm
from torch import nn

import kan_vision.models.vikan
from kan_core import KANError, KANLinear, bases, layers
from kan_core.compare import count_parameters
from kan_vision.layers.feed_forward_hook import FeedForwardHook
from kan_vision.layers.patch_embed import PaddedPatchEmbed
from kan_vision.models.vikan import ViKAN

NAMES = ["vikan_tiny_patch4_32", "vikan_small_patch4_32", "vikan_tiny_patch7_28"]
SMALL = {"in_chans": 1, "num_classes": 5, "img_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
FASTER = "rswaf(num_centers=8, grid_range=(-2, 2), width=0.33)"
VARIANTS = {  # the card's table: layer, its arguments, parameters at hidden widths 128 and 256
    "mlp": ("linear", {}, 16_576, 33_088),
    "bspline": ("bspline(grid_size=5, order=3)", {"edge_scale": True, "bias": False}, 163_840, 327_680),
    "fast": ("rbf(num_centers=8)", {"norm": "layer"}, 148_032, 295_872),
    "faster": (FASTER, {"norm": "layer", "base": None, "bias": False}, 131_456, 262_784),
    "sine": ("sine(num_frequencies=5)", {"base": None}, 82_122, 164_170),
    "fourier": ("fourier(num_frequencies=5)", {"base": None}, 164_032, 328_000),
    "cheby": ("chebyshev(degree=4)", {"base": None, "bias": False}, 81_920, 163_840),
}


def make(name: str = "vikan_tiny_patch4_32", **kwargs) -> ViKAN:
    return timm.create_model(name, **{**SMALL, **kwargs})


def hook(layer: str, layer_kwargs: dict | None = None, features: int = 64, hidden: int = 128) -> FeedForwardHook:
    return FeedForwardHook(features, hidden, layer=layer, layer_kwargs=layer_kwargs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_feed_forward_parameters_are_those_of_the_card(variant):
    layer, arguments, at_128, at_256 = VARIANTS[variant]
    assert count_parameters(hook(layer, arguments)) == at_128
    assert count_parameters(hook(layer, arguments, hidden=256)) == at_256


def test_a_bspline_of_the_size_of_the_mlp_has_hidden_width_25():
    layer, arguments, _, _ = VARIANTS["bspline"]
    assert count_parameters(hook(layer, arguments, hidden=25)) == 32_000
    assert count_parameters(hook(layer, arguments, hidden=26)) > 33_088


@pytest.mark.parametrize("name", NAMES)
def test_presets_count_as_the_closed_form_and_tiny_fits_mnist(name):
    with torch.device("meta"):
        model = timm.create_model(name, in_chans=1, num_classes=10, img_size=28)
    d, depth, patch = model.embed_dim, len(model.blocks), model.patch_embed.patch_size[0]
    tokens = (28 // patch) ** 2 + 1
    attention, norms, feed_forward = 4 * d * (d + 1), 4 * d, 2 * d * (5 * d + 1)
    stem, head = (patch**2 + 1) * d + (tokens + 1) * d, 2 * d + 10 * (d + 1)
    assert count_parameters(model) == stem + depth * (attention + norms + feed_forward) + head
    assert ("tiny" in name) == (count_parameters(model) <= 400_000)
    assert model.num_features == d == (64 if "tiny" in name else 128)


def test_width_scales_the_hidden_width_and_linear_is_the_vit_of_timm():
    assert make(width=0.3).blocks[0].mlp.first.out_features == round(0.3 * 16)
    assert make(width=1e-9).blocks[0].mlp.first.out_features == 1
    twin = make(layer="linear", mlp_ratio=4.0)
    vit = timm.create_model("vit_tiny_patch16_224", patch_size=4, **SMALL)
    state = {kan_vision.models.vikan._own_name(key, twin): value for key, value in vit.state_dict().items()}
    twin.load_state_dict(state)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(twin.eval()(x), vit.eval()(x))


def test_the_twin_takes_the_activation_of_timm_and_kan_layers_take_none():
    assert isinstance(make(layer="linear").blocks[0].mlp.activation, nn.GELU)
    assert isinstance(make(layer="linear", act_layer="relu").blocks[0].mlp.activation, nn.ReLU)
    assert isinstance(make(layer="linear", layer_kwargs={"bias": False}).blocks[0].mlp.activation, nn.GELU)
    assert isinstance(make().blocks[0].mlp.activation, nn.Identity)


def test_two_layers_may_differ():
    mlp = make(layer=["bspline", "linear"]).blocks[0].mlp
    assert isinstance(mlp.first, KANLinear)
    assert isinstance(mlp.second, nn.Linear)
    with pytest.raises(KANError, match="one layer or two, got 3"):
        make(layer=["rbf", "rbf", "rbf"])


def test_wrong_arguments_say_what_is_allowed():
    with pytest.raises(KANError, match="pos_embed must be one of learn, sincos, none, got 'rope'"):
        make(pos_embed="rope")
    with pytest.raises(KANError, match="scale_mlp_norm must be False"):
        make(scale_mlp_norm=True)
    with pytest.raises(KANError, match="unknown layer"):
        make(layer="spline")


def test_bias_and_dropout_of_timm_reach_the_layers():
    mlp = make(proj_bias=False, proj_drop_rate=0.25).blocks[0].mlp
    assert mlp.first.bias is None
    assert mlp.second.bias is None
    assert mlp.dropout.p == 0.25


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_drop_path_grows_with_depth_and_pooling_works(pool):
    model = make(depth=3, drop_path_rate=0.2, global_pool=pool)
    rates = [block.drop_path2.drop_prob if isinstance(block.drop_path2, DropPath) else 0.0 for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 5)


# Initialisation: timm draws every nn.Linear anew, KAN layers must get their own draw back ----------------------------


@pytest.mark.parametrize("layer", layers.names())
def test_timms_draw_leaves_no_trace_in_a_kan_layer(layer):
    part = hook(layer, {"hidden_features": 4} if layer == "mlp-kan" else None, features=8, hidden=8)
    torch.manual_seed(1)
    part.init_weights()
    before = {key: value.clone() for key, value in part.state_dict().items()}
    torch.manual_seed(2)
    for module in part.modules():
        if isinstance(module, nn.Linear):
            init_weights_vit_timm(module)
    assert layer != "linear" or not torch.equal(before["first.weight"], part.first.weight)
    if layer != "linear":
        torch.manual_seed(1)
        part.init_weights()
        assert all(torch.equal(before[key], value) for key, value in part.state_dict().items())


def test_the_model_keeps_the_draw_of_its_layers():
    model = make(embed_dim=64, num_heads=2)
    first = model.blocks[0].mlp.first
    coefficients, base = first.weight[:-1], first.weight[-1]
    share = (torch.arange(512) + 0.5) / 512
    squares = first.basis.planes(torch.special.ndtri(share)[:, None]).square().sum(dim=-2).mean()
    assert coefficients.std().item() == pytest.approx(0.001 / math.sqrt(64 * squares), rel=0.05)
    assert base.std().item() == pytest.approx(1 / math.sqrt(3 * 64), rel=0.05)
    assert make(layer="linear", embed_dim=64).blocks[0].mlp.first.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_init_weights_of_the_whole_model_draws_again():
    model = make(pos_embed="sincos")
    before = model.blocks[0].mlp.first.weight.clone()
    table = model.pos_embed.clone()
    model.init_weights()
    assert not torch.equal(before, model.blocks[0].mlp.first.weight)
    assert torch.equal(table, model.pos_embed)


# Positions -----------------------------------------------------------------------------------------------------------


def test_fixed_positions_are_the_cards_table():
    model = make(pos_embed="sincos")
    d = model.embed_dim
    for j in range(5):  # the class token is at 0
        for i in range(d):
            angle = j / 10000 ** ((i if i % 2 == 0 else i - 1) / d)
            want = math.sin(angle) if i % 2 == 0 else math.cos(angle)
            assert model.pos_embed[0, j, i].item() == pytest.approx(want, abs=1e-6)
    assert "pos_embed" not in dict(model.named_parameters())


def test_fixed_positions_follow_the_size_and_learned_ones_are_interpolated():
    model, x = make(pos_embed="sincos"), torch.randn(2, 1, 16, 12)
    model.set_input_size((16, 12))
    assert torch.equal(model.pos_embed, make(pos_embed="sincos", img_size=(16, 12)).pos_embed)
    assert model(x).shape == (2, 5)
    learned = make()
    learned.set_input_size((16, 12))
    assert learned(x).shape == (2, 5)
    assert learned.pos_embed.shape == (1, 13, 16)


def test_a_checkpoint_of_another_size_loads():
    state = make(img_size=16).state_dict()
    model = make(
        pretrained=True, pretrained_cfg_overlay={"state_dict": state, "num_classes": 5, "input_size": (1, 16, 16)}
    )
    assert torch.equal(model.blocks[1].mlp.second.weight, state["blocks.1.mlp.second.weight"])
    assert model.pos_embed.shape == (1, 5, 16)
    fixed = make(pos_embed="sincos")
    fixed.load_state_dict(
        kan_vision.models.vikan.checkpoint_filter_fn(make(pos_embed="sincos", img_size=16).state_dict(), fixed)
    )
    assert torch.equal(fixed.pos_embed, make(pos_embed="sincos").pos_embed)


# Invariants (section 6) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_feed_forward_part_works_token_by_token(variant):
    part = hook(*VARIANTS[variant][:2], features=8, hidden=12)
    x, order = torch.randn(2, 7, 8), torch.randperm(7)
    y = part(x)
    torch.testing.assert_close(part(x[:, order]), y[:, order])
    changed = x.clone()
    changed[:, 3] = torch.randn(2, 8)
    rest = torch.arange(7) != 3
    torch.testing.assert_close(part(changed)[:, rest], y[:, rest])
    assert not torch.allclose(part(changed)[:, 3], y[:, 3])


def test_without_positions_the_order_of_patches_does_not_matter():
    x = torch.randn(2, 1, 8, 8)
    turned = x.roll((4, 4), dims=(2, 3))  # patches 0, 1, 2, 3 become 3, 2, 1, 0
    free, placed = make(pos_embed="none").eval(), make(pos_embed="sincos").eval()
    with torch.no_grad():
        for block in (*free.blocks, *placed.blocks):
            block.attn.qkv.weight.mul_(20)
            block.attn.proj.weight.mul_(20)
    torch.testing.assert_close(free(turned), free(x))
    assert free.pos_embed is None
    assert (placed(turned) - placed(x)).abs().max() > 1e-2


def test_bspline_without_spline_weights_is_linear_of_silu():
    part = hook("bspline", {"bias": False}, features=6, hidden=5)
    with torch.no_grad():
        for layer in (part.first, part.second):
            layer.weight[:-1] = 0
    x = 3 * torch.randn(4, 6)
    hidden = nn.functional.silu(x) @ part.first.weight[-1]
    torch.testing.assert_close(part(x), nn.functional.silu(hidden) @ part.second.weight[-1])


def test_bspline_bases_sum_to_one_inside_and_to_zero_far_outside():
    basis = bases.get("bspline(grid_size=5, order=3, grid_range=(-1, 1))").bind(1)
    inside, outside = torch.linspace(-1, 0.999, 50)[:, None], torch.tensor([[-9.0], [9.0]])
    torch.testing.assert_close(basis(inside).sum(-1), torch.ones(50, 1))
    assert basis(outside).abs().max() == 0


def test_fourier_has_period_two_pi_and_sines_alone_are_odd():
    part = hook("fourier(num_frequencies=3)", {"base": None}, features=6, hidden=5).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(part(x + 2 * torch.pi), part(x))
    with torch.no_grad():
        for layer in (part.first, part.second):
            layer.weight[:3] = 0
            layer.bias.zero_()
    torch.testing.assert_close(part(-x), -part(x))


@pytest.mark.parametrize("degree", [0, 1])
def test_chebyshev_of_degree_0_is_constant_and_of_degree_1_affine_in_tanh(degree):
    layer = KANLinear(6, 5, basis="chebyshev(degree=4)", base=None, bias=False)
    with torch.no_grad():
        layer.weight[degree + 1 :] = 0
    x = torch.randn(20, 6)
    want = layer.weight[0].sum(0) + (torch.tanh(x) @ layer.weight[1])
    torch.testing.assert_close(layer(x), want)


def test_chebyshev_has_finite_gradients_where_tanh_is_one():
    x = torch.tensor([[-30.0, 30.0]], requires_grad=True)
    hook("chebyshev(degree=4)", {"base": None}, features=2, hidden=3)(x).sum().backward()
    assert x.grad.isfinite().all()


def test_one_sine_without_phase_and_bias_is_odd():
    layer = KANLinear(6, 5, basis="sine(num_frequencies=1)", base=None, bias=False)
    layer.basis.phases.zero_()
    x = torch.randn(4, 6)
    torch.testing.assert_close(layer(-x), -layer(x))


def test_faster_and_fast_differ_by_the_shape_of_the_bump_only():
    fast, faster = (
        bases.get(f"{name}(num_centers=8, grid_range=(-2, 2), width=0.5)").bind(1) for name in ("rbf", "rswaf")
    )
    nodes, u = torch.linspace(-2, 2, 8), torch.linspace(-1, 1, 9)
    for basis, bump in ((fast, torch.exp(-(u**2))), (faster, 1 / torch.cosh(u) ** 2)):
        for k, node in enumerate(nodes):
            torch.testing.assert_close(basis((node + 0.5 * u)[:, None])[:, 0, k], bump, atol=1e-5, rtol=1e-5)
        assert basis(nodes[:, None])[:, 0].diagonal().tolist() == pytest.approx([1.0] * 8)


def test_with_zero_weights_in_the_blocks_the_class_token_goes_straight_to_the_head():
    model = make().eval()
    with torch.no_grad():
        for block in model.blocks:
            for parameter in (*block.mlp.parameters(), *block.attn.proj.parameters()):
                parameter.zero_()
    token = model.cls_token + model.pos_embed[:, :1]
    want = model.head(model.norm(token))[:, 0].expand(2, -1)
    torch.testing.assert_close(model(torch.randn(2, 1, 8, 8)), want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant):
    layer, arguments, _, _ = VARIANTS[variant]
    model = make(layer=layer, layer_kwargs=arguments)
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


# Pitfalls (section 7) ------------------------------------------------------------------------------------------------


def outside_share(layer: str) -> float:
    """Of what the LayerNorm hands to the first layer."""
    model = make(layer=layer).eval()
    seen: list[torch.Tensor] = []
    first = model.blocks[0].mlp.first
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.randn(16, 1, 8, 8))
    return first.outside_fraction(seen[0]).item()


def test_a_third_of_layer_norms_outputs_leave_a_grid_of_one_and_few_the_default():
    assert outside_share("bspline(grid_range=(-1, 1))") == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=0.05)
    assert outside_share("bspline(grid_range=(-3, 3))") < 0.01
    assert outside_share("rbf(num_centers=4)") < 0.08
    assert isinstance(make().blocks[0].mlp.first.basis, bases.GaussianRBF)


def test_the_defaults_functions_reach_beyond_their_centres():
    basis = bases.get("rbf(num_centers=4)").bind(1)
    x = torch.tensor([[-3.5], [3.5]])
    assert basis(x).amax(-1).min() > 0.25


@pytest.mark.parametrize("size", [28, (16, 24), 5])
def test_no_pixel_is_cut_off(size):
    model = make(patch_size=16, img_size=size).eval()
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(1, 1, height, width, requires_grad=True)
    model(x).sum().backward()
    assert model.patch_embed.grid_size == (math.ceil(height / 16), math.ceil(width / 16))
    assert (x.grad != 0).all()
    assert model.forward_intermediates(x)[1][-1].shape[-2:] == model.patch_embed.grid_size


def test_a_padded_patch_embedding_keeps_the_grid_when_the_size_changes():
    embed = PaddedPatchEmbed(28, 16, 1, 8, dynamic_img_pad=True)
    assert embed(torch.zeros(1, 1, 28, 28)).shape == (1, embed.num_patches, 8) == (1, 4, 8)
    embed.set_input_size((33, 16))
    assert embed(torch.zeros(1, 1, 33, 16)).shape == (1, embed.num_patches, 8) == (1, 3, 8)
    assert PaddedPatchEmbed(None, 16, 1, 8, dynamic_img_pad=True).num_patches is None
