"""What coding and telephone lines do to speech."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from kan_audio.augment._base import REGISTRY, Augmentation, checked, choice, log
from kan_audio.data.codecs import CODECS, round_trip
from kan_core.errors import KANError


@REGISTRY.register("codec")
class CodecRoundTrip(Augmentation):
    """Encoded and decoded by a random codec; the length stays. It takes 1 to 10 ms for half a second of speech.

    Args:
        codecs: Names to choose from (`kan_audio.data.codecs.CODECS`); by default all of the usual quality.
        p: Probability that a recording is changed.
    """

    def __init__(
        self,
        codecs: Sequence[str] = ("vorbis", "opus", "mp3", "ulaw", "alaw", "gsm", "g721"),
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        unknown = sorted({*codecs} - {*CODECS})
        if unknown or not codecs or isinstance(codecs, str):
            raise KANError(f"codecs must be a list of some of {', '.join(CODECS)}, got {codecs!r}")
        self.codecs = tuple(codecs)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """Through one of the codecs."""
        codec = choice(self.codecs)
        log.debug("codec: %s", codec)
        return round_trip(wave, sample_rate, codec)


@REGISTRY.register("mulaw")
class MuLaw(Augmentation):
    """Companded by ``sign(x) ln(1 + mu |x|) / ln(1 + mu)``, rounded and expanded again, without a band limit.

    Args:
        bits: Per sample; mu is ``2^bits - 1``.
        p: Probability that a recording is changed.
    """

    def __init__(self, bits: int = 8, p: float = 0.5) -> None:
        super().__init__(p)
        self.levels = 1 << _checked_bits(bits)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """What lies outside [-1, 1] is clipped."""
        decoded: Tensor = mu_law_decoding(mu_law_encoding(wave.clamp(-1, 1), self.levels), self.levels)
        return decoded


@REGISTRY.register("requantise")
class Requantise(Augmentation):
    """Rounded to steps of ``2^(1 - bits)``.

    Args:
        bits: Per sample.
        p: Probability that a recording is changed.
    """

    def __init__(self, bits: int = 8, p: float = 0.5) -> None:
        super().__init__(p)
        self.steps = 1 << (_checked_bits(bits) - 1)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """What lies outside [-1, 1) is clipped."""
        rounded: Tensor = (wave * self.steps).round().clamp(-self.steps, self.steps - 1)
        return rounded / self.steps


@REGISTRY.register("bandlimit")
class BandLimit(Augmentation):
    """Only a band of frequencies is kept, without delay; its edges are cosines of 100 Hz outside the band.

    Args:
        band: Lowest and highest frequency in Hz; the default is that of a telephone.
        p: Probability that a recording is changed.
    """

    def __init__(self, band: Sequence[float] = (300, 3400), p: float = 0.5) -> None:
        super().__init__(p)
        self.band = checked("band", band, lowest=0)

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """A product of spectra; a fiftieth of a second of zeros keeps the end from ringing into the beginning."""
        low, high = self.band
        size = next_fast_len(len(wave) + sample_rate // 50, real=True)
        frequency = torch.fft.rfftfreq(size, 1 / sample_rate)
        outside = torch.maximum(low - frequency, frequency - high).clamp(0, 100)
        kept = 0.5 + 0.5 * torch.cos(torch.pi * outside / 100)
        limited: Tensor = torch.fft.irfft(torch.fft.rfft(wave, n=size) * kept, n=size)
        return limited[: len(wave)]


def _checked_bits(bits: int) -> int:
    if not isinstance(bits, int) or not 2 <= bits <= 16:
        raise KANError(f"bits must be a whole number from 2 to 16, got {bits!r}")
    return bits
