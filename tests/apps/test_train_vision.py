"""The vision app in process: the run without arguments, the other commands, real MNIST, every shipped configuration."""

from __future__ import annotations

import csv
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kan_vision.cli import DEFAULTS, main
from kan_vision.tasks import ClassificationTask

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
REPOSITORY = Path(__file__).parents[2]
LARGER = {"ukan_dsb2018", "unet_dsb2018", "mask_folder", "image_folder"}
CONFIGS = sorted((REPOSITORY / "configs" / "vision").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)


def write_idx(path, array):
    code = {"uint8": 0x08, "float32": 0x0D}[array.dtype.name]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())


def write_mnist(root, n=60, dtype="uint8"):
    """A set in MNIST's format, of noise."""
    folder = root / "mnist"
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        write_idx(
            folder / f"{prefix}-images-idx3-ubyte", np.random.default_rng(0).integers(0, 256, (n, 28, 28)).astype(dtype)
        )
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    return folder


def write_images(root, classes=("cat", "dog"), n=10):
    for label, name in enumerate(classes):
        (root / "images" / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(np.full((20, 20, 3), 60 + 120 * label + i, np.uint8)).save(
                root / "images" / name / f"{i}.png"
            )
    return root / "images"


def write_npz(root, n=24):
    """PneumoniaMNIST's arrays, of noise."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    (root / "pneumoniamnist").mkdir(parents=True)
    np.savez(root / "pneumoniamnist" / "pneumoniamnist.npz", **arrays)


def write_nuclei(root, n=10):
    """A set in the layout of the Data Science Bowl 2018, and the same as a folder of masks."""
    rng = np.random.default_rng(0)
    for number in range(n):
        pixels = rng.integers(0, 256, (40, 48, 3)).astype(np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        mask[5 + number : 20 + number, 8:30] = 255
        for path, array in (
            (root / "dsb2018" / "stage1_train" / f"id{number}" / "images" / f"id{number}.png", pixels),
            (root / "dsb2018" / "stage1_train" / f"id{number}" / "masks" / "a.png", mask),
            (root / "cells" / "images" / f"id{number}.png", pixels),
            (root / "cells" / "masks" / f"id{number}.png", mask),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


@pytest.mark.slow
def test_without_arguments_a_kan_and_its_twin_are_trained_tested_and_reported(tmp_path, capsys):
    assert main(QUIET) == 0
    folder = tmp_path / "outputs" / "vision" / "digits-kan_mlp_small"
    for name in (
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "report.html",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ):
        assert (folder / name).stat().st_size > 0, name
    for name in ("confusion_matrix", "predictions", "edge_functions"):
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert min(image.size) > 300, name
    torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    summary = json.loads((folder / "summary.json").read_text())
    twin = summary["twin"]
    assert (summary["task"], summary["dataset"], summary["model"]) == ("classification", "digits", "kan_mlp_small")
    assert summary["metrics"]["test/accuracy"] >= 0.97
    assert summary["parameters"] == 64 * 64 * 6 + 64 * 10 * 6 + 64 + 10
    assert twin["parameters"] == pytest.approx(summary["parameters"], rel=0.05)
    assert twin["metrics"]["test/accuracy"] >= 0.95
    assert summary["baseline"]["test/accuracy"] == pytest.approx(0.1, abs=0.01)
    assert summary["train_seconds"] > 0
    printed = capsys.readouterr().out
    assert f"{summary['metrics']['test/accuracy']:.4f}" in printed
    assert f"{twin['metrics']['test/accuracy']:.4f}" in printed

    # the saved configuration and checkpoint serve the other commands, with the same numbers
    config = ["--config", str(folder / "config.yaml")]
    assert main(["test", *config, *QUIET]) == 0
    tested = json.loads((folder / "test.json").read_text())["metrics"]
    assert tested == pytest.approx(summary["metrics"], abs=1e-6)
    assert main(["predict", *config, *QUIET, "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")]) == 0
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "predicted", "probability", "true"]
    right = sum(row["predicted"] == row["true"] for row in rows)
    assert len(rows) == 360
    assert right / 360 == pytest.approx(summary["metrics"]["test/accuracy"], abs=1e-6)


def test_the_defaults_are_the_config_of_the_same_name():
    shipped = yaml.safe_load((REPOSITORY / "configs" / "vision" / "digits_kan_mlp.yaml").read_text())
    spelled_out = shipped["model"]["init_args"].pop("model_kwargs")
    assert spelled_out == {"layer": "bspline(grid_size=3, order=2, grid_range=(-2, 2))"}
    assert yaml.safe_load(DEFAULTS.read_text()) == shipped


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_trains_and_tests(path, tmp_path, monkeypatch, request):
    # the run without arguments draws grey images of ten classes; these, colours, two classes and masks
    request.getfixturevalue("sketched" if path.stem in ("image_folder", "ukan_dsb2018") else "undrawn")
    write_mnist(tmp_path / "data")
    write_images(tmp_path / "data")
    write_npz(tmp_path / "data")
    write_nuclei(tmp_path / "data")
    monkeypatch.setenv("KAN_DATA", str(tmp_path / "data"))
    args = [
        "--config",
        str(path),
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "2",
        "--name",
        "run",
        *QUIET,
    ]
    if path.stem.endswith("_mnist"):
        args += ["--data.val_size", "20"]
    # one configuration of each network looks for the twin's width, which takes most of the time
    twin = path.stem in ("digits_kan_mlp", "kanconv_mnist", "vikan_mnist", "ukan_dsb2018", "unet_dsb2018")
    args += [] if twin else ["--twin", "none"]
    assert main(args) == 0
    summary = json.loads((tmp_path / "outputs" / "vision" / "run" / "summary.json").read_text())
    assert summary["parameters"] <= (2_000_000 if path.stem in LARGER else 500_000)
    if path.stem == "unet_dsb2018":
        assert summary["twin"] is None
        assert summary["parameters"] == pytest.approx(1_848_633, rel=0.01)  # U-KAN's
    elif twin:
        assert summary["twin"]["parameters"] == pytest.approx(summary["parameters"], rel=0.05)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_says_what_to_prepare_and_how_to_run_it(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Prepare:") for line in header)
    (command,) = [line for line in header if line.startswith("# Run:")]
    assert f"uv run apps/train_vision.py --config {path.relative_to(REPOSITORY)} --" in command
    assert len(command.split(" --")) >= 3  # one override


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_sample_of_mnist(shared_data, tmp_path, repository):
    config = repository / "configs" / "vision" / "kanconv_mnist.yaml"
    sample = [
        "--data.limit_train",
        "4000",
        "--data.limit_test",
        "2000",
        "--data.val_size",
        "1000",
        "--trainer.max_epochs",
        "3",
    ]
    root = ["--data.root", str(shared_data("mnist").parent)]
    assert main(["--config", str(config), *sample, *root, "--name", "sample", "--twin", "none", *QUIET]) == 0
    summary = json.loads((tmp_path / "outputs" / "vision" / "sample" / "summary.json").read_text())
    assert summary["dataset"] == "mnist (first 4,000 training images, first 2,000 test images)"
    assert summary["parameters"] <= 300_000
    assert summary["metrics"]["test/accuracy"] >= 0.95


@pytest.mark.usefixtures("undrawn")
def test_predict_on_a_folder_without_labels(tmp_path):
    write_images(tmp_path)
    new = tmp_path / "new"
    new.mkdir()
    for value, name in ((70, "dark"), (185, "light")):
        Image.fromarray(np.full((9, 7, 3), value, np.uint8)).save(new / f"{name}.png")
    config = [
        "--config",
        str(REPOSITORY / "configs" / "vision" / "image_folder.yaml"),
        "--data.root",
        str(tmp_path),
        *QUIET,
    ]
    small = [
        "--model.model",
        "kan_conv_small",
        "--data.image_size",
        "16",
        "--data.augment",
        "none",
        "--data.batch_size",
        "4",
    ]
    run = [*config, *small, "--name", "pets", "--twin", "none"]
    assert main(["fit", *run, "--trainer.max_epochs", "6", "--model.lr", "0.01"]) == 0
    assert main(["predict", *run, "--data.predict_folder", str(new)]) == 0
    with (tmp_path / "outputs" / "vision" / "pets" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["predicted"], row["true"]) for row in rows] == [
        (str(new / "dark.png"), "cat", ""),
        (str(new / "light.png"), "dog", ""),
    ]


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_resumes_to_the_same_numbers_augmentation_included(tmp_path, monkeypatch):
    run = ["fit", "--data.augment", "affine", "--model.model_kwargs.drop_rate", "0.2", "--trainer.max_epochs", "3"]
    run += ["--twin", "none", *QUIET]
    assert main([*run, "--name", "whole"]) == 0

    def interrupt(task, batch, batch_idx):
        if task.current_epoch == 1 and batch_idx == 5:
            raise KeyboardInterrupt
        return step(task, batch, batch_idx)

    step = ClassificationTask.training_step
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", interrupt)
        assert main([*run, "--name", "cut"]) == 130
    last = "outputs/vision/cut/checkpoints/last.ckpt"
    assert main([*run, "--ckpt_path", last]) == 0
    weights = [
        torch.load(f"outputs/vision/{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "cut")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    tables = [(tmp_path / "outputs" / "vision" / name / "metrics.csv").read_text() for name in ("whole", "cut")]
    assert tables[0] == tables[1]


def test_the_script_passes_the_exit_code_on(repository, tmp_path):
    command = [sys.executable, str(repository / "apps" / "train_vision.py"), "--model.model", "kan_mlp_smal"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2, done.stderr
    assert "kan_mlp_small" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
