"""Speech deepfake detection: weighted cross-entropy, scores with a meaning, and errors per attack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast, get_args

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import CatMetric

from kan_audio import models
from kan_audio.attribution import equal_segments, leave_one_out
from kan_audio.data.base import WindowedDataModule
from kan_audio.data.utterances import BONAFIDE, KEYS, AudioBatch
from kan_audio.figures_attribution import SlotExplanation, explanation_figure
from kan_audio.figures_scores import det_figure, score_histogram
from kan_audio.metrics.calibration import Calibration, fit_calibration
from kan_audio.metrics.spoofing import act_dcf, cllr, eer, min_cllr, min_dcf
from kan_audio.metrics.tables import POOLED, breakdown
from kan_audio.metrics.tally import Tally
from kan_audio.tasks._base import AudioTask
from kan_core.errors import KANError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SelectBy = Literal["loss", "eer"]

FEWEST_SPEAKERS = 10
"""A bootstrap over fewer would be one over hardly anything."""


class ScoredBatch(NamedTuple):
    """What ``predict_step`` returns.

    Attributes:
        names: What each recording is called.
        labels: ``(batch,)`` 1 = bona fide, 0 = spoof, -1 = unknown.
        scores: ``(batch,)`` the higher, the more bona fide.
        llrs: ``(batch,)`` calibrated natural-log likelihood ratios, bona fide against spoof.
        probabilities: ``(batch,)`` of bona fide, at the prior of `SpoofingTask`.
    """

    names: list[str]
    labels: Tensor
    scores: Tensor
    llrs: Tensor
    probabilities: Tensor


class Trials(NamedTuple):
    """Tested utterances in the order of their scores' computation.

    Attributes:
        scores: ``(trials,)`` the higher, the more bona fide.
        labels: ``(trials,)`` 1 = bona fide, 0 = spoof.
        attacks: Of each trial, ``"-"`` for bona fide speech.
        speakers: Of each trial; its id where the set does not say.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    attacks: list[str]
    speakers: list[str]

    def per_attack(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Scores and labels of all trials, and of all bona fide ones against each attack."""
        found = {"all": (self.scores, self.labels)}
        for attack in sorted({a for a, label in zip(self.attacks, self.labels, strict=True) if not label}):
            taken = (self.labels == 1) | (np.array(self.attacks) == attack)
            found[attack] = (self.scores[taken], self.labels[taken])
        return found


class SpoofingTask(AudioTask):
    """Train a network to tell bona fide speech from spoofs; the epoch that validates best is kept.

    A score is the difference of the two logits, z_bonafide - z_spoof: the higher, the more bona fide. After every
    validation an affine map from scores to log-likelihood ratios is fitted on the validation scores by logistic
    regression (`kan_audio.metrics.calibration`); it is stored with the weights, and ``test`` and ``predict`` use it.

    Logged: ``train/loss``, ``val/loss``, ``val/eer``; of the test set, errors as fractions: ``test/eer`` with its 95 %
    interval by bootstrap (``test/eer_low``, ``test/eer_high``; speakers are drawn where there are at least 10, else
    utterances), the same per attack (``test/eer_A01``, ...: all bona fide speech against that attack), and
    ``test/min_dcf``, ``test/act_dcf``, ``test/cllr`` and ``test/min_cllr`` with the costs of ASVspoof 5 track 1.

    Args:
        model: A name that `kan_audio.models.create` knows, with two outputs.
        model_kwargs: More arguments of the model, such as ``layer`` and ``width``.
        sample_rate: From the data: samples per second.
        num_samples: From the data: samples of a window.
        class_weights: Of spoof and bona fide speech in the training loss, such as ``[0.1, 0.9]`` where spoofs are the
            many; by default equal.
        spoof_prior: Share of spoofs that probabilities, and the calibration, assume.
        lr: The highest learning rate of AdamW.
        weight_decay: Decoupled weight decay; norms, biases and grids are exempt.
        warmup_epochs: Linear warm-up before the cosine.
        select_by: What chooses the epoch on validation: the least ``loss`` or ``eer``.

    Raises:
        KANError: When the model is unknown or refuses its arguments, or for another value of an option.
    """

    data_kind: ClassVar[type[Any]] = WindowedDataModule
    headline = "test/eer"
    headline_mode = "min"

    def __init__(
        self,
        model: str = "aasist3_mel",
        model_kwargs: dict[str, Any] | None = None,
        sample_rate: int = 16_000,
        num_samples: int = 64_600,
        class_weights: tuple[float, float] | None = None,
        spoof_prior: float = 0.5,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup_epochs: float = 1.0,
        select_by: SelectBy = "loss",
    ) -> None:
        super().__init__()
        if select_by not in get_args(SelectBy):
            raise KANError(f"select_by must be one of {', '.join(get_args(SelectBy))}, got {select_by!r}")
        if not 0 < spoof_prior < 1:
            raise KANError(f"spoof_prior must lie between 0 and 1, got {spoof_prior}")
        if class_weights is not None and not min(class_weights) > 0:
            raise KANError(f"class_weights must be two positive numbers, got {list(class_weights)}")
        self.save_hyperparameters()
        self.monitor = f"val/{select_by}"
        self.net = models.create(model, **{"sample_rate": sample_rate, **(model_kwargs or {})})
        self.set_example(num_samples)
        self.class_weights: Tensor
        self.register_buffer("class_weights", torch.tensor(class_weights or (1.0, 1.0)), persistent=False)
        # scale and offset of the calibration; the identity until the first validation
        self.calibration: Tensor
        self.register_buffer("calibration", torch.tensor([1.0, 0.0], dtype=torch.float64))
        self.val_scores, self.val_labels = (CatMetric(nan_strategy="disable") for _ in range(2))
        self.tested: list[tuple[int, float]] = []

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        """Weighted cross-entropy of a batch."""
        logits: Tensor = self(batch.wave).float()
        loss = F.cross_entropy(logits, batch.label[:, 0], weight=self.class_weights)
        rows = len(batch.wave)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)
        return loss

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Loss and scores of held-out speech."""
        self.val_scores.update(scores_of(self._log_loss(batch, "val")))
        self.val_labels.update(batch.label[:, 0])

    def on_validation_epoch_end(self) -> None:
        """The error rate, and the calibration of what was scored."""
        scores, labels = self.val_scores.compute().double().cpu(), self.val_labels.compute().long().cpu()
        self.val_scores.reset()
        self.val_labels.reset()
        if not scores.isfinite().all():  # a training that diverged: Lightning goes on, and so does the table
            self.log("val/eer", 1.0, prog_bar=True)
            return
        self.log("val/eer", eer(scores, labels), prog_bar=True)
        fitted = fit_calibration(scores, labels, spoof_prior=self.hparams["spoof_prior"])
        self.calibration.copy_(torch.tensor([fitted.scale, fitted.offset]))

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.tested = []

    def test_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Loss and scores."""
        scores = scores_of(self._log_loss(batch, "test"))
        self.tested += zip(batch.position.tolist(), scores.tolist(), strict=True)

    def on_test_epoch_end(self) -> None:
        """Error rates over all trials and per attack; likelihood ratios by the calibration of the validation."""
        trials = self.trials(cast(Any, self.trainer).datamodule)
        if len(set(trials.labels.tolist())) < 2:  # a few batches of a trial run
            return
        cells = breakdown(
            trials.scores,
            trials.labels,
            trials.attacks,
            metrics={"eer": Tally.eer},
            speakers=trials.speakers if len(set(trials.speakers)) >= FEWEST_SPEAKERS else None,
        )
        for cell in cells:
            name = "test/eer" if cell.attack == POOLED else f"test/eer_{cell.attack}"
            value, low, high = cell.metrics["eer"]
            self.log_dict({name: value, f"{name}_low": low, f"{name}_high": high})
        llrs = self.calibrated.llr(trials.scores)
        self.log_dict(
            {
                "test/min_dcf": min_dcf(trials.scores, trials.labels),
                "test/act_dcf": act_dcf(llrs, trials.labels),
                "test/cllr": cllr(llrs, trials.labels),
                "test/min_cllr": min_cllr(trials.scores, trials.labels),
            }
        )

    def _log_loss(self, batch: AudioBatch, split: str) -> Tensor:
        logits: Tensor = self(batch.wave).float()
        loss = F.cross_entropy(logits, batch.label[:, 0], weight=self.class_weights)
        self.log(f"{split}/loss", loss, prog_bar=split == "val", batch_size=len(batch.wave), sync_dist=True)
        return logits

    @property
    def calibrated(self) -> Calibration:
        """The calibration that was fitted last."""
        scale, offset = self.calibration.tolist()
        return Calibration(scale, offset)

    def trials(self, datamodule: WindowedDataModule) -> Trials:
        """What was tested last, with its scores."""
        utterances = [datamodule.splits.test[position] for position, _ in self.tested]
        return Trials(
            scores=np.array([score for _, score in self.tested]),
            labels=np.array([int(utterance.is_bonafide) for utterance in utterances]),
            attacks=[utterance.attack for utterance in utterances],
            speakers=[utterance.speaker or utterance.id for utterance in utterances],
        )

    def predict_step(self, batch: AudioBatch, batch_idx: int) -> ScoredBatch:
        """Scores, likelihood ratios and probabilities."""
        datamodule = getattr(self.trainer, "datamodule", None)
        positions = batch.position.tolist()
        names = [datamodule.predict_utterances[i].id if datamodule else str(i) for i in positions]
        scores = scores_of(self(batch.wave)).double().cpu()
        llrs = torch.from_numpy(self.calibrated.llr(scores))
        bonafide = torch.from_numpy(self.calibrated.probability(scores, self.hparams["spoof_prior"]))
        return ScoredBatch(names, batch.label[:, 0].cpu(), scores, llrs, bonafide)

    def prediction_rows(self, batch_outputs: ScoredBatch) -> Iterable[dict[str, object]]:
        """File, label in words, its probability, score, likelihood ratio, and the true label where it is known."""
        for name, label, score, llr, bonafide in zip(*batch_outputs, strict=True):
            predicted = KEYS[int(bonafide >= 0.5)]
            yield {
                "id": name,
                "predicted": predicted,
                "probability": round(float(bonafide if predicted == BONAFIDE else 1 - bonafide), 6),
                "score": round(float(score), 6),
                "llr": round(float(llr), 6),
                "true": KEYS[int(label)] if label >= 0 else "",
            }

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """The same score for everything: half of the trials on the wrong side, likelihood ratios of 1."""
        return {"test/eer": 0.5, "test/min_dcf": 1.0, "test/act_dcf": 1.0, "test/cllr": 1.0, "test/min_cllr": 1.0}

    def figures(self, datamodule: pl.LightningDataModule) -> Iterator[tuple[str, Figure]]:
        """DET curves per attack, histograms of scores, what in the waveforms decided, learned edge functions."""
        if self.tested:
            data = cast(WindowedDataModule, datamodule)
            trials = self.trials(data)
            if len(set(trials.labels.tolist())) == 2:
                yield "det", det_figure(trials.per_attack())
                threshold = -self.calibrated.offset / self.calibrated.scale
                yield "scores", score_histogram(trials.scores, trials.labels, threshold)
                yield "attribution", explanation_figure(self.explanations(data))
        yield from super().figures(datamodule)

    @torch.no_grad()
    def explanations(self, data: WindowedDataModule, segments: int = 16) -> list[SlotExplanation]:
        """Leave-one-out over equal segments: of either class the tested utterance that was clearest and the worst.

        Args:
            data: Whose test utterances were tested.
            segments: Into how many each window is cut.
        """
        trials = self.trials(data)
        rows = []
        for label in (0, 1):
            of_class = np.flatnonzero(trials.labels == label)
            rows += [of_class[trials.scores[of_class].argmin()], of_class[trials.scores[of_class].argmax()]]
        dataset: Any = data.test_dataloader().dataset
        found = []
        for position in dict.fromkeys(self.tested[row][0] for row in rows):
            wave = dataset[position][0]
            spans = equal_segments(len(wave), segments)
            p = self(wave[None]).softmax(dim=1)[0]
            choice = int(p.argmax())
            importance = leave_one_out(lambda waves, _: self(waves), wave, spans, [2], [choice])
            utterance = data.splits.test[position]
            true = KEYS[int(utterance.is_bonafide)] + ("" if utterance.is_bonafide else f" {utterance.attack}")
            title = f"{KEYS[choice]} ({p[choice]:.0%}), true {true}"
            found.append(SlotExplanation(utterance.id, wave, data.sample_rate, spans, importance, [title]))
        return found

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """Classes in the order of the logits, the window, and the calibration of their difference."""
        scale, offset = self.calibration.tolist()
        return {
            **super().export_metadata(datamodule),
            "class_names": list(KEYS),
            "num_samples": self.hparams["num_samples"],
            "llr": {"scale": scale, "offset": offset},
        }


def scores_of(logits: Tensor) -> Tensor:
    """z_bonafide - z_spoof of ``(batch, 2)`` logits: ``(batch,)``."""
    return logits[:, 1] - logits[:, 0]
