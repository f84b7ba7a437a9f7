"""Windows of a fixed length out of recordings of any length, and what is done to a whole recording before.

A recording that is too short is repeated, never padded with zeros: a tail of zeros would tell a detector where the
file came from (AASIST, ICASSP 2022, section 4; the crop of its released loader).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchaudio.functional import preemphasis

from kan_core.errors import KANError


def window(wave: Tensor, num_samples: int, start: int = 0) -> Tensor:
    """`num_samples` samples from `start` on; a shorter recording is repeated until it is long enough.

    Args:
        wave: ``(frames,)``, at least one.
        num_samples: Length of the window.
        start: Where it begins, 0 to ``frames - num_samples``; 0 for a shorter recording.

    Returns:
        ``(num_samples,)``.

    Raises:
        KANError: When the recording is empty or the window lies outside it.
    """
    length = _length(wave, num_samples)
    if not 0 <= start <= max(length - num_samples, 0):
        raise KANError(f"a window of {num_samples} samples cannot start at {start} of {length}")
    if length < num_samples:
        return wave.repeat(-(-num_samples // length))[:num_samples]
    return wave[start : start + num_samples]


def random_start(length: int, num_samples: int) -> int:
    """Where a random window begins: uniform over 0 to ``length - num_samples``, both included; 0 when shorter.

    Drawn from torch's global generator.
    """
    return int(torch.randint(max(length - num_samples, 0) + 1, ()))


def windows(wave: Tensor, num_samples: int, hop: int) -> Tensor:
    """All windows of a recording, for a score that is the mean over them.

    They begin at 0, `hop`, 2 `hop`, ...; where that leaves a rest, one more window ends with the recording, so that
    every sample counts (ours: the sources score the first window only).

    Args:
        wave: ``(frames,)``, at least one.
        num_samples: Length of each window.
        hop: From one beginning to the next.

    Returns:
        ``(windows, num_samples)``, at least one window.

    Raises:
        KANError: When the recording is empty or `hop` is below 1.
    """
    length = _length(wave, num_samples)
    if hop < 1:
        raise KANError(f"hop must be at least 1 sample, got {hop}")
    last = max(length - num_samples, 0)
    starts = [*range(0, last, hop), last]
    return torch.stack([window(wave, num_samples, start) for start in starts])


def pre_emphasis(wave: Tensor, coefficient: float = 0.97) -> Tensor:
    """``y[t] = x[t] - coefficient * x[t - 1]`` with ``y[0] = x[0]``, over the last dimension.

    It belongs on the whole recording, before the crop: on a window the first sample would stand out.
    """
    emphasised: Tensor = preemphasis(wave, coefficient)
    return emphasised


def peak_normalise(wave: Tensor, eps: float = 1e-8) -> Tensor:
    """``x / (max|x| + eps)`` over the last dimension: the largest sample becomes 1, silence stays silence."""
    return wave / (wave.abs().amax(dim=-1, keepdim=True) + eps)


def _length(wave: Tensor, num_samples: int) -> int:
    if wave.ndim != 1 or not len(wave):
        raise KANError(f"a recording must be (frames,) with at least one sample, got shape {tuple(wave.shape)}")
    if num_samples < 1:
        raise KANError(f"a window must hold at least 1 sample, got {num_samples}")
    return len(wave)
