"""What front ends do to a waveform before they look at it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from kan_core.errors import KANError

WaveNorm = Literal["none", "peak", "zscore"]


def check_wave_norm(wave_norm: str) -> None:
    """Refuse an unknown normalisation.

    Raises:
        KANError: When `wave_norm` is not one of the three.
    """
    if wave_norm not in get_args(WaveNorm):
        raise KANError(f"wave_norm must be one of {', '.join(get_args(WaveNorm))}, got {wave_norm!r}")


def normalise(wave: Tensor, length: Tensor | None, wave_norm: WaveNorm) -> Tensor:
    """Each utterance by its own samples: "peak" x / (max|x| + 10⁻⁸), "zscore" (x − mean) / √(variance + 10⁻⁷).

    Args:
        wave: ``(batch, samples)``.
        length: ``(batch,)`` samples that are sound, or None when all are; behind them the result is 0.
        wave_norm: Which of them, or "none".
    """
    if wave_norm == "none":
        return wave
    valid = torch.ones_like(wave) if length is None else valid_samples(wave, length)
    if wave_norm == "peak":
        sound = wave * valid
        return sound / (sound.abs().amax(dim=1, keepdim=True) + 1e-8)
    count = valid.sum(dim=1, keepdim=True)
    centred = (wave - (wave * valid).sum(dim=1, keepdim=True) / count) * valid
    return centred / (centred.square().sum(dim=1, keepdim=True) / count + 1e-7).sqrt()


def valid_samples(wave: Tensor, length: Tensor) -> Tensor:
    """1 where a sample is sound, 0 behind the end: the shape and type of `wave`."""
    return (torch.arange(wave.shape[1], device=wave.device) < length[:, None]).to(wave.dtype)


def pre_emphasis(wave: Tensor, coefficient: float) -> Tensor:
    """y[n] = x[n] − coefficient · x[n − 1], with x[−1] = 0: shape ``(batch, samples)`` in and out."""
    return wave - coefficient * torch.nn.functional.pad(wave, (1, 0))[:, :-1]
