"""The networks of speech understanding: shapes, padding invariance, augmentation in training only."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kan_audio import models
from kan_audio.layers.masked import DynamicRange, MaskedBatchNorm2d, MaskedConvBlock, TrimQuiet
from kan_audio.layers.spec_augment import MelWarp, SpecAugment
from kan_audio.models.slu_cnn import SLUCNN
from kan_core.compare import count_parameters
from kan_core.errors import KANError

SMALL = {"channels": (4, 8), "hidden": (16, 8), "n_mels": 16}


TRIMMED = {"trim": 40.0, "dynamic_range": 30.0}


def small(**options):
    return SLUCNN([3, 2], **{**SMALL, **options})


def test_the_reference_has_the_cards_embedding_and_head():
    with torch.device("meta"):
        net = models.create("slu_cnn", num_classes=[6, 14, 4, 7]).eval()
        assert net.embed(torch.zeros(2, 64_000)).shape == (2, 512)
        assert net(torch.zeros(2, 64_000)).shape == (2, 31)
    assert count_parameters(net.head) == 463_519
    assert [tuple(block.conv.weight.shape) for block in net.blocks] == [
        (32, 1, 3, 3),
        (64, 32, 3, 3),
        (128, 64, 3, 3),
        (256, 128, 3, 3),
    ]


@pytest.mark.parametrize("name", ["slu_cnn", "slu_cnn_small"])
@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_networks_take_either_rate_and_any_length(name, sample_rate):
    net = models.create(name, num_classes=[10], sample_rate=sample_rate).eval()
    for samples in (400, 1131, sample_rate // 2):
        assert net(torch.randn(1, samples)).isfinite().all()


@pytest.mark.parametrize(
    "options", [{}, {"dynamic_range": 30.0}, {"frame_step": 2}, {"frame_step": 3, "dynamic_range": 40.0}, TRIMMED]
)
def test_padding_changes_nothing_when_lengths_are_given(options):
    net = _trained_a_little(small(**options)).eval()
    for samples in (1600, 3111, 4000, 4159, 4160):
        wave = torch.randn(1, samples)
        alone = net(wave)
        for more in (1, 159, 160, 3000):
            padded = torch.cat([wave, torch.zeros(1, more)], dim=1)
            torch.testing.assert_close(net(padded, torch.tensor([samples])), alone, rtol=0, atol=2e-5)
        if options is not TRIMMED:  # zeros are quiet: a network that trims cuts them even so
            assert (net(torch.cat([wave, torch.zeros(1, 3000)], dim=1)) - alone).abs().max() > 1e-3


def _trained_a_little(net):
    """With running statistics and gains that are not those of a fresh network."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return net


def test_padding_changes_no_training_statistics_either():
    wave, length = torch.randn(4, 4000), torch.tensor([4000, 3000, 2000, 1000])
    wave *= torch.arange(4000) < length[:, None]
    found = []
    for more in (0, 2500):
        torch.manual_seed(0)
        net = small(dropout=0.0)
        logits = net(torch.nn.functional.pad(wave, (0, more)), length)
        found.append((logits, *(b.norm.running_var for b in net.blocks)))
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-4)


def test_masked_batch_norm_is_batch_norm_of_the_valid_frames():
    norm, plain = MaskedBatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 5)
    valid = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    expected = plain(torch.cat([x[:1], x[1:, :, :, :2].repeat(1, 1, 1, 1)], dim=3)[0:1])  # one row of 7 frames
    out = norm(x, valid)
    torch.testing.assert_close(torch.cat([out[:1], out[1:, :, :, :2]], dim=3), expected)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    assert not out[1, :, :, 2:].any()
    torch.testing.assert_close(norm.eval()(x, valid), plain.eval()(x))


def test_a_block_keeps_half_of_the_frames_rounded_up():
    block = MaskedConvBlock(1, 2)
    out, frames = block(torch.randn(3, 1, 7, 9), torch.tensor([9, 4, 1]))
    assert out.shape == (3, 2, 4, 5)
    assert frames.tolist() == [5, 2, 1]
    assert not out[1, :, :, 2:].any()
    assert out[2, :, :, :1].any()


def test_every_parameter_gets_a_gradient_and_the_net_can_be_copied():
    net = copy.deepcopy(small(spec_augment={}, mel_warp=0.1))
    net(torch.randn(4, 4000), torch.tensor([4000, 3000, 2000, 500])).square().sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


def test_argmax_of_a_slot_does_not_depend_on_the_other_slots_logits():
    net = small().eval()
    wave = torch.randn(5, 3000)
    before = net(wave)
    last = net.head.groups[-1]
    with torch.no_grad():
        last.weight[3:] += 5
    after = net(wave)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_the_level_changes_nothing_with_a_dynamic_range():
    wave = torch.randn(2, 8000) * torch.linspace(0.01, 1, 8000)
    net = small(dynamic_range=30.0).eval()
    torch.testing.assert_close(net.embed(wave), net.embed(0.05 * wave), rtol=1e-2, atol=1e-2)


def test_dynamic_range_raises_what_is_far_below_the_loudest_and_takes_the_mean_of_what_is_heard():
    power = torch.tensor([[[1.0, 10.0, 0.02, 999.0], [5.0, 2.0, 0.5, 7.0]]])
    out = DynamicRange(10.0)(power.log(), torch.tensor([3]))
    # the loudest of the first three frames is 10, the floor is 1; the third frame is below it
    log = torch.log
    first, second = log(torch.tensor([1.0, 10.0, 1.0])), log(torch.tensor([5.0, 2.0, 1.0]))
    torch.testing.assert_close(out[0, :, :3], torch.stack([first - first[:2].mean(), second - second[:2].mean()]))
    assert out[0, :, 3].tolist() == [0, 0]


def test_quiet_ends_are_trimmed_and_pauses_stay():
    loud, quiet = 0.0, -7.0  # 30 dB below
    x = torch.full((3, 2, 6), quiet)
    x[0, 1, [1, 3]] = loud
    x[1, 0, 5] = loud
    frames = torch.tensor([6, 5, 4])  # the second one's loud frame is behind its end
    out, kept = TrimQuiet(20.0)(x, frames)
    assert kept.tolist() == [3, 5, 4]
    assert out[0, 1].tolist() == [loud, quiet, loud, 0, 0, 0]
    assert out[1, 0].tolist() == [quiet] * 5 + [0]
    # what is cut changes nothing
    torch.testing.assert_close(TrimQuiet(20.0)(x[:1, :, 1:], torch.tensor([5]))[0][:, :, :3], out[:1, :, :3])


@torch.no_grad()
def test_silence_around_speech_changes_the_small_network_far_less_than_one_that_keeps_it():
    speech = torch.randn(1, 4000)
    around = torch.cat([torch.zeros(1, 1600), speech, torch.zeros(1, 800)], dim=1)  # whole frames
    change = []
    for options in ({}, {"trim": None, "dynamic_range": None}):
        torch.manual_seed(0)
        net = models.create("slu_cnn_small", num_classes=[10], sample_rate=8000, **options).eval()
        change.append(float((net.embed(around) - net.embed(speech)).abs().max()))
    assert change[0] < 0.1 * change[1]


def test_augmentation_is_for_training_and_from_the_global_generator():
    net = small(spec_augment={"bands": 2, "stretches": 2}, mel_warp=0.2, dropout=0.0)
    plain = small(dropout=0.0)
    plain.load_state_dict(net.state_dict())
    wave = torch.randn(4, 8000)
    assert torch.equal(net.eval()(wave), plain.eval()(wave))
    net.train()
    torch.manual_seed(1)
    first = net(wave)
    torch.manual_seed(1)
    assert torch.equal(net(wave), first)
    assert not torch.equal(net(wave), first)


def test_spec_augment_masks_whole_bands_and_stretches_up_to_its_shares():
    x = torch.ones(200, 40, 50)
    frames = torch.full((200,), 30)
    out = SpecAugment(bands=1, band_share=0.25, stretches=1, stretch_share=0.5)(x, frames)
    bands = (out == 0).all(dim=2).sum(dim=1)
    steps = (out == 0).all(dim=1).sum(dim=1)
    assert 0 <= bands.min() < bands.max() <= 10
    assert 0 <= steps.min() < steps.max() <= 15
    assert bool((out[:, :, 30:] == 0).all(dim=1).sum() == 0)  # positions are within the utterance
    kept = (out != 0).any(dim=2)[:, :, None] & (out != 0).any(dim=1)[:, None]
    assert torch.equal(out != 0, kept)


def test_mel_warp_stretches_the_bands_of_each_utterance():
    x = torch.arange(20.0)[None, :, None].expand(500, 20, 3)
    out = MelWarp(0.1)(x)
    factors = out[:, 10, 0] / 10
    assert 0.9 <= factors.min() < 0.92
    assert 1.08 < factors.max() <= 1.1
    torch.testing.assert_close(out[:, :15, 1], factors[:, None] * torch.arange(15.0))
    assert torch.equal(MelWarp(0.1).eval()(x), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec_augment": {"band_share": 2}}, "band_share=2"),
        ({"mel_warp": 0.9}, "mel_warp must lie in"),
        ({"frame_step": 0}, "frame_step must be at least 1"),
        ({"dynamic_range": -3.0}, "dynamic_range must be positive"),
        ({"trim": 0.0}, "trim must be positive"),
        ({"dynamic_range": None}, "trim needs a dynamic_range as well"),
        ({"colour": 1}, "'slu_cnn_small' refuses its arguments"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(KANError, match=message):
        models.create("slu_cnn_small", num_classes=[2], **options)


@pytest.mark.parametrize("ssl_layers", ["last", "weighted"])
def test_ssl_network_is_invariant_to_padding_and_every_parameter_learns(ssl_layers):
    net = models.create("slu_ssl", num_classes=[3, 2], projection=16, hidden=(12, 8), ssl_layers=ssl_layers).eval()
    wave = torch.randn(1, 4000)
    padded = torch.cat([wave, torch.zeros(1, 3000)], dim=1)
    torch.testing.assert_close(net(padded, torch.tensor([4000])), net(wave), rtol=0, atol=1e-4)
    assert (net(padded) - net(wave)).abs().max() > 1e-4
    net.train()(torch.randn(3, 4000), torch.tensor([4000, 3000, 400])).square().sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    unused_mask = [name for name in missing if not name.endswith("mask_embedding")]
    assert unused_mask == []


@pytest.mark.parametrize(("freeze", "trains"), [("all", False), ("extractor", True)])
def test_freezing_leaves_the_head_to_train(freeze, trains):
    net = models.create("slu_ssl", num_classes=[3], freeze=freeze)
    assert all(p.requires_grad for p in net.head.parameters())
    assert all(p.requires_grad for p in net.projection.parameters())
    assert any(p.requires_grad for p in net.features.model.encoder.parameters()) is trains
    assert not any(p.requires_grad for p in net.features.model.feature_extractor.parameters())


def test_ssl_takes_16_khz_only():
    with pytest.raises(KANError, match="sample_rate is 8000, but speech encoders take 16000"):
        models.create("slu_ssl", num_classes=[3], sample_rate=8000)
