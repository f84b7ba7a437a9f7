"""The contract of a run: what it writes, that it repeats, and that a mistake is one line with exit code 2."""

from __future__ import annotations

import csv
import importlib
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch

from kan_core.training.summary import Outcome, verdict

sys.path.insert(0, str(Path(__file__).parent))
toy = importlib.import_module("toy_training")

# but the run that tests of the report read from is drawn: its fixture, of the module, comes first
pytestmark = pytest.mark.usefixtures("undrawn")

RUN_FILES = {
    "config.yaml",
    "metrics.csv",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "figures/edge_functions.png",
    "figures/learning_curves.png",
    "summary.json",
    "report.html",
}
TWIN_FILES = {"twin/metrics.csv", "twin/checkpoints/best.ckpt", "twin/checkpoints/last.ckpt"}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder around one run without arguments; tests read from it."""
    folder = tmp_path_factory.mktemp("finished")
    assert toy.main(folder, []) == 0
    return folder


@pytest.fixture
def run_folder(finished: Path) -> Path:
    return finished / "outputs" / "toy" / "ring-kan"


def test_a_run_writes_exactly_the_files_of_the_contract(run_folder: Path) -> None:
    assert files(run_folder) == RUN_FILES | TWIN_FILES


def test_summary_schema(run_folder: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text())
    keys = {"task", "dataset", "model", "seed", "parameters", "flops_per_sample", "train_seconds", "samples_per_second"}
    assert set(summary) == keys | {"metrics", "twin", "baseline", "other_baselines", "versions", "device"}
    assert set(summary["twin"]) == keys | {"metrics"}
    assert (summary["task"], summary["dataset"], summary["model"], summary["seed"]) == ("toy", "Ring", "kan", 0)
    # 2 x 4 and 4 x 2 edges of 8 spline coefficients and a base weight, and 4 + 2 biases
    assert summary["parameters"] == 16 * 9 + 6
    assert abs(summary["twin"]["parameters"] - summary["parameters"]) <= 3
    assert set(summary["metrics"]) == set(summary["twin"]["metrics"]) == {"test/loss", "test/accuracy"}
    assert set(summary["baseline"]) == {"test/accuracy"}
    assert summary["flops_per_sample"] > summary["twin"]["flops_per_sample"] > 0
    assert summary["train_seconds"] > 0
    assert summary["samples_per_second"] > 0
    assert {"python", "torch", "lightning", "kan-core"} <= set(summary["versions"])


def test_metrics_have_one_row_per_epoch(run_folder: Path) -> None:
    with (run_folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "5"), ("1", "11"), ("2", "17"), ("3", "23")]
    assert set(rows[0]) == {
        *("epoch", "step", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/outside_grid")
    }
    assert all(row.values() for row in rows)
    assert all(value != "" for row in rows for value in row.values())


def test_best_checkpoint_is_the_epoch_with_the_best_monitor(run_folder: Path) -> None:
    with (run_folder / "metrics.csv").open() as file:
        accuracy = [float(row["val/accuracy"]) for row in csv.DictReader(file)]
    best = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    last = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert best["epoch"] == accuracy.index(max(accuracy))
    assert last["epoch"] == 3


def test_report_is_one_self_contained_page(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text()
    assert page.count("data:image/png;base64,iVBOR") == 2
    for outside in ("http://", "https://", 'src="figures', "<script", "<link", "url("):
        assert outside not in page
    summary = json.loads((run_folder / "summary.json").read_text())
    assert f"{summary['metrics']['test/accuracy']:.4f}" in page
    assert f"{summary['twin']['metrics']['test/accuracy']:.4f}" in page
    assert "The KAN is ahead of its twin" in page or "The KAN loses to its twin" in page
    assert "the test data were used once" in page
    assert "class_path: toy_training.ToyTask" in page


def test_saved_configuration_repeats_the_run_bitwise(run_folder: Path, tmp_path: Path) -> None:
    config = run_folder / "config.yaml"
    assert "ckpt_path" not in config.read_text()
    assert toy.main(tmp_path, ["--config", str(config), "--name", "again", "--output", str(tmp_path / "outputs")]) == 0
    again = tmp_path / "outputs" / "toy" / "again"
    for metrics in ("metrics.csv", "twin/metrics.csv"):
        assert (again / metrics).read_bytes() == (run_folder / metrics).read_bytes()
    for part in ("", "twin"):
        one, two = (weights(folder / part / "checkpoints" / "last.ckpt") for folder in (run_folder, again))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_seed_changes_the_run(run_folder: Path, tmp_path: Path) -> None:
    assert toy.main(tmp_path, ["fit", "--twin", "none", "--seed_everything", "1", "--trainer.max_epochs", "1"]) == 0
    other = tmp_path / "outputs" / "toy" / "ring-kan"
    assert (other / "metrics.csv").read_text().splitlines()[1] not in (run_folder / "metrics.csv").read_text()
    assert json.loads((other / "summary.json").read_text())["seed"] == 1


def test_commands_use_the_best_weights_of_the_run(
    finished: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((run_folder / "summary.json").read_text())
    assert toy.main(finished, ["test"]) == 0
    assert "0." in capsys.readouterr().out
    tested = json.loads((run_folder / "test.json").read_text())
    assert tested["metrics"] == summary["metrics"]
    assert toy.main(finished, ["validate", "--ckpt_path", str(run_folder / "checkpoints" / "best.ckpt")]) == 0
    validated = json.loads((run_folder / "validate.json").read_text())["metrics"]
    with (run_folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert validated["val/accuracy"] == max(float(row["val/accuracy"]) for row in rows)
    assert toy.main(finished, ["predict"]) == 0
    with (run_folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    assert set(rows[0]) == {"class", "probability"}
    for name in ("test.json", "validate.json", "predictions.csv"):
        (run_folder / name).unlink()


def test_twin_by_flops_and_no_twin(tmp_path: Path) -> None:
    quick = ["--trainer.max_epochs", "1"]
    assert toy.main(tmp_path, ["--twin", "flops", "--name", "flops", *quick]) == 0
    summary = json.loads((tmp_path / "outputs/toy/flops/summary.json").read_text())
    assert summary["twin"]["flops_per_sample"] == pytest.approx(summary["flops_per_sample"], rel=0.05)
    assert toy.main(tmp_path, ["--twin", "none", "--name", "alone", *quick]) == 0
    assert json.loads((tmp_path / "outputs/toy/alone/summary.json").read_text())["twin"] is None
    assert files(tmp_path / "outputs/toy/alone") == RUN_FILES


def test_an_older_run_keeps_its_files_under_a_number(tmp_path: Path) -> None:
    quick = ["fit", "--twin", "none", "--trainer.max_epochs", "1", "--name", "x"]
    for seed in ("1", "2", "3"):
        assert toy.main(tmp_path, [*quick, "--seed_everything", seed]) == 0
    seeds = {
        path.parent.name: json.loads(path.read_text())["seed"]
        for path in (tmp_path / "outputs/toy").glob("*/summary.json")
    }
    assert seeds == {"x.1": 1, "x.2": 2, "x": 3}


def test_a_run_that_cannot_start_leaves_the_older_one_alone(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "toy" / "x"
    folder.mkdir(parents=True)
    (folder / "precious.txt").write_text("kept")
    assert toy.main(tmp_path, ["--name", "x", "--data.root", str(tmp_path / "nowhere")]) == 2
    assert files(tmp_path / "outputs") == {"toy/x/precious.txt"}


def test_fast_dev_run_and_low_precision(tmp_path: Path) -> None:
    assert toy.main(tmp_path, ["--trainer.fast_dev_run", "true", "--name", "dev"]) == 0
    assert json.loads((tmp_path / "outputs/toy/dev/summary.json").read_text())["metrics"]
    options = ["--trainer.max_epochs", "1", "--trainer.precision", "bf16-mixed", "--name", "bf16"]
    assert toy.main(tmp_path, [*options, "--trainer.callbacks+=kan_core.training.Regularization"]) == 0
    assert files(tmp_path / "outputs/toy/bf16") == RUN_FILES | TWIN_FILES


def test_help_and_print_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["fit", "--help"]):
        assert toy.main(tmp_path, words) == 0
        text = capsys.readouterr().out
        assert "--twin" in text
        assert "--ckpt_path" in text
    assert toy.main(tmp_path, ["--model.lr", "0.5", "--print_config"]) == 0
    text = capsys.readouterr().out
    assert "lr: 0.5" in text
    assert "max_epochs: 4" in text
    assert not (tmp_path / "outputs").exists()


BAD = {
    "unknown option": (["--nope", "3"], "--nope"),
    "option cut short": (["--trainer.max_epoch", "3"], "unknown option --trainer.max_epoch:"),
    "unknown option of the task": (["--model.nope", "3"], "--model.nope"),
    "unknown option of the data": (["--data.nope", "3"], "--data.nope"),
    "unknown option of the trainer": (["--trainer.nope", "3"], "--trainer.nope"),
    "wrong type in the task": (["--model.lr", "fast"], "--model.lr: expected float, got fast"),
    "wrong type in the data": (["--data.batch_size", "1.5"], "--data.batch_size: expected int, got 1.5"),
    "wrong type in the trainer": (["--trainer.max_epochs", "x"], "--trainer.max_epochs: expected int, got x"),
    "unknown data class": (["--data", "Foo"], "--data: unknown class Foo"),
    "unknown task class": (["--model", "Foo"], "--model: unknown class Foo"),
    "unknown callback": (["--trainer.callbacks+=Foo"], "--trainer.callbacks: unknown class Foo"),
    "unknown accelerator": (["--trainer.accelerator", "abacus"], "abacus"),
    "unknown basis": (["--model.basis", "nope"], "unknown basis 'nope'"),
    "grid range reversed": (["--model.basis", "bspline(grid_range=(1, -1))"], "grid_range"),
    "unknown model": (["--model.model", "nope"], "unknown model 'nope'"),
    "unknown command": (["train"], "unknown command 'train'"),
    "unknown twin": (["--twin", "flop"], "--twin flop"),
    "no twin": (["--model.model", "mlp"], "--twin none"),
    "missing data": (["--data.root", "/no/such/folder"], "/no/such/folder/ring.csv"),
    "missing config": (["--config", "no.yaml"], "no.yaml"),
    "missing checkpoint": (["--ckpt_path", "no.ckpt"], "--ckpt_path no.ckpt"),
    "nothing to test": (["test"], "--ckpt_path"),
    "name with a slash": (["--name", "a/b"], "--name 'a/b'"),
    "output under a file": (["--output", __file__], __file__),
    "logger off": (["--trainer.logger", "false"], "--trainer.logger"),
    "root dir of the trainer": (["--trainer.default_root_dir", "x"], "--trainer.default_root_dir"),
    "no validation": (["--trainer.limit_val_batches", "0"], "--trainer.limit_val_batches"),
    "callback out of range": (
        ["--trainer.callbacks+=kan_core.training.GridUpdate", "--trainer.callbacks.every_n_epochs", "0"],
        "GridUpdate.every_n_epochs",
    ),
    "callback without object": (
        ["--trainer.callbacks+=kan_core.training.GridUpdate", "--model.basis", "chebyshev"],
        "GridUpdate found no KAN layer with an adaptive basis",
    ),
}


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=list(BAD))
def test_mistakes_are_one_line_and_exit_code_2(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy.main(tmp_path, args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("text", ["model: [\n", "trainer:\n  nope: 3\n", "model:\n  class_path: nosuch.Task\n"])
def test_mistakes_in_a_config_file(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert toy.main(tmp_path, ["--config", str(tmp_path / "bad.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.main(tmp_path, ["--model.basis", "nope", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "toy_training.py" in error
    assert error.rstrip().splitlines()[-1].startswith("error: unknown basis 'nope'")


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    options = ["--trainer.callbacks+=toy_training.StopAt", "--trainer.callbacks.epoch", "0"]
    with pytest.raises(RuntimeError, match="stopped"):
        toy.main(tmp_path, [*options, "--trainer.callbacks.error", "RuntimeError"])


def test_checkpoint_of_another_model_says_what_differs(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = str(run_folder / "checkpoints" / "best.ckpt")
    for words in (["test"], ["predict"], ["fit"], []):
        assert toy.main(tmp_path, [*words, "--ckpt_path", best, "--model.width", "5"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "net.0.weight (9, 2, 4) instead of (9, 2, 5)" in error
        assert str(run_folder / "config.yaml") in error
    assert toy.main(tmp_path, ["test", "--ckpt_path", str(run_folder / "twin" / "checkpoints" / "best.ckpt")]) == 2
    assert "missing: net.0.basis" in capsys.readouterr().err
    assert files(run_folder) == RUN_FILES | TWIN_FILES


class _Malice:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return Path.touch, (self.target,)


def test_a_malicious_or_damaged_checkpoint_is_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "executed"
    bad = tmp_path / "checkpoints" / "last.ckpt"
    bad.parent.mkdir()
    whole = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    torch.save({"state_dict": {}, "evil": _Malice(trace)}, tmp_path / "evil.ckpt")
    contents = {
        "refused": (tmp_path / "evil.ckpt").read_bytes(),
        "could run code": pickle.dumps({"state_dict": _Malice(trace)}),
        "damaged": whole[: len(whole) // 2],
    }
    for words in (["test"], []):
        for message, content in contents.items():
            bad.write_bytes(content)
            assert toy.main(tmp_path, [*words, "--ckpt_path", str(bad)]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1
    assert not trace.exists()


def outcome(value: float, higher_is_better: bool = True) -> Outcome:
    metrics = {"test/x": value}
    return Outcome("t", "d", "m", 0, 1, 1, 1.0, 1.0, metrics, 1.0, "test/x", higher_is_better)


def test_the_verdict_is_plain() -> None:
    assert verdict(outcome(0.5), outcome(0.75)).startswith("The KAN loses to its twin: test/x 0.5000 against 0.7500")
    assert "is ahead of" in verdict(outcome(0.5, False), outcome(0.75, False))
    assert "level" in verdict(outcome(0.5), outcome(0.5))
    assert "no twin was trained" in verdict(outcome(0.5), None)
    assert "No comparison" in verdict(outcome(float("nan")), outcome(0.5))
