"""Human activity recognition: a network on windows of sensor channels, judged on people it has not seen."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError
from kan_core.layers import kan_layers
from kan_core.training import ModelTask
from kan_core.training.figures import confusion_figure
from kan_timeseries.data.activity import ActivityBatch, ActivityData
from kan_timeseries.models import CLASSIFIERS
from kan_timeseries.tasks.activity_scores import Evaluated, EvaluatedWindows, by_person, recordings, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SelectBy = Literal["macro_f1", "accuracy", "loss", "recording_macro_f1", "recording_accuracy"]


class PredictedWindows(NamedTuple):
    """What ``predict_step`` returns.

    Attributes:
        trials: Person and recording of each window.
        start: ``(B,)`` seconds from the start of the recording.
        y: ``(B,)`` true class index, -1 where it is not known.
        probabilities: ``(B, classes)``.
    """

    trials: list[tuple[str, str]]
    start: Tensor
    y: Tensor
    probabilities: Tensor


class ActivityTask(ModelTask):
    """Train a network to tell what a person does; the best epoch on validation people is kept.

    Channels are z-scored here, by the statistics of the training people, except for models that take physical units
    (their attribute ``raw_input``); padding becomes 0. Models with ``fit_statistics`` see the training windows before
    the first epoch. Spline coefficients have no weight decay.

    Logged: ``train/loss``; under ``val/`` and ``test/`` loss (without smoothing and class weights), accuracy,
    balanced_accuracy and macro_f1 of windows; ``recording_...`` the same of recordings, whose windows vote by their
    mean log-probability; and in ``test/`` worst_person and person_std, the least and the deviation of the people's
    accuracies (of recordings, where recordings have one activity).

    Args:
        num_samples: From the data: T, samples of a window.
        channels: From the data: their names.
        classes: From the data: their names in label order; a checkpoint of other classes is refused.
        rate: From the data: samples per second.
        channel_mean: From the data: per channel, over the training people.
        channel_std: From the data: the same.
        model: A registered classifier.
        model_kwargs: Its arguments, such as ``layer`` and ``width``.
        lr: The highest learning rate of AdamW.
        weight_decay: Decoupled weight decay of ordinary weights.
        warmup_epochs: Linear warm-up before the cosine.
        label_smoothing: Of the training loss.
        class_weights: Weigh each class by the inverse of its count in training; probabilities are then no longer
            calibrated to how often activities occur.
        jitter: Deviation of noise added in training, in deviations of the channel.
        scaling: Each channel of a window is multiplied by a draw of N(1, scaling) in training.
        rotation: Each sensor (three channels x, y, z) is turned in training, about a random axis by up to so many
            degrees. It helps across devices and hurts where posture is the cue.
        select_by: What chooses the epoch on validation: ``macro_f1``, ``accuracy``, ``loss`` or, of recordings,
            ``recording_macro_f1`` or ``recording_accuracy``.

    Raises:
        KANError: For an unknown model or argument of it, another `select_by`, or augmentations below 0.
    """

    data_kind: ClassVar[type[Any]] = ActivityData
    headline = "test/macro_f1"
    headline_mode = "max"

    def __init__(
        self,
        num_samples: int,
        channels: list[str],
        classes: list[str],
        rate: float,
        channel_mean: list[float],
        channel_std: list[float],
        model: str = "kan_har",
        model_kwargs: dict[str, Any] | None = None,
        lr: float = 5e-3,
        weight_decay: float = 0.01,
        warmup_epochs: float = 1.0,
        label_smoothing: float = 0.05,
        class_weights: bool = False,
        jitter: float = 0.0,
        scaling: float = 0.0,
        rotation: float = 0.0,
        select_by: SelectBy = "macro_f1",
    ) -> None:
        super().__init__()
        if select_by not in get_args(SelectBy):
            raise KANError(f"select_by must be one of {', '.join(get_args(SelectBy))}, got {select_by!r}")
        if min(jitter, scaling, rotation) < 0:
            raise KANError(f"jitter, scaling and rotation must be at least 0, got {jitter}, {scaling} and {rotation}")
        if rotation and len(channels) % 3:
            raise KANError(f"rotation takes channels in threes (x, y, z of a sensor), got {len(channels)} channels")
        self.save_hyperparameters()
        self.channels, self.classes = list(channels), list(classes)
        self.monitor, self.monitor_mode = f"val/{select_by}", "min" if select_by == "loss" else "max"
        self.net = make_classifier(model, num_samples, len(channels), len(classes), rate, model_kwargs or {})
        self.example_input_array = torch.zeros(1, num_samples, len(channels))
        self.mean: Tensor
        self.std: Tensor
        self.class_weight: Tensor
        self.register_buffer("mean", torch.tensor(channel_mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(channel_std, dtype=torch.float32))
        self.register_buffer("class_weight", torch.ones(len(classes)))
        self.val_windows, self.test_windows = EvaluatedWindows(), EvaluatedWindows()

    # The network and its input ----------------------------------------------------------------------------------

    def normalised(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the network is given of physical units: z-scores, 0 on padding; or `x` itself, if it takes those."""
        if getattr(self.net, "raw_input", False):
            return x
        z = (x - self.mean) / self.std
        return z if mask is None else z * mask[:, :, None]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of ``(B, T, C)`` windows in physical units.

        Args:
            x: Windows.
            mask: ``(B, T)``, False on padding, which comes last; None: there is none.
        """
        logits: Tensor = self.net(self.normalised(x, mask), mask)
        return logits

    def no_weight_decay(self) -> set[str]:
        """The coefficients of spline layers: decay would pull their curves to 0 between samples."""
        return {f"net.{name}.weight" for name, _ in kan_layers(self.net)}

    def setup(self, stage: str) -> None:
        """Fit the statistics of the network and the class weights, before a checkpoint brings its own."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.prepare(cast(ActivityData, data).parts["train"])

    def prepare(self, train: ActivityBatch) -> None:
        """Take from training windows what is not learned by gradients: feature statistics and class weights."""
        fit = getattr(self.net, "fit_statistics", None)
        if fit is not None:
            x, mask = train.x.to(self.mean.device), train.mask.to(self.mean.device)
            fit(self.normalised(x, mask), mask)
        if self.hparams["class_weights"]:
            count = torch.bincount(train.y, minlength=len(self.classes)).float()
            weight = len(train.y) / (count.clamp_min(1) * (count > 0).sum())
            self.class_weight.copy_(torch.where(count > 0, weight, 0.0))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights whose outputs or inputs mean something else.

        Raises:
            KANError: Naming both.
        """
        stored = checkpoint.get("hyper_parameters", {})
        for what in ("classes", "channels"):
            expected = stored.get(what)
            if expected is not None and list(expected) != self.hparams[what]:
                found = ", ".join(self.hparams[what])
                raise KANError(
                    f"the checkpoint was trained with the {what} {', '.join(expected)}, but the data has {found}"
                )

    # Steps ------------------------------------------------------------------------------------------------------

    def training_step(self, batch: ActivityBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of augmented windows."""
        smoothing = self.hparams["label_smoothing"]
        logits = self(self.augmented(batch.x), batch.mask).float()
        loss = F.cross_entropy(logits, batch.y, self.class_weight, label_smoothing=smoothing)
        self.log(
            "train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.x), sync_dist=True
        )
        return loss

    def augmented(self, x: Tensor) -> Tensor:
        """Windows with the chosen noise, scales and rotations, drawn from torch's global generator as dropout is."""
        jitter, scaling, rotation = (float(self.hparams[name]) for name in ("jitter", "scaling", "rotation"))
        if rotation:
            x = turned(x, rotation)
        if scaling:
            x = x * (1 + scaling * torch.randn(len(x), 1, x.shape[2], device=x.device))
        if jitter:
            x = x + jitter * self.std * torch.randn_like(x)
        return x

    def validation_step(self, batch: ActivityBatch, batch_idx: int) -> None:
        """Keep what is said of validation windows."""
        self.val_windows.update(self.evaluated(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all of them."""
        values = self.metrics(self.val_windows.compute())
        self.log_dict({f"val/{name}": value for name, value in values.items()})
        self.val_windows.reset()

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.test_windows.reset()

    def test_step(self, batch: ActivityBatch, batch_idx: int) -> None:
        """Keep what is said of test windows."""
        self.test_windows.update(self.evaluated(batch))

    def on_test_epoch_end(self) -> None:
        """Log the scores of all of them; the figures use them as well."""
        windows = self.test_windows.compute()
        values = self.metrics(windows) | person_scores(_judged(windows))
        self.log_dict({f"test/{name}": value for name, value in values.items()})

    def evaluated(self, batch: ActivityBatch) -> Evaluated:
        """What the network says of a batch, without gradients."""
        with torch.no_grad():
            logits = self(batch.x, batch.mask).float()
        return Evaluated(logits.log_softmax(dim=1), batch.y, batch.subject, batch.trial)

    def metrics(self, windows: Evaluated) -> dict[str, Tensor]:
        """Loss and scores of windows, and scores of the recordings they are from."""
        loss = F.nll_loss(windows.log_probabilities, windows.y, ignore_index=-1)
        whole = {f"recording_{name}": value for name, value in scores(recordings(windows).confusion).items()}
        return {"loss": loss, **scores(windows.confusion), **whole}

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """Always the class that most training windows have."""
        train, test = (cast(ActivityData, datamodule).parts[part] for part in ("train", "test"))
        share = torch.bincount(train.y, minlength=len(self.classes)).float().add(1e-6)
        said = (share / share.sum()).log().expand(len(test.y), -1)
        values = self.metrics(Evaluated(said, test.y, test.subject, test.trial))
        return {f"test/{name}": float(value) for name, value in values.items()}

    # Prediction -------------------------------------------------------------------------------------------------

    def predict_step(self, batch: ActivityBatch, batch_idx: int) -> PredictedWindows:
        """Probabilities of windows."""
        data = getattr(self.trainer, "datamodule", None)
        names = data.predicted_trials if isinstance(data, ActivityData) else None
        trials = [names[i] if names else ("", str(i)) for i in batch.trial.tolist()]
        probabilities = self.evaluated(batch).log_probabilities.exp()
        return PredictedWindows(trials, batch.start.cpu(), batch.y.cpu(), probabilities.cpu())

    def prediction_rows(self, batch_outputs: PredictedWindows) -> Iterable[dict[str, object]]:
        """Person, recording, start in seconds, predicted class, true class where it is known, all probabilities."""
        for (subject, trial), start, y, row in zip(
            batch_outputs.trials,
            batch_outputs.start.tolist(),
            batch_outputs.y.tolist(),
            batch_outputs.probabilities.tolist(),
            strict=True,
        ):
            best = max(range(len(row)), key=row.__getitem__)
            shares = {f"probability_{name}": round(p, 6) for name, p in zip(self.classes, row, strict=True)}
            true = self.classes[y] if y >= 0 else ""
            said = {"subject": subject, "trial": trial, "start": round(start, 3), "prediction": self.classes[best]}
            yield {**said, "true": true, **shares}

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """What the exported network takes (windows in physical units) and gives."""
        return {
            **super().export_metadata(datamodule),
            "classes": self.classes,
            "channels": self.channels,
            "units": cast(ActivityData, datamodule).units,
            "rate": self.hparams["rate"],
            "num_samples": self.hparams["num_samples"],
        }

    # Figures ----------------------------------------------------------------------------------------------------

    def figures(self, datamodule: pl.LightningDataModule) -> Iterator[tuple[str, Figure]]:
        """Confusion matrix and accuracy of each person in the test, and the learned edge functions."""
        if self.test_windows.update_called:
            rows = _judged(self.test_windows.compute())
            whole = len(rows.y) < len(self.test_windows.compute().y)
            yield (
                "confusion",
                confusion_figure(rows.confusion.cpu(), self.classes, "Recordings" if whole else "Windows"),
            )
            names = cast(ActivityData, datamodule).subjects
            yield "people", people_figure({names[person]: value for person, value in by_person(rows).items()})
        yield from super().figures(datamodule)


def make_classifier(
    model: str, num_samples: int, channels: int, num_classes: int, rate: float, model_kwargs: dict[str, Any]
) -> nn.Module:
    """A registered classifier; one that knows about time is told the rate.

    Raises:
        KANError: When the model is unknown or refuses its arguments.
    """
    options = {"num_samples": num_samples, "channels": channels, "num_classes": num_classes, **model_kwargs}
    if model in CLASSIFIERS.names() and "rate" in inspect.signature(CLASSIFIERS.factory(model)).parameters:
        options.setdefault("rate", rate)
    return CLASSIFIERS.create(model, **options)


def turned(x: Tensor, degrees: float) -> Tensor:
    """Windows with every three channels turned, about a random axis by a random angle of up to so many degrees.

    Args:
        x: ``(B, T, C)``, C a multiple of 3.
        degrees: The largest angle.
    """
    sensors = x.shape[2] // 3
    axis = F.normalize(torch.randn(len(x), sensors, 3, device=x.device, dtype=x.dtype), dim=2)
    angle = torch.deg2rad(degrees * (2 * torch.rand(len(x), sensors, 1, 1, device=x.device, dtype=x.dtype) - 1))
    a, b, c = axis.unbind(dim=2)
    zero = torch.zeros_like(a)
    cross = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], dim=2).reshape(len(x), sensors, 3, 3)
    turn = torch.eye(3, device=x.device, dtype=x.dtype) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
    return torch.einsum("bsij,btsj->btsi", turn, x.reshape(*x.shape[:2], sensors, 3)).flatten(2)


def person_scores(rows: Evaluated) -> dict[str, float]:
    """The least of the people's accuracies and their deviation (of a sample; 0 for one person)."""
    values = torch.tensor(list(by_person(rows).values()))
    return {
        "worst_person": float(values.min()) if len(values) else 0.0,
        "person_std": float(values.std()) if len(values) > 1 else 0.0,
    }


def _judged(windows: Evaluated) -> Evaluated:
    """Recordings, or windows where the activity changes within all recordings."""
    whole = recordings(windows)
    return whole if len(whole.y) else windows


def people_figure(accuracy: dict[str, float]) -> Figure:
    """Bars of each person's accuracy, the worst first, and their mean.

    Args:
        accuracy: By the name of the person.
    """
    from matplotlib.figure import Figure

    people = sorted(accuracy.items(), key=lambda item: item[1])
    figure = Figure(figsize=(max(4.0, 1.5 + 0.4 * len(people)), 3.5), layout="constrained")
    axes = figure.subplots()
    axes.bar([name for name, _ in people], [value for _, value in people])
    mean = sum(accuracy.values()) / max(1, len(accuracy))
    axes.axhline(mean, color="black", linewidth=1, linestyle="--", label=f"mean {mean:.3f}")
    axes.set(ylabel="accuracy", ylim=(0, 1), title="Accuracy of each person")
    axes.tick_params(axis="x", rotation=60 if len(people) > 8 else 0)
    axes.legend(loc="lower right")
    return figure
