"""Log-mel features: numbers, frames of short utterances, other sample rates."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from kan_audio.frontends.log_mel import LogMel
from kan_core.errors import KANError


def sound(*lengths, seed=0):
    """Noise, each utterance zero behind its end."""
    wave = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    length = torch.tensor(lengths)
    return wave * (torch.arange(wave.shape[1]) < length[:, None]), length


def test_four_seconds_are_401_frames_of_64_bands():
    features, frames = LogMel()(torch.zeros(1, 64000))
    assert features.shape == (1, 64, 401)
    assert frames.tolist() == [401]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5000))
def test_frames_are_one_plus_the_hops(length):
    features, frames = LogMel()(torch.zeros(1, length))
    assert features.shape[2] == frames.item() == 1 + length // 160


def test_features_are_torchaudios_log_mel_spectrogram():
    wave, _ = sound(3000)
    mel = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=512, win_length=400, hop_length=160, f_min=20, f_max=7600, n_mels=64, pad_mode="constant"
    )
    torch.testing.assert_close(LogMel(mean_norm=False)(wave)[0], torch.log(mel(wave) + 1e-6))


def test_silence_is_the_logarithm_of_the_floor():
    features, _ = LogMel(mean_norm=False)(torch.zeros(1, 800))
    torch.testing.assert_close(features, torch.full((1, 64, 6), math.log(1e-6)))


def test_mean_is_removed_over_the_frames_of_each_utterance():
    wave, length = sound(8000, 3200)
    features, frames = LogMel()(wave, length)
    assert frames.tolist() == [51, 21]
    for row, count in zip(features, frames, strict=True):
        torch.testing.assert_close(row[:, :count].mean(dim=1), torch.zeros(64), atol=1e-5, rtol=0)
        assert not row[:, count:].any()


@pytest.mark.parametrize("mean_norm", [True, False])
def test_a_padded_utterance_has_the_features_of_the_utterance_alone(mean_norm):
    wave, length = sound(8000, 3333)
    module = LogMel(mean_norm=mean_norm)
    features, frames = module(wave, length)
    alone, _ = module(wave[1:, :3333])
    torch.testing.assert_close(features[1:, :, : frames[1]], alone)


def test_mean_removal_takes_a_gain_away():
    wave, _ = sound(8000)
    torch.testing.assert_close(LogMel()(wave)[0], LogMel()(3 * wave)[0], atol=1e-3, rtol=0)
    louder = LogMel(mean_norm=False)(3 * wave)[0] - LogMel(mean_norm=False)(wave)[0]
    torch.testing.assert_close(louder, torch.full_like(louder, 2 * math.log(3)), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("rate", "window", "hop", "n_fft"), [(8000, 200, 80, 256), (44100, 1102, 441, 2048)])
def test_another_sample_rate_keeps_the_seconds(rate, window, hop, n_fft):
    module = LogMel(rate)
    assert (len(module.window), module.hop, module.n_fft) == (window, hop, n_fft)
    assert module(torch.zeros(1, rate))[0].shape == (1, 64, 101)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_tone_is_loudest_in_the_band_around_it(rate):
    top, low = (2595 * math.log10(1 + f / 700) for f in (7600 * rate / 16000, 20))
    centre = 700 * (10 ** ((low + 31 * (top - low) / 65) / 2595) - 1)  # of the band with index 30
    tone = torch.sin(2 * math.pi * centre / rate * torch.arange(rate))
    features, _ = LogMel(rate, mean_norm=False)(tone[None])
    assert features[0, :, 50].argmax() == 30


def test_too_many_bands_are_refused():
    with pytest.raises(KANError, match=r"^\d+ of 200 mel filters are empty at sample_rate=16000: lower n_mels"):
        LogMel(n_mels=200)
    with pytest.raises(KANError, match="n_mels of at least 1"):
        LogMel(n_mels=0)


def test_nothing_is_saved_and_counting_works_without_memory():
    assert not LogMel().state_dict()
    with torch.device("meta"):
        assert LogMel()(torch.zeros(2, 1600))[0].shape == (2, 64, 11)


def test_autocast_leaves_the_features_in_float32():
    wave, _ = sound(4000)
    expected, _ = LogMel()(wave)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, _ = LogMel()(wave)
    torch.testing.assert_close(features, expected)
