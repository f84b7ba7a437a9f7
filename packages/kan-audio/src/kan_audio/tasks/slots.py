"""Spoken language understanding as filling slots: one class per slot and utterance, cross-entropy, exact match."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast, get_args

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from kan_audio import models
from kan_audio.attribution import equal_segments, leave_one_out
from kan_audio.data.base import AudioDataModule, PaddedDataModule
from kan_audio.data.utterances import AudioBatch
from kan_audio.figures_attribution import SlotExplanation, explanation_figure
from kan_audio.metrics.slots import SlotScores
from kan_audio.tasks._base import AudioTask
from kan_core.errors import KANError
from kan_core.training.figures import confusion_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SelectBy = Literal["loss", "accuracy", "macro_f1", "exact_match"]


class PredictedSlots(NamedTuple):
    """What ``predict_step`` returns.

    Attributes:
        names: What each utterance is called.
        labels: ``(batch, slots)`` true class indices, -1 where unknown.
        probabilities: Of each slot, ``(batch, classes)``.
    """

    names: list[str]
    labels: Tensor
    probabilities: list[Tensor]


class SlotTask(AudioTask):
    """Train a network to fill the slots of utterances (a digit, a command, an order); the best epoch is kept.

    The loss is the sum of the slots' cross-entropies. A label of -1 is unknown: it has no part in the loss and counts
    in no metric of its slot.

    Logged: ``train/loss``; under ``val/`` and ``test/`` loss (without smoothing), accuracy and macro_f1 (means over the
    slots), exact_match (all slots right) and, where there are several slots, ``accuracy_<slot>`` and
    ``macro_f1_<slot>``. With one slot accuracy and exact_match are the same.

    Args:
        slots: From the data: each slot with the names of its classes, in label order. They are stored in checkpoints; a
            checkpoint of other slots is refused.
        model: A name that `kan_audio.models.create` knows, with ``num_classes``.
        model_kwargs: More arguments of the model, such as ``placement``, ``layer`` and ``width``.
        sample_rate: From the data: samples per second.
        lr: The highest learning rate of AdamW.
        weight_decay: Decoupled weight decay; norms, biases and grids are exempt.
        warmup_epochs: Linear warm-up before the cosine.
        label_smoothing: Of the training loss.
        select_by: What chooses the epoch on validation: the least ``loss``, or the highest ``accuracy``, ``macro_f1``
            or ``exact_match``.

    Raises:
        KANError: When the model is unknown or refuses its arguments, a slot has no class, or for another `select_by`.
    """

    data_kind: ClassVar[type[Any]] = PaddedDataModule
    headline_mode = "max"

    def __init__(
        self,
        slots: dict[str, list[str]],
        model: str = "slu_cnn_small",
        model_kwargs: dict[str, Any] | None = None,
        sample_rate: int = 16_000,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_epochs: float = 1.0,
        label_smoothing: float = 0.0,
        select_by: SelectBy = "loss",
    ) -> None:
        super().__init__()
        if select_by not in get_args(SelectBy):
            raise KANError(f"select_by must be one of {', '.join(get_args(SelectBy))}, got {select_by!r}")
        if not slots or not all(slots.values()):
            raise KANError(f"slots must each have a class, got {slots}")
        self.save_hyperparameters()
        self.slots = {slot: list(names) for slot, names in slots.items()}
        self.num_classes = [len(names) for names in self.slots.values()]
        self.monitor, self.monitor_mode = f"val/{select_by}", "min" if select_by == "loss" else "max"
        self.headline = "test/accuracy" if len(slots) == 1 else "test/exact_match"
        options = {"num_classes": self.num_classes, "sample_rate": sample_rate, **(model_kwargs or {})}
        self.net = models.create(model, **options)
        self.set_example(sample_rate)
        self.val_scores = SlotScores(list(self.slots), self.num_classes)
        self.test_scores = SlotScores(list(self.slots), self.num_classes)
        self.tested: list[int] = []

    @property
    def model_name(self) -> str:
        """The model, the placement and the kind of layer where they were chosen: ``slu_cnn[FKF rbf]``."""
        kwargs = self.hparams["model_kwargs"] or {}
        chosen = " ".join(kwargs[key] for key in ("placement", "layer") if kwargs.get(key))
        return f"{self.hparams['model']}[{chosen}]" if chosen else str(self.hparams["model"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights whose outputs mean other classes.

        Raises:
            KANError: Naming the first slot that differs.
        """
        stored = checkpoint.get("hyper_parameters", {}).get("slots", self.slots)
        if list(stored) != list(self.slots):
            raise KANError(f"the checkpoint has the slots {', '.join(stored)}, but the data {', '.join(self.slots)}")
        for slot, names in stored.items():
            if names != self.slots[slot]:
                found, expected = ", ".join(self.slots[slot]), ", ".join(names)
                raise KANError(f"the checkpoint was trained with {slot} in {expected}, but the data has {found}")

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        """Sum of the slots' cross-entropies."""
        loss = self._loss(self(batch.wave, batch.length), batch.label, self.hparams["label_smoothing"])
        rows = len(batch.wave)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)
        return loss

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Loss and counts on held-out utterances."""
        self._evaluate(batch, "val", self.val_scores)

    def on_validation_epoch_end(self) -> None:
        """Log what was counted."""
        self._log_scores("val", self.val_scores)
        self.val_scores.reset()

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.test_scores.reset()
        self.tested = []

    def test_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Loss and counts."""
        self._evaluate(batch, "test", self.test_scores)
        self.tested += batch.position.tolist()

    def on_test_epoch_end(self) -> None:
        """Log what was counted; the figures use it as well."""
        self._log_scores("test", self.test_scores)

    def _evaluate(self, batch: AudioBatch, split: str, scores: SlotScores) -> None:
        logits: Tensor = self(batch.wave, batch.length).float()
        scores.update(self.predicted(logits), batch.label)
        loss = self._loss(logits, batch.label)
        self.log(f"{split}/loss", loss, prog_bar=split == "val", batch_size=len(batch.wave), sync_dist=True)

    def _log_scores(self, split: str, scores: SlotScores) -> None:
        self.log_dict({f"{split}/{name}": value.float() for name, value in scores.compute().items()})

    def _loss(self, logits: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
        losses = []
        for part, target in zip(self.by_slot(logits.float()), label.T, strict=True):
            total = F.cross_entropy(part, target, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
            losses.append(total / (target >= 0).sum().clamp(min=1))
        return torch.stack(losses).sum()

    def by_slot(self, logits: Tensor) -> tuple[Tensor, ...]:
        """``(batch, classes)`` logits of each slot."""
        return torch.split(logits, self.num_classes, dim=1)

    def predicted(self, logits: Tensor) -> Tensor:
        """``(batch, slots)`` class indices."""
        return torch.stack([part.argmax(dim=1) for part in self.by_slot(logits)], dim=1)

    def predict_step(self, batch: AudioBatch, batch_idx: int) -> PredictedSlots:
        """Class probabilities of each slot."""
        datamodule = getattr(self.trainer, "datamodule", None)
        positions = batch.position.tolist()
        names = [datamodule.predict_utterances[i].id if datamodule else str(i) for i in positions]
        logits = self(batch.wave, batch.length).float()
        labels = batch.label.cpu().expand(-1, len(self.slots))  # files without labels have one column for all slots
        return PredictedSlots(names, labels, [part.softmax(dim=1).cpu() for part in self.by_slot(logits)])

    def prediction_rows(self, batch_outputs: PredictedSlots) -> Iterable[dict[str, object]]:
        """File, and of each slot the predicted value, its probability and the true value where it is known."""
        names, labels, probabilities = batch_outputs
        for row, name in enumerate(names):
            line: dict[str, object] = {"id": name}
            for index, (slot, values) in enumerate(self.slots.items()):
                probability, choice = probabilities[index][row].max(dim=0)
                true = int(labels[row, index])
                line[slot] = values[int(choice)]
                line[f"{slot}_probability"] = round(float(probability), 6)
                line[f"{slot}_true"] = values[true] if true >= 0 else ""
            yield line

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """Always the most frequent value of each slot in the training split."""
        data = cast(AudioDataModule, datamodule)
        train, test = data.labels(data.splits.train), data.labels(data.splits.test)
        majority = torch.stack(
            [
                column[column >= 0].bincount(minlength=n).argmax()
                for column, n in zip(train.T, self.num_classes, strict=True)
            ]
        )
        scores = SlotScores(list(self.slots), self.num_classes)
        scores.update(majority.expand_as(test), test)
        return {f"test/{name}": float(value) for name, value in scores.compute().items()}

    def figures(self, datamodule: pl.LightningDataModule) -> Iterator[tuple[str, Figure]]:
        """Confusion matrices, what in the waveforms decided, and the learned edge functions."""
        if self.tested:
            for slot, counts in self.test_scores.confusion.items():
                yield f"confusion_{safe_name(slot)}", confusion_figure(counts.cpu(), self.slots[slot], slot)
            yield "attribution", explanation_figure(self.explanations(cast(AudioDataModule, datamodule)))
        yield from super().figures(datamodule)

    @torch.no_grad()
    def explanations(self, data: AudioDataModule, most: int = 4, segments: int = 12) -> list[SlotExplanation]:
        """Leave-one-out over equal segments for tested utterances, the first of each class of the first slot.

        Args:
            data: Whose test utterances were tested.
            most: How many utterances.
            segments: Into how many each is cut.
        """
        labels = data.labels(data.splits.test)
        first = {int(labels[position, 0]): position for position in reversed(self.tested)}
        dataset: Any = data.test_dataloader().dataset
        found = []
        for position in [first[value] for value in sorted(first)][:most]:
            wave, label, _ = dataset[position]
            spans = equal_segments(len(wave), segments)
            probabilities = [
                part.softmax(dim=1)[0] for part in self.by_slot(self(wave[None], torch.tensor([len(wave)])))
            ]
            choices = [int(p.argmax()) for p in probabilities]
            importance = leave_one_out(self.net, wave, spans, self.num_classes, choices)
            titles = []
            for (slot, values), choice, p, true in zip(
                self.slots.items(), choices, probabilities, label.tolist(), strict=True
            ):
                wrong = "" if true in (choice, -1) else f", true {values[true]}"
                titles.append(f"{slot}: {values[choice]} ({p[choice]:.0%}{wrong})")
            name = data.splits.test[position].id
            found.append(SlotExplanation(name, wave, data.sample_rate, spans, importance, titles))
        return found

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """The slots in the order of the logits, each with its classes."""
        return {**super().export_metadata(datamodule), "slots": self.slots}


def safe_name(slot: str) -> str:
    """`slot` for a file's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in slot)
