"""Faster or slower speech."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from kan_audio.augment._base import REGISTRY, Augmentation, choice, log
from kan_audio.data.audio import resample
from kan_core.errors import KANError


@REGISTRY.register("speed")
class Speed(Augmentation):
    """Played at another speed by resampling: length, pitch and formants change together (Ko et al., Interspeech 2015).

    The length becomes ``ceil(frames / factor)``.

    Args:
        factors: To choose from; above 1 is faster and shorter. Each is taken to the nearest hundredth.
        p: Probability that a factor is drawn.
    """

    def __init__(self, factors: Sequence[float] = (0.9, 1.0, 1.1), p: float = 1.0) -> None:
        super().__init__(p)
        if not isinstance(factors, Sequence) or not factors or not all(0.5 <= factor <= 2 for factor in factors):
            raise KANError(f"factors must be a list of numbers from 0.5 to 2, got {factors!r}")
        self.factors = tuple(Fraction(round(100 * factor), 100) for factor in factors)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """Resampled by one of the factors."""
        factor = choice(self.factors)
        log.debug("speed: %.2f", float(factor))
        return resample(wave, factor.numerator, factor.denominator)
