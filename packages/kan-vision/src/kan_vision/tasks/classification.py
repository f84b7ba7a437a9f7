"""Image classification: cross-entropy, the usual metrics, and the figures that show where a model is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast, get_args

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from kan_core.errors import KANError
from kan_core.training.figures import confusion_figure
from kan_vision.data.base import ImageDataModule
from kan_vision.data.images import UNLABELLED, ImageBatch
from kan_vision.figures import Prediction, attention_figure, predictions_figure
from kan_vision.layers.fourier_attention import KArAtAttention, attention_maps
from kan_vision.tasks._base import VisionTask
from kan_vision.tasks._network import build_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SelectBy = Literal["loss", "accuracy", "balanced_accuracy", "macro_f1", "auc"]


class PredictedBatch(NamedTuple):
    """What ``predict_step`` returns.

    Attributes:
        names: What each image is called.
        labels: ``(batch,)`` true class indices, -1 where unknown.
        probabilities: ``(batch, num_classes)``.
    """

    names: list[str]
    labels: Tensor
    probabilities: Tensor


class ClassificationTask(VisionTask):
    """Train a network of timm's registry to tell classes of images apart; the epoch that validates best is kept.

    Logged: ``train/loss``; under ``val/`` and ``test/`` loss (without smoothing), accuracy, balanced_accuracy (mean
    recall), macro_f1 and auc (one against the rest, macro); ``test/ece`` (15 bins).

    Args:
        model: A name that `timm.create_model` knows after ``import kan_vision``.
        model_kwargs: More arguments of the model, such as ``layer``, ``width`` and ``drop_rate``.
        num_classes: From the data.
        in_chans: From the data.
        img_size: From the data: the side of square images, else height and width.
        class_names: From the data, in label order; by default the numbers.
        lr: The highest learning rate of AdamW.
        weight_decay: Decoupled weight decay; norms, biases and grids are exempt.
        warmup_epochs: Linear warm-up before the cosine.
        label_smoothing: Of the training loss.
        select_by: The validation metric that chooses the epoch: the least ``loss``, or the highest ``accuracy``,
            ``balanced_accuracy``, ``macro_f1`` or ``auc``.

    Raises:
        KANError: When the model is unknown or refuses its arguments, or for another `select_by`.
    """

    data_kind: ClassVar[type[Any]] = ImageDataModule
    headline = "test/accuracy"
    headline_mode = "max"

    def __init__(
        self,
        model: str = "kan_mlp_small",
        model_kwargs: dict[str, Any] | None = None,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int | tuple[int, int] = 28,
        class_names: list[str] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        warmup_epochs: float = 1.0,
        label_smoothing: float = 0.0,
        select_by: SelectBy = "loss",
    ) -> None:
        super().__init__()
        if select_by not in get_args(SelectBy):
            raise KANError(f"select_by must be one of {', '.join(get_args(SelectBy))}, got {select_by!r}")
        self.save_hyperparameters()
        self.monitor, self.monitor_mode = f"val/{select_by}", "min" if select_by == "loss" else "max"
        self.net = build_network(model, model_kwargs or {}, num_classes, in_chans, img_size)
        self.set_example(in_chans, img_size)
        self.class_names = class_names or [str(label) for label in range(num_classes)]
        while_training = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "balanced_accuracy": MulticlassAccuracy(num_classes, average="macro"),
            "macro_f1": MulticlassF1Score(num_classes, average="macro"),
            "auc": MulticlassAUROC(num_classes),
        }
        at_the_end = {"ece": MulticlassCalibrationError(num_classes, n_bins=15)}
        self.val_metrics = MetricCollection(dict(while_training), prefix="val/")
        self.test_metrics = MetricCollection({**while_training, **at_the_end}, prefix="test/").clone()
        self.confusion = MulticlassConfusionMatrix(num_classes)
        self.tested: list[Prediction] = []

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        loss = F.cross_entropy(self(batch.image), batch.label, label_smoothing=self.hparams["label_smoothing"])
        self.log(
            "train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.label), sync_dist=True
        )
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Loss and metrics on held-out images."""
        self._evaluate(batch, "val", self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.tested = []
        self.confusion.reset()

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Loss and metrics, and what the figures need."""
        probabilities = self._evaluate(batch, "test", self.test_metrics)
        self.confusion.update(probabilities, batch.label)
        confidence, predicted = probabilities.max(dim=1)
        columns = (batch.position, batch.label, predicted, confidence)
        self.tested += [Prediction(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def _evaluate(self, batch: ImageBatch, split: str, metrics: MetricCollection) -> Tensor:
        logits: Tensor = self(batch.image).float()
        probabilities = logits.softmax(dim=1)
        metrics.update(probabilities, batch.label)
        loss = F.cross_entropy(logits, batch.label)
        self.log(f"{split}/loss", loss, prog_bar=split == "val", batch_size=len(batch.label), sync_dist=True)
        self.log_dict(metrics, batch_size=len(batch.label))
        return probabilities

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> PredictedBatch:
        """Class probabilities."""
        datamodule = getattr(self.trainer, "datamodule", None)
        positions = batch.position.tolist()
        names = [datamodule.predict_images.name(i) if datamodule else str(i) for i in positions]
        return PredictedBatch(names, batch.label.cpu(), self(batch.image).float().softmax(dim=1).cpu())

    def prediction_rows(self, batch_outputs: PredictedBatch) -> Iterable[dict[str, object]]:
        """Image, predicted class and its probability, and the true class where it is known."""
        confidence, predicted = batch_outputs.probabilities.max(dim=1)
        rows = zip(
            batch_outputs.names, batch_outputs.labels.tolist(), predicted.tolist(), confidence.tolist(), strict=True
        )
        for name, label, choice, probability in rows:
            true = "" if label == UNLABELLED else self.class_names[label]
            yield {
                "image": name,
                "predicted": self.class_names[choice],
                "probability": round(probability, 6),
                "true": true,
            }

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """Always the most frequent class of the training split."""
        splits = cast(ImageDataModule, datamodule).splits
        majority = splits.train.labels.bincount(minlength=len(self.class_names)).argmax()
        constant = majority.expand(len(splits.test.labels))
        scores = MetricCollection(
            {
                name: metric.clone()
                for name, metric in self.test_metrics.items(keep_base=True)
                if name not in ("auc", "ece")
            },
            prefix="test/",
        ).cpu()
        scores.reset()
        return {name: float(value) for name, value in scores(constant, splits.test.labels).items()} | {"test/auc": 0.5}

    def figures(self, datamodule: pl.LightningDataModule) -> Iterator[tuple[str, Figure]]:
        """The confusion matrix, predictions right and wrong, and the learned edge functions."""
        if self.tested:
            images = cast(ImageDataModule, datamodule).splits.test
            yield "confusion_matrix", confusion_figure(self.confusion.compute().cpu(), self.class_names)
            yield "predictions", predictions_figure(self.tested, images, self.class_names)
            if any(isinstance(part, KArAtAttention) for part in self.net.modules()):
                yield "attention", self._attention_figure(cast(ImageDataModule, datamodule))
        yield from super().figures(datamodule)

    @torch.no_grad()
    def _attention_figure(self, data: ImageDataModule, most: int = 4) -> Figure:
        first = [next(p for p in self.tested if p.label == label) for label in sorted({p.label for p in self.tested})]
        chosen = first[:most]
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in data.statistics)
        pixels = data.splits.test.pixels([p.position for p in chosen])
        maps = attention_maps(self.net, (pixels - mean) / std)
        grid = cast(VisionTransformer, self.net).patch_embed.grid_size
        return attention_figure(pixels, maps, grid, [self.class_names[p.label] for p in chosen])
