"""Rows in memory as batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class TableBatch(NamedTuple):
    """Rows of a table.

    Attributes:
        x: ``(rows, columns)`` encoded values, see `TableEncoder`.
        y: ``(rows, targets)`` standardised targets; ``(rows, 1)`` 0 or 1 for two classes; ``(rows,)`` class indices for
            more.
        weight: ``(rows,)``, 1 on average over the training rows.
    """

    x: Tensor
    y: Tensor
    weight: Tensor


class TableRows(Dataset[int]):
    """A table in memory. Its items are row numbers, and `take` makes a batch of them: what any sampler can drive."""

    def __init__(self, rows: TableBatch) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.x)

    def __getitem__(self, row: int) -> int:
        return row

    def take(self, rows: Sequence[int]) -> TableBatch:
        """These rows."""
        return TableBatch(*(tensor[rows] for tensor in self.rows))


def loader(rows: TableBatch, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    """Batches of equal size, up to one row, at most `batch_size`: no batch is a small rest, and no row is left out."""
    data = TableRows(rows)
    size = even_size(len(data), batch_size)
    return DataLoader(data, batch_size=size, shuffle=shuffle, collate_fn=data.take)


def even_size(rows: int, batch_size: int) -> int:
    """The size of as many batches as it takes, evenly filled."""
    return math.ceil(rows / math.ceil(rows / batch_size)) if rows else 1


def batch_size_for(rows: int) -> int:
    """Rows per step: five steps per epoch for few rows, 256 for some thousand, one in 32 rows above, at most 1024."""
    return min(max(rows // 5, 16), max(256, rows // 32), 1024)
