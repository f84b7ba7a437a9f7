"""Image folders made of real files, whole and broken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kan_core.errors import KANError
from kan_vision.data import ImageFolder
from kan_vision.data.decode import decode

CLASSES = {"cat": 40, "dog": 160, "emu": 240}


def write_classes(folder, n=10, suffixes=(".png", ".jpg", ".bmp"), classes=CLASSES):
    """`n` images per class, of differing sizes, whose brightness is the class's."""
    for name, value in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            array = np.full((10 + i % 3, 12, 3), value, np.uint8)
            Image.fromarray(array).save(folder / name / f"{i:02}{suffixes[i % len(suffixes)]}")
    return folder


def data(tmp_path, **options):
    return ImageFolder("pets", root=str(tmp_path), **{"image_size": (6, 8), **options})


def refused(tmp_path, message, **options):
    with pytest.raises(KANError, match=message) as error:
        data(tmp_path, **options).setup("fit")
    assert "\n" not in str(error.value)


def files(images):
    return set(map(str, images.files))


def test_one_folder_is_split_stratified_disjoint_and_by_its_own_seed(tmp_path):
    write_classes(tmp_path / "pets")
    module = data(tmp_path)
    module.setup("fit")
    splits = module.splits
    parts = [splits.train, splits.val, splits.test]
    assert [torch.bincount(part.labels).tolist() for part in parts] == [[6, 6, 6], [2, 2, 2], [2, 2, 2]]
    assert len(set().union(*map(files, parts))) == 30
    torch.manual_seed(99)
    assert files(data(tmp_path).splits.test) == files(splits.test)
    assert files(data(tmp_path, split_seed=1).splits.test) != files(splits.test)
    assert (module.num_classes, module.in_chans, module.img_size) == (3, 3, (6, 8))
    assert module.class_names == ["cat", "dog", "emu"]
    assert module.name == "pets"


def test_labels_belong_to_their_files(tmp_path):
    write_classes(tmp_path / "pets")
    train = data(tmp_path, mode="grey").splits.train
    for i in range(len(train)):
        name = train.files[i].parent.name
        assert train.name(i) == str(train.files[i])
        assert list(CLASSES)[train.labels[i]] == name
        torch.testing.assert_close(train.pixels([i]), torch.full((1, 1, 6, 8), CLASSES[name] / 255), atol=0.01, rtol=0)


def test_given_splits_are_kept(tmp_path):
    for split, n in (("train", 6), ("valid", 2), ("test", 4)):
        write_classes(tmp_path / "pets" / split, n)
    splits = data(tmp_path).splits
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [18, 6, 12]
    assert all("/test/" in file for file in files(splits.test))
    assert all("/valid/" in file for file in files(splits.val))


def test_validation_is_split_off_train_where_none_is_given(tmp_path):
    for split, n in (("train", 10), ("test", 4)):
        write_classes(tmp_path / "pets" / split, n)
    splits = data(tmp_path, val_fraction=0.3).splits
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [21, 9, 12]
    assert all("/train/" in file for file in files(splits.val))
    assert not files(splits.val) & files(splits.train)


def test_predict_folder_needs_no_classes(tmp_path):
    write_classes(tmp_path / "pets")
    write_classes(tmp_path / "new", n=2)
    module = data(tmp_path, predict_folder=str(tmp_path / "new"))
    (batch,) = module.predict_dataloader()
    assert batch.image.shape == (6, 3, 6, 8)
    assert batch.label.tolist() == [-1] * 6
    assert module.predict_images.name(0) == str(tmp_path / "new" / "cat" / "00.png")
    with pytest.raises(KANError, match=r"predict_folder .*empty holds no images"):
        data(tmp_path, predict_folder=str(tmp_path / "empty")).predict_dataloader()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_every_colour_mode_becomes_grey_or_rgb(tmp_path, mode):
    Image.fromarray(np.full((5, 5), 255, np.uint8)).convert(mode).save(tmp_path / "a.png")
    for colour, channels in (("grey", 1), ("rgb", 3)):
        torch.testing.assert_close(decode(tmp_path / "a.png", (4, 6), colour), torch.ones(channels, 4, 6))


def test_colours_keep_their_order(tmp_path):
    array = np.zeros((4, 4, 3), np.uint8)
    array[..., 0], array[..., 2] = 255, 51
    Image.fromarray(array).save(tmp_path / "a.png")
    torch.testing.assert_close(decode(tmp_path / "a.png", (4, 4), "rgb")[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 13107, np.uint16)).save(tmp_path / "a.png")
    for colour, channels in (("grey", 1), ("rgb", 3)):
        torch.testing.assert_close(decode(tmp_path / "a.png", (4, 4), colour), torch.full((channels, 4, 4), 0.2))


def test_float_images(tmp_path):
    array = np.full((4, 4), 0.25, np.float32)
    path = tmp_path / "a.tiff"
    Image.fromarray(array).save(path)
    torch.testing.assert_close(decode(path, (2, 2), "grey"), torch.full((1, 2, 2), 0.25))
    array[1, 2] = np.nan
    Image.fromarray(array).save(path)
    with pytest.raises(KANError, match=r"a\.tiff: a pixel is NaN or infinite"):
        decode(path, (2, 2), "grey")
    array[1, 2] = 3.5
    Image.fromarray(array).save(path)
    with pytest.raises(KANError, match=r"a\.tiff: float pixels must be in 0\.\.1, found 0\.25 to 3\.5"):
        decode(path, (2, 2), "grey")


def test_missing_folder(tmp_path):
    refused(tmp_path, "pets is missing: it must hold one sub-folder of images per class; .*--data.root or KAN_DATA")


def test_one_class(tmp_path):
    write_classes(tmp_path / "pets", classes={"cat": 1})
    refused(tmp_path, "pets must hold at least two class folders, found only 'cat'")


def test_no_class(tmp_path):
    (tmp_path / "pets").mkdir()
    refused(tmp_path, "pets must hold at least two class folders, found none")


def test_empty_class_folder(tmp_path):
    (write_classes(tmp_path / "pets") / "ape").mkdir()
    refused(tmp_path, "class folder .*pets/ape holds no images .*: add some or remove it")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_broken_file_is_named_wherever_it_is(tmp_path, suffix, damage):
    write_classes(tmp_path / "pets", suffixes=(suffix,))
    path = tmp_path / "pets" / "dog" / f"04{suffix}"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) - 20], "text": b"hello", "empty": b""}[damage])
    refused(tmp_path, rf"pets/dog/04{suffix} is not a readable image \(.*\); repair or remove it")


def test_png_with_a_flipped_bit(tmp_path):
    path = write_classes(tmp_path / "pets", suffixes=(".png",)) / "emu" / "03.png"
    broken = bytearray(path.read_bytes())
    broken[broken.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(broken)
    refused(tmp_path, r"pets/emu/03\.png is not a readable image")


def test_too_few_images_to_split(tmp_path):
    write_classes(tmp_path / "pets", n=1)
    refused(tmp_path, "pets: cannot hold out a stratified share of 0.2")


def test_train_without_test(tmp_path):
    write_classes(tmp_path / "pets" / "train")
    refused(tmp_path, "pets has a 'train' but no 'test' folder")


def test_test_with_other_classes(tmp_path):
    write_classes(tmp_path / "pets" / "train")
    write_classes(tmp_path / "pets" / "test", classes={"cat": 1, "owl": 2})
    refused(tmp_path, r"pets/test must have the classes of 'train' \(cat, dog, emu\), found cat, owl")


@pytest.mark.parametrize(
    "options", [{"val_fraction": 0.0}, {"test_fraction": 1.0}, {"val_fraction": 0.5, "test_fraction": 0.5}]
)
def test_fractions_must_leave_something(options):
    with pytest.raises(KANError, match="val_fraction and test_fraction must be above 0 and their sum below 1"):
        ImageFolder("pets", **options)


def test_size_must_be_positive():
    with pytest.raises(KANError, match="image_size must be at least 1, got 0"):
        ImageFolder("pets", image_size=0)
