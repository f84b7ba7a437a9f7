"""Spoofed speech made from real speech: attacks with ids, the copy control, and whole sets on disk.

Ten ways of taking speech apart and putting it together again, as vocoders of synthetic speech do. Results on such sets
are results on synthetic attacks, never a claim about ASVspoof.
"""

from __future__ import annotations

import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.fft import irfft, rfft
from scipy.signal import butter, sosfilt
from torch import Tensor
from torchaudio.functional import griffinlim, melscale_fbanks, phase_vocoder

from kan_audio.data import vocoder
from kan_audio.data.audio import PCM16, audio_info, quantise, read_audio, resample, write_audio
from kan_audio.data.codecs import round_trip, same_length
from kan_audio.data.utterances import BONAFIDE, NO_ATTACK, SPOOF, Utterance
from kan_audio.data.vocoder import Array
from kan_audio.data.windows import peak_normalise
from kan_core.errors import KANError

PEAK = 0.9
"""The largest sample of every recording that left the chain of `copy_chain`."""

Method = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Attack:
    """A way of resynthesising speech.

    Attributes:
        name: What it is, in words.
        method: ``(wave, sample_rate, seed) -> wave``; it gets 0.1 s of mirrored speech before and after, and may return
            another length and level.
    """

    name: str
    method: Method

    def __call__(self, wave: Tensor, sample_rate: int, seed: int) -> Tensor:
        """The spoof.

        Args:
            wave: ``(frames,)`` of any length from 1 on; silence stays silence.
            sample_rate: Samples per second.
            seed: The same seed gives the same spoof; torch's global generator is neither used nor moved.

        Returns:
            ``(frames,)`` with the energy of `wave`.
        """
        if not wave.any():
            return wave.clone()
        margin = _samples(0.1, sample_rate)
        # mirrored, not silent: an attack would smear the step from silence over the first samples
        padded = wave[np.pad(np.arange(len(wave)), margin, mode="symmetric")]
        spoof = same_length(self.method(padded, sample_rate, seed)[margin:], len(wave)).to(torch.float32)
        same_energy: Tensor = spoof * (wave.norm() / spoof.norm().clamp_min(1e-8))
        return same_energy


def copy_chain(wave: Tensor, sample_rate: int) -> Tensor:
    """What every recording of a made set goes through, bona fide or spoof.

    Limited to the band from 60 Hz to 0.45 of the sample rate, so that all lack the same ends of the spectrum whatever
    rates lie behind them; rounded to 16 bits at its own level, so that all have the same floor of rounding noise;
    scaled to the same peak. Silence stays silence.

    Args:
        wave: ``(frames,)``.
        sample_rate: Samples per second.

    Returns:
        ``(frames,)`` with a peak of `PEAK`.
    """
    limited = torch.from_numpy(sosfilt(_band(sample_rate), wave.double().numpy()))
    return PEAK * peak_normalise(quantise(limited).to(torch.float32) / PCM16)


@lru_cache(maxsize=16)
def _band(sample_rate: int) -> Array:
    """Butterworth filters in second-order sections: 24 dB per octave below, over 40 dB at 0.47 of the sample rate."""
    low = butter(4, 60, "highpass", fs=sample_rate, output="sos")
    return np.concatenate([low, butter(10, 0.45 * sample_rate, "lowpass", fs=sample_rate, output="sos")])


def resynthesise(wave: Tensor, sample_rate: int, attack_id: str, seed: int) -> Tensor:
    """The spoof of a recording by one attack, through the same chain as its bona fide copy.

    Args:
        wave: ``(frames,)``.
        sample_rate: Samples per second.
        attack_id: One of `ATTACKS`.
        seed: As for `Attack`.

    Raises:
        KANError: When there is no such attack.
    """
    return copy_chain(_attack(attack_id)(wave, sample_rate, seed), sample_rate)


def make_spoof_set(
    utterances: Sequence[Utterance],
    out: Path | str,
    attacks: Sequence[str] = (),
    sample_rate: int = 16_000,
    seed: int = 0,
    per_utterance: int | None = None,
    suffix: str = ".flac",
) -> Path:
    """Write bona fide copies and spoofs of them as a set of its own.

    ``<out>/flac/<name>.flac`` (or ``wav``) and ``<out>/protocol.txt`` with the columns of ASVspoof 2019 LA,
    ``speaker utterance - attack key``. Spoof and copy have the same length, peak, container and format. Nothing
    stands under its final name before all is written.

    Args:
        utterances: Bona fide speech. A ``/`` or a space in an id becomes ``_`` in the names.
        out: A folder that does not exist or is empty.
        attacks: Ids of `ATTACKS`; all of them by default.
        sample_rate: Of the set, 8000 to 48000. A recording with a lower one is attacked at its own and resampled then.
        seed: For what the attacks draw.
        per_utterance: How many of the attacks each utterance goes through, balanced and at random; all by default.
        suffix: ``.flac`` or ``.wav``.

    Returns:
        `out`.

    Raises:
        KANError: When `out` holds something, an option is out of range, an utterance is no bona fide speech or two
            would get the same name.
    """
    out, ids = Path(out), list(attacks or ATTACKS)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KANError(f"{out} already holds something; choose another folder or remove it")
    for attack_id in ids:
        _attack(attack_id)
    if per_utterance is not None and not 1 <= per_utterance <= len(ids):
        raise KANError(f"per_utterance must be 1 to {len(ids)}, the number of attacks, got {per_utterance}")
    if not 8000 <= sample_rate <= 48_000:
        raise KANError(f"sample_rate of a made set must be 8000 to 48000 Hz, got {sample_rate}")
    names = _names(utterances)
    draft = out.with_name(f".{out.name}-{os.getpid()}.part")
    try:
        rows = []
        attacks_of = turns(len(names), ids, per_utterance or len(ids), seed)
        for name, utterance, turn in zip(names, utterances, attacks_of, strict=True):
            rows += _write_versions(draft / suffix.lstrip("."), suffix, name, utterance, turn, sample_rate, seed)
        (draft / "protocol.txt").write_text("".join(f"{row}\n" for row in rows))
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def _write_versions(
    folder: Path, suffix: str, name: str, utterance: Utterance, ids: Sequence[str], sample_rate: int, seed: int
) -> list[str]:
    """The copy and the spoofs of one utterance; their lines of the protocol."""
    # an attack at a higher rate than the recording's would fill a band that is empty in the copy
    rate = min(audio_info(utterance.source, utterance.sample_rate).sample_rate, sample_rate)
    wave = read_audio(utterance.source, rate, utterance.sample_rate)
    # by the id, not by the place: an utterance has the same spoofs in whatever selection it stands
    own_seed = seed + zlib.crc32(utterance.id.encode())
    speaker, rows = _one_word(utterance.speaker or "-"), []
    versions = [(name, NO_ATTACK, BONAFIDE), *((f"{name}-{attack_id}", attack_id, SPOOF) for attack_id in ids)]
    for version, attack_id, key in versions:
        made = wave if key == BONAFIDE else ATTACKS[attack_id](wave, rate, own_seed)
        made = copy_chain(resample(made, rate, sample_rate), sample_rate)
        write_audio(folder / f"{version}{suffix}", made, sample_rate)
        rows.append(f"{speaker} {version} - {attack_id} {key}")
    return rows


def turns(count: int, ids: Sequence[str], each: int, seed: int) -> Iterator[list[str]]:
    """For every utterance `each` of the attacks, those that had the fewest turns; among equals at random.

    Turns in a fixed order would tie attacks to words wherever the words come in a fixed order too.

    Args:
        count: Utterances.
        ids: Of the attacks.
        each: How many of them an utterance goes through.
        seed: For the choice among equals.
    """
    random, used = np.random.default_rng(seed), np.zeros(len(ids), dtype=int)
    for _ in range(count):
        chosen = np.sort(np.lexsort((random.random(len(ids)), used))[:each])
        used[chosen] += 1
        yield [ids[k] for k in chosen]


def _names(utterances: Sequence[Utterance]) -> list[str]:
    names: dict[str, str] = {}
    for utterance in utterances:
        if utterance.attack != NO_ATTACK or utterance.labels.get("key", BONAFIDE) != BONAFIDE:
            raise KANError(
                f"{utterance.id} is a spoof already (attack {utterance.attack}); only bona fide speech is copied"
            )
        name = _one_word(utterance.id)
        if name in names:
            raise KANError(f"the ids {names[name]} and {utterance.id} would both be called {name}; rename one")
        names[name] = utterance.id
    if not names:
        raise KANError("there are no utterances to make a spoof set of")
    return list(names)


def _one_word(text: str) -> str:
    return "_".join(text.replace("/", " ").split())


def _attack(attack_id: str) -> Attack:
    if attack_id not in ATTACKS:
        raise KANError(f"unknown attack {attack_id!r}: choose some of {', '.join(ATTACKS)}")
    return ATTACKS[attack_id]


def _samples(seconds: float, rate: int) -> int:
    return max(round(seconds * rate), 2)


# Short-time spectra


def _spectrum(wave: Tensor, size: int) -> Tensor:
    return torch.stft(wave, size, size // 4, window=torch.hann_window(size), return_complex=True, pad_mode="constant")


def _inverse(spectrum: Tensor, size: int) -> Tensor:
    return torch.istft(spectrum, size, size // 4, window=torch.hann_window(size))


def _window_size(seconds: float, rate: int) -> int:
    """The power of two nearest to a duration."""
    return int(2 ** round(math.log2(seconds * rate)))


def _griffin_lim(magnitude: Tensor, size: int, seed: int) -> Tensor:
    """A signal with these magnitudes from random phases: 24 rounds, momentum 0.99 (Perraudin et al., WASPAA 2013)."""
    with torch.random.fork_rng(devices=[]):  # torchaudio draws from the global generator
        torch.manual_seed(seed)
        wave: Tensor = griffinlim(
            magnitude,
            torch.hann_window(size),
            size,
            size // 4,
            size,
            1.0,
            24,
            momentum=0.99,
            length=None,
            rand_init=True,
        )
    return wave


def _griffin_lim_linear(wave: Tensor, rate: int, seed: int) -> Tensor:
    size = _window_size(0.05, rate)
    return _griffin_lim(_spectrum(wave, size).abs(), size, seed)


def _griffin_lim_mel(seconds: float, mels: int) -> Method:
    """From `mels` bands of magnitude, spread over the bins by the pseudo-inverse of the filter bank, negatives cut."""

    def attack(wave: Tensor, rate: int, seed: int) -> Tensor:
        size = _window_size(seconds, rate)
        to_mel, from_mel = _mel_filters(size // 2 + 1, mels, rate)
        magnitude = from_mel @ (to_mel @ _spectrum(wave, size).abs())
        return _griffin_lim(magnitude.clamp_min(0), size, seed)

    return attack


@lru_cache(maxsize=16)
def _mel_filters(bins: int, mels: int, rate: int) -> tuple[Tensor, Tensor]:
    filters: Tensor = melscale_fbanks(bins, 0.0, rate / 2, mels, rate).T
    return filters, torch.linalg.pinv(filters)


def _stretched(wave: Tensor, rate: int, factor: float) -> Tensor:
    """`factor` times as long at the same pitch, by the phase vocoder (Flanagan and Golden, 1966)."""
    size = _window_size(0.032, rate)
    advance = torch.linspace(0, math.pi * (size // 4), size // 2 + 1)[:, None]
    return _inverse(phase_vocoder(_spectrum(wave, size), 1 / factor, advance), size)


def _stretch_and_back(wave: Tensor, rate: int, seed: int) -> Tensor:
    factor = float(np.random.default_rng(seed).uniform(1.15, 1.35))
    return _stretched(_stretched(wave, rate, factor), rate, 1 / factor)


def _pitch_shift(wave: Tensor, rate: int, seed: int) -> Tensor:
    """Up by 1.1 to 2 semitones; down would leave the upper end of the spectrum empty."""
    up, down = ((16, 15), (12, 11), (10, 9), (9, 8))[int(np.random.default_rng(seed).integers(4))]
    return resample(_stretched(wave, rate, up / down), up, down)


# Source and filter


def _lpc_vocoder(wave: Tensor, rate: int, seed: int) -> Tensor:
    """Pulses or noise through an all-pole filter, as in LPC-10: order rate / 1 kHz + 4, one decision per frame."""
    signal, size, hop = wave.double().numpy(), _samples(0.032, rate), _samples(0.008, rate)
    coefficients, residual = vocoder.linear_prediction(vocoder.frames(signal, size, hop), rate // 1000 + 4)
    f0 = vocoder.pitch(signal, rate, hop)
    pulses, noise = vocoder.excitation(f0, hop, len(signal), rate, np.random.default_rng(seed))
    voiced = np.repeat(f0 > 0, hop)[: len(signal)]
    source = vocoder.frames(np.where(voiced, pulses, noise), size, hop)
    gain = np.sqrt(residual / (vocoder.hann(size) ** 2).sum())[:, None]
    shaped = irfft(rfft(source) * gain / rfft(coefficients, n=size), n=size)
    return torch.from_numpy(vocoder.overlap_add(shaped, hop, len(signal)))


def _envelope_vocoder(wave: Tensor, rate: int, seed: int) -> Tensor:
    """A smooth envelope excited by pulses below and by noise above 3 kHz; by noise alone when unvoiced."""
    signal, size, hop = wave.double().numpy(), 2 * _samples(0.02, rate), _samples(0.005, rate)
    envelope = vocoder.smooth_envelope(vocoder.frames(signal, size, hop), rate)
    f0 = vocoder.pitch(signal, rate, hop)
    pulses, noise = vocoder.excitation(f0, hop, len(signal), rate, np.random.default_rng(seed))
    frequency = np.fft.rfftfreq(size, 1 / rate)
    noise_share = np.where(f0[:, None] > 0, 1 / (1 + np.exp(-(frequency - 3000) / 400)), 1.0)
    spectra = [rfft(vocoder.frames(source, size, hop)) for source in (pulses, noise)]
    # pulses whose high frequencies come up to 2 ms later have the peaks of speech, sharp ones would give them away
    delayed = spectra[0] * np.exp(-1j * np.pi * frequency**2 * 0.002 / (rate / 2))
    mixed = np.sqrt(1 - noise_share) * delayed + np.sqrt(noise_share) * spectra[1]
    return torch.from_numpy(vocoder.overlap_add(irfft(mixed * envelope, n=size), hop, len(signal)))


def _sinusoids(wave: Tensor, rate: int, seed: int) -> Tensor:
    """A sum of harmonics with the magnitudes of the spectrum and phases of their own (McAulay and Quatieri, 1986).

    Unvoiced frames are harmonics of 100 Hz whose phases jump from frame to frame.
    """
    signal, size, hop = wave.double().numpy(), 2 * _samples(0.02, rate), _samples(0.01, rate)
    random = np.random.default_rng(seed)
    magnitude = np.abs(rfft(vocoder.frames(signal, size, hop)))
    pitch = vocoder.pitch(signal, rate, hop)
    f0, unvoiced = np.where(pitch > 0, pitch, 100.0), pitch == 0
    time, grid = np.arange(len(signal)), np.arange(len(f0)) * hop
    phase = 2 * np.pi * np.cumsum(np.interp(time, grid, f0)) / rate
    total = np.zeros(len(signal))
    step = np.exp(1j * phase)
    turn = np.ones_like(step)
    for k in range(1, int(rate / 2 / f0.min()) + 1):
        turn *= step
        own_phase = random.uniform(-np.pi, np.pi) + random.uniform(-np.pi, np.pi, len(f0)) * unvoiced
        own = _sampled(magnitude, k * f0 * size / rate) * np.exp(1j * own_phase)
        total += (np.interp(time, grid, own) * turn).real
    return torch.from_numpy(total)


def _sampled(magnitude: Array, place: Array) -> Array:
    """``(frames,)`` magnitudes between two bins each; 0 beyond the last."""
    last = magnitude.shape[1] - 1
    below = np.minimum(place.astype(int), last - 1)
    row, share = np.arange(len(place)), place - below
    between = (1 - share) * magnitude[row, below] + share * magnitude[row, below + 1]
    return np.where(place < last, between, 0.0)


def _codec(name: str) -> Method:
    return lambda wave, rate, seed: round_trip(wave, rate, name)


ATTACKS: dict[str, Attack] = {
    "A01": Attack("Griffin-Lim from the linear spectrum, 50 ms", _griffin_lim_linear),
    "A02": Attack("Griffin-Lim from 64 mel bands, 64 ms", _griffin_lim_mel(0.064, 64)),
    "A03": Attack("phase vocoder, stretched and back", _stretch_and_back),
    "A04": Attack("pitch shift by phase vocoder and resampling", _pitch_shift),
    "A05": Attack("LPC vocoder, pulses or noise", _lpc_vocoder),
    "A06": Attack("harmonic sinusoidal model", _sinusoids),
    "A07": Attack("Opus at the lowest bit rate that keeps the whole band", _codec("opus-low")),
    "A08": Attack("Griffin-Lim from 30 mel bands, 32 ms", _griffin_lim_mel(0.032, 30)),
    "A09": Attack("4-bit ADPCM (G.721)", _codec("adpcm")),
    "A10": Attack("smooth-envelope vocoder with mixed excitation", _envelope_vocoder),
}
"""By id; hold out at least two for the evaluation of a detector."""
