"""The tabular app in process: the run without arguments (smaller), a messy file, prediction, every configuration."""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kan_tabular.cli import main
from kan_tabular.tasks import TabularTask

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs" / "tabular").glob("*.yaml"))
ROWS = 200_000
MEMORY = 500
"""MiB that the large table may take beside the libraries; as float32 it has 38, as float64 76."""


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of a short run; the run of the fixture below draws."""
    monkeypatch.setattr(TabularTask, "figures", lambda task, datamodule: iter(()))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run of the default configuration; tests read from it."""
    output = tmp_path_factory.mktemp("tabular")
    assert main(["--trainer.max_epochs=8", "--name=small", *QUIET, "--output", str(output)]) == 0
    return output / "tabular" / "small"


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def messy(rows=400, seed=0):
    """Lines of a file with what tables in the wild have; the class depends on a number and on a category."""
    rng = np.random.default_rng(seed)
    amount, shop = rng.normal(100, 30, rows), rng.choice(["north", "south", "east"], rows)
    label = np.where(amount / 30 + 2 * (shop == "south") + rng.normal(size=rows) > 4, "stays", "leaves")
    gap = rng.random((rows, 4)) < 0.1
    frame = pd.DataFrame(
        {
            "id": [f"customer-{i}" for i in range(rows)],
            "amount": np.where(gap[:, 0], rng.choice(["", "?", "NA", "null"], rows), np.round(amount, 2).astype(str)),
            "shop": np.where(gap[:, 1], "N/A", np.char.add(" ", shop)),
            "member": np.where(gap[:, 2], "", rng.choice(["True", "False"], rows)),
            "visits": np.where(gap[:, 3], "NaN", rng.integers(0, 9, rows).astype(str)),
            "currency": "EUR",
            "nothing": "",
            "y": label,
        }
    )
    frame.loc[rows - 1, "shop"] = "opened yesterday"  # the test in time order has a category that training never saw
    return frame


def test_the_default_run_trains_tests_and_reports_a_kan_and_its_twin(run):
    summary = summary_of(run)
    assert summary["dataset"] == "breast_cancer"
    assert summary["twin"]["parameters"] == pytest.approx(summary["parameters"], rel=0.05)
    assert summary["baseline"]["test/accuracy"] == pytest.approx(72 / 114)
    for side in (summary, summary["twin"]):
        assert side["metrics"]["test/auc"] > 0.95
        assert side["metrics"]["test/accuracy"] > 0.85
    assert (run / "report.html").stat().st_size > 0
    assert list((run / "figures").glob("*.png"))


@pytest.mark.usefixtures("no_figures")
def test_a_messy_file_is_trained_on_and_another_predicted_without_it(tmp_path, capsys):
    messy().to_csv("my.csv", index=False)
    options = ["--data.file=my.csv", "--data.target=y", '--data.drop=["id"]', "--data.split=time"]
    assert main([*options, "--trainer.max_epochs=10", "--twin=none", "--name=messy", *QUIET]) == 0
    out = capsys.readouterr().out
    assert "my.csv: 400 rows (256 train, 64 validate, 80 test); 4 numeric and 2 categorical columns" in out
    assert "target 'y': binary (2 values: leaves, stays)" in out
    folder = tmp_path / "outputs" / "tabular" / "messy"
    summary = summary_of(folder)
    assert summary["dataset"] == "my"
    assert summary["metrics"]["test/accuracy"] > 0.7

    # new rows, without targets and without the training table: the checkpoint knows its columns and classes
    (tmp_path / "my.csv").unlink()
    messy(30, seed=1).drop(columns="y").to_csv("new.csv", index=False)
    assert main(["predict", "new.csv", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), *QUIET]) == 0
    found = rows(folder / "predictions.csv")
    assert len(found) == 30
    assert {row["prediction"] for row in found} <= {"leaves", "stays"}


@pytest.mark.usefixtures("no_figures")
def test_a_killed_run_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    messy().to_csv("my.csv", index=False)
    options = ["fit", "--data.file=my.csv", "--data.target=y", '--data.drop=["id"]', "--twin=none"]
    options += ["--trainer.max_epochs=4", *QUIET]
    assert main([*options, "--name=whole"]) == 0

    def interrupted(task):
        if task.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TabularTask, "on_train_epoch_start", interrupted)
        assert main([*options, "--name=parts"]) == 130
    whole, parts = (
        tmp_path / "outputs" / "tabular" / name / "checkpoints" / "last.ckpt" for name in ("whole", "parts")
    )
    assert main([*options, f"--ckpt_path={parts}"]) == 0
    a, b = (torch.load(path, weights_only=True)["state_dict"] for path in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("no_figures")
def test_regression_from_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    frame = pd.DataFrame(x, columns=list("abc")).assign(y=1000 * x[:, 0] + 5000)
    frame.to_parquet("my.parquet")
    options = ["--data.file=my.parquet", "--data.target=y", "--trainer.max_epochs=20", "--twin=none", "--name=r"]
    assert main([*options, *QUIET]) == 0
    summary = summary_of(tmp_path / "outputs" / "tabular" / "r")
    assert summary["metrics"]["test/rmse"] < 500 < summary["baseline"]["test/rmse"]
    assert summary["metrics"]["test/r2"] > 0.75


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_trains_and_tests(path, tmp_path, shared_data):
    prepared = "# Prepare:" in path.read_text()
    root = [f"--data.root={shared_data('adult').parent}"] if prepared else []
    few = [f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]
    # one configuration of each kind of task looks for the twin's width, which takes most of the time
    twin = path.stem in ("adult", "diabetes", "hea_phase")
    own = ["--trainer.max_epochs=1", "--name=run", *few, *QUIET, *([] if twin else ["--twin=none"])]
    assert main(["--config", str(path), *root, *own]) == 0
    summary = summary_of(tmp_path / "outputs" / "tabular" / "run")
    assert np.isfinite(summary["metrics"]["test/loss"])
    if twin:
        assert summary["twin"]["parameters"] == pytest.approx(summary["parameters"], rel=0.05)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_says_how_to_run_it(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    (command,) = [line for line in header if line.startswith("# Run:")]
    assert f"uv run apps/train_tabular.py --config {path.relative_to(REPOSITORY)} --" in command
    prepared = any(line.startswith("# Prepare:") for line in header)
    assert prepared == ("--data.root" in command)
    assert command.count(" --") >= 2 + prepared  # one override


@pytest.mark.slow
def test_a_large_table_takes_bounded_memory(tmp_path):
    """200,000 rows of 50 columns, 70 MB of text, in a process of its own; of the epoch a few batches."""
    cells = np.random.default_rng(0).integers(48, 58, size=(ROWS, 50, 7), dtype=np.uint8)
    label = cells[:, 0, 1] > 52
    cells[:, :, 0], cells[:, :, -1], cells[:, -1, -1] = ord("."), ord(","), ord("\n")
    cells[:, -1, :-1] = np.frombuffer(b"000000", np.uint8)
    cells[:, -1, -2] += label
    names = ",".join([*(f"x{j}" for j in range(49)), "y"])
    (tmp_path / "large.csv").write_bytes(f"{names}\n".encode() + cells.tobytes())
    del cells
    script = (
        "import resource, sys\n"
        "from matplotlib.figure import Figure\n"
        "from kan_tabular.cli import main\n"
        "draw = Figure.savefig\n"
        "Figure.savefig = lambda figure, path, **_: draw(figure, path, dpi=40)  # as the fixture `sketched` does\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "short = ['--trainer.max_epochs=1', '--trainer.limit_train_batches=20', '--twin=none', *sys.argv[1:]]\n"
        "assert main(['fit', '--name=warm', *short]) == 0\n"
        "before = peak()\n"
        "assert main(['fit', '--data.file=large.csv', '--data.target=y', '--name=large', *short]) == 0\n"
        "print('took', peak() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *QUIET],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "large.csv: 200,000 rows (128,000 train, 32,000 validate, 40,000 test)" in result.stdout
    assert float(result.stdout.rpartition("took")[2]) < MEMORY


def test_the_script_passes_the_exit_code_on(monkeypatch, capsys):
    """In this process; that of the vision app is started in one of its own."""
    script = REPOSITORY / "apps" / "train_tabular.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--data.file=none.csv", "--data.target=y"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: none.csv: there is no such file\n"
