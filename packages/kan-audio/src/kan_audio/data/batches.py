"""Batches of utterances of similar length: less padding, and so less to compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.utils.data import BatchSampler, Sampler

POOL = 8
"""Batches that are drawn at once and sorted by length among themselves."""


class LengthBatches(BatchSampler):
    """Random batches; among `POOL` times `batch_size` utterances drawn at random those of similar length go together.

    Order comes from `sampler` and torch's global generator.

    Args:
        sampler: The order of the utterances.
        batch_size: Utterances per batch.
        drop_last: Leave out the last, smaller batch.
        lengths: Of all utterances, in any unit.
    """

    def __init__(
        self, sampler: Sampler[int] | Iterable[int], batch_size: int, drop_last: bool, lengths: Sequence[int]
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.lengths = lengths

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of an epoch."""
        order = list(self.sampler)
        if self.drop_last:
            order = order[: len(order) // self.batch_size * self.batch_size]
        size = self.batch_size
        by_length = []
        for start in range(0, len(order), POOL * size):
            by_length += sorted(order[start : start + POOL * size], key=lambda index: self.lengths[index])
        batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        yield from (batches[at] for at in torch.randperm(len(batches)).tolist())
