"""The bundled speech: repeatable, varied as speech is, and with the resonances that its sounds ask for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kan_audio.data import vocoder
from kan_audio.data.synthetic import WORDS, _vocal_tracts, synthetic_speech
from kan_core.errors import KANError

RATE = 16_000


@pytest.fixture(scope="module")
def speech():
    return synthetic_speech(6, 10, 2)


def test_every_speaker_says_every_word_in_every_take(speech):
    assert len(speech) == len({u.id for u in speech}) == 6 * 10 * 2
    assert len(WORDS) == 10
    assert [u.id for u in speech[:3]] == ["speaker00_sira_0", "speaker00_sira_1", "speaker00_tomu_0"]
    for number, utterance in enumerate(speech):
        assert utterance.labels == {"word": WORDS[number // 2 % 10]}
        assert utterance.speaker == f"speaker{number // 20:02d}"
        assert utterance.sample_rate == RATE


def test_samples_are_finite_and_neither_length_nor_level_says_the_class(speech):
    for utterance in speech:
        assert utterance.source.dtype == torch.float32
        assert torch.isfinite(utterance.source).all()
        assert 0.299 < utterance.source.abs().max() < 0.901
        assert 0.4 <= len(utterance.source) / RATE <= 1.1


def test_a_recording_does_not_depend_on_what_else_is_asked_for(speech):
    known = {u.id: u.source for u in speech}
    for utterance in synthetic_speech(2, 3, 1):
        assert torch.equal(utterance.source, known[utterance.id])
    assert all(not torch.equal(u.source, known[u.id]) for u in synthetic_speech(1, 2, 1, seed=1))


def test_takes_differ_and_speakers_have_their_own_pitch(speech):
    assert not torch.equal(speech[0].source, speech[1].source)
    pitches = {}
    for utterance in speech:
        f0 = vocoder.pitch(utterance.source.double().numpy(), RATE, 160)
        assert (f0 > 0).mean() > 0.2  # voiced, at least in the vowels
        pitches.setdefault(utterance.speaker, []).append(np.median(f0[f0 > 0]))
    between = np.std([np.mean(p) for p in pitches.values()])
    within = np.mean([np.std(p) for p in pitches.values()])
    assert between > 2 * within


def test_resonators_stand_where_the_formants_are():
    formants = np.tile([700.0, 1200.0, 2500.0], (200, 1))
    source = np.zeros(200 * 80)
    source[0] = 1
    response = np.abs(np.fft.rfft(_vocal_tracts([source], [formants], RATE)[0]))
    peaks = np.flatnonzero((response[1:-1] > response[:-2]) & (response[1:-1] > response[2:])) + 1
    np.testing.assert_allclose(peaks, [700, 1200, 2500, 3500, 4500], rtol=0.02)
    assert response[0] == pytest.approx(1, rel=1e-3)  # A = 1 - B - C


def test_resonators_follow_the_difference_equation_without_delay():
    random = np.random.default_rng(0)
    sources = [random.standard_normal(400), random.standard_normal(240)]
    formants = [np.array([500, 1500, 2500]) * random.normal(1, 0.03, (steps, 3)) for steps in (5, 3)]
    together = _vocal_tracts(sources, formants, RATE)
    for source, track, wave in zip(sources, formants, together, strict=True):
        upper = np.broadcast_to(track[:, 2].mean() * np.array([1.4, 1.8]), (len(track), 2))
        for f in np.concatenate([track, upper], axis=1).T:
            step, out = f.repeat(80), np.zeros(len(source) + 2)
            for t, x in enumerate(source):
                b50 = 50 + 0.04 * step[t]
                c = -np.exp(-2 * np.pi * b50 / RATE)
                b = 2 * np.exp(-np.pi * b50 / RATE) * np.cos(2 * np.pi * step[t] / RATE)
                out[t] = (1 - b - c) * x + b * out[t - 1] + c * out[t - 2]
            source = out[:-2]
        # each resonator changes its coefficients up to 4 samples late, at the borders of the steps
        assert np.abs(wave[:70] - source[:70]).max() < 1e-9
        assert np.corrcoef(wave, source)[0, 1] > 0.99


def test_words_differ_more_than_takes(speech):
    def bands(wave):
        spectrum = torch.stft(wave, 512, 160, window=torch.hann_window(512), return_complex=True).abs()
        levels = torch.nn.functional.adaptive_avg_pool2d((spectrum + 1e-3).log()[None], (20, 8)).flatten()
        return levels - levels.mean()

    one = [u for u in speech if u.speaker == "speaker00"]
    first, second = (torch.stack([bands(u.source) for u in one[take::2]]) for take in (0, 1))
    assert (torch.cdist(first, second).argmin(1) == torch.arange(10)).float().mean() >= 0.9


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 48_000])
def test_any_rate_works(rate):
    for utterance in synthetic_speech(2, 10, 1, rate):
        assert torch.isfinite(utterance.source).all()
        assert 0.4 <= len(utterance.source) / rate <= 1.1


@pytest.mark.parametrize(
    ("option", "value"), [("num_speakers", 0), ("words", 11), ("takes", 0), ("sample_rate", 4000), ("seed", -1)]
)
def test_numbers_out_of_range_are_named(option, value):
    with pytest.raises(KANError, match=f"{option} of synthetic speech must be .*, got {value}"):
        synthetic_speech(**{option: value})
