"""Killed and resumed, a run ends with exactly the numbers of an uninterrupted one; two processes train and log once."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
toy = importlib.import_module("toy_training")

pytestmark = pytest.mark.usefixtures("undrawn")

# dropout, shuffling, a moving grid and the penalty: everything that has state or draws random numbers
OPTIONS = [
    "--trainer.callbacks+=kan_core.training.GridUpdate",
    "--trainer.callbacks+=kan_core.training.Regularization",
]
STOP = ["--trainer.callbacks+=toy_training.StopAt", "--trainer.callbacks.epoch", "2"]


def assert_same_run(one: Path, two: Path) -> None:
    for part in (".", "twin"):
        assert (one / part / "metrics.csv").read_bytes() == (two / part / "metrics.csv").read_bytes()
        for name in ("best.ckpt", "last.ckpt"):
            a, b = (torch.load(run / part / "checkpoints" / name, weights_only=True) for run in (one, two))
            assert (a["epoch"], a["global_step"]) == (b["epoch"], b["global_step"])
            assert a["state_dict"].keys() == b["state_dict"].keys()
            assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    a, b = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    assert a["metrics"] == b["metrics"]
    assert a["twin"]["metrics"] == b["twin"]["metrics"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert toy.main(folder, ["--name", "whole", *OPTIONS]) == 0
    return folder / "outputs" / "toy" / "whole"


@pytest.mark.parametrize("workers", ["0", "1"])
def test_interrupted_and_resumed_equals_uninterrupted(
    workers: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "outputs" / "toy"
    options = [*OPTIONS, "--data.num_workers", workers]
    assert toy.main(tmp_path, ["--name", "cut", *options, *STOP]) == 130
    last = runs / "cut" / "checkpoints" / "last.ckpt"
    assert capsys.readouterr().err == f"interrupted: resume with the same options and --ckpt_path {last}\n"
    assert torch.load(last, weights_only=True)["epoch"] == 1
    assert toy.main(tmp_path, [*options, "--ckpt_path", str(last)]) == 0
    assert_same_run(whole, runs / "cut")
    assert {path.name for path in runs.iterdir()} == {"cut"}


def test_a_moved_run_resumes_and_knows_its_best_epoch(whole: Path, tmp_path: Path) -> None:
    runs = tmp_path / "outputs" / "toy"
    assert toy.main(tmp_path, ["--name", "cut", *OPTIONS, *STOP]) == 130
    shutil.move(runs / "cut", tmp_path / "elsewhere")
    assert toy.main(tmp_path, [*OPTIONS, "--ckpt_path", str(tmp_path / "elsewhere/checkpoints/last.ckpt")]) == 0
    assert_same_run(whole, tmp_path / "elsewhere")
    assert not (runs / "cut").exists()


def test_interrupted_in_the_twin_resumes_there(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "outputs" / "toy"
    step = toy.ToyTask.training_step

    def stop(self: object, batch: object, batch_idx: int) -> object:
        if self.hparams["model"] == "mlp" and self.current_epoch == 2 and batch_idx == 3:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyTask, "training_step", stop)
        assert toy.main(tmp_path, ["--name", "cut", *OPTIONS]) == 130
    assert toy.main(tmp_path, [*OPTIONS, "--ckpt_path", str(runs / "cut/checkpoints/last.ckpt")]) == 0
    assert_same_run(whole, runs / "cut")


def test_interrupted_before_the_first_epoch_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.main(tmp_path, [*STOP[:-1], "0"]) == 130
    assert "nothing to resume" in capsys.readouterr().err
    assert not list((tmp_path / "outputs" / "toy").iterdir())
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_resume_needs_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["fit", "--twin", "none", "--trainer.max_epochs", "1"]
    assert toy.main(tmp_path, [*quick, "--name", "x"]) == 0
    last = tmp_path / "outputs" / "toy" / "x" / "checkpoints" / "last.ckpt"
    shutil.copy(last, tmp_path / "copy.ckpt")
    assert toy.main(tmp_path, [*quick, "--ckpt_path", str(tmp_path / "copy.ckpt")]) == 2
    assert "checkpoints folder of a run" in capsys.readouterr().err
    assert toy.main(tmp_path, [*quick, "--ckpt_path", str(last), "--name", "y"]) == 2
    assert "--name y" in capsys.readouterr().err


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}


def command(folder: Path, *args: str) -> list[str]:
    return [sys.executable, str(Path(toy.__file__)), str(folder), *args]


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(whole: Path, tmp_path: Path) -> None:
    runs = tmp_path / "outputs" / "toy"
    slow = [*OPTIONS, "--model.delay", "0.1"]
    killed = subprocess.Popen(command(tmp_path, "--name", "killed", *slow), env=environment())
    last = runs / "killed" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists():
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # into the middle of the next epoch, which takes at least 0.6 s
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert torch.load(last, weights_only=True)["epoch"] < 3
    assert not (runs / "killed" / "summary.json").exists()
    options = [*OPTIONS, "--model.delay", "0"]
    assert toy.main(tmp_path, [*options, "--ckpt_path", str(last)]) == 0
    assert_same_run(whole, runs / "killed")


@pytest.mark.slow
def test_two_processes_train_and_log_once(tmp_path: Path) -> None:
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.callbacks+=toy_training.RankWeights"]
    older = tmp_path / "outputs" / "toy" / "ring-kan"
    older.mkdir(parents=True)
    (older / "precious.txt").write_text("kept")
    done = subprocess.run(
        command(tmp_path, *OPTIONS, *ddp), env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Everything is in") == 1
    run = tmp_path / "outputs" / "toy" / "ring-kan"
    assert {path.name for path in run.parent.iterdir()} == {"ring-kan", "ring-kan.1"}
    assert (run.with_name("ring-kan.1") / "precious.txt").read_text() == "kept"
    # 96 samples over 2 processes in batches of 16: 3 steps an epoch
    steps = [line.split(",")[:2] for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [["0", "2"], ["1", "5"], ["2", "8"], ["3", "11"]]
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["twin"]["metrics"].keys() == summary["metrics"].keys() == {"test/loss", "test/accuracy"}
    # the same test, in this one process
    assert toy.main(tmp_path, ["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt")]) == 0
    assert json.loads((run / "test.json").read_text())["metrics"] == summary["metrics"]
