"""Augmentation: what moves, by how much, and that nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kan_core.errors import KANError
from kan_vision.data import Digits
from kan_vision.data.augment import augment


def dot(n=512, height=33, width=33, row=16, column=16):
    images = torch.zeros(n, 1, height, width)
    images[:, :, row, column] = 1.0
    return images


def centroids(images):
    mass = images.sum((1, 2, 3))
    rows = (images.sum((1, 3)) * torch.arange(images.shape[2])).sum(1) / mass
    columns = (images.sum((1, 2)) * torch.arange(images.shape[3])).sum(1) / mass
    return rows, columns


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


BLACK = torch.zeros(1)


def test_none_is_the_identity():
    images = torch.rand(2, 3, 5, 7)
    assert augment(images, "none", torch.zeros(3)) is images


def test_the_same_generator_gives_the_same_images_and_the_global_one_is_the_default():
    images = torch.rand(8, 1, 8, 8)
    for how in ("affine", "flip_crop"):
        assert torch.equal(augment(images, how, BLACK, seeded()), augment(images, how, BLACK, seeded()))
        assert not torch.equal(augment(images, how, BLACK, seeded()), augment(images, how, BLACK, seeded(1)))
        torch.manual_seed(3)
        by_global = augment(images, how, BLACK)
        assert torch.equal(by_global, augment(images, how, BLACK, seeded(3)))


def test_affine_moves_the_centre_by_at_most_a_tenth_of_the_size():
    rows, columns = centroids(augment(dot(), "affine", BLACK, seeded()))
    for moved in (rows - 16, columns - 16):
        # one pixel for the bilinear blur, and zooming out enlarges a shift by 1.1
        assert moved.abs().max() <= 3.3 * 1.12 + 0.5
        assert moved.abs().max() > 2.5
        assert abs(moved.mean()) < 0.3


def test_affine_turns_by_at_most_ten_degrees_without_shear_on_images_that_are_not_square():
    height, width = 41, 81
    right = centroids(augment(dot(height=height, width=width, row=20, column=70), "affine", BLACK, seeded()))
    left = centroids(augment(dot(height=height, width=width, row=20, column=10), "affine", BLACK, seeded()))
    down, across = right[0] - left[0], right[1] - left[1]
    whole = torch.isfinite(down + across)  # a dot that left the image has no centroid
    angle = torch.rad2deg(torch.atan2(down, across))[whole]
    length = torch.hypot(down, across)[whole]
    assert 9 < angle.abs().max() < 11
    assert 60 * 0.88 < length.min() < 60 * 0.93
    assert 60 * 1.05 < length.max() < 60 * 1.12


def test_flip_crop_moves_whole_pixels_and_mirrors_half_of_the_images():
    images = dot(n=2000, height=16, width=16, row=8, column=4)
    moved = augment(images, "flip_crop", BLACK, seeded())
    torch.testing.assert_close(moved.amax((1, 2, 3)), torch.ones(2000), atol=1e-5, rtol=0)
    rows, columns = centroids(moved)
    assert set(rows.round().int().tolist()) == {6, 7, 8, 9, 10}
    assert set(columns.round().int().tolist()) == {2, 3, 4, 5, 6, 9, 10, 11, 12, 13}
    assert 0.45 < (columns > 8).float().mean() < 0.55


def test_what_moves_in_is_background():
    background = torch.tensor([-1.5, 2.0])
    flat = background.view(1, 2, 1, 1).expand(16, 2, 9, 9)
    for how in ("affine", "flip_crop"):
        torch.testing.assert_close(augment(flat, how, background, seeded()), flat)


def test_cutout_blanks_one_window_of_a_quarter_of_each_side():
    images = torch.ones(3000, 2, 32, 32)
    blank = augment(images, "flip_crop_cutout", torch.ones(2), seeded()) == 0
    assert torch.equal(blank[:, 0], blank[:, 1])
    rows, columns = blank[:, 0].any(2), blank[:, 0].any(1)
    assert torch.equal(blank[:, 0], rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        # the centre is anywhere in the image, so a window may be cut by the border, to half at most
        assert side.sum(1).unique().tolist() == [4, 5, 6, 7, 8]
        assert side.any(0).all()
        assert ((side[:, 1:] != side[:, :-1]).sum(1) <= 2).all()
    whole = (rows.sum(1) == 8) & (columns.sum(1) == 8)
    assert 0.5 < whole.float().mean() < 0.75


def test_cutout_comes_after_the_same_flip_and_crop():
    images = torch.rand(16, 3, 16, 16) + 1
    moved = augment(images, "flip_crop", torch.zeros(3), seeded())
    cut = augment(images, "flip_crop_cutout", torch.zeros(3), seeded())
    kept = cut != 0
    assert torch.equal(cut[kept], moved[kept])


@pytest.mark.parametrize("channels", [1, 3])
def test_trivial_augment_stays_in_range_and_follows_the_generator(channels):
    mean, std = torch.full((channels,), 0.4), torch.full((channels,), 0.25)
    black, white = -mean / std, (1 - mean) / std
    images = (torch.rand(32, channels, 16, 16) - 0.4) / 0.25
    first = augment(images, "trivial_augment", black, seeded(), white)
    state = torch.get_rng_state()
    assert torch.equal(first, augment(images, "trivial_augment", black, seeded(), white))
    assert torch.equal(state, torch.get_rng_state())  # a generator given is the only one used
    assert first.dtype == torch.float32
    assert first.min() >= black[0] - 1e-5
    assert first.max() <= white[0] + 1e-5
    torch.manual_seed(5)
    one = augment(images, "trivial_augment", black, white=white)
    torch.manual_seed(5)
    assert torch.equal(one, augment(images, "trivial_augment", black, white=white))
    assert not torch.equal(one, first)


def test_trivial_augment_differs_from_image_to_image():
    images = torch.rand(1, 3, 4, 4).expand(256, 3, 4, 4)

    def results(how):
        return len(torch.unique(augment(images, how, torch.zeros(3), seeded()).flatten(1), dim=0))

    # on so small an image: no shift, 2 flips and 16 windows of one pixel
    assert results("flip_crop_cutout") == 2 * 16
    assert results("trivial_augment") > 4 * 32


def test_unknown_way_is_refused():
    ways = "none, affine, flip_crop, flip_crop_cutout, trivial_augment"
    with pytest.raises(KANError, match=f"augment must be one of {ways}, got 'cutmix'"):
        augment(torch.zeros(1, 1, 2, 2), "cutmix", BLACK)


@pytest.mark.parametrize(("training", "changed"), [(True, True), (False, False)])
def test_only_training_batches_are_augmented(training, changed):
    data = Digits(augment="affine")
    data.trainer = SimpleNamespace(training=training)
    batch = next(iter(data.val_dataloader()))
    after = data.on_after_batch_transfer(batch, 0)
    assert torch.equal(after.image, batch.image) is not changed
    assert torch.equal(after.label, batch.label)
