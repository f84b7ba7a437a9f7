"""Augmentations: their equations, their guards, and that all of them are safe on every recording."""

from __future__ import annotations

import pytest
import torch

from kan_audio import augment
from kan_audio.augment.rawboost import notch_filters
from kan_audio.data.audio import write_audio
from kan_audio.data.codecs import CODECS, round_trip
from kan_core.errors import KANError

RATE = 8000
SPECS = [
    *(f"rawboost(algo={algo})" for algo in range(1, 9)),
    "noise",
    "noise(colour=(0, 0))",
    "reverb",
    "bandlimit(p=1)",
    "gain",
    "polarity(p=1)",
    "speed",
    "mulaw(p=1)",
    "requantise(p=1)",
    "codec(p=1)",
]


def speech(n=4000):
    time = torch.arange(n) / RATE
    return 0.3 * torch.sin(2 * torch.pi * 150 * time) * (
        1 + torch.sin(2 * torch.pi * 3 * time)
    ) / 2 + 0.01 * torch.randn(n)


def applied(spec, wave, seed=0, rate=RATE):
    torch.manual_seed(seed)
    return augment.get([spec])(wave, rate)


def snr(wave, changed):
    return 20 * torch.log10(wave.norm() / (changed - wave).norm()).item()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "wave",
    [
        torch.tensor([0.5]),
        torch.tensor([0.0, -1.0]),
        speech(50),
        torch.zeros(400),
        torch.ones(400).mul(0.999),
        speech() * 3,
    ],
    ids=["1 sample", "2 samples", "shorter than the filters", "silent", "constant", "too loud"],
)
def test_every_augmentation_is_finite_and_keeps_length_and_input(spec, wave):
    before = wave.clone()
    for seed in range(3):
        changed = applied(spec, wave, seed)
        assert torch.isfinite(changed).all()
        assert changed.dtype == torch.float32
        if spec != "speed":
            assert changed.shape == wave.shape
        if not wave.any():
            assert not changed.any()
    assert torch.equal(wave, before)


@pytest.mark.parametrize("spec", SPECS)
def test_every_augmentation_repeats_from_the_global_generator(spec):
    wave = speech()
    assert torch.equal(applied(spec, wave, 5), applied(spec, wave, 5))


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s not in ("polarity(p=1)", "mulaw(p=1)", "requantise(p=1)", "bandlimit(p=1)")]
)
def test_every_random_augmentation_differs_by_seed(spec):
    wave = speech()
    assert len({tuple(applied(spec, wave, seed)[:100].tolist()) for seed in range(8)}) > 1


def test_the_probability_is_that_of_being_changed():
    chain, wave = augment.get(["polarity(p=0.25)"]), torch.ones(1)
    changed = sum(chain(wave, RATE).item() < 0 for _ in range(2000)) / 2000
    assert changed == pytest.approx(0.25, abs=0.03)
    assert augment.get(["noise(p=0)"])(wave, RATE) is wave
    assert augment.get([])(wave, RATE) is wave


# RawBoost


@pytest.mark.parametrize("algo", range(1, 9))
def test_rawboost_without_strength_leaves_the_signal_unchanged(algo):
    wave = speech()
    wave -= wave.mean()  # LnL removes the mean
    still = applied(f"rawboost(algo={algo}, powers=1, notches=0, impulses=0, snr=(1e9, 1e9))", wave)
    expected = 2 * wave if algo == 8 else wave
    assert expected.abs().max() < 1
    assert (still - expected).abs().max() < 1e-6


def test_flat_convolutive_noise_is_the_polynomial():
    wave = speech()
    changed = applied("rawboost(algo=1, powers=3, notches=0, gain=(-6, -6))", wave)
    gain = 10 ** (-6 / 20)
    expected = wave + gain * (wave**2 + wave**3)
    assert (changed - (expected - expected.mean())).abs().max() < 1e-6


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_notch_filters_have_zero_phase_and_peak_gain_one(rate):
    taps = notch_filters(20, 5, rate)
    spectrum = torch.fft.rfft(taps)
    assert spectrum.imag.abs().max() < 1e-5
    assert torch.allclose(spectrum.abs().amax(-1), torch.ones(20), atol=1e-5)
    assert (taps[:, 251:262].abs() < 1e-6).all()  # 5 filters of at most 101 taps: 250 on each side
    assert spectrum.real.min(dim=-1).values.lt(0.9).all()  # every filter takes something away


def test_impulsive_noise_touches_at_most_its_share_of_the_samples():
    wave = speech()
    for seed in range(5):
        changed = applied("rawboost(algo=2)", wave, seed)
        touched = changed != wave
        assert 0 <= touched.sum() <= 0.1 * len(wave)
        assert ((changed - wave).abs() <= 2 * wave.abs() + 1e-7).all()


def test_stationary_noise_has_its_ratio():
    wave = speech()
    assert snr(wave, applied("rawboost(algo=3, snr=(17, 17))", wave)) == pytest.approx(17, abs=1e-3)


def test_rawboost_scales_only_what_exceeds_one():
    loud = torch.full((4000,), 0.9) * torch.randn(4000).sign()
    for algo in (1, 2, 5, 8):
        for seed in range(5):
            assert applied(f"rawboost(algo={algo})", loud, seed).abs().max() <= 1 + 1e-6
    quiet = 0.01 * speech()
    assert snr(quiet, applied("rawboost(algo=2)", quiet)) > 0  # not brought up to full scale


# noise and rooms


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_noise_has_its_ratio_and_colour(colour):
    wave = speech(32000)
    changed = applied(f"noise(snr=(5, 5), colour=({colour}, {colour}))", wave)
    assert snr(wave, changed) == pytest.approx(5, abs=1e-3)
    power = torch.fft.rfft(changed - wave).abs() ** 2
    octaves = torch.stack([power[1000:2000].mean(), power[8000:16000].mean()]).log2()  # 3 octaves apart
    assert (octaves[0] - octaves[1]).item() == pytest.approx(3 * colour, abs=0.3)


def test_background_is_a_random_part_of_the_files_of_a_folder(tmp_path):
    write_audio(tmp_path / "a" / "long.wav", 0.3 * torch.randn(3 * RATE), 2 * RATE)
    write_audio(tmp_path / "b.flac", 0.001 * torch.randn(500), RATE)
    wave = speech()
    for voices in ((1, 1), (3, 7)):
        spec = f"background(folder={str(tmp_path)!r}, voices={voices}, snr=(3, 3))"
        noises = [applied(spec, wave, seed) - wave for seed in range(6)]
        assert all(snr(wave, wave + noise) == pytest.approx(3, abs=1e-3) for noise in noises)
        assert len({noise[0].item() for noise in noises}) > 1
    with pytest.raises(KANError, match=r"nowhere holds no audio files"):
        augment.get([f"background(folder={str(tmp_path / 'nowhere')!r})"])


def test_reverberation_keeps_origin_and_energy():
    click = torch.zeros(4000)
    click[100] = 0.5
    echoed = applied("reverb(drr=(3, 3))", click)
    assert echoed.abs().argmax() == 100
    assert not echoed[:100].abs().gt(1e-5).any()
    assert echoed.norm().item() == pytest.approx(0.5, rel=1e-5)
    assert (20 * torch.log10(echoed[100] / echoed[101:].norm())).item() == pytest.approx(3, abs=0.05)
    assert (applied("reverb(drr=(1e9, 1e9))", click) - click).abs().max() < 1e-6


def test_recorded_impulse_responses_start_at_their_direct_path(tmp_path):
    response = torch.zeros(300)
    response[40], response[240] = 0.8, 0.4
    write_audio(tmp_path / "room.wav", response, RATE)
    click = torch.zeros(1000)
    click[10] = 0.5
    echoed = applied(f"reverb(folder={str(tmp_path)!r})", click)
    assert echoed.nonzero().numel()
    assert (echoed.abs() > 1e-3).nonzero().flatten().tolist() == [10, 210]
    assert (echoed[210] / echoed[10]).item() == pytest.approx(0.5, abs=1e-3)
    assert echoed.norm().item() == pytest.approx(0.5, rel=1e-5)


# codecs


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_codecs_keep_length_place_and_sound(codec, rate):
    n = 4301
    time = torch.arange(n) / rate
    wave = 0.4 * torch.sin(2 * torch.pi * (200 + 500 * time) * time)
    decoded = round_trip(wave, rate, codec)
    assert decoded.shape == wave.shape
    lags = torch.fft.irfft(torch.fft.rfft(decoded, 2 * n) * torch.fft.rfft(wave, 2 * n).conj())
    assert lags.argmax() in (0, 1, len(lags) - 1)
    assert torch.corrcoef(torch.stack([wave, decoded]))[0, 1] > 0.9
    assert not torch.equal(wave, decoded)


def test_band_limit_keeps_the_band_and_removes_the_rest():
    time = torch.arange(RATE) / RATE
    for frequency, kept in ((50, 0), (150, 0), (300, 1), (1000, 1), (3400, 1), (3600, 0)):
        tone = 0.5 * torch.sin(2 * torch.pi * frequency * time)
        limited = applied("bandlimit(p=1)", tone)
        assert (limited - kept * tone)[800:-800].abs().max() < 0.01


def test_companding_and_rounding_have_their_steps():
    wave = torch.linspace(-1, 1, 20001)
    assert len(applied("mulaw(p=1, bits=8)", wave).unique()) == 256
    assert len(applied("requantise(p=1, bits=4)", wave).unique()) == 16
    assert (applied("requantise(p=1, bits=8)", wave) - wave)[:-80].abs().max() <= 1 / 256 + 1e-6


# level and speed


def test_gain_is_in_decibels():
    wave = speech()
    assert torch.allclose(applied("gain(db=(20, 20))", wave), 10 * wave, rtol=1e-5)


@pytest.mark.parametrize(("factor", "length"), [(0.9, 4445), (1.0, 4000), (1.1, 3637)])
def test_speed_changes_length_and_pitch_together(factor, length):
    wave = torch.sin(2 * torch.pi * 400 * torch.arange(4000) / RATE)
    changed = applied(f"speed(factors=({factor},))", wave)
    assert len(changed) == length
    peak = torch.fft.rfft(changed, n=80_000).abs().argmax().item() / 10
    assert peak == pytest.approx(400 * factor, abs=1)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("rawbost", "unknown augmentation 'rawbost': choose one of background"),
        ("rawboost(algo=9)", "algo must be 1 to 8, got 9"),
        ("rawboost(notches=6)", "notches of 0 to 5"),
        ("noise(snr=5)", r"snr must be \(low, high\), got 5"),
        ("noise(snr=(5, 0))", r"snr must be \(low, high\), got \(5, 0\)"),
        ("noise(level=3)", "unexpected keyword argument 'level'"),
        ("noise(p=2)", "p must be a probability"),
        ("reverb(rt60=(0, 1))", "rt60 must be .* from 0.01 on"),
        ("codec(codecs=('aac',))", "codecs must be a list of some of vorbis"),
        ("speed(factors=(3,))", "factors must be"),
        ("mulaw(bits=1)", "bits must be"),
    ],
)
def test_specs_that_cannot_be_are_refused_in_one_line(spec, match):
    with pytest.raises(KANError, match=match) as caught:
        augment.get([spec])
    assert "\n" not in str(caught.value)
