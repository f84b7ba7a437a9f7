"""What a target becomes for a network: class indices, or standardised numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan_core.errors import KANError
from kan_tabular.data.tables import TaskKind, is_number, label, sort_values


@dataclass(frozen=True)
class Target:
    """How targets are coded; learned from training rows alone.

    Attributes:
        task: The kind of task.
        classes: The classes by index; the positive one is the last of two. Empty for regression.
        center: Of each regression target, its weighted mean.
        scale: Of each, its weighted standard deviation (1 where that is 0).
    """

    task: TaskKind
    classes: list[str] = field(default_factory=list)
    center: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)

    @property
    def num_outputs(self) -> int:
        """Logits (one for two classes), or targets."""
        return {"binary": 1, "multiclass": len(self.classes), "regression": len(self.center)}[self.task]

    @classmethod
    def fit(
        cls, y: pd.DataFrame, weight: NDArray[np.float64], task: TaskKind, positive: str | None, where: str
    ) -> Target:
        """Learn the classes, or the mean and deviation.

        Args:
            y: One column per target.
            weight: ``(rows,)``; rows of weight 0 are not there.
            task: The kind of task.
            positive: The positive class, with two classes only.
            where: For messages.

        Raises:
            KANError: When the target does not fit the task, or `positive` is no class of two.
        """
        y, weight = y[weight > 0], weight[weight > 0]
        if positive is not None and task != "binary":
            raise KANError(f"{where}: positive={positive!r} is for two classes, but the task is {task}")
        if task != "regression":
            return cls(task, _classes(y, task, positive, where))
        for name in y.columns:
            if not is_number(y[name]):
                raise KANError(f"{where}: the target {name!r} is no number, so the task cannot be regression")
        values = y.to_numpy(dtype=np.float64)
        center = np.average(values, axis=0, weights=weight)
        scale = np.sqrt(np.average((values - center) ** 2, axis=0, weights=weight))
        return cls(task, [], center.tolist(), np.where(scale > 0, scale, 1.0).tolist())

    def encode(self, y: pd.DataFrame, where: str) -> Tensor:
        """Targets as a `TableBatch` has them.

        Returns:
            ``(rows, targets)`` standardised float32; ``(rows, 1)`` 0 or 1 for two classes; ``(rows,)`` int64 for more.

        Raises:
            KANError: For a class that training rows do not have.
        """
        if self.task == "regression":
            values = (y.to_numpy(dtype=np.float64) - self.center) / self.scale
            return torch.from_numpy(values).float()
        codes, distinct = pd.factorize(y.iloc[:, 0])
        index = {name: i for i, name in enumerate(self.classes)}
        for value in distinct:
            if label(value) not in index:
                raise KANError(
                    f"{where}: class {label(value)!r} of {y.columns[0]!r} is in no training row, which have "
                    f"{', '.join(self.classes[:10])}{' ...' if len(self.classes) > 10 else ''}"
                )
        indices = torch.from_numpy(np.array([index[label(value)] for value in distinct])[codes])
        return indices.float().unsqueeze(1) if self.task == "binary" else indices

    def unknown(self, rows: int) -> Tensor:
        """What stands for targets that nobody knows: -1 for an index, else NaN."""
        if self.task == "multiclass":
            return torch.full((rows,), -1)
        return torch.full((rows, self.num_outputs), torch.nan)


def _classes(y: pd.DataFrame, task: TaskKind, positive: str | None, where: str) -> list[str]:
    if y.shape[1] != 1:
        raise KANError(f"{where}: {y.shape[1]} targets at once can be regression only, not {task}")
    classes = [label(value) for value in sort_values(y.iloc[:, 0].unique())]
    if len(classes) < 2:
        raise KANError(f"{where}: the training rows have one class only, {classes[0]!r}")
    if (len(classes) == 2) != (task == "binary"):
        raise KANError(f"{where}: the training rows have {len(classes)} classes, so the task cannot be {task}")
    if positive is not None:
        if positive not in classes:
            raise KANError(f"{where}: positive={positive!r} is no class: the classes are {' and '.join(classes)}")
        classes.sort(key=lambda name: name == positive)
    return classes
