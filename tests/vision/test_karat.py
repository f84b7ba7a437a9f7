"""KArAt: the facts of its card, for the learned map, the attention layer and the models."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import timm
import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

import kan_vision.models.karat
from kan_core import KANError
from kan_core.compare import count_flops, count_parameters
from kan_core.ops import use_backend
from kan_vision.layers import _fourier_features
from kan_vision.layers._fourier_features import fourier_features, fourier_features_fwd, harmonics
from kan_vision.layers.fourier_attention import (
    FourierAttentionMap,
    KArAtAttention,
    attention_maps,
    project_to_simplex,
)
from kan_vision.models.karat import KArAt

BASES = (None, "identity", "silu", "gelu")


def make_map(heads: int = 2, tokens: int = 7, **kwargs) -> FourierAttentionMap:
    return FourierAttentionMap(heads, tokens, **{"rank": 3, "harmonics": 3, "dtype": torch.float64, **kwargs})


def make_attention(dim: int = 8, num_heads: int = 2, tokens: int = 7, **kwargs) -> KArAtAttention:
    return KArAtAttention(dim, num_heads, **{"tokens": tokens, "rank": 3, "dtype": torch.float64, **kwargs})


def make_model(**kwargs) -> KArAt:
    tiny = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "num_heads": 2, "depth": 2}
    return KArAt(**{"num_classes": 3, "rank": 3, **tiny, **kwargs})


def qkv(batch: int = 3, heads: int = 2, tokens: int = 7, head_dim: int = 4, dtype=torch.float64):
    return [torch.randn(batch, heads, tokens, head_dim, dtype=dtype, requires_grad=True) for _ in range(3)]


def by_hand(operator: FourierAttentionMap, scores: torch.Tensor) -> torch.Tensor:
    """Section 1 of the card, edge by edge."""
    coefficients, weight = operator.coefficients.detach(), operator.weight.detach()
    features = torch.zeros(*scores.shape[:3], operator.rank, dtype=scores.dtype)
    base = {None: torch.zeros_like, "identity": lambda x: x, "silu": torch.nn.functional.silu}[operator.base]
    for h in range(operator.heads):
        for p in range(operator.rank):
            for q in range(operator.tokens):
                x = scores[:, h, :, q]
                features[:, h, :, p] += base(x)
                for m in range(1, operator.harmonics + 1):
                    features[:, h, :, p] += coefficients[h, p, q, m - 1] * (m * x).cos()
                    features[:, h, :, p] += coefficients[h, p, q, operator.harmonics + m - 1] * (m * x).sin()
    return torch.einsum("hnp,bhkp->bhkn", weight, features)


# The map ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [None, "identity", "silu"])
def test_the_map_is_the_cards_formula(base):
    operator, scores = make_map(base=base), 3 * torch.randn(2, 2, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(operator(scores), by_hand(operator, scores))


def test_harmonics_by_angle_addition_equal_direct_ones():
    x = torch.linspace(-10, 10, 4001)
    for m, (cos, sin) in enumerate(harmonics(x, 11), start=1):
        exact = m * x.double()
        assert (cos - exact.cos()).abs().max() < 1e-5
        assert (sin - exact.sin()).abs().max() < 1e-5


def test_scores_shifted_by_two_pi_give_the_same_map():
    operator, scores = make_map(), torch.randn(2, 2, 7, 7, dtype=torch.float64)
    shifted = scores + 2 * math.pi * torch.randint(-2, 3, scores.shape).double()
    torch.testing.assert_close(operator(shifted), operator(scores))


def test_permuted_queries_permute_rows_and_permuted_keys_do_not_commute():
    operator, scores, order = make_map(), torch.randn(2, 2, 7, 7, dtype=torch.float64), torch.randperm(7)
    torch.testing.assert_close(operator(scores[:, :, order]), operator(scores)[:, :, order])
    assert (operator(scores[..., order]) - operator(scores)[..., order]).abs().max() > 0.1
    softmax = scores.softmax(-1)  # which does commute
    torch.testing.assert_close(scores[..., order].softmax(-1), softmax[..., order])


def test_full_rank_and_an_identity_weight_give_the_full_operator():
    operator, scores = make_map(tokens=4, rank=4), torch.randn(1, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        operator.weight.copy_(torch.eye(4).expand(2, 4, 4))
    m = torch.arange(1, 4)
    waves = torch.cat([(scores[..., None] * m).cos(), (scores[..., None] * m).sin()], dim=-1)  # (B, h, k, q, 2G)
    full = torch.einsum("bhkqm,hpqm->bhkp", waves, operator.coefficients)
    torch.testing.assert_close(operator(scores), full)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_rank_of_every_heads_map_is_at_most_r(rank):
    entries = make_map(rank=rank)(torch.randn(2, 2, 7, 7, dtype=torch.float64))
    assert (torch.linalg.matrix_rank(entries) == rank).all()


def test_initial_coefficients_are_standard_normal_and_the_maps_entries_have_unit_variance():
    operator = FourierAttentionMap(8, 197, rank=12, harmonics=3)
    assert operator.coefficients.shape == (8, 12, 197, 6)
    assert operator.weight.shape == (8, 197, 12)
    assert abs(operator.coefficients.std().item() - 1) < 0.01
    assert abs(operator.weight.std().item() * math.sqrt(12 * 197 * 3) - 1) < 0.02
    assert abs(operator(torch.randn(2, 8, 197, 197)).std().item() - 1) < 0.1


def test_arguments_are_checked():
    with pytest.raises(KANError, match="rank must be at least 1, got 0"):
        make_map(rank=0)
    with pytest.raises(KANError, match="base must be None or one of identity, silu, gelu, got 'tanh'"):
        make_map(base="tanh")
    with pytest.raises(KANError, match="projection must be one of none, simplex, got 'softmax'"):
        make_map(projection="softmax")


# The op -------------------------------------------------------------------------------------------------------------


def values_and_gradients(operator, tensors, **kwargs):
    leaves = [*tensors, *operator.parameters()]
    y = operator.attend(*tensors, **kwargs)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("masked", [False, True])
def test_recomputing_gives_the_definitions_values_and_gradients(base, masked):
    operator, tensors = make_map(base=base), qkv()
    keep = torch.rand(3, 1, 7, 7) > 0.3 if masked else None
    got = values_and_gradients(operator, tensors, keep=keep, scale=0.7)
    with use_backend("reference"):
        want = values_and_gradients(operator, tensors, keep=keep, scale=0.7)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got[0], operator(0.7 * tensors[0] @ tensors[1].mT, keep) @ tensors[2])


@pytest.mark.parametrize("block", [1, 40, 100, 250])  # a query; some of them; a sample; two of the three
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_of_queries_give_what_all_at_once_give(monkeypatch, block, masked):
    operator, tensors = make_map(base="silu"), qkv()
    keep = torch.rand(3, 2, 7, 7) > 0.3 if masked else None
    want = values_and_gradients(operator, tensors, keep=keep)
    monkeypatch.setattr(_fourier_features, "BLOCK", block)
    torch.testing.assert_close(values_and_gradients(operator, tensors, keep=keep), want)


@pytest.mark.parametrize("base", [None, "gelu"])
def test_gradcheck(base):
    operator, (q, k, v) = make_map(tokens=3, rank=2, base=base), qkv(2, 2, 3, 2)
    keep = torch.tensor([[True, False, True], [True, True, True], [False, True, True]])

    def features(q, k, coefficients):
        return fourier_features(q, k, coefficients.permute(3, 0, 2, 1), keep=keep, base=base, scale=0.6)

    assert torch.autograd.gradcheck(features, (q, k, operator.coefficients))
    assert torch.autograd.gradcheck(lambda *x: operator.attend(*x, scale=0.6), (q, k, v))


def test_the_registered_op_passes_opcheck():
    q, k, _ = qkv(2, 1, 3, 2)
    planes = torch.randn(2, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    keep = (torch.rand(3, 3) > 0.3).expand(2, 1, 3, 3)
    # the fourth utility, ahead-of-time autograd, is what the compilation of a layer below goes through
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(fourier_features_fwd, (q, k, planes, keep, 0.5, "gelu"), test_utils=utilities)


def test_a_second_derivative_raises_and_works_by_the_definition():
    operator, (q, k, v) = make_map(), qkv()

    def penalty():
        (gradient,) = torch.autograd.grad(operator.attend(q, k, v).sum(), q, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), k)

    with pytest.raises(RuntimeError, match=r"fourier_features_bwd"):
        penalty()
    with use_backend("reference"):
        assert penalty()[0].abs().sum() > 0


def test_torch_func_takes_the_definition():
    operator, (q, k, v) = make_map(), qkv()
    got = torch.func.grad(lambda x: operator.attend(x, k, v).sum())(q)
    torch.testing.assert_close(got, torch.autograd.grad(operator.attend(q, k, v).sum(), q)[0])


def saved_bytes(layer: torch.nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """What autograd keeps: bytes in all, each memory once, and the numbers of the largest tensor."""
    kept = {}
    largest = 0

    def pack(tensor):
        nonlocal largest
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert y.requires_grad
    return sum(kept.values()), largest


def test_no_tensor_over_queries_and_keys_is_kept():
    layer = KArAtAttention(24, 3, tokens=197, harmonics=3)
    x = torch.randn(2, 197, 24, requires_grad=True)
    _, largest = saved_bytes(layer, x)
    assert largest < 2 * 3 * 197 * 197  # one score for every pair
    with use_backend("reference"):
        assert saved_bytes(layer, x)[1] >= 2 * 3 * 197 * 197


@pytest.mark.parametrize("fused", [True, False])
def test_what_training_keeps_is_at_most_twice_that_of_softmax_attention(fused):
    softmax, layer = Attention(192, 3, qkv_bias=True), KArAtAttention(192, 3, tokens=197, qkv_bias=True)
    softmax.fused_attn = fused
    x = torch.randn(4, 197, 192, requires_grad=True)
    assert saved_bytes(layer, x)[0] <= 2 * saved_bytes(softmax, x)[0]


def test_flops_are_those_of_the_products_and_the_harmonics():
    layer, x = make_attention(dtype=torch.float32), torch.randn(3, 7, 8)
    tokens, scores = 3 * 7, 3 * 2 * 7 * 7  # d = 8, two heads of 4, r = 3, G = 3
    linear = 2 * tokens * 8 * (24 + 8)
    maps = 2 * scores * (4 + 6 * 3)
    values = 2 * 3 * 2 * (3 * 7 * 4 + 7 * 3 * 4)  # W^T V, and the features times it
    elementwise = scores * (2 + 6 * 2)
    assert count_flops(layer, x) == linear + maps + values + elementwise
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)  # by the registered op
    assert counter.get_total_flops() == linear + maps + values


# Half precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_computes_the_map_in_float32(dtype):
    """Features beyond 65504 do not overflow, forward or backward."""
    layer, x = make_attention(dtype=torch.float32), torch.randn(2, 7, 8)
    with torch.no_grad():
        layer.attention_map.coefficients.mul_(1e5)
        layer.attention_map.weight.mul_(1e-5)
    want = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    y.float().square().sum().backward()
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), want, atol=0.05, rtol=0.05)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_a_layer_in_bfloat16_works():
    layer = make_attention().bfloat16()
    y = layer(torch.randn(2, 7, 8, dtype=torch.bfloat16))
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in layer.parameters())


# The simplex projection ---------------------------------------------------------------------------------------------


def test_simplex_projection_golden_values():
    got = project_to_simplex(torch.tensor([[1.2, 0.3, -0.5], [0.2, 0.2, 0.2], [9.0, 0.0, 1.0]]))
    torch.testing.assert_close(got, torch.tensor([[0.95, 0.05, 0.0], [1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]]))


def test_simplex_projection_is_nonnegative_sums_to_one_and_keeps_what_is_there():
    y = 3 * torch.randn(50, 9, dtype=torch.float64)
    x = project_to_simplex(y)
    assert (x >= 0).all()
    torch.testing.assert_close(x.sum(-1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(project_to_simplex(x), x)
    inside = torch.rand(50, 9, dtype=torch.float64)
    inside /= inside.sum(-1, keepdim=True)
    torch.testing.assert_close(project_to_simplex(inside), inside)
    torch.testing.assert_close(project_to_simplex(y + 5.5), x)


def test_simplex_projection_is_the_nearest_point():
    y = torch.randn(20, 6, dtype=torch.float64)
    distance = (project_to_simplex(y) - y).norm(dim=-1)
    others = torch.distributions.Dirichlet(torch.full((6,), 0.5, dtype=torch.float64)).sample((5000, 20))
    assert ((others - y).norm(dim=-1) >= distance).all()
    assert torch.autograd.gradcheck(project_to_simplex, y.requires_grad_())


def test_a_projected_map_has_rows_on_the_simplex_of_the_keys_that_are_kept():
    operator, (q, k, v) = make_map(projection="simplex"), qkv()
    keep = torch.ones(7, 7, dtype=torch.bool).tril()
    for mask in (None, keep):
        entries = operator.map(q, k, mask)
        assert (entries >= 0).all()
        torch.testing.assert_close(entries.sum(-1), torch.ones(3, 2, 7, dtype=torch.float64))
        torch.testing.assert_close(operator.attend(q, k, v, mask), entries @ v)
    assert (operator.map(q, k, keep).masked_select(~keep) == 0).all()
    assert (operator.map(q, k, torch.zeros(7, 7, dtype=torch.bool)) == 0).all()


# The attention layer ------------------------------------------------------------------------------------------------


def test_zero_coefficients_leave_the_bias_of_the_projection():
    layer = make_attention()
    with torch.no_grad():
        layer.attention_map.coefficients.zero_()
        layer.proj.bias.normal_()
    y = layer(torch.randn(3, 7, 8, dtype=torch.float64))
    assert torch.equal(y, layer.proj.bias.expand(3, 7, 8))


def test_the_layer_is_projected_values_weighted_by_the_map():
    layer, x = make_attention(qkv_bias=True), torch.randn(3, 7, 8, dtype=torch.float64)
    q, k, v = (t.reshape(3, 7, 2, 4).transpose(1, 2) for t in layer.qkv(x).chunk(3, dim=-1))
    entries = by_hand(layer.attention_map, q @ k.mT / 2)
    torch.testing.assert_close(layer.attention(x), entries)
    torch.testing.assert_close(layer(x), layer.proj((entries @ v).transpose(1, 2).reshape(3, 7, 8)))


@pytest.mark.parametrize("projection", ["none", "simplex"])
def test_causal_attention_does_not_see_later_tokens(projection):
    layer, x = make_attention(projection=projection), torch.randn(2, 7, 8, dtype=torch.float64, requires_grad=True)
    y = layer(x, is_causal=True)
    changed = torch.cat([x[:, :4], torch.randn(2, 3, 8, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(layer(changed, is_causal=True)[:, :4], y[:, :4])
    (gradient,) = torch.autograd.grad(y[:, 3].square().sum(), x)
    assert (gradient[:, 4:] == 0).all()
    assert (gradient[:, :4] != 0).all()
    assert (layer.attention(x, is_causal=True).triu(1) == 0).all()


def test_masked_entries_are_zero_and_masked_scores_count_as_zero():
    layer, x = make_attention(), torch.randn(2, 7, 8, dtype=torch.float64)
    mask = torch.rand(2, 1, 7, 7) > 0.4
    q, k, _ = layer._qkv(x)
    scores = (q @ k.mT / 2).masked_fill(~mask, 0)
    torch.testing.assert_close(layer.attention(x, mask), layer.attention_map(scores).masked_fill(~mask, 0))
    everything = torch.ones(7, 7, dtype=torch.bool)
    torch.testing.assert_close(layer(x, everything), layer(x))
    both = layer(x, mask, is_causal=True)
    torch.testing.assert_close(both, layer(x, mask & everything.tril()))
    padding = torch.tensor([True] * 5 + [False] * 2).expand(2, 1, 1, 7)  # keys that nobody sees
    changed = torch.cat([x[:, :5], torch.randn(2, 2, 8, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(layer(changed, padding)[:, :5], layer(x, padding)[:, :5])
    assert layer(x, torch.zeros(7, 7, dtype=torch.bool)).isfinite().all()
    with pytest.raises(KANError, match=r"attn_mask must be boolean .* got torch.float64"):
        layer(x, torch.zeros(7, 7, dtype=torch.float64))


def test_another_number_of_tokens_is_refused_by_name():
    with pytest.raises(KANError, match="expected 7 tokens, got 5"):
        make_attention()(torch.randn(2, 5, 8, dtype=torch.float64))
    with pytest.raises(KANError, match="made for 7 tokens, got 5"):
        make_map().attend(*qkv(tokens=5))


def test_attention_dropout_acts_on_the_map_in_training():
    layer, x = make_attention(attn_drop=0.5), torch.randn(1, 7, 8, dtype=torch.float64).expand(3000, 7, 8)
    plain = layer.eval()(x)
    dropped = layer.train()(x)
    assert not torch.equal(dropped[0], dropped[1])
    assert (dropped.mean(0) - plain[0]).abs().max() < 0.1 * plain.abs().max()


def test_layer_arguments_are_checked():
    with pytest.raises(KANError, match="dim must be a multiple of num_heads, got 8 and 3"):
        make_attention(num_heads=3)
    with pytest.raises(KANError, match="qk_norm and scale_norm need a norm_layer"):
        make_attention(qk_norm=True)
    with pytest.raises(KANError, match="a shared attention map takes no arguments of an own one, got tokens, rank"):
        make_attention(shared=make_map())


def test_it_plugs_into_timms_vision_transformer_with_all_norms():
    attn_layer = KArAtAttention.with_options(tokens=5, rank=2)
    vit = VisionTransformer(8, 4, 3, 2, embed_dim=8, depth=2, num_heads=2, attn_layer=attn_layer, qk_norm=True,
                            scale_attn_norm=True, proj_bias=False)  # fmt: skip
    assert all(type(block.attn) is KArAtAttention for block in vit.blocks)
    assert torch.equal(pickle.loads(pickle.dumps(vit)).head.weight, vit.head.weight)
    vit(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vit.parameters())
    assert vit(torch.randn(2, 3, 8, 8), is_causal=True).shape == (2, 2)


# The models ---------------------------------------------------------------------------------------------------------

PRESETS = {
    # name: (width, heads, G, blockwise, universal) of the card
    "tiny": (192, 3, 3, 595_728, 49_644),
    "small": (384, 6, 3, 1_191_456, 99_288),
    "base": (768, 12, 1, 1_021_248, 85_104),
}


@pytest.mark.parametrize("size", PRESETS)
def test_presets_add_the_cards_parameters_to_a_vit(size):
    width, heads, harmonics, blockwise, universal = PRESETS[size]
    name = f"karat_{size}_patch16_224"
    with torch.device("meta"):
        vit = count_parameters(timm.create_model(f"vit_{size}_patch16_224"))
        model = timm.create_model(name)
        assert count_parameters(model) - vit == blockwise
        assert count_parameters(timm.create_model(name, mode="universal")) - vit == universal
    assert (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads) == (width, 12, heads)
    operator = model.blocks[11].attn.operator
    assert (operator.tokens, operator.rank, operator.harmonics, operator.base) == (197, 12, harmonics, None)
    assert operator.projection == "none"
    # the paper reports two more numbers per edge of W than its equations have
    per_map = (2 * harmonics + 1) * 197 * 12
    assert per_map * 12 * heads == blockwise
    reported = {"tiny": 765_936, "small": 1_531_872, "base": 1_702_080}[size]
    assert blockwise + 2 * 197 * 12 * 12 * heads == reported


def test_the_softmax_twin_of_the_tiny_preset_has_the_papers_parameters():
    with torch.device("meta"):
        twin = timm.create_model("karat_tiny_patch16_224", attention="softmax", num_classes=10)
        assert count_parameters(twin) == count_parameters(timm.create_model("vit_tiny_patch16_224", num_classes=10))
    assert round(count_parameters(twin) / 1e6, 2) == 5.53


def test_the_small_preset_and_odd_image_sizes_take_the_tokens_of_their_own_grid():
    with torch.device("meta"):
        for name, size, tokens in (
            ("karat_tiny_patch4_32", 32, 65),
            ("karat_tiny_patch4_32", 28, 50),
            ("karat_tiny_patch4_32", (16, 24), 25),
            ("karat_tiny_patch16_224", 28, 5),  # padded to 32 px
        ):
            model = timm.create_model(name, img_size=size, depth=1)
            assert model.blocks[0].attn.operator.tokens == tokens
            assert model.patch_embed.num_patches + 1 == tokens
            height, width = (size, size) if isinstance(size, int) else size
            assert model(torch.randn(2, 3, height, width)).shape == (2, 1000)
    with torch.device("meta"):
        small = timm.create_model("karat_tiny_patch4_32")
    assert (small.embed_dim, len(small.blocks), small.blocks[0].attn.num_heads) == (192, 4, 3)
    assert make_model(class_token=False, global_pool="avg").blocks[0].attn.operator.tokens == 4
    assert make_model(reg_tokens=2)(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_universal_with_one_block_equals_blockwise_with_one_block():
    universal, blockwise = make_model(mode="universal", depth=1), make_model(depth=1)
    state = {
        key.replace("blocks.0.attn.attention_map", "attention_map"): value
        for key, value in blockwise.state_dict().items()
    }
    universal.load_state_dict(state)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(universal(x), blockwise(x))


def test_a_universal_map_is_registered_once_and_stays_shared():
    model, other = make_model(mode="universal"), make_model(mode="universal")
    own = [key for key in model.state_dict() if "attention_map" in key]
    assert own == ["attention_map.coefficients", "attention_map.weight"]
    twin, operator = make_model(attention="softmax"), model.attention_map
    assert count_parameters(model) == count_parameters(twin) + operator.coefficients.numel() + operator.weight.numel()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 1, 8, 8)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other):
        assert torch.equal(copied(x), model(x))
        assert all(block.attn.operator is copied.attention_map for block in copied.blocks)
        assert copied.attention_map is not model.attention_map
        with torch.no_grad():
            copied.attention_map.coefficients.zero_()
        assert all((entries == 0).all() for entries in attention_maps(copied, x))
        assert not any((entries == 0).all() for entries in attention_maps(model, x))
    double = copy.deepcopy(model).double()
    assert double(x.double()).dtype == torch.float64
    model(x).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.attention_map.parameters())


@pytest.mark.parametrize("mode", ["blockwise", "universal"])
def test_initialising_again_draws_new_maps(mode):
    model = make_model(mode=mode)
    before = model.blocks[1].attn.operator.coefficients.clone()
    model.init_weights()
    after = model.blocks[1].attn.operator.coefficients
    assert not torch.equal(after, before)
    assert 0.5 < after.std() < 2


def test_export_holds_ordinary_operations_only():
    model, x = make_model(mode="universal").eval(), torch.randn(2, 1, 8, 8)
    program = torch.export.export(model, (x,))
    assert not any("kan" in str(node.target).split(".")[0] for node in program.graph.nodes if node.op != "placeholder")
    torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-5)


def test_compiles_to_one_graph_with_the_same_gradients():
    operator, x = make_map(), torch.randn(2, 7, 8, dtype=torch.float64)
    layer = KArAtAttention(8, 2, shared=operator, dtype=torch.float64)
    parameters = [*layer.parameters(), *operator.parameters()]
    want = torch.autograd.grad(layer(x).square().sum(), parameters)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).square().sum(), parameters), want)


def test_attention_maps_are_those_of_the_forward_pass():
    model, x = make_model(attn_drop_rate=0.3, drop_path_rate=0.2).train(), torch.randn(3, 1, 8, 8)
    maps = attention_maps(model, x)
    assert [entries.shape for entries in maps] == [(3, 2, 5, 5)] * 2
    assert not any(entries.requires_grad for entries in maps)
    assert model.training
    assert model.blocks[0].attn.training
    model.eval()
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    for block, entries in zip(model.blocks, maps, strict=True):
        torch.testing.assert_close(block.attn.attention(block.norm1(tokens)), entries)
        tokens = block(tokens)
    with pytest.raises(KANError, match="KArAt has no learned attention maps"):
        attention_maps(make_model(attention="softmax"), x)


def test_the_twin_is_the_same_vit_with_softmax():
    kwargs = {"mode": "universal", "rank": 2, "layer": "gr-kan(groups=2)", "attn_drop_rate": 0.1}
    twin = KArAt.twin_kwargs(kwargs)
    assert twin == {"layer": "gr-kan(groups=2)", "attn_drop_rate": 0.1, "attention": "softmax"}
    model = make_model(**twin)
    assert all(type(block.attn) is Attention for block in model.blocks)
    assert kwargs["rank"] == 2
    narrow, wide = (count_parameters(make_model(attention="softmax", width=width)) for width in (1.0, 2.0))
    assert wide - narrow == 2 * (32 * (8 + 8 + 1))  # hidden width 32 more in two blocks


def test_any_layer_goes_into_the_feed_forward_part():
    model = make_model(layer="rbf", layer_kwargs={"norm": "layer"})
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_options_are_checked():
    for name, value, allowed in (("attention", "sdpa", "fourier, softmax"), ("mode", "all", "blockwise, universal")):
        with pytest.raises(KANError, match=f"{name} must be one of {allowed}, got '{value}'"):
            make_model(**{name: value})
    for name, value in (("dynamic_img_size", True), ("patch_drop_rate", 0.5)):
        with pytest.raises(KANError, match=f"{name} must stay off, got {value}: learned attention has a fixed number"):
            make_model(**{name: value})


def test_the_input_size_changes_only_to_one_of_as_many_patches():
    model = make_model()
    model.set_input_size((4, 16))
    assert model(torch.randn(2, 1, 4, 16)).shape == (2, 3)
    with pytest.raises(KANError, match="made for 4 patches, got 16"):
        model.set_input_size((16, 16))
    model.set_input_size((16, 16), patch_size=(8, 8))
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, 3)
    softmax = make_model(attention="softmax")
    softmax.set_input_size((16, 16))
    assert softmax(torch.randn(2, 1, 16, 16)).shape == (2, 3)


def test_the_maps_are_decayed_and_positions_are_not():
    model = make_model(mode="universal")
    assert model.no_weight_decay() & {name for name, _ in model.named_parameters()} == {"pos_embed", "cls_token"}


def test_a_model_with_learned_attention_memorises_a_batch():
    model = make_model(embed_dim=16)
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).all()


def test_every_preset_is_documented():
    for name in timm.list_models(module="karat"):
        assert getattr(kan_vision.models.karat, name).__doc__
