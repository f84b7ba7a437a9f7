"""Semantic segmentation: cross-entropy and Dice, counts over whole images, masks and overlays as files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from PIL import Image
from segmentation_models_pytorch.losses import DiceLoss, SoftBCEWithLogitsLoss
from torch import Tensor, nn
from torchmetrics import MeanMetric

from kan_core.errors import KANError
from kan_vision.data.masks import IGNORE, MaskBatch, MaskDataModule
from kan_vision.metrics import MaskScores, boundary_scores
from kan_vision.models import Segmenter, create_segmenter
from kan_vision.overlays import MaskSample, colours_of, overlay, samples_figure
from kan_vision.tasks._base import VisionTask
from kan_vision.tiling import predict_tiled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4
"""Images in each figure."""


class PredictedMask(NamedTuple):
    """What ``predict_step`` returns for its one image.

    Attributes:
        name: Of the image.
        position: Of the image among those predicted.
        pixels: ``(channels, height, width)`` in 0..1, for the overlay.
        predicted: ``(height, width)`` uint8 class indices.
        mask: The true ones, 255 where unknown.
    """

    name: str
    position: int
    pixels: Tensor
    predicted: Tensor
    mask: Tensor


class MaskLoss(nn.Module):
    """Cross-entropy (binary for two classes) times a weight, plus the soft Dice loss times another.

    Both are of logits, and leave out pixels whose class is not known: those get no gradient. Dice sums over the batch,
    and a class that no mask of the batch has adds nothing to it, so the cross-entropy must be there for false alarms.

    Args:
        num_classes: Background included; for 2 the network has one logit.
        cross_entropy_weight: U-KAN's is 0.5.
        dice_weight: U-KAN's is 1.

    Raises:
        KANError: For a negative weight, or when both are 0.

    Shape:
        - logits: ``(batch, K, height, width)``, K = 1 for two classes
        - mask: ``(batch, height, width)`` class indices, 255 where unknown
    """

    def __init__(self, num_classes: int, cross_entropy_weight: float = 0.5, dice_weight: float = 1.0) -> None:
        super().__init__()
        if min(cross_entropy_weight, dice_weight) < 0 or not cross_entropy_weight + dice_weight:
            raise KANError(
                "cross_entropy_weight and dice_weight must be at least 0, and one of them above it, got "
                f"{cross_entropy_weight:g} and {dice_weight:g}"
            )
        self.binary = num_classes == 2
        self.weights = (cross_entropy_weight, dice_weight)
        mode = "binary" if self.binary else "multiclass"
        self.dice = DiceLoss(mode, from_logits=True, smooth=1.0, ignore_index=IGNORE)
        self.binary_cross_entropy = SoftBCEWithLogitsLoss(ignore_index=IGNORE)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss, a scalar."""
        if self.binary:
            mask = mask.unsqueeze(1)
            # ignored pixels are left out of the mean as well
            share = (mask != IGNORE).float().mean().clamp_min(1 / mask.numel())
            cross_entropy = self.binary_cross_entropy(logits, mask.float()) / share
        else:
            known = (mask != IGNORE).sum().clamp_min(1)
            cross_entropy = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum") / known
        loss: Tensor = self.weights[0] * cross_entropy + self.weights[1] * self.dice(logits, mask)
        return loss


class SegmentationTask(VisionTask):
    """Train a segmentation network; the epoch of the best validation IoU is kept.

    Trained on crops, evaluated on whole images at their own size; images larger than `tile` are predicted in
    overlapping tiles. Logged: ``train/loss``; under ``val/`` and ``test/`` loss and what
    `kan_vision.metrics.MaskScores` counts (iou, dice, precision, recall, accuracy, image_iou); ``test/boundary_f1``
    (within 2 pixels) and ``test/hd95`` (pixels), means over test images and foreground classes where both masks have a
    boundary, and
    ``test/without_boundary``, how many image-class pairs those means leave out.

    Args:
        model: A registered segmentation network, see `kan_vision.models.SEGMENTERS`.
        model_kwargs: More arguments of the model, such as ``layer`` and ``width``.
        num_classes: From the data, background included. With 2 the network has one logit.
        in_chans: From the data.
        img_size: From the data: the size of training crops.
        class_names: From the data, in label order; by default the numbers.
        lr: The highest learning rate of AdamW.
        weight_decay: Decoupled weight decay; norms, biases and grids are exempt.
        warmup_epochs: Linear warm-up before the cosine.
        cross_entropy_weight: Of the loss, see `MaskLoss`.
        dice_weight: Of the loss.
        tile: Side of the tiles that larger images are predicted in, in pixels.
        overlap: By how much neighbouring tiles overlap, in pixels.

    Raises:
        KANError: When the model is unknown or refuses its arguments.
    """

    data_kind: ClassVar[type[Any]] = MaskDataModule
    monitor = "val/iou"
    monitor_mode = "max"

    def __init__(
        self,
        model: str = "ukan_small",
        model_kwargs: dict[str, Any] | None = None,
        num_classes: int = 2,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 128,
        class_names: list[str] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup_epochs: float = 1.0,
        cross_entropy_weight: float = 0.5,
        dice_weight: float = 1.0,
        tile: int = 1024,
        overlap: int = 128,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        logits = 1 if num_classes == 2 else num_classes
        self.net = create_segmenter(model, in_chans=in_chans, num_classes=logits, **(model_kwargs or {}))
        self.set_example(in_chans, img_size)
        self.class_names = class_names or [str(label) for label in range(num_classes)]
        self.loss = MaskLoss(num_classes, cross_entropy_weight, dice_weight)
        self.val_scores = MaskScores(self.class_names, IGNORE)
        self.test_scores = MaskScores(self.class_names, IGNORE)
        self.boundary_f1, self.hd95 = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.without_boundary = self.padded = 0
        self.tested: list[tuple[float, int]] = []

    def training_step(self, batch: MaskBatch, batch_idx: int) -> Tensor:
        """The loss of a batch of crops."""
        loss: Tensor = self.loss(self(batch.image).float(), batch.mask)
        self.log(
            "train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.mask), sync_dist=True
        )
        return loss

    def logits(self, image: Tensor) -> Tensor:
        """Float32 logits of whole images, in tiles where they are larger than one."""
        tile = int(self.hparams["tile"])
        if max(image.shape[-2:]) <= tile:
            return cast(Tensor, self(image)).float()
        return torch.stack([self._tiled(single, tile) for single in image])

    def _tiled(self, image: Tensor, tile: int) -> Tensor:
        """Float32 logits of one image, ``(channels, height, width)``; what is blended are the logits."""
        net = cast(Segmenter, self.net)
        maps = predict_tiled(
            lambda tiles: net(tiles.to(image.device)),
            image.cpu(),
            tile=tile,
            overlap=int(self.hparams["overlap"]),
            multiple=net.multiple,
            batch_size=1,
        )
        return torch.as_tensor(maps, device=image.device)

    def classes(self, logits: Tensor) -> Tensor:
        """``(batch, K, height, width)`` logits to ``(batch, height, width)`` class indices."""
        return (logits[:, 0] > 0).long() if self.hparams["num_classes"] == 2 else logits.argmax(dim=1)

    def validation_step(self, batch: MaskBatch, batch_idx: int) -> None:
        """Loss and counts of whole held-out images."""
        self._evaluate(batch, "val", self.val_scores)

    def on_validation_epoch_end(self) -> None:
        """The scores of all images together."""
        self._log_scores("val", self.val_scores)

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.tested, self.without_boundary = [], 0

    def test_step(self, batch: MaskBatch, batch_idx: int) -> None:
        """Loss and counts, boundaries, and what the figures need."""
        predicted = self._evaluate(batch, "test", self.test_scores)
        for position, guess, mask in zip(batch.position.tolist(), predicted.cpu(), batch.mask.cpu(), strict=True):
            alone = MaskScores(self.class_names, IGNORE)
            alone.update(guess[None], mask[None])
            iou = float(alone.compute()["image_iou"])
            self.tested.append((iou, position))
            known = mask != IGNORE
            for label in range(1, len(self.class_names)):
                f1, hd95 = boundary_scores(((guess == label) & known).numpy(), (mask == label).numpy())
                if math.isnan(f1):
                    self.without_boundary += 1
                else:
                    self.boundary_f1.update(f1)
                    self.hd95.update(hd95)

    def on_test_epoch_end(self) -> None:
        """The scores of all images together."""
        self._log_scores("test", self.test_scores)
        if self.boundary_f1.update_called:
            self.log_dict({"test/boundary_f1": self.boundary_f1.compute(), "test/hd95": self.hd95.compute()})
        self.log("test/without_boundary", float(self.without_boundary))
        for metric in (self.boundary_f1, self.hd95):
            metric.reset()

    def _evaluate(self, batch: MaskBatch, split: str, scores: MaskScores) -> Tensor:
        logits = self.logits(batch.image)
        predicted = self.classes(logits)
        scores.update(predicted, batch.mask)
        loss = self.loss(logits, batch.mask)
        self.log(f"{split}/loss", loss, on_epoch=True, batch_size=len(batch.mask), sync_dist=True)
        return predicted

    def _log_scores(self, split: str, scores: MaskScores) -> None:
        values = scores.compute()
        scores.reset()
        self.log_dict({f"{split}/{name}": value for name, value in values.items() if name != "iou"})
        self.log(f"{split}/iou", values["iou"], prog_bar=split == "val")

    def on_predict_start(self) -> None:
        """Forget an earlier prediction."""
        self.padded = 0

    def on_predict_end(self) -> None:
        """Say what was done to small images."""
        if self.padded:
            print(
                f"{self.padded} image(s) with a side below {self.net.multiple} pixels, which {self.hparams['model']} "
                "needs at least: padded by reflection, and their masks cut back"
            )

    def predict_step(self, batch: MaskBatch, batch_idx: int) -> list[PredictedMask]:
        """Class indices of whole images."""
        self.padded += len(batch.image) * (min(batch.image.shape[-2:]) < cast(Segmenter, self.net).multiple)
        datamodule = cast(MaskDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        predicted = self.classes(self.logits(batch.image)).to(torch.uint8).cpu()
        pixels = denormalised(batch.image.cpu(), datamodule)
        rows = zip(batch.position.tolist(), pixels, predicted, batch.mask.cpu(), strict=True)
        return [PredictedMask(datamodule.predict_images.name(row[0]), *row) for row in rows]

    def prediction_rows(self, batch_outputs: list[PredictedMask]) -> Iterable[dict[str, object]]:
        """Image, its mask file, the share of each class but the background, and the IoU where the truth is known."""
        for output in batch_outputs:
            shares = output.predicted.flatten().bincount(minlength=len(self.class_names)) / output.predicted.numel()
            row: dict[str, object] = {"image": output.name, "mask": f"predictions/{mask_name(output)}.png"}
            row |= {
                f"share_{name}": round(float(s), 6) for name, s in list(zip(self.class_names, shares, strict=True))[1:]
            }
            alone = MaskScores(self.class_names, IGNORE)
            alone.update(output.predicted[None].long(), output.mask[None])
            iou = float(alone.compute()["image_iou"])
            yield {**row, "iou": "" if math.isnan(iou) else round(iou, 6)}

    def write_predictions(self, batch_outputs: list[PredictedMask], folder: Path) -> None:
        """For each image ``NNNN_name.png``, the mask, and ``NNNN_name_overlay.png``, the mask over the image.

        Masks hold 0 and 255 for two classes, else class indices.
        """
        for output in batch_outputs:
            values = output.predicted * 255 if len(self.class_names) == 2 else output.predicted
            name = mask_name(output)
            Image.fromarray(values.numpy()).save(folder / f"{name}.png")
            painted = overlay(output.pixels, output.predicted, colours_of(len(self.class_names)))
            Image.fromarray(painted.permute(1, 2, 0).numpy()).save(folder / f"{name}_overlay.png")

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """Every pixel of the class most frequent in the training masks; of two classes always the foreground.

        Predicting background everywhere would have an IoU of 0.
        """
        splits = cast(MaskDataModule, datamodule).splits
        counts = torch.zeros(IGNORE + 1, dtype=torch.long)
        for index in range(len(splits.train)):
            counts += splits.train.mask(index).flatten().bincount(minlength=IGNORE + 1)
        first = 1 if len(self.class_names) == 2 else 0
        label = first + int(counts[first : len(self.class_names)].argmax())
        scores = MaskScores(self.class_names, IGNORE)
        for index in range(len(splits.test)):
            mask = splits.test.mask(index).long()[None]
            scores.update(torch.full_like(mask, label), mask)
        return {f"test/{name}": float(value) for name, value in scores.compute().items()}

    def figures(self, datamodule: pl.LightningDataModule) -> Iterator[tuple[str, Figure]]:
        """Masks over test images, spread from the best to the worst; the worst ones; the learned edge functions."""
        if self.tested:
            order = [position for _, position in sorted(self.tested, reverse=True)]
            spread = [order[round(i * (len(order) - 1) / max(1, SHOWN - 1))] for i in range(min(SHOWN, len(order)))]
            data = cast(MaskDataModule, datamodule)
            title = f"Test images from the best to the worst IoU, of {len(order):,}"
            yield "overlays", samples_figure(self._samples(spread, data), title, self.class_names)
            yield (
                "worst_cases",
                samples_figure(
                    self._samples(order[: -SHOWN - 1 : -1], data), "The worst test images", self.class_names
                ),
            )
        yield from super().figures(datamodule)

    @torch.no_grad()
    def _samples(self, positions: Iterable[int], data: MaskDataModule) -> Iterator[MaskSample]:
        iou = {position: value for value, position in self.tested}
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in data.statistics)
        for position in positions:
            pixels, mask = data.splits.test.image(position), data.splits.test.mask(position)
            predicted = self.classes(self.logits(((pixels - mean) / std)[None]))[0]
            name = Path(data.splits.test.name(position)).stem
            yield MaskSample(f"{name[:16]}  IoU {iou[position]:.3f}", pixels, predicted.to(torch.uint8), mask)


def denormalised(image: Tensor, data: MaskDataModule) -> Tensor:
    """Normalised ``(batch, channels, height, width)`` back to 0..1."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in data.statistics)
    return (image * std + mean).clamp(0, 1)


def mask_name(output: PredictedMask) -> str:
    """The stem of the image's file after its position: stems alone may repeat in sub-folders."""
    return f"{output.position:04d}_{Path(output.name).stem}"
