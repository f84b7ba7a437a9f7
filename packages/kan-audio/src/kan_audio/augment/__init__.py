"""Augmentation in memory: RawBoost, noise, reverberation, codecs, level and speed.

Every augmentation changes one recording, ``(frames,)`` samples, with a probability of its own, and draws from torch's
global generator only. It sees neither the label nor the attack: both classes of a detector are changed by the same law,
or the detector would learn the augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kan_audio.augment._base import REGISTRY, Augmentation
from kan_audio.augment.codec import BandLimit, CodecRoundTrip, MuLaw, Requantise
from kan_audio.augment.level import Gain, Polarity
from kan_audio.augment.noise import Background, Noise
from kan_audio.augment.rawboost import RawBoost
from kan_audio.augment.reverb import Reverb
from kan_audio.augment.speed import Speed

__all__ = [
    "Augmentation",
    "Background",
    "BandLimit",
    "Chain",
    "CodecRoundTrip",
    "Gain",
    "MuLaw",
    "Noise",
    "Polarity",
    "RawBoost",
    "Requantise",
    "Reverb",
    "Speed",
    "get",
    "names",
    "register",
]

register = REGISTRY.register
names = REGISTRY.names


@dataclass(frozen=True)
class Chain:
    """Augmentations one after the other.

    Attributes:
        steps: In the order in which they are applied.
    """

    steps: tuple[Augmentation, ...]

    def __call__(self, wave: Tensor, sample_rate: int) -> Tensor:
        """Change ``(frames,)`` samples; the length stays, but for `Speed`."""
        for step in self.steps:
            wave = step(wave, sample_rate)
        return wave


def get(specs: Sequence[str]) -> Chain:
    """The augmentations that `specs` name, in their order.

    Args:
        specs: Such as ``["rawboost(algo=5)", "noise(snr=(0, 15), p=0.5)"]``; none for no augmentation.

    Raises:
        KANError: When a name is unknown or an option is refused.

    Example:
        >>> import torch
        >>> get(["gain(db=(6, 6))", "polarity(p=1)"])(torch.tensor([0.25, 0.0]), 16_000)
        tensor([-0.4988, -0.0000])
    """
    return Chain(tuple(REGISTRY.build(spec) for spec in specs))
