"""Mistakes that a user can make with the vision app: one line with file, field or option and remedy, exit code 2."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kan_vision.cli import main

MNIST = [
    "--config",
    str(Path(__file__).parents[2] / "configs" / "vision" / "kanconv_mnist.yaml"),
    "--data.root",
    "data",
]
FOLDER = ["--data", "ImageFolder", "--data.folder", "pets", "--data.root", "data", "--model.model", "kan_conv_small"]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)


@pytest.fixture
def mnist(tmp_path):
    """A set in MNIST's format whose pixels are floats."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    images, labels = np.random.default_rng(0).random((30, 28, 28)).astype(">f4"), (np.arange(30) % 10).astype(np.uint8)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">4B3I", 0, 0, 0x0D, 3, 30, 28, 28) + images.tobytes()
        )
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 30) + labels.tobytes())
    return folder


@pytest.fixture
def pets(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / "pets" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((9, 9), 20 * i, np.uint8)).save(tmp_path / "data" / "pets" / name / f"{i}.png")
    return tmp_path / "data" / "pets"


@pytest.fixture
def fails(capsys):
    """`fails(args, part, ...)`: the app exits with 2 and one line on stderr that has every part; nothing is written."""

    def check(args, *parts):
        before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
        assert main([*args, "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]) == 2
        stderr = capsys.readouterr().err
        assert len(stderr.splitlines()) == 1, stderr
        assert "Traceback" not in stderr
        for part in parts:
            assert part in stderr, stderr
        assert {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()} == before

    return check


def test_missing_data_root(fails):
    fails(MNIST, "data/mnist/train-images-idx3-ubyte", "yann.lecun.com", "--data.root", "KAN_DATA")


def test_truncated_idx_file(fails, mnist):
    path = mnist / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    fails(
        [*MNIST, "--data.val_size", "9"], "t10k-images-idx3-ubyte is truncated", "announces 94,096 bytes, found 5,000"
    )


def test_labels_of_another_length(fails, mnist):
    (mnist / "train-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 4) + b"\0\1\2\3")
    fails(MNIST, "train-labels-idx1-ubyte holds 4 labels but train-images-idx3-ubyte holds 30 images")


def test_nan_pixel(fails, mnist):
    path = mnist / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[16 + 4 * (28 * 28 * 5 + 3) : 20 + 4 * (28 * 28 * 5 + 3)] = struct.pack(">f", float("nan"))
    path.write_bytes(content)
    fails([*MNIST, "--data.val_size", "9"], "train-images-idx3-ubyte: image 5 has a pixel that is NaN")


def test_validation_larger_than_the_set(fails, mnist):
    fails(MNIST, "val_size=10000 leaves nothing to train on", "30 images")


def test_image_folder_with_one_class(fails, pets):
    for path in (pets / "dog").iterdir():
        path.unlink()
    (pets / "dog").rmdir()
    fails(FOLDER, "data/pets must hold at least two class folders, found only 'cat'")


def test_broken_png(fails, pets):
    path = pets / "cat" / "7.png"
    path.write_bytes(path.read_bytes()[:50])
    fails(FOLDER, "data/pets/cat/7.png is not a readable image", "repair or remove it")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--model.model_kwargs.layer", "bsplin"], ["'bsplin'", "bspline", "chebyshev"]),
        (["--model.model_kwargs.layer", "bspline(grid_range=(2, -2))"], ["grid_range", "2", "-2"]),
        (["--model.model_kwargs.layer", "bspline(grid_sise=5)"], ["grid_sise"]),
        (["--model.model_kwargs.wdith", "2"], ["kan_mlp_small", "wdith"]),
        (["--model.model", "kan_mlp_tiny"], ["unknown model 'kan_mlp_tiny'", "kan_mlp_small", "kan_conv_small"]),
        (["--model.lr", "fast"], ["--model.lr", "fast"]),
        (["--data.batch_size", "0"], ["batch_size must be at least 1, got 0"]),
        (["--data.augment", "cutmix"], ["--data.augment", "cutmix", "flip_crop"]),
        (["--model.learning_rate", "0.1"], ["learning_rate"]),
        (["--data.rooot", "x"], ["rooot"]),
        (["--epochs", "5"], ["--epochs"]),
        (["--data", "Numbers"], ["Numbers"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
        (["train"], ["train", "fit"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith(("--", "train")) else "",
)
def test_options(fails, args, parts):
    fails(args, *parts)


def test_unwritable_output_folder(fails, tmp_path):
    (tmp_path / "file").write_text("")  # a folder's permissions would not stop root
    fails(["--output", "file"], "file", "--output")


@pytest.mark.usefixtures("undrawn")
def test_checkpoint_of_another_model(fails, tmp_path):
    small = ["--twin", "none", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    assert main(["fit", *small, *quiet, "--name", "a"]) == 0
    checkpoint = "outputs/vision/a/checkpoints/last.ckpt"
    for command in (["test"], ["predict"], ["fit"], []):
        args = [*command, "--model.model", "kan_conv_small", "--ckpt_path", checkpoint, "--twin", "none"]
        fails(args, checkpoint, "another model than kan_conv_small")
    fails(["test", "--model.model_kwargs.width", "0.5", "--ckpt_path", checkpoint], checkpoint, "other shapes")
