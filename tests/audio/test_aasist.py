"""AASIST and AASIST-L: published sizes and shapes, invariances, KAN maps, bad input."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kan_audio.models import create
from kan_audio.models.aasist import AASIST, aasist, aasist_l
from kan_core import KANLinear
from kan_core.errors import KANError

DEAD = {aasist: 512, aasist_l: 272}
both = pytest.mark.parametrize("make", [aasist, aasist_l])


def size(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def meta(make, **kwargs):
    with torch.device("meta"):
        return make(**kwargs)


def wave(samples=4500, batch=2, seed=0):
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return aasist().eval()


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_published_parameter_counts():
    assert size(meta(aasist)) == 297_866
    assert size(meta(aasist_l)) == 85_306
    assert size(meta(aasist, legacy_preact=False)) == 297_354
    assert size(meta(aasist_l, legacy_preact=False)) == 85_034


def parts(net):
    head, branch = net.head, net.head.branches[0]
    return {
        "encoder": size(net.encoder),
        "attention": (size(head.spectral), size(head.temporal)),
        "branch": (size(branch.first), size(branch.second)),
        "pools": (size(head.pool_spectral), size(head.pool_temporal), size(branch.pool_temporal)),
        "positions": head.spectral_positions.numel(),
        "stack": branch.stack.numel(),
        "norm": size(net.spectrum),
        "output": size(head.out),
    }


def test_published_split_of_aasist():
    net = meta(aasist)
    assert [size(block) for block in net.encoder] == [6_592, 12_480, 43_392, 49_536, 49_536, 49_536]
    assert parts(net) == {
        "encoder": 211_072,
        "attention": (12_672, 12_672),
        "branch": (20_992, 8_640),
        "pools": (65, 65, 33),
        "positions": 1_472,
        "stack": 64,
        "norm": 2,
        "output": 322,
    }


def test_published_split_of_aasist_l():
    assert parts(meta(aasist_l)) == {
        "encoder": 50_792,
        "attention": (1_872, 1_872),
        "branch": (6_192, 8_640),
        "pools": (25, 25, 33),
        "positions": 552,
        "stack": 24,
        "norm": 2,
        "output": 322,
    }


def test_state_dict_has_the_tensors_and_values_of_the_released_one():
    state = meta(aasist).state_dict()
    assert len(state) == 229
    assert sum(tensor.numel() for tensor in state.values()) == 299_550


@both
def test_the_dead_layers_are_ten_frozen_tensors_and_all_others_learn(make):
    torch.manual_seed(0)
    net = make()
    nn.functional.cross_entropy(net(wave(3000)), torch.tensor([0, 1])).backward()
    frozen = [p for p in net.parameters() if not p.requires_grad]
    assert (len(frozen), sum(p.numel() for p in frozen)) == (10, DEAD[make])
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_dead_layers_do_not_change_the_output():
    torch.manual_seed(0)
    legacy, plain = aasist(), aasist(legacy_preact=False)
    state = {k: v for k, v in legacy.state_dict().items() if "unused_norm" not in k}
    plain.load_state_dict(state)
    assert torch.equal(legacy.eval()(wave()), plain.eval()(wave()))


# --- shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(64600, 29), (64000, 29), (48000, 21), (32000, 14), (20000, 9), (16000, 7), (8000, 3), (2315, 1)],
)
def test_shapes_for_every_length_of_the_card(samples, frames):
    net = meta(aasist)
    e = net.features(torch.zeros(2, samples, device="meta"))
    assert e.shape == (2, 64, 23, frames)
    embedding = net.head.embed(e)
    assert embedding.shape == (2, 160)
    assert net.head.out(embedding).shape == (2, 2)


def test_time_shrinks_by_three_in_every_block():
    net, x = meta(aasist), torch.zeros(1, 64600, device="meta")
    x = net.spectrum(net.filters(x))
    assert x.shape == (1, 1, 23, 21490)
    for block, frames in zip(net.encoder, (7163, 2387, 795, 265, 88, 29), strict=True):
        x = block(x)
        assert x.shape[2:] == (23, frames)


@pytest.mark.parametrize(
    ("make", "spectral", "temporal"), [(aasist, (23, 11, 5), (29, 20, 10)), (aasist_l, (23, 9, 6), (29, 14, 9))]
)
def test_node_counts(make, spectral, temporal):
    net = meta(make)
    seen = {}

    def watch(name):
        def note(module, args, output):
            seen.setdefault(name, (args[0].shape[1], output.shape[1]))

        return note

    for name in ("pool_spectral", "pool_temporal"):
        net.head.get_submodule(name).register_forward_hook(watch(name))
        net.head.branches[0].get_submodule(name).register_forward_hook(watch(f"branch {name}"))
    net(torch.zeros(2, 64600, device="meta"))
    assert (*seen["pool_spectral"], seen["branch pool_spectral"][1]) == spectral
    assert (*seen["pool_temporal"], seen["branch pool_temporal"][1]) == temporal


def test_too_short_a_wave_is_refused_in_one_line(net):
    assert net(wave(2316)).isfinite().all()
    with pytest.raises(KANError, match=r"^AASIST needs waveforms of at least 2315 samples, got 2314$"):
        net(wave(2314))


def test_the_embedding_is_what_the_output_layer_reads(net):
    torch.testing.assert_close(net.head.out(net.embed(wave())), net(wave()))


# --- invariances ---------------------------------------------------------------------------------------------------


def test_the_sign_of_the_wave_does_not_matter_bit_for_bit(net):
    assert torch.equal(net(wave()), net(-wave()))


def test_a_gain_matters(net):
    assert not torch.allclose(net(wave()), net(2 * wave()), atol=1e-4)


def test_batch_companions_do_not_matter(net):
    x = wave(batch=3)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), atol=1e-5, rtol=1e-4)
    repeated = net(x[:1].repeat(3, 1))
    torch.testing.assert_close(repeated, repeated[:1].expand(3, -1), atol=1e-6, rtol=0)


def test_the_order_of_bands_matters_because_of_their_positions_and_that_of_frames_does_not(net):
    e = net.features(wave(8000))
    logits = net.head(e)
    assert not torch.allclose(logits, net.head(e.flip(2)), atol=1e-4)
    torch.testing.assert_close(logits, net.head(e.flip(3)), atol=1e-5, rtol=1e-4)


def test_two_equal_branches_are_one(net):
    one, two = copy.deepcopy(net.head), copy.deepcopy(net.head)
    two.branches[1].load_state_dict(two.branches[0].state_dict())
    one.branches = one.branches[:1]
    e = net.features(wave(8000))
    assert torch.equal(one(e), two(e))


# --- options -------------------------------------------------------------------------------------------------------


def test_kan_maps_take_the_place_of_the_linear_ones_in_the_graph_part():
    torch.manual_seed(0)
    net = aasist(layer="rbf(num_centers=4)", layer_kwargs={"bias": False})
    maps = [m for m in net.modules() if isinstance(m, KANLinear)]
    assert len(maps) == 2 * 3 + 2 + 2 * (2 * 8 + 2) + 1
    assert not [m for m in net.modules() if isinstance(m, nn.Linear)]
    net(wave(3000)).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_width_scales_channels_and_graph():
    net = meta(aasist, width=0.5)
    assert [block.conv1.out_channels for block in net.encoder] == [16, 16, 32, 32, 32, 32]
    assert net.head.spectral.attention_weight.shape == (32, 1)
    assert net.embedding_features == 5 * 16


def test_the_filters_follow_the_sample_rate():
    net = aasist(sample_rate=8000)
    assert net.filters.sample_rate == 8000
    assert net.eval()(wave(4000)).isfinite().all()


def test_frequency_masking_is_off_by_default():
    assert not aasist().filters.freq_aug
    assert aasist(freq_aug=True).filters.freq_aug


def test_a_copy_gives_the_same_scores_and_training_depends_on_the_seed_alone(net):
    assert torch.equal(copy.deepcopy(net)(wave()), net(wave()))
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        fresh = aasist_l(freq_aug=True)
        results.append(fresh(wave(3000)))
    assert torch.equal(*results)


def test_models_are_made_by_name():
    assert isinstance(create("aasist_l", width=0.25), AASIST)
    with pytest.raises(KANError, match=r"^model 'aasist' refuses its arguments: .*grid_size"):
        create("aasist", grid_size=3)
    for kwargs, message in [
        ({"width": 0}, "width must be positive, got 0"),
        ({"hsgal_activation": "relu"}, "activation must be one of none, selu"),
        ({"ratios": (0.5, 0.7, 1.5)}, r"the ratio of nodes to keep must lie in \(0, 1\], got 1.5"),
    ]:
        with pytest.raises(KANError, match=f"^{message}"):
            create("aasist", **kwargs)
