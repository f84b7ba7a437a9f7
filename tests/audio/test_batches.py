"""Batches of similar lengths."""

from __future__ import annotations

import torch

from kan_audio.data.batches import POOL, LengthBatches

LENGTHS = torch.randint(1, 1000, (500,), generator=torch.Generator().manual_seed(0)).tolist()


def batches(drop_last=True, order=None):
    order = torch.randperm(len(LENGTHS)).tolist() if order is None else order
    return list(LengthBatches(order, 16, drop_last, LENGTHS))


def test_every_utterance_is_in_one_batch_or_left_out_at_the_end():
    found = batches()
    assert [len(batch) for batch in found] == [16] * (500 // 16)
    assert len({index for batch in found for index in batch}) == 16 * (500 // 16)
    assert sorted(index for batch in batches(drop_last=False) for index in batch) == list(range(500))


def test_lengths_in_a_batch_are_similar():
    def padding(found):
        return sum(max(LENGTHS[i] for i in batch) * len(batch) - sum(LENGTHS[i] for i in batch) for batch in found)

    order = torch.randperm(500).tolist()
    plain = [order[start : start + 16] for start in range(0, 496, 16)]
    assert padding(batches(order=order)) < padding(plain) / 3


def test_batches_come_in_random_order_and_repeat_with_the_seed():
    torch.manual_seed(3)
    first = batches()
    torch.manual_seed(3)
    assert batches() == first
    assert batches() != first
    longest = [max(LENGTHS[i] for i in batch) for batch in first[:POOL]]
    assert longest != sorted(longest)
