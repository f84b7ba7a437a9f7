"""The small parts of kan_core.training: files, paths, optimiser, metrics.csv, messages."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn

from kan_core import KANError
from kan_core.training import Task, adamw_cosine, atomic_write, data_root, parameter_groups, run
from kan_core.training.console import describe
from kan_core.training.history import MetricsLogger, read_metrics
from kan_core.training.parsing import one_line, split_command
from kan_core.training.run_folder import RunFolder, run_name
from kan_core.training.summary import Outcome, result_table


def test_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAN_DATA", raising=False)
    assert data_root() == Path.home() / ".cache" / "kan"
    monkeypatch.setenv("KAN_DATA", "~/sets")
    assert data_root() == Path.home() / "sets"
    assert data_root("given") == Path("given")


def test_atomic_write_replaces_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.table = nn.Parameter(torch.ones(2, 2))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def no_weight_decay(self) -> set[str]:
        return {"table"}


def test_parameter_groups_exempt_norms_biases_and_named_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), Scaled())
    decayed, kept = parameter_groups(model, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"0.weight", "2.weight"}
    assert {names[id(p)] for p in kept["params"]} == {"0.bias", "1.weight", "1.bias", "2.table"}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


def test_schedule_warms_up_and_ends_at_one_per_cent() -> None:
    made = adamw_cosine(nn.Linear(2, 2), lr=0.5, weight_decay=0.0, total_steps=110, warmup_steps=10)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(111):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.5 / 11)
    assert rates[10] == max(rates) == 0.5
    assert rates[60] == pytest.approx(0.5 * (0.01 + 0.99 * 0.5))
    assert rates[110] == pytest.approx(0.005)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_schedule_needs_an_end() -> None:
    with pytest.raises(KANError, match="max_epochs"):
        adamw_cosine(nn.Linear(2, 2), lr=0.5, weight_decay=0.0, total_steps=math.inf, warmup_steps=0)


def test_metrics_logger_merges_an_epoch_and_restores_rows(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    for epoch in range(3):
        logger.log_metrics({"val/loss": torch.tensor(0.1 * epoch), "epoch": epoch}, step=4 * epoch + 3)
        logger.log_metrics({"train/loss": 1.0 / 3, "epoch": epoch}, step=4 * epoch + 3)
        logger.save()
    first = (tmp_path / "metrics.csv").read_text()
    assert first.splitlines()[:2] == ["epoch,step,train/loss,val/loss", "0,3,0.3333333333333333,0.0"]
    resumed = MetricsLogger(tmp_path, resume_step=8)  # two epochs of four steps were done
    resumed.log_metrics({"lr": 1.0, "epoch": 2}, step=11)
    resumed.save()
    rows = read_metrics(tmp_path)
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 3), (1, 7), (2, 11)]
    assert rows[0] == {"epoch": 0, "step": 3, "train/loss": "0.3333333333333333", "val/loss": "0.0"}
    assert rows[2] == {"epoch": 2, "step": 11, "lr": "1.0"}
    fresh = MetricsLogger(tmp_path)
    fresh.log_metrics({"lr": 2.0, "epoch": 0}, step=0)
    fresh.save()
    assert read_metrics(tmp_path) == [{"epoch": 0, "step": 0, "lr": "2.0"}]


def test_run_names() -> None:
    assert run_name(None, "Fashion MNIST", "kan_mlp_small") == "fashion-mnist-kan_mlp_small"
    assert run_name("a.b-c_1", "x", "y") == "a.b-c_1"
    for bad in ("", "a/b", "..", ".", "a b"):
        with pytest.raises(KANError, match="--name"):
            run_name(bad, "x", "y")


def test_run_folder_rotation_and_abandon(tmp_path: Path) -> None:
    for content in ("1", "2"):
        folder = RunFolder(tmp_path / "run")
        folder.create(resume=False)
        (folder.path / "x").write_text(content)
    assert {p.name: (p / "x").read_text() for p in tmp_path.iterdir()} == {"run": "2", "run.1": "1"}
    folder = RunFolder(tmp_path / "run")
    folder.create(resume=False)
    assert not any(folder.path.iterdir())
    folder.abandon()
    assert {p.name: (p / "x").read_text() for p in tmp_path.iterdir()} == {"run": "2", "run.1": "1"}
    folder.create(resume=False)
    (folder.path / "checkpoints").mkdir()
    (folder.path / "checkpoints" / "last.ckpt").touch()
    folder.abandon()  # something was trained: it stays
    assert {p.name for p in tmp_path.iterdir()} == {"run", "run.1", "run.2"}
    kept = RunFolder(tmp_path / "run.1")
    with pytest.raises(SystemExit), atomic_write(kept.path / "deep" / "last.ckpt") as temporary:  # noqa: PT012
        temporary.write_text("half")
        leftover = temporary.rename(temporary.with_name(temporary.name.replace(str(os.getpid()), "1")))
        raise SystemExit
    assert leftover.exists()  # as after a SIGKILL
    kept.create(resume=True)
    assert not leftover.exists()
    kept.abandon()
    assert (kept.path / "x").read_text() == "1"


def test_commands() -> None:
    assert split_command([]) == (None, [])
    assert split_command(["--a", "fit"]) == (None, ["--a", "fit"])
    assert split_command(["test", "--a"]) == ("test", ["--a"])
    with pytest.raises(KANError, match="unknown command 'tset'"):
        split_command(["tset"])
    with pytest.raises(KANError, match=r"use fit, .*, export, weigh, or none to train and test"):
        split_command(["weight"], more=("weigh",))


def test_a_command_of_the_app_alone_gets_the_rest_of_the_line_and_its_mistakes_are_one_line(tmp_path, capsys) -> None:
    def weigh(words) -> None:
        if "--heavy" in words:
            raise KANError("--heavy: too heavy")
        print("weighed", *words)

    def main(*words) -> int:
        return run(
            Task, LightningDataModule, app="toy", defaults=tmp_path / "none.yaml", args=words, commands={"weigh": weigh}
        )

    assert main("weigh", "a", "b") == 0
    assert capsys.readouterr().out == "weighed a b\n"
    assert main("weigh", "--heavy") == 2
    assert capsys.readouterr().err == "error: --heavy: too heavy\n"
    assert main("--help") == 0
    assert "weigh --help: commands with options of their own" in " ".join(capsys.readouterr().out.split())


def test_messages_that_are_not_recognised_still_fit_on_one_line() -> None:
    assert (
        one_line('Parser key "data":\n  - something\n  - else') == "--data: something; else; --help lists the options"
    )


class NoTwinTask(Task):
    pass


class HTTPLog2Task(Task):
    pass


def test_task_defaults() -> None:
    task = NoTwinTask()
    with pytest.raises(KANError, match="--twin none"):
        task.make_twin("params")
    assert task.task_name == "no-twin"
    assert HTTPLog2Task().task_name == "http-log2"
    rows = list(task.prediction_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    assert rows == [{"output_0": 1.0, "output_1": 2.0}, {"output_0": 3.0, "output_1": 4.0}]
    with pytest.raises(TypeError, match="prediction_rows"):
        list(task.prediction_rows({"a": 1}))


class Broken(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> None:
        raise KANError("b.wav is not a readable file: repair or remove it")


def test_a_mistake_that_a_loader_process_met_is_told_as_one_line() -> None:
    with pytest.raises(KANError) as error:
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert describe(error.value) == "error: b.wav is not a readable file: repair or remove it"
    assert describe(KANError("a:\nb")) == "error: a: b"


def test_an_interval_stands_in_the_row_of_its_metric() -> None:
    metrics = {"test/eer": 0.25, "test/eer_low": 0.125, "test/eer_high": 0.5, "test/loss_low": 1.0}
    outcome = Outcome("t", "d", "m", 0, 10, None, 1.0, None, metrics, None, "test/eer", False)
    _, rows = result_table(outcome, None, {}, "params")
    assert rows[:2] == [["test/eer", "0.2500 [0.125, 0.500]"], ["test/loss_low", "1.0000"]]
