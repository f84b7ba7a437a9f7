"""AASIST3: published sizes, shapes, invariances, equality with linear maps, its small forms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kan_audio.frontends.ssl import SSLFrontEnd
from kan_audio.models import create
from kan_audio.models.aasist3 import AASIST3Head, aasist3, aasist3_mel, aasist3_small
from kan_core import KANLinear
from kan_core.compare import count_parameters, match_width
from kan_core.errors import KANError
from kan_core.layers import kan_layers

SMALL = {"bridge_features": 24, "channels": (8, 8, 12, 12, 12, 12), "graph_dims": (12, 8)}


def size(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def meta(make, *args, **kwargs):
    with torch.device("meta"):
        return make(*args, **kwargs)


def wave(samples=16000, batch=2, seed=0):
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def small_head(features=10, frames=31, splines=0.3, **kwargs):
    """In float64 and evaluation mode, splines large enough to matter, batch statistics that are not 0 and 1."""
    torch.manual_seed(0)
    head = AASIST3Head(features, frames, **{**SMALL, **kwargs})
    for _, layer in kan_layers(head):
        layer.init_scale = splines
        layer.reset_parameters()
    for norm in (m for m in head.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    return head.double().eval()


def features(frames=31, size=10, batch=2, seed=1):
    return torch.randn(batch, frames, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def mel():
    torch.manual_seed(0)
    return aasist3_mel().eval()


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return aasist3_small(**SMALL).eval()


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_published_head_and_its_split():
    head = meta(AASIST3Head, 1024, 201)
    graph, branch = head.graph, head.graph.branches[0]
    assert size(head) == 6_183_188
    assert size(head.bridge) == 2_883_585
    assert size(head.encoder) == 211_072
    assert size(graph.spectral) == size(graph.temporal) == 270_531
    assert size(graph.pool_spectral) == size(graph.pool_temporal) == 1_409
    assert [size(b) - b.stack.numel() for b in graph.branches] == [632_594] * 4
    assert (size(branch.first), size(branch.second)) == (450_760, 180_424)
    assert size(branch.pool_temporal) == size(branch.pool_spectral) == 705
    assert (graph.spectral_positions.numel(), graph.temporal_positions.numel()) == (2_688, 4_288)
    assert branch.stack.numel() == 64
    assert size(head.spectrum) == 2
    assert size(graph.out) == 7_041


def test_buffers_and_the_whole_published_model():
    head = meta(AASIST3Head, 1024, 201)
    saved = sum(tensor.numel() for tensor in head.state_dict().values())
    assert saved - size(head) == 127_544
    mask_embedding = 1024  # of pre-training, in the published file
    assert size(meta(SSLFrontEnd, "wav2vec2_xlsr_300m")) + mask_embedding + saved == 321_749_452


def test_82_kan_layers_of_271_040_edges():
    layers = kan_layers(meta(AASIST3Head, 1024, 201))
    assert len(layers) == 82
    assert sum(layer.in_features * layer.out_features for _, layer in layers) == 271_040


@pytest.mark.parametrize(
    ("grid", "order", "d_ssl", "expected"), [(5, 3, 1024, 2_930_708), (16, 4, 1024, 6_183_188), (8, 2, 768, None)]
)
def test_parameter_formula(grid, order, d_ssl, expected):
    per_edge = grid + order + 2
    formula = 271_040 * per_edge + 82 + 220_226 - (1024 - d_ssl) * 128 * per_edge
    head = meta(AASIST3Head, d_ssl, 201, layer=f"bspline(grid_size={grid}, order={order})")
    assert size(head) == formula
    assert expected in (None, formula)


def test_the_published_model_is_encoder_and_head():
    assert size(meta(aasist3)) == 315_437_696 + 6_183_188


def test_the_mel_form_is_small():
    assert 100_000 < size(meta(aasist3_mel)) < 200_000


# --- shapes --------------------------------------------------------------------------------------------------------


def test_published_shapes():
    net = meta(aasist3, layer="linear")  # shapes are those of any layer; on the meta device this one is fast
    rows, first = [], net.head.graph.branches[0]
    for attention in (first.first.attention, first.second.attention):
        attention.register_forward_hook(lambda _, args, out: rows.append(args[0].shape[1]))
    hidden = net.features(torch.zeros(2, 64600, device="meta"))
    assert hidden.shape == (2, 201, 1024)
    assert net.head.bridge(hidden).shape == (2, 201, 128)
    e = net.head.features(hidden)
    assert e.shape == (2, 64, 42, 67)
    embedding = net.head.graph.embed(e)
    assert embedding.shape == (2, 160)
    assert rows == [67 * 68 // 2, 33 * 34 // 2]  # of 46 + 21 nodes, then of 23 + 10
    assert net.head.graph.out(embedding).shape == (2, 2)


def test_any_length_from_three_frames_on_runs():
    head = small_head(frames=201)
    for frames in (3, 101, 200, 201, 202, 249):  # the published model takes 201 alone
        assert head(features(frames)).isfinite().all()


def test_temporal_positions_are_used_as_they_are_at_their_own_length_and_interpolated_elsewhere():
    head = small_head()
    zero = copy.deepcopy(head)
    with torch.no_grad():
        zero.graph.temporal_positions.zero_()
        head.graph.temporal_positions.fill_(0.5)
    for frames in (31, 20):  # a constant table stays constant
        e = head.features(features(frames))
        assert not torch.allclose(head.graph(e), zero.graph(e))
        table = head.graph.temporal_positions
        with torch.no_grad():
            zero_like = copy.deepcopy(head.graph)
            zero_like.temporal_positions = nn.Parameter(torch.full((1, e.shape[3], table.shape[2]), 0.5, dtype=e.dtype))
        torch.testing.assert_close(head.graph(e), zero_like(e))


def test_too_short_waves_are_refused_in_one_line(small, mel):
    for net, samples, frames in [(small, 1039, 2), (mel, 319, 2)]:
        assert net(wave(samples + 1)).isfinite().all()
        with pytest.raises(KANError, match=rf"^AASIST3 needs at least 3 frames of features, got {frames}: .*$"):
            net(wave(samples))


# --- invariances ---------------------------------------------------------------------------------------------------


def test_a_gain_does_not_matter(small, mel):
    for net in (small, mel):
        torch.testing.assert_close(net(wave()), net(7 * wave()), atol=1e-4, rtol=1e-3)
    loud = aasist3_mel(wave_norm="none").eval()
    loud.load_state_dict(mel.state_dict())
    assert not torch.allclose(loud(wave()), loud(7 * wave()), atol=1e-3)


def test_the_sign_matters_with_a_speech_encoder_and_not_with_power_spectra(small, mel):
    assert (small(wave()) - small(-wave())).abs().max() > 1e-4
    torch.testing.assert_close(mel(wave()), mel(-wave()))


def test_batch_companions_do_not_matter(small, mel):
    for net in (small, mel):
        torch.testing.assert_close(net(wave(batch=3))[1:2], net(wave(batch=3)[1:2]), atol=1e-4, rtol=1e-3)


def test_four_equal_branches_are_one():
    four = small_head()
    for branch in four.graph.branches[1:]:
        branch.load_state_dict(four.graph.branches[0].state_dict())
    one = copy.deepcopy(four)
    one.graph.branches = one.graph.branches[:1]
    assert torch.equal(four(features()), one(features()))


def test_the_order_of_frames_matters_because_of_their_positions():
    head = small_head()
    e = head.features(features())
    assert not torch.allclose(head.graph(e), head.graph(e.flip(3)), atol=1e-6)


def test_without_splines_and_with_slope_one_it_is_the_model_of_linear_maps():
    kan, linear = small_head(), small_head(layer="linear", layer_kwargs={"bias": False})
    state = {name: value for name, value in kan.state_dict().items() if name in linear.state_dict()}
    for name, layer in kan_layers(kan):
        with torch.no_grad():
            layer.weight[:-1] = 0
            layer.slope.fill_(1)
        state[f"{name}.weight"] = layer.weight[-1].T
    linear.load_state_dict(state)
    torch.testing.assert_close(kan(features()), linear(features()))


def all_pairs(module, x, n1=None):
    projected = torch.tanh(module.attention(x[:, :, None] * x[:, None]))
    if n1 is None:
        return (projected @ module.attention_weight).squeeze(3)
    logits = (projected @ module.attention_weight_across).squeeze(3)
    logits[:, :n1, :n1] = (projected[:, :n1, :n1] @ module.attention_weight_first).squeeze(3)
    logits[:, n1:, n1:] = (projected[:, n1:, n1:] @ module.attention_weight_second).squeeze(3)
    return logits


@pytest.mark.parametrize("checkpoint", [False, True])
def test_half_the_pairs_give_the_scores_and_gradients_of_all_pairs(checkpoint):
    results = []
    for full in (False, True):
        head = small_head(checkpoint=checkpoint)
        for module in head.modules():
            if full and hasattr(module, "pair_logits"):
                module.pair_logits = lambda *args, module=module: all_pairs(module, *args)
        x = features().requires_grad_()
        logits = head(x)
        nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
        results.append([logits, x.grad, *(p.grad for p in head.parameters() if p.requires_grad)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-11)


def test_pre_emphasis_comes_before_the_encoder(small):
    x = wave()
    by_hand = torch.cat([x[:, :1], x[:, 1:] - 0.97 * x[:, :-1]], dim=1)
    by_hand = by_hand / (by_hand.abs().amax(dim=1, keepdim=True) + 1e-8)
    torch.testing.assert_close(small.features(x), small.front_end.model(by_hand)[0])


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [aasist3_small, aasist3_mel])
def test_every_parameter_but_the_dead_ones_gets_a_gradient(make):
    torch.manual_seed(0)
    net = make(**SMALL)
    nn.functional.cross_entropy(net(wave(8000)), torch.tensor([0, 1])).backward()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert all("unused_norm" in name for name in frozen)
    assert len(frozen) == (10 if make is aasist3_small else 0)
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_the_mel_form_learns_to_tell_tones_from_noise():
    torch.manual_seed(0)
    net = aasist3_mel(**SMALL)
    time = torch.arange(4000) / 16000
    label = torch.arange(8) % 2
    tones = torch.sin(2 * torch.pi * torch.linspace(300, 2000, 8)[:, None] * time)
    x = torch.where(label[:, None] == 1, tones, wave(4000, batch=8))
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(net(x), label))
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-3:]) / 3 < 0.4 < 0.5 < losses[0]


def test_maps_are_the_published_kan_layers_by_default_and_plain_ones_in_the_twin():
    net = meta(aasist3_small)
    assert {(m.base, m.bias is None, m.scale is None) for m in net.head.modules() if isinstance(m, KANLinear)} == {
        ("prelu", True, False)
    }
    linear = meta(aasist3_small, layer="linear").head
    assert not kan_layers(linear)
    assert all(m.bias is not None for m in linear.modules() if isinstance(m, nn.Linear))


def test_width_finds_the_twin_of_the_mel_form():
    target = count_parameters(meta(aasist3_mel))
    match = match_width(lambda width: meta(aasist3_mel, layer="linear", width=width), target)
    assert count_parameters(meta(aasist3_mel, layer="linear", width=match.width)) == pytest.approx(target, rel=0.02)


def test_copies_are_equal(mel):
    assert torch.equal(copy.deepcopy(mel)(wave()), mel(wave()))


def test_the_mel_form_takes_other_sample_rates():
    assert aasist3_mel(sample_rate=8000).eval()(wave(8000)).isfinite().all()


def test_bad_options_are_refused_in_one_line():
    for name, kwargs, message in [
        ("aasist3_small", {"sample_rate": 8000}, "speech encoders are made for sample_rate=16000, got 8000: resample"),
        ("aasist3_small", {"wave_norm": "rms"}, "wave_norm must be one of none, peak, zscore, got 'rms'"),
        ("aasist3_mel", {"wave_norm": "rms"}, "wave_norm must be one of none, peak, zscore, got 'rms'"),
        ("aasist3_mel", {"hsgal_activation": "gelu"}, "activation must be one of none, selu, got 'gelu'"),
        ("aasist3_mel", {"grid": 3}, "model 'aasist3_mel' refuses its arguments: .*grid"),
    ]:
        with pytest.raises(KANError, match=f"^{message}"):
            create(name, **kwargs)
