"""How well the slots of utterances are filled: accuracy, macro F1 and exact match (``spoofing-metrics.md``, B1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["SlotScores"]


class SlotScores(Metric):
    """Counts over a split; labels of -1 are unknown and count in no slot.

    `compute` gives for each slot its accuracy and its macro F1 (the unweighted mean over the classes that occur in
    labels or predictions), their means over the slots, and the share of utterances with all slots right among those
    whose slots are all known. A value of which nothing is known is NaN.

    Args:
        slots: Names.
        num_classes: Of each slot.

    Attributes:
        confusion: Slot -> ``(classes, classes)`` int64 counts, true classes as rows.
    """

    full_state_update = False
    exact: Tensor

    def __init__(self, slots: Sequence[str], num_classes: Sequence[int]) -> None:
        super().__init__()
        self.slots = list(slots)
        for index, classes in enumerate(num_classes):
            counts = torch.zeros(classes, classes, dtype=torch.int64)
            self.add_state(f"counts_{index}", counts, dist_reduce_fx="sum")
        self.add_state("exact", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def confusion(self) -> dict[str, Tensor]:
        """Counts of true and predicted classes."""
        return {slot: getattr(self, f"counts_{index}") for index, slot in enumerate(self.slots)}

    def update(self, predicted: Tensor, label: Tensor) -> None:
        """Add utterances: ``(batch, slots)`` class indices each."""
        for index, counts in enumerate(self.confusion.values()):
            known = label[:, index] >= 0
            pairs = label[known, index] * len(counts) + predicted[known, index]
            counts += pairs.bincount(minlength=counts.numel()).view_as(counts)
        known = (label >= 0).all(dim=1)
        right = (predicted == label).all(dim=1)
        self.exact += torch.stack([(known & right).sum(), known.sum()])

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, ``macro_f1``, ``exact_match``; with several slots also ``accuracy_<slot>`` and the like."""
        accuracy = torch.stack([c.trace() / c.sum() for c in self.confusion.values()])
        macro_f1 = torch.stack([_macro_f1(c) for c in self.confusion.values()])
        scores = {
            "accuracy": accuracy.mean(),
            "macro_f1": macro_f1.mean(),
            "exact_match": self.exact[0] / self.exact[1],
        }
        if len(self.slots) > 1:
            for name, values in (("accuracy", accuracy), ("macro_f1", macro_f1)):
                scores |= {f"{name}_{slot}": value for slot, value in zip(self.slots, values, strict=True)}
        return scores


def _macro_f1(counts: Tensor) -> Tensor:
    occurring = counts.sum(dim=0) + counts.sum(dim=1)  # 2 TP + FP + FN of each class
    return (2 * counts.diagonal() / occurring)[occurring > 0].mean()
