"""How well activities were told: of windows, of whole recordings, and of each person."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Evaluated(NamedTuple):
    """Windows, or recordings, that were looked at.

    Attributes:
        log_probabilities: ``(n, classes)``.
        y: ``(n,)`` true class index, -1 where it is not known.
        subject: ``(n,)`` number of the person.
        trial: ``(n,)`` number of the recording.
    """

    log_probabilities: Tensor
    y: Tensor
    subject: Tensor
    trial: Tensor

    @property
    def confusion(self) -> Tensor:
        """``(classes, classes)`` counts, true classes as rows; of rows whose class is known."""
        return confusion(self.y, self.log_probabilities.argmax(dim=1), self.log_probabilities.shape[1])


class EvaluatedWindows(Metric):
    """All windows of a split, gathered over batches and processes."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in Evaluated._fields:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, windows: Evaluated) -> None:
        """Add windows."""
        for name, values in windows._asdict().items():
            cast(list[Tensor], getattr(self, name)).append(values.detach())

    def compute(self) -> Evaluated:
        """All windows so far."""
        return Evaluated(*(dim_zero_cat(cast(Any, getattr(self, name))) for name in Evaluated._fields))


def recordings(windows: Evaluated) -> Evaluated:
    """One row per recording: the mean of its windows' log-probabilities, which is how they vote.

    A recording within which the activity changes has no class of its own and is left out.
    """
    trials, place = torch.unique(windows.trial, return_inverse=True)
    count = torch.bincount(place, minlength=len(trials))

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(trials), *values.shape[1:]).index_add_(0, place, values)

    mean = total(windows.log_probabilities) / count[:, None]
    first = torch.full_like(trials, len(place)).scatter_reduce_(
        0, place, torch.arange(len(place), device=place.device), "amin"
    )
    y, subject = windows.y[first], windows.subject[first]
    same = total((windows.y == y[place]).long()) == count
    return Evaluated(mean[same].log_softmax(dim=1), y[same], subject[same], trials[same])


def confusion(y: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """``(classes, classes)`` counts, true classes as rows; rows with y = -1 do not count."""
    known = y >= 0
    return torch.bincount(y[known] * classes + predicted[known], minlength=classes**2).reshape(classes, classes)


def scores(counts: Tensor) -> dict[str, Tensor]:
    """Accuracy, balanced accuracy and macro F1 of a confusion matrix; 0 of an empty one.

    Balanced accuracy is the mean recall of the classes that occur. Macro F1 is the mean over the classes that occur in
    truth or prediction: a class that nobody did and nothing was taken for says nothing, and one that was only predicted
    has an F1 of 0. Both are of all rows at once, never a mean over batches.
    """
    hits, true, predicted = counts.diagonal().float(), counts.sum(dim=1).float(), counts.sum(dim=0).float()
    f1 = 2 * hits / (true + predicted).clamp_min(1)
    occurs, counted = (true > 0).float(), (true + predicted > 0).float()
    return {
        "accuracy": hits.sum() / true.sum().clamp_min(1),
        "balanced_accuracy": (hits / true.clamp_min(1)).sum() / occurs.sum().clamp_min(1),
        "macro_f1": f1.sum() / counted.sum().clamp_min(1),
    }


def by_person(rows: Evaluated) -> dict[int, float]:
    """Accuracy of each person's rows, by number; people whose classes are not known are left out."""
    right = (rows.log_probabilities.argmax(dim=1) == rows.y).float()
    known = rows.y >= 0
    people = torch.unique(rows.subject[known]).tolist()
    return {person: float(right[known & (rows.subject == person)].mean()) for person in people}
