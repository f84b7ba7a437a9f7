"""KAT: the counts, initialisation and transfer of its card (sections 2 to 5 and 7)."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

import kan_vision.models.kat  # noqa: F401  (registers)
from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import GroupRationalLinear
from kan_core.training.optim import parameter_groups
from kan_vision.layers.feed_forward_hook import FeedForwardHook
from kan_vision.models.kat import KAT, checkpoint_filter_fn

SMALL = {"in_chans": 1, "num_classes": 5, "img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}
SIZES = {"tiny": (5_718_328, 5_717_416), "small": (22_051_576, 22_050_664), "base": (86_568_568, 86_567_656)}


def make(**kwargs) -> KAT:
    return timm.create_model("kat_tiny_patch16_224", **{**SMALL, **kwargs})


def make_vit(**kwargs) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", **{**SMALL, **kwargs})


# Counts (section 4) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_are_those_of_the_card(size):
    with torch.device("meta"):
        kat = timm.create_model(f"kat_{size}_patch16_224")
        vit = timm.create_model(f"kat_{size}_patch16_224", layer="linear")
    depth, numerator, denominator, groups = 12, 5, 4, 8
    assert (count_parameters(kat), count_parameters(vit)) == SIZES[size]
    assert len(kat.blocks) == depth
    assert count_parameters(kat) - count_parameters(vit) == depth * 2 * ((numerator + 1) + denominator * groups) == 912


def test_the_linear_twin_is_timms_vit():
    kinds = [
        {key: value.shape for key, value in model.named_parameters()} for model in (make(layer="linear"), make_vit())
    ]
    renamed = {key.replace("fc1", "first").replace("fc2", "second"): shape for key, shape in kinds[1].items()}
    assert kinds[0] == renamed


def test_the_block_is_the_cards():
    model = timm.create_model("kat_tiny_patch16_224", depth=1)
    block = model.blocks[0]
    first, second = block.mlp.first, block.mlp.second
    assert (first.in_features, first.out_features, second.out_features) == (192, 768, 192)
    assert (first.activation.init, second.activation.init) == ("identity", "swish")
    for layer in (first, second):
        assert layer.activation.groups == 8
        assert layer.activation.form == "sum_of_abs"
        assert layer.activation.numerator.shape == (1, 6)
        assert layer.activation.denominator.shape == (8, 4)
    assert block.norm1.eps == block.norm2.eps == 1e-6
    assert block.attn.qkv.bias is not None
    assert block.attn.num_heads == 3
    assert model.pos_embed.shape == (1, 197, 192)
    x = torch.randn(2, 5, 192)
    want = second.linear(second.activation(first.linear(x)))  # the first function is the identity
    torch.testing.assert_close(block.mlp(x), want)


def test_dropout_stands_between_function_and_matrix():
    part = FeedForwardHook(8, 16, drop=0.999999, layer="gr-kan")
    x = torch.randn(4, 8)
    with torch.no_grad():
        part.second.linear.bias.fill_(3.0)
    torch.testing.assert_close(part(x), torch.full((4, 8), 3.0))  # behind the matrix it would have dropped the bias
    torch.testing.assert_close(part.eval()(x), part.second(part.first(x)))


# Initialisation (section 3) -------------------------------------------------------------------------------------------


def test_the_built_model_keeps_the_variance_of_standard_normal_inputs():
    model = make(embed_dim=1024, depth=1, num_heads=8, mlp_ratio=1.0, attn_init="timm")
    first, second = model.blocks[0].mlp.first, model.blocks[0].mlp.second
    assert isinstance(first, GroupRationalLinear)
    with torch.no_grad():
        for layer in (first, second):
            assert abs(layer(torch.randn(2048, 1024)).var().item() - 1) < 0.05
    assert first.linear.weight.std().item() == pytest.approx(1 / math.sqrt(1024), rel=0.01)
    assert second.linear.weight.std().item() == pytest.approx(math.sqrt(2.81076 / 1024), rel=0.01)
    assert not first.linear.bias.any()
    assert not second.linear.bias.any()


@pytest.mark.parametrize("mode", ["", "jax", "moco"])
def test_no_initialisation_of_timm_overwrites_the_draw(mode):
    model = make(embed_dim=192, depth=1, weight_init=mode)
    for again in (False, True):
        if again:
            model.init_weights(mode)
        mlp = model.blocks[0].mlp
        assert mlp.first.linear.weight.std().item() == pytest.approx(1 / math.sqrt(192), rel=0.02)
        assert mlp.second.linear.weight.std().item() == pytest.approx(math.sqrt(2.81076 / 768), rel=0.02)


def test_the_released_runs_deviation_is_an_option():
    mlp = make(embed_dim=192, depth=1, mlp_init_std=0.02).blocks[0].mlp
    for layer in (mlp.first, mlp.second):
        assert layer.linear.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_gains_of_torch_are_left_alone():
    assert torch.nn.init.calculate_gain("linear") == 1
    with pytest.raises(ValueError, match="Unsupported nonlinearity"):
        torch.nn.init.calculate_gain("gelu")


def test_rational_init_names_the_two_functions_and_the_layer_may_say_more():
    def inits(**kwargs) -> list[str]:
        mlp = make(**kwargs).blocks[1].mlp
        return [mlp.first.activation.init, mlp.second.activation.init]

    assert inits(rational_init=("identity", "gelu")) == ["identity", "gelu"]
    assert inits(rational_init=["swish", "swish"]) == ["swish", "swish"]
    assert inits(layer="gr-kan(init='tanh')") == ["tanh", "tanh"]
    assert make(layer="gr-kan(groups=4)").blocks[0].mlp.first.activation.groups == 4
    assert make(layer_kwargs={"form": "abs_of_sum"}).blocks[0].mlp.second.activation.form == "abs_of_sum"
    with pytest.raises(KANError, match="rational_init must be two names"):
        make(rational_init="swish")
    with pytest.raises(KANError, match="init must be one of identity, swish"):
        make(rational_init=("identity", "softplus"))


def products(model: KAT) -> tuple[torch.Tensor, torch.Tensor]:
    """Q Kᵀ of every head, ``(heads, dim, dim)``, and V · projection, of the first block."""
    attention = model.blocks[0].attn
    query, key, value = attention.qkv.weight.detach().chunk(3)
    heads = zip(query.split(attention.head_dim), key.split(attention.head_dim), strict=True)
    return torch.stack([q.T @ k for q, k in heads]), value.T @ attention.proj.weight.detach().T


def test_mimetic_products_are_noise_and_the_identity():
    queries, values = products(make(embed_dim=128, num_heads=1, depth=1))
    off = ~torch.eye(128, dtype=torch.bool)
    for matrix, noise, identity in ((queries[0], 0.7, 0.7), (values, 0.4, -0.4)):
        assert matrix.diagonal().mean().item() == pytest.approx(identity, abs=0.03)
        assert matrix[off].mean().item() == pytest.approx(0.0, abs=0.01)
        assert matrix[off].std().item() == pytest.approx(noise / math.sqrt(128), rel=0.03)


def test_mimetic_heads_are_the_nearest_of_their_rank():
    # of 0.7 Z + 0.7 I, whose singular values lie between 0 and 1.8, a head keeps the largest third: 69 % of the square
    model = make(embed_dim=192, num_heads=3, depth=1)
    queries, values = products(model)
    square = 192 * 2 * 0.7**2
    for head in queries:
        assert torch.linalg.matrix_rank(head) == 64
        assert head.square().sum().item() / square == pytest.approx(0.69, abs=0.05)
        assert head.diagonal().mean().item() == pytest.approx(0.39, abs=0.04)
    assert not torch.allclose(queries[0], queries[1], atol=0.1)
    assert values.diagonal().mean().item() == pytest.approx(-0.4, abs=0.02)
    assert not model.blocks[0].attn.qkv.bias.any()
    assert not model.blocks[0].attn.proj.bias.any()
    q, k, v = model.blocks[0].attn.qkv.weight.chunk(3)
    assert q.norm().item() == pytest.approx(k.norm().item(), rel=1e-4)
    assert v.norm().item() == pytest.approx(model.blocks[0].attn.proj.weight.norm().item(), rel=1e-4)


def test_plain_attention_is_an_option():
    queries, _ = products(make(embed_dim=192, depth=1, attn_init="timm"))
    assert abs(queries[0].diagonal().mean().item()) < 0.01
    with pytest.raises(KANError, match="attn_init must be one of mimetic, timm, got 'xavier'"):
        make(attn_init="xavier")


def test_rational_coefficients_are_not_decayed():
    model = make()
    want = {
        id(p)
        for name, p in model.named_parameters()
        if "activation" in name or p.ndim < 2 or name in ("pos_embed", "cls_token")
    }
    groups = create_optimizer_v2(model, opt="adamw", weight_decay=0.05).param_groups
    for found in (groups, parameter_groups(nn.ModuleDict({"net": model}), 0.05)):
        assert {id(p) for group in found if group["weight_decay"] == 0 for p in group["params"]} == want


def test_the_denominators_of_the_identity_learn():
    model = make()
    model(torch.randn(2, 1, 32, 32)).square().sum().backward()
    for block in model.blocks:
        assert (block.mlp.first.activation.denominator.grad != 0).all()


# Weights of a ViT (section 3.4) ---------------------------------------------------------------------------------------


def trained_like_vit(**kwargs) -> nn.Module:
    """Feed-forward matrices of the size that training gives them: at timm's 0.02 GELU would hardly bend."""
    vit = make_vit(**kwargs).eval()
    with torch.no_grad():
        for block in vit.blocks:
            block.mlp.fc1.weight.normal_(0, 1 / math.sqrt(block.mlp.fc1.in_features))
            block.mlp.fc2.weight.normal_(0, 1 / math.sqrt(block.mlp.fc2.in_features))
            block.mlp.fc1.bias.normal_(0, 0.1)
    return vit


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def test_a_vits_weights_give_its_logits_up_to_the_error_of_the_fit():
    vit, x = trained_like_vit(), torch.randn(8, 1, 32, 32)
    with torch.no_grad():
        for init, low, high in (("gelu", 1e-6, 1e-2), ("swish", 1e-2, 1.0)):
            kat = make(rational_init=("identity", init)).eval()
            kat.load_state_dict(checkpoint_filter_fn(vit.state_dict(), kat))
            assert low < relative(kat(x), vit(x)) < high
        twin = make(layer="linear").eval()
        twin.load_state_dict(checkpoint_filter_fn(vit.state_dict(), twin))
        torch.testing.assert_close(twin(x), vit(x))


def test_create_model_takes_a_vits_checkpoint_of_other_size_channels_and_classes():
    vit = trained_like_vit(in_chans=3, num_classes=7, img_size=64, patch_size=8)
    overlay = {"state_dict": vit.state_dict(), "num_classes": 7, "input_size": (3, 64, 64)}
    kat = make(pretrained=True, pretrained_cfg_overlay=overlay)
    assert kat.patch_embed.proj.weight.shape == (48, 1, 16, 16)
    assert kat.pos_embed.shape == (1, 5, 48)
    assert torch.equal(kat.blocks[1].mlp.second.linear.weight, vit.blocks[1].mlp.fc2.weight)
    assert torch.equal(kat.blocks[1].attn.qkv.weight, vit.blocks[1].attn.qkv.weight)
    assert kat.blocks[0].mlp.first.activation.numerator.tolist() == [[0, 1, 0, 0, 0, 0]]
    assert kat(torch.randn(2, 1, 32, 32)).shape == (2, 5)


def test_its_own_checkpoint_keeps_learned_coefficients():
    kat, other = make(), make()
    with torch.no_grad():
        kat.blocks[0].mlp.second.activation.numerator.add_(0.5)
    other.load_state_dict(checkpoint_filter_fn(kat.state_dict(), other))
    assert all(torch.equal(a, b) for a, b in zip(kat.state_dict().values(), other.state_dict().values(), strict=True))


def test_layers_without_matrices_refuse_a_vits_checkpoint():
    with pytest.raises(KANError, match=r"KANLinear has no matrix of an MLP: layer must be 'gr-kan' or 'linear'"):
        checkpoint_filter_fn(make_vit().state_dict(), make(layer="rbf"))


def test_deeper_checkpoints_are_refused_by_name():
    kat = make(depth=1)
    with pytest.raises(RuntimeError, match=r"blocks\.1\.mlp\.fc1\.weight"):
        kat.load_state_dict(checkpoint_filter_fn(make_vit().state_dict(), kat))


def test_timms_names_of_the_matrices_serve_its_scaled_initialisation():
    torch.manual_seed(3)
    plain = make(attn_init="timm")
    torch.manual_seed(3)
    scaled = make(attn_init="timm", fix_init=True)
    assert plain.blocks[1].mlp.fc1 is plain.blocks[1].mlp.first.linear
    torch.testing.assert_close(scaled.blocks[1].mlp.fc2.weight, plain.blocks[1].mlp.fc2.weight / 2)
