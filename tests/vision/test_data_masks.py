"""What every segmentation data module promises: crops, whole images, statistics, and what seeds decide."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from PIL import Image

from kan_core.errors import KANError
from kan_vision.data import IGNORE, MaskDataModule
from kan_vision.data.crops import Crop, Crops, CropSampler, WholeImages
from kan_vision.data.decode import decode_image, decode_mask
from kan_vision.data.labelled_images import DecodedImages, MaskSplits, leak_free_masks, pixel_statistics, read_all


def coded(height, width, seed=0):
    """An image that tells where each pixel is from: red is the row, green the column; the mask is their sum mod 3."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    blue = torch.full_like(x, seed)
    return torch.stack([y, x, blue]).to(torch.uint8), ((x + y) % 3).to(torch.uint8)


def images(*sizes):
    return DecodedImages(
        [coded(*size, seed=i) for i, size in enumerate(sizes)], [f"{i}.png" for i in range(len(sizes))]
    )


class Coded(MaskDataModule):
    def load(self):
        return MaskSplits(
            images((20, 30), (9, 9), (40, 16)), images((20, 31)), images((5, 6), (33, 7)), ("a", "b", "c")
        )

    @property
    def name(self):
        return "coded"


def data(**options):
    return Coded(**{"crop_size": (12, 10), "batch_size": 4, "crops_per_image": 4, "augment": "none", **options})


def batches(module, seed=0):
    torch.manual_seed(seed)
    return list(module.train_dataloader())


def raw(module, batch):
    """The stored values again: rows, columns and the number of the image."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in module.statistics)
    return ((batch.image * std + mean) * 255).round().long().unbind(1)


def test_crops_are_windows_and_their_masks_belong_to_them():
    module = data()
    for batch in batches(module):
        assert (batch.image.shape, batch.image.dtype) == ((4, 3, 12, 10), torch.float32)
        assert (batch.mask.shape, batch.mask.dtype) == ((4, 12, 10), torch.int64)
        rows, columns, number = raw(module, batch)
        assert torch.equal(batch.mask, (rows + columns) % 3)
        assert torch.equal(number, batch.position.view(-1, 1, 1).expand_as(number))
        large = batch.position != 1
        assert (rows.diff(dim=1)[large] == 1).all()
        assert (columns.diff(dim=2)[large] == 1).all()


def test_every_image_gives_as_many_crops():
    positions = torch.cat([batch.position for batch in batches(data())])
    assert torch.bincount(positions).tolist() == [4, 4, 4]
    assert positions.tolist() != sorted(positions.tolist())


def test_every_place_is_cut_and_none_outside():
    sampler = CropSampler(1, per_image=1000)
    crops = Crops(images((20, 30)), (12, 10), (0.0,) * 3, (1.0,) * 3)
    corners = crops.__getitems__(list(sampler)).image[:, :2, 0, 0].mul(255).round().long()
    assert set(corners[:, 0].tolist()) == set(range(20 - 12 + 1))
    assert set(corners[:, 1].tolist()) == set(range(30 - 10 + 1))
    expected = 1000 / 9
    assert (corners[:, 0].bincount() - expected).abs().max() < 4 * expected**0.5


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_small_images_are_continued_by_reflection(length):
    crops = Crops(images((length, 10)), (9, 10), (0.0,) * 3, (1.0,) * 3)
    wave = ([*range(length), *range(length - 2, 0, -1)] or [0]) * 12
    starts = set()
    for share in torch.linspace(0, 0.999, 40).tolist():
        batch = crops[Crop(0, share, 0.0)]
        rows = batch.image[0, 0, :, 0].mul(255).round().int().tolist()
        period = max(2 * length - 2, 1)
        (start,) = {s for s in range(period) if wave[s : s + 9] == rows} or {None}
        starts.add(start)
        assert torch.equal(batch.mask[0], (batch.image[0, 0] * 255 + batch.image[0, 1] * 255).round().long() % 3)
    assert None not in starts
    assert len(starts) == min(period, 9 - length + 1)  # the image may be anywhere in the crop


def test_reflection_is_that_of_torch():
    image, _ = coded(7, 10)
    padded = torch.nn.functional.pad(image[None].float(), (0, 0, 2, 3), mode="reflect")[0] / 255
    crops = Crops(images((7, 10)), (12, 10), (0.0,) * 3, (1.0,) * 3)
    torch.testing.assert_close(crops[Crop(0, 2.5 / 6, 0.0)].image[0], padded)


def test_crops_are_a_function_of_the_global_seed():
    module = data()
    for one, other in zip(batches(module, 1), batches(module, 1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(batches(module, 1)[0].image, batches(module, 2)[0].image)


def test_two_epochs_differ():
    module = data()
    torch.manual_seed(0)
    loader = module.train_dataloader()
    assert not torch.equal(next(iter(loader)).image, next(iter(loader)).image)


def test_worker_processes_give_the_same_crops_in_every_epoch():
    torch.manual_seed(3)
    loader = data().train_dataloader()
    here = [batch.image for _ in range(2) for batch in loader]
    loader = data(num_workers=1).train_dataloader()
    torch.manual_seed(3)
    there = [batch.image for batch in loader]
    assert torch.equal(here[0], there[0])
    assert len(there) == 3


def test_ranks_share_the_crops_of_an_epoch():
    def drawn(rank):
        torch.manual_seed(0)
        sampler = DistributedSamplerWrapper(CropSampler(5, 4), num_replicas=2, rank=rank, shuffle=False)
        return list(sampler)

    both = drawn(0) + drawn(1)
    torch.manual_seed(0)
    assert sorted(both) == sorted(CropSampler(5, 4))


def test_the_last_smaller_batch_is_dropped_unless_it_is_the_only_one():
    assert [len(batch.mask) for batch in batches(data(batch_size=5))] == [5, 5]
    assert [len(batch.mask) for batch in batches(data(batch_size=50))] == [12]


def test_held_out_images_are_whole_and_in_order():
    module = data(batch_size=3)
    for loader, sizes in ((module.val_dataloader(), [(20, 31)]), (module.test_dataloader(), [(5, 6), (33, 7)])):
        for i, (batch, size) in enumerate(zip(loader, sizes, strict=True)):
            assert batch.position.tolist() == [i]
            assert batch.image.shape == (1, 3, *size)
            assert batch.mask.shape == (1, *size)
            assert batch.mask.dtype == torch.int64
            rows, columns, _ = raw(module, batch)
            assert torch.equal(rows[0], torch.arange(size[0])[:, None].expand(size))
            assert torch.equal(columns[0], torch.arange(size[1]).expand(size))
    shapes = [batch.image.shape for batch in module.predict_dataloader()]
    assert shapes == [(1, 3, 5, 6), (1, 3, 33, 7)]
    assert module.predict_images.name(1) == "1.png"


def test_statistics_are_of_the_training_images_which_count_the_same():
    module = data()
    train = module.splits.train
    means = torch.stack([train.image(i).double().mean((1, 2)) for i in range(3)])
    squares = torch.stack([train.image(i).double().square().mean((1, 2)) for i in range(3)])
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in module.statistics)
    torch.testing.assert_close(mean, means.mean(0))
    torch.testing.assert_close(std, (squares.mean(0) - means.mean(0).square()).sqrt())


def test_constant_channels_have_unit_deviation():
    flat = DecodedImages([(torch.full((1, 4, 4), 51, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8))], ["a"])
    mean, std = pixel_statistics(flat)
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)


def test_facts_that_the_model_is_built_from():
    module = data()
    assert (module.num_classes, module.in_chans, module.img_size) == (3, 3, (12, 10))
    assert module.class_names == ["a", "b", "c"]
    assert data(crop_size=16).img_size == 16
    assert data(mode="grey").in_chans == 1
    assert dict(module.hparams)["crop_size"] == (12, 10)


@pytest.mark.parametrize("training", [True, False])
def test_only_training_batches_are_augmented(training):
    module = data(augment="dihedral_colour")
    module.trainer = SimpleNamespace(training=training)
    batch = batches(module)[0]
    after = module.on_after_batch_transfer(batch, 0)
    assert torch.equal(after.image, batch.image) is not training
    assert torch.equal(after.mask, batch.mask) is not training
    assert torch.equal(after.position, batch.position)


def test_prediction_images_have_no_classes_and_keep_their_sizes(tmp_path):
    (tmp_path / "new" / "deep").mkdir(parents=True)
    Image.fromarray(np.full((6, 4, 3), 255, np.uint8)).save(tmp_path / "new" / "b.png")
    Image.fromarray(np.full((3, 5), 65535, np.uint16)).save(tmp_path / "new" / "deep" / "a.png")
    module = data(predict_folder=str(tmp_path / "new"))
    first, second = module.predict_dataloader()
    assert first.image.shape == (1, 3, 6, 4)
    assert second.image.shape == (1, 3, 3, 5)
    assert (first.mask == IGNORE).all()
    assert first.mask.shape == (1, 6, 4)
    assert module.predict_images.name(1) == str(tmp_path / "new" / "deep" / "a.png")
    assert (module.predict_images.image(1) == 1).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(KANError, match=r"predict_folder .*empty holds no images \(.bmp, "):
        data(predict_folder=str(tmp_path / "empty")).predict_dataloader()


def test_what_fits_is_kept_and_what_does_not_is_read_again():
    given = images((4, 5), (6, 7))
    kept, digests = read_all(given)
    again, same = read_all(given, memory=4 * 5 * 4 + 6 * 7 * 4 - 1)
    assert isinstance(kept, DecodedImages)
    assert kept is not given
    assert again is given
    assert digests == same
    assert len(set(digests)) == 2
    assert [kept.name(i) for i in range(2)] == ["0.png", "1.png"]


def test_images_of_later_splits_are_left_out():
    every = images(*[(4, 5)] * 6)
    keys = [bytes([i]) for i in range(6)]
    parts = [([0, 1, 2], b"\0\x03\x05"), ([3, 4], b"\x03\x05"), ([5], b"\x05")]
    splits = leak_free_masks(
        [(every.part(torch.tensor(at)), [keys[k] for k in key]) for at, key in parts], ("a", "b"), "coded"
    )
    assert [splits.train.name(i) for i in range(len(splits.train))] == ["0.png"]
    assert [splits.val.name(i) for i in range(len(splits.val))] == ["3.png"]
    assert (len(splits.test), splits.repeats) == (1, 3)


def test_equal_pixels_of_another_shape_are_another_image():
    mask = torch.zeros(1, dtype=torch.uint8)
    flat = torch.zeros(3, 24, dtype=torch.uint8)
    _, digests = read_all(DecodedImages([(flat.view(3, 4, 6), mask), (flat.view(3, 6, 4), mask)], ["a", "b"]))
    assert digests[0] != digests[1]


def test_whole_images_of_one_size_make_a_batch():
    batch = WholeImages(images((4, 5), (4, 5)), (0.0,) * 3, (1.0,) * 3).__getitems__([0, 1])
    assert batch.image.shape == (2, 3, 4, 5)


@pytest.mark.parametrize("option", ["batch_size", "crop_size", "crops_per_image"])
def test_sizes_are_positive(option):
    with pytest.raises(KANError, match=f"{option} must be at least 1, got 0"):
        data(**{option: 0})


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_every_colour_mode_is_decoded_to_bytes(tmp_path, mode):
    array = np.zeros((3, 5), np.uint8)
    array[1, 2] = 255
    Image.fromarray(array).convert(mode).save(tmp_path / "a.png")
    for colour, channels in (("grey", 1), ("rgb", 3)):
        image = decode_image(tmp_path / "a.png", colour)
        assert image.dtype == torch.uint8
        assert torch.equal(image, torch.from_numpy(array).expand(channels, 3, 5))
    mask = decode_mask(tmp_path / "a.png")
    assert torch.equal(mask, torch.from_numpy(array))


def test_alpha_is_dropped_not_blended(tmp_path):
    array = np.full((3, 5, 4), (10, 20, 30, 0), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", "rgb")[:, 0, 0].tolist() == [10, 20, 30]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    array = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    image = decode_image(tmp_path / "a.png", "rgb")
    assert image.shape == (3, 1, 4)
    torch.testing.assert_close(image[2, 0], torch.tensor([0, 1 / 255, 128.5 / 256, 1.0]), atol=1e-4, rtol=0)
    assert decode_mask(tmp_path / "a.png")[0].tolist() == [0, 257, 32896, 65535]


def test_a_palette_of_colours_gives_its_indices(tmp_path):
    image = Image.new("P", (4, 1))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.putdata([0, 1, 2, 1])
    image.save(tmp_path / "a.png")
    assert decode_mask(tmp_path / "a.png")[0].tolist() == [0, 1, 2, 1]


def test_a_palette_of_greys_gives_its_greys(tmp_path):
    image = Image.new("P", (4, 1))
    image.putpalette([255, 255, 255, 0, 0, 0])  # the other way round
    image.putdata([0, 1, 1, 0])
    image.save(tmp_path / "a.png")
    assert decode_mask(tmp_path / "a.png")[0].tolist() == [255, 0, 0, 255]


def test_masks_in_colour_or_with_fractions_are_refused(tmp_path):
    array = np.zeros((2, 2, 3), np.uint8)
    array[1, 1] = (255, 0, 0)
    Image.fromarray(array).save(tmp_path / "a.png")
    with pytest.raises(KANError, match=r"a\.png: a mask must be grey \(class indices, or 0 and 255\), found colours"):
        decode_mask(tmp_path / "a.png")
    Image.fromarray(np.array([[0.0, 0.5]], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(KANError, match=r"a\.tiff: a mask must hold whole numbers"):
        decode_mask(tmp_path / "a.tiff")
    Image.fromarray(np.array([[0.0, 2.0]], np.float32)).save(tmp_path / "a.tiff")
    assert decode_mask(tmp_path / "a.tiff").tolist() == [[0, 2]]
