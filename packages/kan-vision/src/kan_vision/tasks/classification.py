"""Image classification: cross-entropy, the usual metrics, and the figures that show where a model is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from kan_core.compare import count_flops, count_parameters, match_width
from kan_core.errors import KANError
from kan_core.training import Task
from kan_vision.data.base import ImageDataModule
from kan_vision.data.images import UNLABELLED, ImageBatch
from kan_vision.figures import Prediction, confusion_figure, predictions_figure
from kan_vision.tasks._network import build_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


class ClassificationTask(Task):
    """Train a network of timm's registry to tell classes of images apart; the epoch of least validation loss is kept.

    Logged: ``train/loss``; under ``val/`` and ``test/`` loss (without smoothing), accuracy, balanced_accuracy (mean
    recall) and macro_f1; ``test/auc`` (one against the rest, macro) and ``test/ece`` (15 bins).

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

    Raises:
        KANError: When the model is unknown or refuses its arguments.
    """

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
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = build_network(model, model_kwargs or {}, num_classes, in_chans, img_size)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.example_input_array: Tensor = torch.zeros(1, in_chans, height, width)
        self.class_names = class_names or [str(label) for label in range(num_classes)]
        while_training = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "balanced_accuracy": MulticlassAccuracy(num_classes, average="macro"),
            "macro_f1": MulticlassF1Score(num_classes, average="macro"),
        }
        at_the_end = {"auc": MulticlassAUROC(num_classes), "ece": MulticlassCalibrationError(num_classes, n_bins=15)}
        self.val_metrics = MetricCollection(dict(while_training), prefix="val/")
        self.test_metrics = MetricCollection({**while_training, **at_the_end}, prefix="test/").clone()
        self.confusion = MulticlassConfusionMatrix(num_classes)
        self.tested: list[Prediction] = []

    @property
    def model_name(self) -> str:
        """The model, and its kind of layer where that was chosen: ``kan_mlp_small[rbf]``."""
        layer = (self.hparams["model_kwargs"] or {}).get("layer")
        return f"{self.hparams['model']}[{layer}]" if layer else str(self.hparams["model"])

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, in_chans, height, width)`` normalised images to ``(batch, num_classes)`` logits."""
        logits: Tensor = self.net(image)
        return logits

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        return self.adamw(self.hparams["lr"], self.hparams["weight_decay"], self.hparams["warmup_epochs"])

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

    def make_twin(self, by: str) -> ClassificationTask:
        """The same architecture with ordinary layers, as wide as it takes to have the same size."""
        kwargs = dict(self.hparams["model_kwargs"] or {})
        if kwargs.get("layer") == "linear":
            raise KANError(f"--twin {by}: this model has ordinary layers already; use --twin none")
        kwargs = {**kwargs, "layer": "linear", "layer_kwargs": None}
        size = count_flops(self.net, self.example_input_array) if by == "flops" else count_parameters(self.net)
        match = match_width(
            lambda width: self._with_model_kwargs({**kwargs, "width": width}).net,
            size,
            by=cast(Literal["params", "flops"], by),
            sample=self.example_input_array,
        )
        return self._with_model_kwargs({**kwargs, "width": match.width})

    def _with_model_kwargs(self, model_kwargs: dict[str, Any]) -> ClassificationTask:
        """A new task that differs from this one in its model's arguments only."""
        return ClassificationTask(**{**self.hparams, "model_kwargs": model_kwargs})

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
        yield from super().figures(datamodule)
