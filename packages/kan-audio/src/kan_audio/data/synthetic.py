"""Speech that needs no data: ten made-up words, spoken by a small formant synthesiser.

Source and filter (Fant, 1960; the cascade of Klatt, JASA 67, 1980): glottal pulses with jitter and shimmer, and breath,
pass through resonators whose frequencies glide from phoneme to phoneme; friction noise is added beside them. Every
speaker has a pitch, a vocal tract, a tempo and a breathiness; every take has its own melody, level and pauses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, sosfilt

from kan_audio.data.utterances import Utterance
from kan_audio.data.vocoder import Array
from kan_core.errors import KANError

_WORDS = {
    "sira": "s i r a",
    "tomu": "t o m u",
    "kelo": "k e l o",
    "nafi": "n a f i",
    "duze": "d u z e",
    "shoba": "S o b a",
    "gimen": "g i m e n",
    "hapu": "h a p u",
    "relis": "r e l i s",
    "vonik": "v o n i k",
}
WORDS = tuple(_WORDS)
"""What can be said, in the order in which words are taken."""

_STEP = 0.005
"""Seconds over which the vocal tract stands still."""

_TOGETHER = 256
"""How many recordings are filtered side by side: the time goes into numpy's calls, not into its arithmetic."""


class _Sound(NamedTuple):
    """A stretch of speech: its target, which the neighbours pull at.

    Attributes:
        seconds: Length at normal tempo.
        formants: The lowest three resonances of an adult man, in Hz.
        voice: Strength of the glottal pulses.
        breath: Strength of noise through the resonators.
        friction: Strength of noise beside them.
        band: Where that noise lies, in Hz; None for no such noise.
    """

    seconds: float
    formants: tuple[int, int, int]
    voice: float = 0.0
    breath: float = 0.0
    friction: float = 0.0
    band: tuple[int, int] | None = None


_LABIAL, _ALVEOLAR, _VELAR = (300, 900, 2200), (300, 1700, 2600), (300, 2000, 2300)
_HISS, _HUSH, _PUFF = (3800, 7800), (1800, 5500), (1200, 7500)


def _stop(place: tuple[int, int, int], band: tuple[int, int], voice: float) -> tuple[_Sound, ...]:
    """A closure, a burst and, when voiceless, breath."""
    closure, burst = _Sound(0.05, place, voice), _Sound(0.012, place, voice, 0.0, 0.5, band)
    return (closure, burst) if voice else (closure, burst, _Sound(0.03, place, 0.0, 0.3))


# vowels after Peterson and Barney, JASA 24, 1952 (men)
_SOUNDS: dict[str, tuple[_Sound, ...]] = {
    "a": (_Sound(0.14, (730, 1090, 2440), 1.0),),
    "e": (_Sound(0.12, (530, 1840, 2480), 0.9),),
    "i": (_Sound(0.12, (270, 2290, 3010), 0.8),),
    "o": (_Sound(0.13, (570, 840, 2410), 1.0),),
    "u": (_Sound(0.12, (300, 870, 2240), 0.8),),
    "m": (_Sound(0.08, (250, 1000, 2200), 0.4),),
    "n": (_Sound(0.08, (250, 1500, 2500), 0.4),),
    "l": (_Sound(0.07, (360, 1200, 2700), 0.6),),
    "r": (_Sound(0.07, (350, 1150, 1600), 0.6),),
    "s": (_Sound(0.11, _ALVEOLAR, friction=0.25, band=_HISS),),
    "z": (_Sound(0.09, _ALVEOLAR, 0.35, friction=0.15, band=_HISS),),
    "S": (_Sound(0.11, _VELAR, friction=0.3, band=_HUSH),),
    "f": (_Sound(0.10, _LABIAL, friction=0.08, band=_PUFF),),
    "v": (_Sound(0.08, _LABIAL, 0.4, friction=0.05, band=_PUFF),),
    "h": (_Sound(0.08, (500, 1500, 2500), breath=0.35),),
    "p": _stop(_LABIAL, _PUFF, 0.0),
    "b": _stop(_LABIAL, _PUFF, 0.15),
    "t": _stop(_ALVEOLAR, _HISS, 0.0),
    "d": _stop(_ALVEOLAR, _HISS, 0.15),
    "k": _stop(_VELAR, _HUSH, 0.0),
    "g": _stop(_VELAR, _HUSH, 0.15),
}


@dataclass(frozen=True)
class _Speaker:
    """A voice.

    Attributes:
        pitch: Mean fundamental frequency in Hz.
        tract: Factor on all formants: above 1 for a short vocal tract.
        tempo: Factor on all lengths.
        breath: Strength of noise in the voice.
        open_share: Part of every cycle in which the glottis is open.
    """

    pitch: float
    tract: float
    tempo: float
    breath: float
    open_share: float

    @classmethod
    def drawn(cls, random: np.random.Generator) -> _Speaker:
        low = random.random() < 0.5  # pitch and vocal tract go together
        return cls(
            pitch=random.uniform(90, 140) if low else random.uniform(165, 240),
            tract=random.uniform(0.94, 1.04) if low else random.uniform(1.08, 1.2),
            tempo=random.uniform(0.85, 1.2),
            breath=random.uniform(0.005, 0.05),
            open_share=random.uniform(0.5, 0.75),
        )


class _Score(NamedTuple):
    """What the synthesiser plays, one row per step of 5 ms."""

    formants: Array
    voice: Array
    breath: Array
    friction: dict[tuple[int, int], Array]
    pitch: Array


def synthetic_speech(
    num_speakers: int = 8, words: int = len(WORDS), takes: int = 3, sample_rate: int = 16_000, seed: int = 0
) -> list[Utterance]:
    """Every speaker says every word several times.

    A recording depends on the seed, the speaker, the word and the take only, not on how many of them are asked for.

    Args:
        num_speakers: How many voices.
        words: How many of `WORDS`, from the first on.
        takes: How often each is said.
        sample_rate: Samples per second, 8000 or more.
        seed: For all that is drawn.

    Returns:
        ``num_speakers * words * takes`` utterances of 0.4 to 1.1 s with labels ``{"word": ...}``, ordered by speaker,
        word and take; their sources are samples with a peak of 0.3 to 0.9.

    Raises:
        KANError: When a number is out of range.
    """
    for option, value, lowest, highest in (
        ("num_speakers", num_speakers, 1, 1000),
        ("words", words, 1, len(WORDS)),
        ("takes", takes, 1, 1000),
        ("sample_rate", sample_rate, 8000, 48_000),
        ("seed", seed, 0, 2**63),
    ):
        if not lowest <= value <= highest:
            raise KANError(f"{option} of synthetic speech must be {lowest} to {highest}, got {value}")
    said = [
        _Take(speaker, word, take, sample_rate, seed)
        for speaker in range(num_speakers)
        for word in range(words)
        for take in range(takes)
    ]
    return [
        utterance for first in range(0, len(said), _TOGETHER) for utterance in _spoken(said[first : first + _TOGETHER])
    ]


class _Take:
    """One word said once: everything that is drawn for it, in the order in which it is drawn."""

    def __init__(self, speaker: int, word: int, take: int, rate: int, seed: int) -> None:
        self.speaker, self.word, self.rate = f"speaker{speaker:02d}", WORDS[word], rate
        self.id = f"{self.speaker}_{self.word}_{take}"
        voice = _Speaker.drawn(np.random.default_rng([seed, speaker]))
        self.random = np.random.default_rng([seed, speaker, word, take])
        self.score = _score(_WORDS[self.word].split(), voice, self.random)
        self.step = round(_STEP * rate)
        pulses = _glottis(np.repeat(self.score.pitch, self.step), voice.open_share, rate, self.random)
        noise = self.random.standard_normal(len(pulses))
        voiced = _held(self.score.voice, self.step) * (pulses + voice.breath * noise)
        self.source = voiced + 0.3 * _held(self.score.breath, self.step) * noise
        self.formants = self.score.formants * voice.tract

    def finished(self, wave: Array) -> Utterance:
        """The filtered `source` with friction, over the faint noise of a room, at a level of its own."""
        wave = wave / np.abs(wave).max()
        for band, strength in self.score.friction.items():
            wave += _held(strength, self.step) * _band_noise(len(wave), band, self.rate, self.random)
        wave += 10 ** (-self.random.uniform(50, 65) / 20) * self.random.standard_normal(len(wave))
        wave *= self.random.uniform(0.3, 0.9) / np.abs(wave).max()
        source = torch.from_numpy(wave.astype(np.float32))
        return Utterance(self.id, source, {"word": self.word}, self.speaker, sample_rate=self.rate)


def _spoken(takes: Sequence[_Take]) -> list[Utterance]:
    waves = _vocal_tracts([take.source for take in takes], [take.formants for take in takes], takes[0].rate)
    return [take.finished(wave) for take, wave in zip(takes, waves, strict=True)]


def _score(phonemes: Sequence[str], voice: _Speaker, random: np.random.Generator) -> _Score:
    """Targets of the phonemes, smoothed: the tract takes 50 ms for a glide, voice and noise 15 ms."""
    sounds = [sound for phoneme in phonemes for sound in _SOUNDS[phoneme]]
    tempo = voice.tempo * random.uniform(0.9, 1.1)
    seconds = [sound.seconds * tempo * random.uniform(0.85, 1.15) for sound in sounds]
    pauses = random.uniform(0.04, 0.12, size=2)
    steps = np.maximum(np.round(np.array([pauses[0], *seconds, pauses[1]]) / _STEP).astype(int), 2)

    def track(before: object, values: Sequence[object], after: object, smooth: int) -> Array:
        targets = np.repeat(np.array([before, *values, after], dtype=np.float64), steps, axis=0)
        return _smoothed(_smoothed(targets, smooth), smooth)

    formants = [np.array(sound.formants) * random.normal(1, 0.03, size=3) for sound in sounds]
    bands = {sound.band for sound in sounds if sound.band}
    return _Score(
        formants=track(formants[0], formants, formants[-1], 7),
        voice=track(0, [sound.voice for sound in sounds], 0, 3),
        breath=track(0, [sound.breath for sound in sounds], 0, 3),
        friction={
            band: track(0, [sound.friction if sound.band == band else 0 for sound in sounds], 0, 2)
            for band in sorted(bands)
        },
        pitch=voice.pitch * random.uniform(0.93, 1.07) * _melody(int(steps.sum()), random),
    )


def _melody(count: int, random: np.random.Generator) -> Array:
    """A fall of about a quarter with one accent and slow wander."""
    time = np.linspace(0, 1, count)
    accent = random.uniform(0.05, 0.25) * np.exp(-(((time - random.uniform(0.25, 0.6)) / 0.15) ** 2))
    wander = _smoothed(random.normal(0, 0.06, count), 12)
    return np.asarray(1.1 - random.uniform(0.15, 0.3) * time + accent + wander)


def _glottis(pitch: Array, open_share: float, rate: int, random: np.random.Generator) -> Array:
    """The derivative of the glottal flow ``u^2 (1 - u)`` over the open part of each cycle (Klatt and Klatt, 1990).

    Periods vary by 1 % (jitter), strengths by 5 % (shimmer), each cycle for itself.
    """
    cycles = np.floor(np.cumsum(pitch) / rate).astype(int)
    jitter, shimmer = random.normal(1, 0.01, cycles[-1] + 1), random.normal(1, 0.05, cycles[-1] + 2)
    place = np.cumsum(pitch * jitter[cycles]) / rate
    cycle = np.minimum(place.astype(int), len(shimmer) - 1)
    u = (place % 1) / open_share
    return np.asarray(np.where(u < 1, (2 * u - 3 * u**2) * shimmer[cycle], 0.0))


def _vocal_tracts(sources: Sequence[Array], formants: Sequence[Array], rate: int) -> list[Array]:
    """Every source through its five resonators in series, whose coefficients change every step.

    ``y[t] = A x[t] + B y[t-1] + C y[t-2]`` with ``C = -exp(-2 pi b / rate)``, ``A = 1 - B - C`` and
    ``B = 2 exp(-pi b / rate) cos(2 pi f / rate)`` (Klatt, 1980, equation 2); b is 50 Hz + 4 % of f. Two more formants
    stand still. All resonators move at once, each on what the one before it gave a sample earlier.
    """
    steps = max(map(len, formants))
    frequency = np.stack([_five_formants(track, steps) for track in formants], axis=-1).clip(max=0.47 * rate)
    width = 50 + 0.04 * frequency  # (steps, 5, recordings), as are the coefficients
    c = -np.exp(-2 * np.pi * width / rate)
    b = 2 * np.exp(-np.pi * width / rate) * np.cos(2 * np.pi * frequency / rate)
    a = 1 - b - c
    step, delay = len(sources[0]) // len(formants[0]), frequency.shape[1] - 1
    sounds = np.stack([np.pad(source, (0, steps * step - len(source))) for source in sources], axis=-1)
    x, y, before = (np.zeros(frequency.shape[1:]) for _ in range(3))
    out = np.zeros((len(sounds) + delay, len(sources)))
    for t in range(len(out)):
        k = min(t // step, steps - 1)
        x[0] = sounds[t] if t < len(sounds) else 0
        x[1:] = y[:-1]
        before *= c[k]
        before += a[k] * x
        before += b[k] * y
        y, before = before, y
        out[t] = y[-1]
    return [out[delay : delay + len(source), n] for n, source in enumerate(sources)]


def _five_formants(track: Array, steps: int) -> Array:
    """``(steps, 5)``: the three of the track and two above that stand still; the last step is held."""
    upper = np.broadcast_to(track[:, 2].mean() * np.array([1.4, 1.8]), (len(track), 2))
    return np.pad(np.concatenate([track, upper], axis=1), ((0, steps - len(track)), (0, 0)), mode="edge")


def _band_noise(length: int, band: tuple[int, int], rate: int, random: np.random.Generator) -> Array:
    """White noise within a band, of power 1 / 9: its peaks are about 1."""
    low, high = (min(edge, share * rate) for edge, share in zip(band, (0.25, 0.48), strict=True))
    noise = sosfilt(butter(2, (low, high), "bandpass", fs=rate, output="sos"), random.standard_normal(length))
    return np.asarray(noise / (3 * noise.std()))


def _smoothed(track: Array, steps: int) -> Array:
    return np.asarray(uniform_filter1d(track, steps, axis=0))


def _held(track: Array, step: int) -> Array:
    """A track of steps at every sample, with straight lines between the middles of the steps."""
    middles = (np.arange(len(track)) + 0.5) * step
    return np.interp(np.arange(len(track) * step), middles, track)
