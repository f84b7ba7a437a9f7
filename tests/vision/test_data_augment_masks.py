"""Augmentation of images with masks: both move alike, colours change in the image alone, seeds decide."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from kan_core.errors import KANError
from kan_vision.data.augment_masks import augment_masks

WAYS = ("dihedral", "dihedral_colour", "strong")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=64, height=16, width=16):
    masks = torch.randint(0, 3, (n, height, width), generator=seeded(9))
    images = torch.stack([masks.float(), torch.rand(n, height, width, generator=seeded(8))], dim=1)
    return images, masks


def test_none_is_the_identity():
    images, masks = batch()
    same = augment_masks(images, masks, "none")
    assert same[0] is images
    assert same[1] is masks


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_shapes_types_and_seeds(how, shape):
    images, masks = batch(8, *shape)
    first = augment_masks(images, masks, how, seeded())
    again = augment_masks(images, masks, how, seeded())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], augment_masks(images, masks, how, seeded(1))[0])
    torch.manual_seed(0)
    assert torch.equal(first[0], augment_masks(images, masks, how)[0])
    assert (first[0].shape, first[0].dtype) == (images.shape, torch.float32)
    assert (first[1].shape, first[1].dtype) == (masks.shape, torch.int64)


@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_dihedral_moves_image_and_mask_alike(shape):
    images, masks = augment_masks(*batch(64, *shape), "dihedral", seeded())
    assert torch.equal(images[:, 0], masks.float())


def test_dihedral_gives_the_eight_symmetries_equally_often():
    image = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    images = image.expand(8000, 1, 2, 2)
    moved, _ = augment_masks(images, images[:, 0].long(), "dihedral", seeded())
    turns = [torch.rot90(side, k) for side, k in product((image, image.flip(0)), range(4))]
    counts = [int((moved[:, 0] == turn).all((1, 2)).sum()) for turn in turns]
    assert sum(counts) == 8000
    assert 880 < min(counts) <= max(counts) < 1120


def test_dihedral_keeps_the_four_symmetries_of_other_shapes():
    image = torch.arange(6.0).view(2, 3)
    images = image.expand(400, 1, 2, 3)
    moved, _ = augment_masks(images, images[:, 0].long(), "dihedral", seeded())
    counts = [int((moved[:, 0] == image.flip(dims)).all((1, 2)).sum()) for dims in ((), (0,), (1,), (0, 1))]
    assert sum(counts) == 400
    assert min(counts) > 70


def test_colour_is_a_line_per_image_and_leaves_the_mask():
    images, masks = batch(2000, 6, 6)
    _, same = augment_masks(images, masks, "dihedral", seeded())
    shown, moved_masks = augment_masks(images, masks, "dihedral_colour", seeded())
    plain, _ = augment_masks(images, masks, "dihedral", seeded())
    assert torch.equal(moved_masks, same)
    before = plain.flatten(1) - plain.mean((1, 2, 3))[:, None]
    after = shown.flatten(1) - shown.mean((1, 2, 3))[:, None]
    contrast = after.norm(dim=1) / before.norm(dim=1)
    torch.testing.assert_close(after, before * contrast[:, None], atol=1e-5, rtol=0)
    assert 0.8 - 1e-4 < contrast.min() < 0.81
    assert 1.24 < contrast.max() < 1.25 + 1e-4
    shift = (shown - plain).mean((1, 2, 3))
    assert 0.19 < shift.abs().max() < 0.2 + 1e-5
    assert abs(shift.mean()) < 0.01


def test_strong_keeps_classes_whole_and_image_and_mask_together():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = ((y - 31.5).square() + (x - 20).square() < 100).long() * 200  # would blend to 1..199 if interpolated
    masks = disc.expand(200, 64, 64).clone()
    masks[:, :8] = 255
    images, moved = augment_masks((masks == 200).float()[:, None], masks, "strong", seeded())
    assert set(moved.unique().tolist()) == {0, 200, 255}
    # colours are a line per image: the disc stays brighter, so half between its levels is its border
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    agree = ((images[:, 0] > ((low + high) / 2)[:, 0]) == (moved == 200)).float().mean()
    assert agree > 0.995
    area = (moved == 200).sum((1, 2)) / (disc == 200).sum()
    assert 0.60 < area.min() < 0.72  # zoomed by 0.8 to 1.25
    assert 1.45 < area.max() < 1.66


def test_strong_continues_by_reflection():
    images = torch.ones(16, 1, 24, 24)
    moved, masks = augment_masks(images, torch.full((16, 24, 24), 7), "strong", seeded())
    assert (masks == 7).all()
    torch.testing.assert_close(moved, moved[:, :, :1, :1].expand_as(moved))


def test_unknown_way_is_refused():
    with pytest.raises(KANError, match="augment must be one of none, dihedral, dihedral_colour, strong, got 'affine'"):
        augment_masks(*batch(1), "affine")
