"""Mistakes that a user can make with the audio app: one line with file, field or option and remedy, exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kan_audio.cli import main
from kan_audio.data.audio import write_audio

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
PROTOCOL = [
    *("--data=kan_audio.data.ProtocolSpoof", "--data.root=.", "--data.folder=.", '--data.protocols=["protocol.txt"]'),
    *('--data.audio=["flac"]', "--data.num_samples=4000", "--data.split=random"),
]
FOLDERS = ["--data=kan_audio.data.LabelledFolders", "--data.folder=speech", "--data.root=.", "--data.num_samples=4000"]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)


@pytest.fixture
def fails(capsys):
    """`fails(args, part, ...)`: the app exits with 2 and one line on stderr that has every part; nothing is written."""

    def check(args, *parts):
        before = sorted(path for path in Path.cwd().rglob("*") if path.is_file())
        assert main(args) == 2
        stderr = capsys.readouterr().err
        assert len(stderr.splitlines()) == 1, stderr
        for part in parts:
            assert part in stderr
        assert sorted(path for path in Path.cwd().rglob("*") if path.is_file()) == before

    return check


@pytest.fixture
def protocol(tmp_path):
    """Twelve recordings of noise with an ASVspoof 2019 protocol."""
    lines = []
    for i in range(12):
        wave = 0.1 * torch.randn(5000, generator=torch.Generator().manual_seed(i))
        write_audio(tmp_path / "flac" / f"u{i}.flac", wave, 16_000)
        lines.append(f"s{i} u{i} - {'A01 spoof' if i % 2 else '- bonafide'}\n")
    path = tmp_path / "protocol.txt"
    path.write_text("".join(lines))
    return path


def train(*options):
    return [*options, "--trainer.max_epochs=1", "--twin=none", *QUIET]


def test_a_protocol_that_names_a_missing_file(fails, protocol):
    Path("flac/u3.flac").unlink()
    fails(train(*PROTOCOL), "protocol.txt, line 4", "u3")


def test_a_protocol_with_an_unknown_label(fails, protocol):
    protocol.write_text(protocol.read_text().replace("u5 - A01 spoof", "u5 - A01 fake"))
    fails(train(*PROTOCOL), "protocol.txt, line 6", "fake")


def test_a_folder_that_is_no_label(fails):
    """M-AILABS has folders of languages: they must not become spoofs in silence."""
    for folder in ("bonafide", "de_DE"):
        write_audio(Path("speech") / folder / "a.wav", torch.randn(5000) * 0.1, 16_000)
    fails(train(*FOLDERS), "de_DE")


@pytest.mark.parametrize("kind", ["empty", "truncated", "nan", "text"])
def test_a_file_that_cannot_be_used(fails, protocol, kind):
    path = Path("flac/u2.flac")
    path.unlink()
    path = path.with_suffix(".wav")
    if kind == "empty":
        soundfile.write(path, np.zeros(0, np.float32), 16_000)
    elif kind == "nan":
        soundfile.write(path, np.array([0.1, np.nan, 0.2] * 2000, np.float32), 16_000, subtype="FLOAT")
    elif kind == "text":
        path.write_text("this is no sound")
    else:
        soundfile.write(path, np.zeros(6000, np.float32), 16_000)
        path.write_bytes(path.read_bytes()[:2000])
    fails(train(*PROTOCOL), "u2.wav")


@pytest.mark.usefixtures("undrawn")
def test_files_of_other_rates_and_clipped_silent_or_short_ones_are_right(protocol):
    clipped = (3 * torch.randn(5000)).clamp(-1, 1)
    for name, wave, rate in (("u0", clipped, 48_000), ("u1", torch.zeros(5000), 8_000), ("u2", torch.ones(1), 22_050)):
        Path(f"flac/{name}.flac").unlink()
        write_audio(Path(f"flac/{name}.wav"), wave, rate)
    assert main(train(*PROTOCOL)) == 0


def test_scores_with_a_missing_or_duplicate_id(fails, protocol):
    ids = [f"u{i}" for i in range(12)]
    Path("scores.txt").write_text("".join(f"{name} {i}.5\n" for i, name in enumerate(ids[:-1])))
    fails(["evaluate", "scores.txt", "protocol.txt"], "scores.txt", "u11")
    Path("scores.txt").write_text("".join(f"{name} {i}.5\n" for i, name in enumerate([*ids, "u4"])))
    fails(["evaluate", "scores.txt", "protocol.txt"], "scores.txt", "u4")
    Path("scores.txt").write_text("".join(f"{name} nan\n" for name in ids))
    fails(["evaluate", "scores.txt", "protocol.txt"], "scores.txt", "nan")


@pytest.mark.parametrize(
    ("args", "parts"),
    {
        "unknown model": (train("--model.model=aasist4"), ("unknown model 'aasist4'", "aasist3")),
        "refused argument": (train("--model.model_kwargs.depth=3"), ("aasist3_mel", "depth")),
        "unknown augmentation": (train('--data.augment=["eccho"]'), ("eccho",)),
        "unknown attack": (train('--data.train_attacks=["B01"]'), ("B01",)),
        "missing set": (
            train("--data=kan_audio.data.FSDD", "--model=kan_audio.tasks.SlotTask"),
            ("fsdd", "https://"),
        ),
        "data of another task": (
            train(
                "--model=kan_audio.tasks.SlotTask",
                "--model.model=slu_cnn_small",
                "--model.model_kwargs={}",
                "--data.max_utterances=20",
            ),
            ("SlotTask needs a PaddedDataModule",),
        ),
        "prior": (train("--model.spoof_prior=1.5"), ("spoof_prior", "1.5")),
        "selection": (train("--model.select_by=accuracy"), ("select_by",)),
        "unknown command": (["score"], ("unknown command 'score'", "evaluate", "spoof")),
        "evaluate without files": (["evaluate"], ("scores", "protocol")),
        "nothing to spoof": (["spoof", "none", "out"], ("none",)),
        "prediction without a run": (["predict", "a.wav"], ("--ckpt_path",)),
    }.values(),
)
def test_mistakes_are_one_line(fails, args, parts):
    fails(args, *parts)
