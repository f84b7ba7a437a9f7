"""The bundled digits, and what every image data module promises."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from kan_core.errors import KANError
from kan_vision.data import Digits
from kan_vision.data.images import ArrayImages, channel_statistics, stratified_split


def test_split_is_60_20_20_stratified_disjoint_and_complete():
    splits = Digits().splits
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [1077, 360, 360]
    every = torch.bincount(torch.from_numpy(load_digits().target)) / 1797
    for split in (splits.train, splits.val, splits.test):
        share = torch.bincount(split.labels, minlength=10) / len(split)
        assert (share - every).abs().max() < 0.003
    # the set has no duplicate images, so equal pixels would be a leak
    rows = torch.cat([s.pixels(range(len(s))).flatten(1) for s in (splits.train, splits.val, splits.test)])
    assert len(torch.unique(rows, dim=0)) == 1797 == len(torch.unique(torch.from_numpy(load_digits().data), dim=0))


def test_split_is_the_same_whatever_the_global_seed():
    first = Digits().splits.test.pixels(range(360))
    torch.manual_seed(1234)
    assert torch.equal(first, Digits().splits.test.pixels(range(360)))


def test_facts_that_the_model_is_built_from():
    data = Digits()
    assert (data.num_classes, data.in_chans, data.img_size) == (10, 1, 8)
    assert data.class_names == list("0123456789")
    assert data.name == "digits"


def test_training_pixels_are_normalised_and_held_out_ones_use_the_same_numbers():
    data = Digits()
    train = data.splits.train.pixels(range(1077)).double()
    (mean,), (std,) = data.statistics
    assert mean == pytest.approx(train.mean().item(), abs=1e-9)
    assert std == pytest.approx(train.std(correction=0).item(), abs=1e-9)
    batch = next(iter(data.test_dataloader()))
    raw = data.splits.test.pixels(range(len(batch.image)))
    torch.testing.assert_close(batch.image, (raw - mean) / std)


def test_statistics_do_not_look_at_held_out_images():
    data = Digits()
    before = data.statistics
    spoiled = Digits()
    spoiled.splits.test._pixels.fill_(7.0)
    spoiled.splits.val._pixels.fill_(7.0)
    assert spoiled.statistics == before


def test_batches_carry_their_positions():
    data = Digits(batch_size=100)
    for loader, split in ((data.train_dataloader(), data.splits.train), (data.val_dataloader(), data.splits.val)):
        for batch in loader:
            assert torch.equal(batch.label, split.labels[batch.position])
            assert batch.image.shape[1:] == (1, 8, 8)
            assert batch.image.dtype == torch.float32


def test_order_is_a_function_of_the_global_seed():
    def order(seed):
        torch.manual_seed(seed)
        return torch.cat([batch.position for batch in data.train_dataloader()])

    data = Digits(batch_size=100)
    assert torch.equal(order(1), order(1))
    assert not torch.equal(order(1), order(2))
    assert len(set(order(1).tolist())) == 1000  # 10 full batches, none twice


def test_hyperparameters_are_plain():
    assert dict(Digits(batch_size=5).hparams) == {
        "root": None, "batch_size": 5, "num_workers": 0, "augment": "none",
    }  # fmt: skip


def test_worker_processes_give_the_same_batches():
    one, other = Digits().val_dataloader(), Digits(num_workers=1).val_dataloader()
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch_larger_than_the_set_is_kept():
    (batch,) = Digits(batch_size=2000).train_dataloader()
    assert len(batch.label) == 1077


def test_constant_channels_have_unit_deviation():
    images = ArrayImages(torch.full((4, 2, 3, 3), 51, dtype=torch.uint8), torch.zeros(4))
    mean, std = channel_statistics(images, chunk=3)
    assert mean == pytest.approx((0.2, 0.2))
    assert std == (1.0, 1.0)


def test_batch_size_zero_is_refused():
    with pytest.raises(KANError, match="batch_size must be at least 1, got 0"):
        Digits(batch_size=0)


def test_a_class_too_small_to_be_split_is_named():
    with pytest.raises(KANError, match=r"pets: cannot hold out a stratified share of 0.5: .*only 1 member"):
        stratified_split(torch.tensor([0, 0, 0, 1]), 0.5, seed=0, what="pets")
