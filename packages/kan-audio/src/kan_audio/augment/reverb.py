"""Reverberation: a recording convolved with the impulse response of a room."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from kan_audio.augment._base import REGISTRY, Augmentation, audio_files, checked, choice, log, uniform
from kan_audio.data.audio import read_audio


@REGISTRY.register("reverb")
class Reverb(Augmentation):
    """The direct path stays at the origin, so that nothing is delayed, and the energy stays what it was.

    Without a folder the response is ``delta(t) + g n(t) 10^(-3 t / rt60)`` for t > 0 with Gaussian n: an echo that has
    lost 60 dB after `rt60` seconds.

    Args:
        folder: Impulse responses to choose from, as audio files; what comes before their largest sample is cut off.
        rt60: Range of the reverberation time in seconds, without a folder.
        drr: Range of the ratio of direct to reverberant energy in dB, without a folder.
        p: Probability that a recording is changed.
    """

    def __init__(
        self,
        folder: str | None = None,
        rt60: Sequence[float] = (0.1, 0.5),
        drr: Sequence[float] = (0, 15),
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.files = audio_files(folder) if folder is not None else ()
        self.rt60, self.drr = checked("rt60", rt60, lowest=0.01), checked("drr", drr)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """The first ``len(wave)`` samples of the convolution, at the energy of `wave`."""
        response = _recorded(choice(self.files), sample_rate) if self.files else self._drawn(sample_rate)
        echoed = _convolved(wave, response)
        same_energy: Tensor = echoed * (wave.norm() / echoed.norm().clamp_min(1e-8))
        return same_energy

    def _drawn(self, sample_rate: int) -> Tensor:
        rt60, drr = uniform(self.rt60), uniform(self.drr)
        log.debug("reverb: %.2f s, %.1f dB direct to reverberant", rt60, drr)
        time = torch.arange(1, max(int(rt60 * sample_rate), 2)) / sample_rate
        echoes = torch.randn(len(time)) * 10 ** (-3 * time / rt60)
        return torch.cat([torch.ones(1), echoes / echoes.norm() * 10 ** (-drr / 20)])


def _convolved(wave: Tensor, response: Tensor) -> Tensor:
    """The first ``len(wave)`` samples of the convolution."""
    size = next_fast_len(len(wave) + len(response) - 1, real=True)
    convolved: Tensor = torch.fft.irfft(torch.fft.rfft(wave, n=size) * torch.fft.rfft(response, n=size), n=size)
    return convolved[: len(wave)]


@lru_cache(maxsize=256)
def _recorded(path: Path, sample_rate: int) -> Tensor:
    log.debug("reverb: %s", path)
    response = read_audio(path, sample_rate)
    return response[int(response.abs().argmax()) :]
