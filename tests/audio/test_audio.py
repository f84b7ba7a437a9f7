"""Reading and writing sound: values, rates, channels, and every way in which a file can be broken."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from kan_audio.data.audio import audio_info, quantise, read_audio, read_zip, resample, write_audio
from kan_audio.data.utterances import AudioBytes
from kan_core.errors import KANError

RATE = 16000
STEP = 1 / 32768


def tone(frequency=440.0, seconds=0.25, rate=RATE):
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * rate)) / rate)


def encoded(samples, rate=RATE, format="WAV", subtype="PCM_16"):
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=format, subtype=subtype)
    return content.getvalue()


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_16_bit_files_keep_the_samples_to_one_step(tmp_path, suffix):
    wave = torch.rand(4000) * 2 - 1
    wave[:2] = torch.tensor([-1.0, 1.0])
    write_audio(tmp_path / f"a{suffix}", wave, RATE)
    read = read_audio(tmp_path / f"a{suffix}")
    assert read.dtype == torch.float32
    assert (read - wave).abs().max() <= STEP
    write_audio(tmp_path / f"b{suffix}", read, RATE)
    assert torch.equal(read_audio(tmp_path / f"b{suffix}"), read)


def test_flac_and_wav_of_the_same_samples_are_identical(tmp_path):
    wave = tone() + 0.1 * torch.randn(4000)
    for suffix in (".wav", ".flac"):
        write_audio(tmp_path / f"a{suffix}", wave, RATE)
    assert torch.equal(read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "a.flac"))


def test_what_is_too_loud_is_clipped_not_wrapped():
    assert quantise(torch.tensor([1.5, -1.5, 0.0, STEP])).tolist() == [32767, -32768, 0, 1]


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
)
def test_every_format_is_read_at_its_length(format, subtype):
    wave = tone()
    content = AudioBytes("a", encoded(wave.numpy(), format=format, subtype=subtype))
    read = read_audio(content)
    assert read.shape == wave.shape
    assert torch.corrcoef(torch.stack([read, wave]))[0, 1] > 0.99
    info = audio_info(content)
    assert info == (len(wave), RATE, 1, format, subtype)


def test_channels_are_averaged(tmp_path):
    left, right = tone(300.0), tone(500.0)
    soundfile.write(tmp_path / "a.wav", torch.stack([left, right], dim=1).numpy(), RATE, subtype="FLOAT")
    assert torch.allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)
    assert audio_info(tmp_path / "a.wav").channels == 2


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 32000, 44100, 48000])
def test_any_rate_from_8_to_48_khz_is_resampled(rate):
    read = read_audio(AudioBytes("a", encoded(tone(rate=rate).numpy(), rate)), RATE)
    assert abs(len(read) - 4000) <= 1
    inside = slice(200, 3800)
    assert (read[inside] - tone()[inside]).abs().max() < 2e-3


def test_resampling_there_and_back_keeps_a_mid_band_tone():
    wave = tone(1000.0)
    back = resample(resample(wave, RATE, 22050), 22050, RATE)
    assert (back[:4000] - wave)[200:-200].abs().max() < 1e-3


def test_resampling_to_the_same_rate_is_the_identity():
    wave = tone()
    assert resample(wave, RATE, RATE) is wave
    assert torch.equal(read_audio(wave, RATE, RATE), wave)


def test_a_part_of_a_file_is_the_same_part_of_the_whole(tmp_path):
    for suffix in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(tmp_path / f"a.{suffix}", torch.rand(40_000).numpy(), RATE)
        whole = read_audio(tmp_path / f"a.{suffix}")
        assert torch.allclose(
            read_audio(tmp_path / f"a.{suffix}", start=12_345, frames=100), whole[12_345:12_445], atol=1e-6
        )
        assert torch.allclose(read_audio(tmp_path / f"a.{suffix}", start=39_990), whole[39_990:], atol=1e-6)
    with pytest.raises(KANError, match=r"a.mp3: samples 39999 to 40001 were asked for, but it has 40000"):
        read_audio(tmp_path / "a.mp3", start=39_999, frames=2)


def test_samples_in_memory_are_a_source_too():
    wave = tone()
    assert torch.equal(read_audio(wave), wave)
    assert torch.equal(read_audio(wave.double(), start=10, frames=5), wave[10:15])
    assert len(read_audio(wave, 8000, RATE)) == 2000
    assert audio_info(wave, RATE)[:3] == (4000, RATE, 1)
    for call in (lambda: read_audio(wave, 8000), lambda: audio_info(wave)):
        with pytest.raises(KANError, match="native_rate"):
            call()
    for bad in (wave[None], torch.arange(4), torch.empty(0)):
        with pytest.raises(KANError, match="samples"):
            read_audio(bad)


@pytest.mark.parametrize("samples", [np.zeros(1), np.full(1, 0.5), np.zeros(4000), np.tile([1.0, -1.0], 2000)])
def test_one_sample_silent_and_clipped_files_are_read_right(samples):
    read = read_audio(AudioBytes("a", encoded(samples)))
    assert (read - torch.from_numpy(samples)).abs().max() <= STEP
    assert torch.isfinite(read_audio(AudioBytes("a", encoded(samples)), 8000)).all()


def one_line(path_or_bytes, match):
    with pytest.raises(KANError, match=match) as caught:
        read_audio(path_or_bytes)
    assert "\n" not in str(caught.value)
    assert str(getattr(path_or_bytes, "name", path_or_bytes)) in str(caught.value)


def test_missing_empty_and_foreign_files_are_named(tmp_path):
    one_line(tmp_path / "none.wav", "is missing")
    one_line(tmp_path, "is a folder")
    for name, content, match in (
        ("zero.wav", b"", "0 bytes"),
        ("text.flac", b"this is no sound", "not a readable audio file"),
        ("raw.raw", b"\x00" * 64, "headerless"),
        ("none.wav", encoded(np.zeros(0)), "holds no samples"),
    ):
        (tmp_path / name).write_bytes(content)
        one_line(tmp_path / name, match)
        with pytest.raises(KANError, match=name):
            audio_info(tmp_path / name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_samples_are_refused(tmp_path, bad):
    samples = tone().numpy()
    samples[7] = bad
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    one_line(tmp_path / "bad.wav", "NaN or infinite")
    with pytest.raises(KANError, match=r"out.wav.*NaN"):
        write_audio(tmp_path / "out.wav", torch.from_numpy(samples), RATE)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.98, -1])
@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_a_file_that_was_cut_off_is_never_read_as_a_shorter_one(capfd, format, subtype, keep):
    content = encoded(0.1 * torch.randn(3 * RATE).numpy(), format=format, subtype=subtype)
    cut = content[: keep if keep < 0 else int(len(content) * keep)]
    one_line(AudioBytes("cut.file", cut), "cut off|not a readable audio file")


def test_a_wav_from_a_pipe_says_no_length_and_is_read(tmp_path):
    content = bytearray(encoded(tone().numpy()))
    at = content.find(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    assert len(read_audio(AudioBytes("pipe.wav", bytes(content)))) == 4000


def test_writing_refuses_what_it_cannot_write(tmp_path):
    for path, wave, match in (
        ("a.mp3", tone(), "not as .mp3"),
        ("a", tone(), "a name without suffix"),
        ("a.wav", torch.empty(0), "at least one"),
        ("a.wav", torch.zeros(2, 4), "one channel"),
    ):
        with pytest.raises(KANError, match=match):
            write_audio(tmp_path / path, wave, RATE)
    assert not list(tmp_path.iterdir())


def test_a_zip_archive_gives_its_audio_members_sorted(tmp_path):
    first, second = (encoded(quantise(tone()).numpy(), format=format) for format in ("WAV", "FLAC"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("b/two.FLAC", second)
        archive.writestr("b/one.wav", first)
        archive.writestr("readme.txt", "text")
        archive.writestr("__MACOSX/b/._one.wav", "attributes")
    members = read_zip(tmp_path / "set.zip")
    assert list(members) == ["b/one.wav", "b/two.FLAC"]
    assert torch.equal(read_audio(members["b/one.wav"]), read_audio(members["b/two.FLAC"]))
    assert str(members["b/one.wav"]) == str(tmp_path / "set.zip/b/one.wav")
    (tmp_path / "broken.zip").write_bytes((tmp_path / "set.zip").read_bytes()[:200])
    for name, match in (("none.zip", "missing"), ("broken.zip", "zip archive")):
        with pytest.raises(KANError, match=rf"{name} .*{match}"):
            read_zip(tmp_path / name)


def test_real_speech_is_read_from_its_archive(shared_data):
    members = read_zip(shared_data("fsdd") / "free-spoken-digit-dataset.zip")
    assert len(members) == 3000
    name, content = next(iter(members.items()))
    assert name.endswith("0_george_0.wav")
    info = audio_info(content)
    assert (info.sample_rate, info.channels, info.subtype) == (8000, 1, "PCM_16")
    assert len(read_audio(content, RATE)) == 2 * info.frames
