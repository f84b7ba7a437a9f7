"""The attacks on every kind of recording, the chain that bona fide copies share, and made sets without shortcuts."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import lfilter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kan_audio.data import vocoder
from kan_audio.data.attacks import ATTACKS, PEAK, copy_chain, make_spoof_set, resynthesise
from kan_audio.data.audio import read_audio, resample
from kan_audio.data.synthetic import synthetic_speech
from kan_audio.data.utterances import Utterance
from kan_core.errors import KANError

RATE = 8000


@pytest.fixture(scope="module")
def speech():
    return synthetic_speech(4, 8, 1, RATE, seed=1)


@pytest.fixture(scope="module")
def made(speech, tmp_path_factory):
    """A set on disk, as rows of the protocol and the samples they name."""
    out = make_spoof_set(speech, tmp_path_factory.mktemp("made") / "set", sample_rate=RATE, per_utterance=4)
    rows = [line.split() for line in (out / "protocol.txt").read_text().splitlines()]
    return out, rows, {row[1]: read_audio(out / "flac" / f"{row[1]}.flac") for row in rows}


def test_there_are_at_least_eight_attacks_and_none_is_unknown(speech):
    assert list(ATTACKS) == [f"A{n:02d}" for n in range(1, 11)]
    with pytest.raises(KANError, match=r"unknown attack 'A11': choose some of A01, A02"):
        resynthesise(speech[0].source, RATE, "A11", 0)


@pytest.mark.parametrize("attack_id", ATTACKS)
def test_attacks_are_safe_on_every_recording(attack_id):
    square = torch.randn(1500).sign()
    for wave in (torch.tensor([0.5]), torch.zeros(400), torch.randn(7), 0.1 * torch.randn(1120), square):
        spoof = ATTACKS[attack_id](wave, RATE, 0)
        assert spoof.shape == wave.shape
        assert spoof.dtype == torch.float32
        assert torch.isfinite(spoof).all()
        assert spoof.any() == wave.any()
        assert torch.isfinite(resynthesise(wave, RATE, attack_id, 0)).all()


@pytest.mark.parametrize("attack_id", ATTACKS)
def test_attacks_depend_on_wave_and_seed_only(attack_id, speech):
    wave = speech[0].source
    before = wave.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = ATTACKS[attack_id](wave, RATE, 7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(ATTACKS[attack_id](wave, RATE, 7), first)
    assert torch.equal(wave, before)


@pytest.mark.parametrize("attack_id", ATTACKS)
def test_attacks_keep_what_is_said_at_its_energy_and_change_the_signal(attack_id, speech):
    wave = speech[0].source
    spoof = ATTACKS[attack_id](wave, RATE, 0)
    assert spoof.norm().item() == pytest.approx(wave.norm().item(), rel=1e-4)
    envelopes = [torch.nn.functional.avg_pool1d(w[None].square(), 160)[0].sqrt() for w in (wave, spoof)]
    assert torch.corrcoef(torch.stack(envelopes))[0, 1] > 0.8
    assert (spoof - wave).norm() > 0.01 * wave.norm()


@pytest.mark.parametrize("attack_id", ["A01", "A02", "A03", "A04", "A05", "A06", "A08", "A10"])
def test_vocoders_lose_the_phase(attack_id, speech):
    wave = speech[0].source
    assert torch.corrcoef(torch.stack([wave, ATTACKS[attack_id](wave, RATE, 0)]))[0, 1].abs() < 0.9


# the parts of the vocoders


def test_frames_overlap_added_are_the_recording():
    wave = np.random.default_rng(0).standard_normal(1000)
    for size, hop in ((256, 64), (100, 25), (64, 32)):
        pieces = vocoder.frames(wave, size, hop)
        np.testing.assert_allclose(vocoder.overlap_add(pieces, hop, 1000), wave, atol=1e-9)


@pytest.mark.parametrize("f0", [75, 120, 210, 380])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_pitch_of_a_pulse_train_is_found_and_noise_has_none(f0, rate):
    pulses = (np.diff(np.floor(np.arange(rate) * f0 / rate), prepend=0) > 0).astype(float)
    buzz = lfilter([1], [1, -0.9], pulses)
    inside = vocoder.pitch(buzz, rate, rate // 100)[10:-10]
    assert np.median(inside) == pytest.approx(f0, rel=0.03)
    noise = vocoder.pitch(np.random.default_rng(0).standard_normal(rate), rate, rate // 100)
    assert (noise > 0).mean() < 0.1


def test_linear_prediction_finds_the_filter_of_filtered_noise():
    filtered = lfilter([1], [1, -1.2, 0.8], np.random.default_rng(0).standard_normal(20_000))
    coefficients, residual = vocoder.linear_prediction(filtered[None], 2)
    np.testing.assert_allclose(coefficients[0], [1, -1.2, 0.8], atol=0.02)
    assert residual[0] == pytest.approx(20_000, rel=0.03)


def test_the_smooth_envelope_keeps_the_energy_and_has_minimum_phase():
    noise = vocoder.frames(np.random.default_rng(0).standard_normal(8000), 320, 80)[5:-5]
    envelope = vocoder.smooth_envelope(noise, RATE)
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert (np.abs(envelope) ** 2).mean() == pytest.approx(power.mean(), rel=0.02)
    impulse = np.fft.irfft(envelope)
    assert (impulse[:, :160] ** 2).sum() > 0.99 * (impulse**2).sum()


# the chain that all recordings share


def test_the_chain_sets_the_peak_and_keeps_length_and_silence():
    for wave in (torch.tensor([0.3]), torch.randn(999), 0.01 * torch.randn(4000), torch.ones(3000) * 0.9):
        copied = copy_chain(wave, RATE)
        assert copied.shape == wave.shape
        assert copied.dtype == torch.float32
        assert copied.abs().max().item() == pytest.approx(PEAK, abs=1e-4)
    assert torch.equal(copy_chain(torch.zeros(100), RATE), torch.zeros(100))


@pytest.mark.parametrize("rate", [8000, 16000])
def test_the_chain_empties_both_ends_of_the_spectrum_and_keeps_the_rest(rate):
    wave = 0.1 * torch.randn(2 * rate)
    before, after = torch.fft.rfft(wave), torch.fft.rfft(copy_chain(wave, rate))
    frequency = torch.fft.rfftfreq(2 * rate, 1 / rate)

    def level(low, high):
        inside = (frequency >= low) & (frequency < high)
        return (after[inside].norm() / before[inside].norm()).item()

    speech = level(200, 0.44 * rate)
    assert level(0, 20) < 0.02 * speech
    assert level(0.47 * rate, 0.5 * rate) < 0.01 * speech
    assert level(200, 1000) == pytest.approx(level(1000, 0.43 * rate), rel=0.02)


# made sets


def test_a_made_set_has_the_columns_of_asvspoof_2019_and_its_files(made, speech):
    out, rows, waves = made
    assert len(rows) == len(waves) == 5 * len(speech)
    assert sorted(path.stem for path in (out / "flac").iterdir()) == sorted(waves)
    for speaker, name, blank, attack, key in rows:
        assert speaker.startswith("speaker")
        assert blank == "-"
        assert (key, name.rpartition("-")[2]) == (("bonafide", name) if attack == "-" else ("spoof", attack))
    counts = [sum(row[3] == attack for row in rows) for attack in ATTACKS]
    assert max(counts) - min(counts) <= 1
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_bona_fide_and_spoof_share_container_length_and_peak(made):
    out, rows, waves = made
    infos = {soundfile.info(out / "flac" / f"{name}.flac") for name in waves}
    assert {(info.format, info.subtype, info.samplerate, info.channels) for info in infos} == {
        ("FLAC", "PCM_16", RATE, 1)
    }
    for _, name, _, attack, _ in rows:
        assert waves[name].abs().max().item() == pytest.approx(PEAK, abs=1e-3)
        if attack != "-":
            assert len(waves[name]) == len(waves[name.removesuffix(f"-{attack}")])


def silences(wave, threshold):
    """Leading, trailing and all 10 ms frames that lie below the share `threshold` of the peak."""
    loud = wave[: len(wave) // 80 * 80].view(-1, 80).square().mean(1).sqrt() > threshold * wave.abs().max()
    first, *_, last = loud.nonzero().flatten().tolist()
    return first, len(loud) - last, int((~loud).sum())


CUES = {
    "duration": len,
    "leading silence": lambda wave: silences(wave, 0.03)[0],
    "trailing silence": lambda wave: silences(wave, 0.03)[1],
    "all silence": lambda wave: silences(wave, 0.03)[2],
    "first samples": lambda wave: wave[:20].norm(),
    "last samples": lambda wave: wave[-20:].norm(),
    "peak": lambda wave: wave.abs().max(),
    "offset": lambda wave: wave.mean().abs(),
    "zeros": lambda wave: (wave == 0).sum(),
}


def test_trivial_cues_are_at_chance(made):
    _, rows, waves = made
    truth = [row[4] == "bonafide" for row in rows]
    for cue, value in CUES.items():
        area = roc_auc_score(truth, [float(value(waves[row[1]])) for row in rows])
        assert abs(area - 0.5) < 0.12, (cue, area)


def test_a_linear_detector_tells_spoofs_of_unheard_speakers_apart():
    def features(wave):
        spectrum = torch.stft(wave, 512, 64, window=torch.hann_window(512), return_complex=True).abs()
        level = (spectrum + 1e-4).log().T
        bands = torch.nn.functional.avg_pool1d(level[None], 4)[0]
        cepstrum = torch.fft.rfft(level, dim=1).abs()[:, :60].log()
        return torch.cat([bands.mean(0), bands.std(0), bands.diff(dim=0).std(0), cepstrum.mean(0), cepstrum.std(0)])

    rate, x, y, unheard = 16_000, [], [], []
    for number, utterance in enumerate(synthetic_speech(8, 10, 1, rate, seed=1)):
        attack = list(ATTACKS)[(number + number // 10) % 10]  # every word and every speaker meets every attack
        x += [copy_chain(utterance.source, rate), resynthesise(utterance.source, rate, attack, number)]
        y += [True, False]
        unheard += 2 * [utterance.speaker >= "speaker04"]
    x, y, unheard = np.stack([features(wave).numpy() for wave in x]), np.array(y), np.array(unheard)
    detector = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    detector.fit(x[~unheard], y[~unheard])
    assert roc_auc_score(y[unheard], detector.decision_function(x[unheard])) > 0.75


def test_an_utterance_has_the_same_spoofs_in_every_selection(made, speech, tmp_path):
    _, rows, waves = made
    attacks = [row[3] for row in rows if row[1].startswith(f"{speech[5].id}-")]
    again = make_spoof_set(speech[5:6], tmp_path / "one", attacks, RATE, suffix=".wav")
    for path in (again / "wav").iterdir():
        assert torch.equal(read_audio(path), waves[path.stem])


def test_recordings_of_a_lower_rate_leave_the_same_band_empty_in_both_classes(speech, tmp_path):
    def upper_share(wave):
        power = torch.fft.rfft(wave).abs() ** 2
        return (power[len(power) * 13 // 20 :].sum() / power.sum()).item()

    source = speech[0]
    out = make_spoof_set([source], tmp_path / "up", sample_rate=2 * RATE) / "flac"
    copy = upper_share(read_audio(out / f"{source.id}.flac"))
    for attack in ATTACKS:
        assert upper_share(read_audio(out / f"{source.id}-{attack}.flac")) < 10 * copy, attack
    upsampled = resample(source.source, RATE, 2 * RATE)
    for attack in ("A06", "A09"):  # what attacks at the rate of the set would do
        assert upper_share(resynthesise(upsampled, 2 * RATE, attack, 0)) > 100 * copy


def test_sets_are_refused_that_would_mix_or_overwrite(tmp_path):
    wave = 0.1 * torch.randn(400)

    def utterance(id, **known):
        return Utterance(id, wave, known.pop("labels", {}), sample_rate=RATE, **known)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    fine = [utterance("a")]
    for utterances, options, match in (
        (fine, {"out": tmp_path / "full"}, r"full already holds something"),
        (fine, {"attacks": ["A01", "B"]}, r"unknown attack 'B'"),
        (fine, {"per_utterance": 11}, r"per_utterance must be 1 to 10"),
        (fine, {"sample_rate": 100}, r"sample_rate of a made set must be 8000 to 48000 Hz, got 100"),
        (fine, {"suffix": ".mp3"}, r"not as .mp3"),
        ([], {}, "no utterances"),
        ([utterance("a", attack="A01")], {}, r"a is a spoof already \(attack A01\)"),
        ([utterance("a", labels={"key": "spoof"})], {}, "a is a spoof already"),
        ([utterance("x/a"), utterance("x a")], {}, r"the ids x/a and x a would both be called x_a"),
        ([Utterance("a", tmp_path / "gone.wav", {})], {}, r"gone.wav is missing"),
    ):
        with pytest.raises(KANError, match=match):
            make_spoof_set(utterances, **{"out": tmp_path / "new", "sample_rate": RATE, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_spaces_and_slashes_in_ids_become_names_of_one_word(tmp_path):
    source = 0.1 * torch.randn(400)
    utterances = [
        Utterance("f/a b", source, {}, speaker="Ann B", sample_rate=RATE),
        Utterance("c", source, {}, sample_rate=RATE),
    ]
    (tmp_path / "empty").mkdir()
    out = make_spoof_set(utterances, tmp_path / "empty", ["A09"], 2 * RATE)
    assert (out / "protocol.txt").read_text().splitlines() == [
        "Ann_B f_a_b - - bonafide",
        "Ann_B f_a_b-A09 - A09 spoof",
        "- c - - bonafide",
        "- c-A09 - A09 spoof",
    ]
    assert len(read_audio(out / "flac" / "f_a_b-A09.flac")) == 800
