"""Additive noise: drawn, or from recordings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kan_audio.augment._base import REGISTRY, Augmentation, add_at_snr, audio_files, checked, choice, log, uniform
from kan_audio.data.audio import audio_info, read_audio
from kan_audio.data.windows import random_start, window


@REGISTRY.register("noise")
class Noise(Augmentation):
    """Gaussian noise whose power falls with frequency f as ``1 / f^c``.

    Args:
        snr: Range of the signal-to-noise ratio, in dB.
        colour: Range of c: 0 white, 1 pink, 2 brown.
        p: Probability that a recording is changed.
    """

    def __init__(self, snr: Sequence[float] = (0, 15), colour: Sequence[float] = (0, 2), p: float = 1.0) -> None:
        super().__init__(p)
        self.snr, self.colour = checked("snr", snr), checked("colour", colour)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """Noise of one colour, added at one ratio."""
        snr, colour = uniform(self.snr), uniform(self.colour)
        log.debug("noise: %.1f dB, 1/f^%.2f", snr, colour)
        noise = torch.randn(len(wave))
        if colour:
            spectrum = torch.fft.rfft(noise)
            frequency = torch.arange(len(spectrum)).clamp_min(1)
            noise = torch.fft.irfft(spectrum * frequency ** (-colour / 2), n=len(wave))
        return add_at_snr(wave, noise, snr)


@REGISTRY.register("background")
class Background(Augmentation):
    """Recorded noise, music or, from a folder of speech, babble.

    Args:
        folder: Its audio files, those of subfolders included, are the noise: random parts of random files.
        voices: Range of how many recordings are added up; ``(3, 7)`` of speech is babble.
        snr: Range of the signal-to-noise ratio, in dB.
        p: Probability that a recording is changed.
    """

    def __init__(
        self, folder: str, voices: Sequence[int] = (1, 1), snr: Sequence[float] = (0, 15), p: float = 1.0
    ) -> None:
        super().__init__(p)
        self.files = audio_files(folder)
        self.snr = checked("snr", snr)
        self.voices = checked("voices", voices, lowest=1)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """The sum of the recordings, each at the same level, added at one ratio."""
        snr, voices = uniform(self.snr), choice(range(int(self.voices[0]), int(self.voices[1]) + 1))
        log.debug("background: %.1f dB, %d recordings", snr, voices)
        noise = torch.stack([self._part(len(wave), sample_rate) for _ in range(voices)])
        loudness = noise.norm(dim=1, keepdim=True)
        return add_at_snr(wave, (noise / loudness.clamp_min(1e-8)).sum(dim=0), snr)

    def _part(self, num_samples: int, sample_rate: int) -> Tensor:
        """A random part of a random file, repeated where the file is shorter."""
        path = choice(self.files)
        info = audio_info(path)
        frames = min(-(-num_samples * info.sample_rate // sample_rate), info.frames)
        part = read_audio(path, sample_rate, start=random_start(info.frames, frames), frames=frames)
        return window(part, num_samples)
