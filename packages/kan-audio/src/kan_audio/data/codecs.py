"""Sound through a codec and back, in memory; libsndfile holds the codecs."""

from __future__ import annotations

import io
from typing import NamedTuple

import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from kan_audio.data.audio import resample
from kan_core.errors import KANError


class Codec(NamedTuple):
    """A codec of libsndfile.

    Attributes:
        format: Its container.
        subtype: Its name there.
        rates: The sample rates it is defined for, ascending; empty for any.
        compression: libsndfile's compression level, 0 to 1 for the lowest bit rate; None for its default.
    """

    format: str
    subtype: str
    rates: tuple[int, ...] = ()
    compression: float | None = None


_TELEPHONE = (8000,)
_OPUS = (8000, 12000, 16000, 24000, 48000)
_MP3 = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

CODECS = {
    "vorbis": Codec("OGG", "VORBIS"),
    "opus": Codec("OGG", "OPUS", _OPUS),
    "opus-low": Codec("OGG", "OPUS", _OPUS, compression=0.98),
    "mp3": Codec("MP3", "MPEG_LAYER_III", _MP3),
    "ulaw": Codec("WAV", "ULAW", _TELEPHONE),
    "alaw": Codec("WAV", "ALAW", _TELEPHONE),
    "gsm": Codec("WAV", "GSM610", _TELEPHONE),
    "g721": Codec("WAV", "G721_32", _TELEPHONE),
    "adpcm": Codec("WAV", "G721_32"),
}
"""By name.

``"opus-low"`` is Opus at the lowest bit rate that keeps the whole band, ``"adpcm"`` G.721 at the recording's own rate.
"""


def round_trip(wave: Tensor, sample_rate: int, codec: str) -> Tensor:
    """Encode and decode a recording.

    A recording at another rate than the codec's is resampled there and back. None of these codecs delays the sound;
    GSM 6.10 and G.721 fill up their last block, which is cut off.

    Args:
        wave: ``(frames,)`` in [-1, 1]; what lies outside is clipped.
        sample_rate: Samples per second.
        codec: One of `CODECS`.

    Returns:
        ``(frames,)``.

    Raises:
        KANError: For an unknown codec.
    """
    if codec not in CODECS:
        raise KANError(f"unknown codec {codec!r}: choose one of {', '.join(CODECS)}")
    format, subtype, rates, compression = CODECS[codec]
    rate = _nearest(sample_rate, rates)
    samples = resample(wave, sample_rate, rate).clamp(-1, 1)
    content = io.BytesIO()
    soundfile.write(content, samples.numpy(), rate, subtype, format=format, compression_level=compression)
    content.seek(0)
    decoded = torch.from_numpy(soundfile.read(content, dtype="float32")[0])
    return same_length(resample(decoded, rate, sample_rate), len(wave))


def same_length(wave: Tensor, num_samples: int) -> Tensor:
    """`wave` cut, or filled up with zeros, to `num_samples`."""
    return F.pad(wave[:num_samples], (0, max(num_samples - len(wave), 0)))


def _nearest(sample_rate: int, rates: tuple[int, ...]) -> int:
    """`sample_rate` where a codec knows it, else its next higher rate, else its highest."""
    if not rates:
        return sample_rate
    return min((rate for rate in rates if rate >= sample_rate), default=rates[-1])
