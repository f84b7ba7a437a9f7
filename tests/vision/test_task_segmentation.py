"""The segmentation task: its loss, and a whole run of the app on images with masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kan_core.errors import KANError
from kan_vision.cli import main
from kan_vision.data import IGNORE
from kan_vision.tasks import SegmentationTask
from kan_vision.tasks.segmentation import MaskLoss

TINY = {"dims": [16, 16, 24]}
UKAGNET = {"layers": 1, "width": 0.25, "layer_kwargs": {"norm": "batch"}}


def write_discs(folder: Path, count: int = 10, seed: int = 0) -> None:
    """Bright discs on a darker ground, of two sizes of images; the last image has none."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height, width = (48, 40) if number % 2 else (33, 57)
        y, x = np.mgrid[:height, :width]
        mask = np.zeros((height, width), dtype=bool)
        for _ in range(0 if number == count - 1 else 3):
            cy, cx, r = rng.uniform(8, height - 8), rng.uniform(8, width - 8), rng.uniform(4, 8)
            mask |= (y - cy) ** 2 + (x - cx) ** 2 < r**2
        grey = np.where(mask, 190, 70) + rng.normal(0, 12, mask.shape)
        image = np.stack([grey, grey * 0.8, grey * 0.6], axis=-1).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"disc{number}.png")
        Image.fromarray((mask * 255).astype(np.uint8)).save(folder / "masks" / f"disc{number}.png")


def read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def options(root: Path, output: Path, *more: str) -> list[str]:
    return [
        "--model=kan_vision.tasks.SegmentationTask",
        "--model.model=ukagnet_small",
        f"--model.model_kwargs={json.dumps(UKAGNET)}",
        "--model.lr=1e-2",
        "--data=kan_vision.data.MaskFolder",
        "--data.folder=discs",
        f"--data.root={root}",
        "--data.batch_size=8",
        "--data.crop_size=32",
        "--data.crops_per_image=10",
        "--trainer.max_epochs=7",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        f"--output={output}",
        "--name=discs",
        *more,
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder around one run with its twin; tests read from it."""
    folder = tmp_path_factory.mktemp("segmentation")
    write_discs(folder / "discs")
    assert main(options(folder, folder / "outputs")) == 0
    return folder


@pytest.fixture
def run_folder(run: Path) -> Path:
    return run / "outputs" / "vision" / "discs"


def test_a_run_finds_the_discs(run_folder):
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["metrics"]["test/iou"] > 0.85
    assert summary["metrics"]["test/iou"] > summary["baseline"]["test/iou"] + 0.4
    assert set(summary["metrics"]) == {
        f"test/{name}"
        for name in (
            *("loss", "iou", "dice", "precision", "recall", "accuracy", "image_iou"),
            *("boundary_f1", "hd95", "without_boundary"),
        )
    }
    assert abs(summary["twin"]["parameters"] / summary["parameters"] - 1) < 0.05


def test_a_run_draws_overlays_and_its_worst_cases(run_folder):
    assert {path.name for path in (run_folder / "figures").iterdir()} == {
        "overlays.png",
        "worst_cases.png",
        "edge_functions.png",
        "learning_curves.png",
    }
    assert "data:image/png;base64" in (run_folder / "report.html").read_text()


def test_validation_chooses_the_best_epoch(run_folder):
    with (run_folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == max(range(len(rows)), key=lambda i: float(rows[i]["val/iou"]))


def test_predicting_a_folder_writes_masks_and_overlays(run, run_folder, capsys):
    """Of any sizes, smaller than the network's multiple of 16 among them; larger ones in tiles."""
    new = run / "new" / "deep"
    new.mkdir(parents=True)
    source = read(run / "discs" / "images" / "disc0.png")
    source.save(new / "a.png")
    source.resize((19, 11)).save(new / "b.png")
    source.resize((150, 130)).save(new.parent / "a.png")
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    words = ["predict", "--ckpt_path", str(checkpoint), "--data.predict_folder", str(run / "new")]
    assert main([*words, "--model.tile=96", "--model.overlap=32"]) == 0
    said = "1 image(s) with a side below 16 pixels, which ukagnet_small needs at least: padded"
    assert said in capsys.readouterr().out
    with (run_folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["mask"] for row in rows] == [f"predictions/{n}.png" for n in ("0000_a", "0001_a", "0002_b")]
    assert all(row["iou"] == "" for row in rows)
    sizes = [(150, 130), source.size, (19, 11)]
    for row, size in zip(rows, sizes, strict=True):
        mask = read(run_folder / row["mask"])
        assert (mask.size, mask.mode) == (size, "L")
        values = np.asarray(mask)
        assert set(np.unique(values)) <= {0, 255}
        share = next(float(value) for key, value in row.items() if key.startswith("share_"))
        assert share == pytest.approx((values > 0).mean(), abs=1e-5)
        overlay = read(run_folder / row["mask"].replace(".png", "_overlay.png"))
        assert (overlay.size, overlay.mode) == (size, "RGB")
    known = np.asarray(read(run / "discs" / "masks" / "disc0.png")) > 0
    found = np.asarray(read(run_folder / rows[1]["mask"])) > 0
    assert (known & found).sum() / (known | found).sum() > 0.8


def test_export_of_a_trained_segmenter(run_folder):
    assert main(["export", "--ckpt_path", str(run_folder / "checkpoints" / "best.ckpt")]) == 0
    report = json.loads((run_folder / "export" / "export.json").read_text())
    assert max(report["max_abs_difference"].values()) <= 1e-4
    assert report["input_shape"] == [None, 3, 32, 32]
    assert len(report["mean"]) == len(report["std"]) == 3
    assert report["class_names"][0] == "background"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model.model=ukan_tiny"], "unknown segmentation model 'ukan_tiny'"),
        (["--data=kan_vision.data.Digits"], "SegmentationTask needs a MaskDataModule"),
        (["--model.model_kwargs={'dept': 3}"], "refuses its arguments"),
        (["--model.cross_entropy_weight=0", "--model.dice_weight=0"], "cross_entropy_weight and dice_weight"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, more, message):
    write_discs(tmp_path / "discs")
    words = options(tmp_path, tmp_path / "outputs")
    if more[0].startswith("--data="):
        words = [word for word in words if not word.startswith("--data")]
    assert main([*words, *more, "--twin=none"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_mask_of_another_size_is_one_line_that_names_the_file(tmp_path, capsys):
    write_discs(tmp_path / "discs")
    Image.new("L", (7, 5)).save(tmp_path / "discs" / "masks" / "disc3.png")
    assert main(options(tmp_path, tmp_path / "outputs", "--twin=none")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "disc3.png" in line
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.ckpt"))


# The loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 4])
def test_ignored_pixels_get_no_gradient_and_do_not_count(num_classes):
    generator = torch.Generator().manual_seed(0)
    loss = MaskLoss(num_classes)
    logits = torch.randn(2, 1 if num_classes == 2 else num_classes, 6, 8, generator=generator, requires_grad=True)
    mask = torch.randint(num_classes, (2, 6, 8), generator=generator)
    alone = loss(logits[..., :5], mask[..., :5])
    mask[..., 5:] = IGNORE
    whole = loss(logits, mask)
    whole.backward()
    assert (logits.grad[..., 5:] == 0).all()
    assert (logits.grad[..., :5] != 0).all()
    torch.testing.assert_close(whole, alone)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_all_ignored_and_empty_masks_give_finite_losses(num_classes):
    logits = torch.randn(2, 1 if num_classes == 2 else num_classes, 4, 4, requires_grad=True)
    for value in (IGNORE, 0):
        loss = MaskLoss(num_classes)(logits, torch.full((2, 4, 4), value))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_does():
    mask = torch.zeros(1, 8, 8, dtype=torch.long)
    mask[:, 2:5] = 1
    right = torch.where(mask == 1, 20.0, -20.0)[:, None]
    assert MaskLoss(2)(right, mask) < 1e-6
    assert MaskLoss(2)(-right, mask) > 5
    # without cross-entropy, false alarms on an empty image would cost nothing
    assert MaskLoss(2)(right, torch.zeros_like(mask)) > 1


def test_classes_of_two_and_of_more():
    two, three = (SegmentationTask(model_kwargs=TINY, num_classes=n).eval() for n in (2, 3))
    assert two.net(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    assert three.net(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    assert two.classes(torch.tensor([-0.1, 0.1]).view(1, 1, 1, 2)).tolist() == [[[0, 1]]]
    assert three.classes(torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1)).tolist() == [[[1]]]


def test_tiled_logits_are_those_of_the_whole_image_away_from_seams():
    """`tile` decides how, not what: the task gives the network's own stride to the tiling."""
    torch.manual_seed(0)
    net = {"depth": 2, "width": 0.25, "layer_kwargs": {"norm": "batch"}}  # statistics of the image are no tile's
    task = SegmentationTask(model="unet", model_kwargs=net, tile=64, overlap=16).eval()
    image = torch.randn(1, 3, 96, 130)
    with torch.no_grad():
        whole, tiled = task.net(image), task.logits(image)
    assert tiled.shape == whole.shape
    torch.testing.assert_close(tiled[..., :20, :20], whole[..., :20, :20], atol=1e-4, rtol=1e-4)


def test_an_unknown_class_index_is_refused_by_name():
    with pytest.raises(KANError, match="unknown segmentation model"):
        SegmentationTask(model="segformer")
