"""Sound files to samples and back.

Decoding is libsndfile's: no FFmpeg and no torchcodec, which the loaders of torchaudio need since 2.9.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from kan_audio.data.utterances import AudioBytes, AudioSource
from kan_core.errors import KANError
from kan_core.training.files import atomic_write

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".w64", ".rf64"}
)
"""The file names that are taken for audio, in lower case."""

PCM16 = 32768
"""Steps of 16-bit samples per unit of amplitude."""


class AudioInfo(NamedTuple):
    """What a file's header says.

    Attributes:
        frames: Samples per channel.
        sample_rate: Samples per second.
        channels: How many channels.
        format: Such as ``"WAV"``, ``"FLAC"``, ``"OGG"``; ``"samples"`` for a tensor.
        subtype: Such as ``"PCM_16"``, ``"VORBIS"``.
    """

    frames: int
    sample_rate: int
    channels: int
    format: str
    subtype: str


def read_audio(
    source: AudioSource,
    sample_rate: int | None = None,
    native_rate: int | None = None,
    *,
    start: int = 0,
    frames: int | None = None,
) -> Tensor:
    """The samples of a recording, mono.

    Args:
        source: A file (WAV, FLAC, OGG Vorbis or Opus, MP3 and what else libsndfile reads), one in memory, or samples.
        sample_rate: Resample to this rate; None leaves the recording's own.
        native_rate: The rate of a `source` that is samples; files say it themselves.
        start: First sample to read, at the recording's own rate. Only the part asked for is
            decoded (of Ogg, what comes before it too).
        frames: How many samples to read, at the recording's own rate; None reads to the end.

    Returns:
        ``(frames,)`` float32, the mean of the channels, in [-1, 1] but for the overshoot of lossy decoders and of
        resampling. A silent, clipped or one-sample recording is read as it is.

    Raises:
        KANError: Naming the file, when it is missing, not audio, cut off, empty or holds NaN or infinite samples, or
            when the part asked for lies outside it.
    """
    if isinstance(source, Tensor):
        wave, rate = _part_of_samples(source, start, frames), native_rate
    else:
        wave, rate = _decode(source, start, frames)
    if not torch.isfinite(wave).all():
        raise KANError(f"{_name(source)} holds samples that are NaN or infinite; repair or remove it")
    if sample_rate is None:
        return wave
    if rate is None:
        raise KANError(f"samples cannot be resampled to {sample_rate} Hz: say their own rate with native_rate")
    return resample(wave, rate, sample_rate)


def audio_info(source: AudioSource, native_rate: int | None = None) -> AudioInfo:
    """Length and format of a recording, from its header, without decoding.

    Args:
        source: As for `read_audio`.
        native_rate: The rate of a `source` that is samples.

    Raises:
        KANError: Naming the file, when it is missing, not audio, cut off (where the header tells) or empty.
    """
    if isinstance(source, Tensor):
        if native_rate is None:
            raise KANError("samples do not say their rate: name it with native_rate")
        return AudioInfo(len(_part_of_samples(source, 0, None)), native_rate, 1, "samples", str(source.dtype))
    with _opened(source) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels, file.format, file.subtype)


def resample(wave: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Windowed-sinc resampling of torchaudio (Hann window of 6 zero crossings, roll-off 0.99), its kernels kept.

    Args:
        wave: ``(..., frames)``.
        from_rate: Samples per second of `wave`.
        to_rate: Samples per second wanted.

    Returns:
        ``(..., ceil(frames * to_rate / from_rate))``; `wave` itself when the rates are equal.
    """
    for rate in (from_rate, to_rate):
        if rate < 1:
            raise KANError(f"a sample rate must be at least 1 Hz, got {rate}")
    if from_rate == to_rate:
        return wave
    resampled: Tensor = _resampler(from_rate, to_rate)(wave)
    return resampled


def quantise(wave: Tensor) -> Tensor:
    """Samples as 16-bit integers: rounded to steps of 1/32768 and clipped.

    `soundfile` reads an integer i as i/32768 but writes floats times 32767; rounding here makes writing what was read
    exact.
    """
    return (wave * PCM16).round().clamp(-PCM16, PCM16 - 1).to(torch.int16)


def write_audio(path: Path | str, wave: Tensor, sample_rate: int) -> None:
    """Write samples as a 16-bit mono file, which appears under its name only when it is complete.

    Args:
        path: ``.wav`` or ``.flac``.
        wave: ``(frames,)`` in [-1, 1]; what lies outside is clipped.
        sample_rate: Samples per second.

    Raises:
        KANError: For another suffix, or samples that are none, NaN or infinite.
    """
    path = Path(path)
    if path.suffix.lower() not in (".wav", ".flac"):
        raise KANError(f"{path}: audio is written as .wav or .flac, not as {path.suffix or 'a name without suffix'}")
    if wave.ndim != 1 or not len(wave) or not torch.isfinite(wave).all():
        raise KANError(f"{path}: only one channel of at least one finite sample can be written, got {_describe(wave)}")
    with atomic_write(path) as temporary:
        soundfile.write(temporary, quantise(wave.detach().cpu()).numpy(), sample_rate, subtype="PCM_16")


def read_zip(path: Path | str) -> dict[str, AudioBytes]:
    """The audio members of a zip archive, still encoded, by their name in it, sorted.

    Raises:
        KANError: When the archive is missing, broken or encrypted.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if _is_audio(name))
            return {name: AudioBytes(f"{path}/{name}", archive.read(name)) for name in names}
    except FileNotFoundError:
        raise KANError(f"{path} is missing") from None
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last: encrypted
        raise KANError(f"{path} cannot be read as a zip archive ({error}); fetch it again") from None


def _is_audio(name: str) -> bool:
    """Macs add to an archive a second tree of files that have the names of the first but hold its attributes."""
    member = PurePosixPath(name)
    return member.suffix.lower() in SUFFIXES and "__MACOSX" not in member.parts


@lru_cache(maxsize=32)
def _resampler(from_rate: int, to_rate: int) -> Resample:
    return Resample(from_rate, to_rate)


def _name(source: AudioSource) -> str:
    return "the given samples" if isinstance(source, Tensor) else str(source)


def _describe(wave: Tensor) -> str:
    return f"shape {tuple(wave.shape)}" if wave.ndim != 1 or not len(wave) else "NaN or infinite samples"


def _part_of_samples(samples: Tensor, start: int, frames: int | None) -> Tensor:
    if samples.ndim != 1 or not samples.is_floating_point():
        raise KANError(f"samples must be floats of shape (frames,), got {samples.dtype} of {tuple(samples.shape)}")
    if not len(samples):
        raise KANError("the given samples are empty")
    stop = _stop("the given samples", len(samples), start, frames)
    return samples[start:stop].to(torch.float32)


def _stop(name: str, length: int, start: int, frames: int | None) -> int:
    stop = length if frames is None else start + frames
    if not 0 <= start < stop <= length:
        raise KANError(f"{name}: samples {start} to {stop} were asked for, but it has {length}")
    return stop


def _decode(source: Path | AudioBytes, start: int, frames: int | None) -> tuple[Tensor, int]:
    with _opened(source) as file:
        stop = _stop(str(source), file.frames, start, frames)
        # libsndfile 1.2.2 seeks to wrong samples in the last page of Ogg Vorbis: what comes before is decoded instead
        first = 0 if file.format == "OGG" else start
        if first:
            file.seek(first)
        channels = file.read(stop - first, dtype="float32", always_2d=True)
        if len(channels) < stop - first:
            raise KANError(_cut_off(source, f"{stop - first} samples were promised, {len(channels)} are there"))
        return torch.from_numpy(channels[start - first :].mean(axis=1)), file.samplerate


@contextmanager
def _opened(source: Path | AudioBytes) -> Iterator[soundfile.SoundFile]:
    """The file, open, after the checks that need no decoding."""
    if isinstance(source, Path):
        _check_file(source)
    try:
        with soundfile.SoundFile(source if isinstance(source, Path) else io.BytesIO(source.data)) as file:
            _check_whole(source, file)
            yield file
    except soundfile.LibsndfileError as error:
        # the rest of its text names the memory that the bytes came from
        reason = error.error_string.strip().rstrip(".")
        raise KANError(f"{source} is not a readable audio file ({reason}); repair or remove it") from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise KANError(f"{path} is {'a folder, not an audio file' if path.is_dir() else 'missing'}")
    if path.suffix.lower() == ".raw":
        raise KANError(f"{path}: headerless samples do not say their rate or type; convert the file to WAV or FLAC")
    if not path.stat().st_size:
        raise KANError(f"{path} is empty (0 bytes); fetch it again or remove it")


# libsndfile corrects a length that a header overstates, and says so only in its log
_OVERSTATED = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
# programs that write to a pipe cannot know the length, and put the largest number there
_UNKNOWN_LENGTH = 0x7FFF_0000


def _check_whole(source: Path | AudioBytes, file: soundfile.SoundFile) -> None:
    for promised, found in _OVERSTATED.findall(file.extra_info):
        if int(found) < int(promised) < _UNKNOWN_LENGTH:
            raise KANError(_cut_off(source, f"{promised} bytes were promised, {found} are there"))
    if file.format == "OGG" and not _ends_with_last_page(_tail(source)):
        raise KANError(_cut_off(source, "its last page is missing"))
    if file.frames < 1:
        raise KANError(f"{source} holds no samples; remove it")


def _cut_off(source: Path | AudioBytes, detail: str) -> str:
    return f"{source} is cut off ({detail}); fetch it again or remove it"


def _tail(source: Path | AudioBytes) -> bytes:
    """The end of a file, long enough for the largest page of an Ogg stream."""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source.data) as content:
        content.seek(max(content.seek(0, io.SEEK_END) - 65_307, 0))
        return content.read()


def _ends_with_last_page(tail: bytes) -> bool:
    """Whether an Ogg stream ends with a whole page that is marked as its last (RFC 3533, section 6)."""
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27:
        return False
    segments = page[27 : 27 + page[26]]
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(segments)
