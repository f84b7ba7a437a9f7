"""The MedMNIST reader, on hand-made files and on PneumoniaMNIST itself."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from kan_core.errors import KANError
from kan_vision.data import NpzImages

SIZES = {"train": 20, "val": 6, "test": 8}


def arrays(channels=(), start=0):
    """Image i of the whole file is filled with the value i; labels go round three classes."""
    made = {}
    for split, n in SIZES.items():
        values = np.arange(start, start + n, dtype=np.uint8)
        made[f"{split}_images"] = np.broadcast_to(values.reshape(n, 1, 1, *[1] * len(channels)), (n, 3, 4, *channels))
        made[f"{split}_labels"] = (np.arange(n, dtype=np.int64) % 3)[:, None]
        start += n
    return made


def data(tmp_path, replaced=None, options=None, **kwargs):
    content = {**arrays(**kwargs), **(replaced or {})}
    np.savez(tmp_path / "tiny.npz", **{key: array for key, array in content.items() if array is not None})
    return NpzImages("tiny.npz", root=str(tmp_path), **(options or {}))


def refused(module, message):
    with pytest.raises(KANError, match=message) as error:
        module.setup("fit")
    assert "\n" not in str(error.value)


def values(images):
    return (images.pixels(range(len(images)))[:, 0, 0, 0] * 255).round().int().tolist()


def test_splits_are_those_of_the_file(tmp_path):
    module = data(tmp_path)
    splits = module.splits
    assert [values(part) for part in (splits.train, splits.val, splits.test)] == [
        list(range(20)), list(range(20, 26)), list(range(26, 34)),
    ]  # fmt: skip
    assert splits.val.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (module.num_classes, module.in_chans, module.img_size) == (3, 1, (3, 4))
    assert module.class_names == ["0", "1", "2"]
    assert module.name == "tiny"


def test_colours_become_channels(tmp_path):
    images = np.zeros((20, 3, 4, 3), np.uint8)
    images[:, 1, 2] = (255, 51, 0)
    images[:, 0, 0, 0] = np.arange(20)
    module = data(tmp_path, {"train_images": images}, channels=(3,))
    assert module.in_chans == 3
    torch.testing.assert_close(module.splits.train.pixels([4])[0, :, 1, 2], torch.tensor([1.0, 0.2, 0.0]))


def test_flat_labels_and_class_names(tmp_path):
    flat = {f"{split}_labels": (np.arange(n) % 3).astype(np.uint8) for split, n in SIZES.items()}
    module = data(tmp_path, flat, {"class_names": ["a", "b", "c", "d"]})
    assert module.class_names == ["a", "b", "c", "d"]
    assert module.splits.train.labels.tolist() == (np.arange(20) % 3).tolist()


def test_images_of_later_splits_are_left_out_and_counted(tmp_path):
    made = arrays()
    train, val = made["train_images"].copy(), made["val_images"].copy()
    train[3], train[5], train[7] = made["val_images"][2], made["test_images"][4], made["test_images"][4]
    val[0] = made["test_images"][1]
    replaced = {"train_images": train, "val_images": val}
    module = data(tmp_path, replaced)
    assert values(module.splits.train) == [i for i in range(20) if i not in (3, 5, 7)]
    assert values(module.splits.val) == list(range(21, 26))
    assert len(module.splits.test) == 8
    assert module.splits.train.labels.tolist() == [i % 3 for i in range(20) if i not in (3, 5, 7)]
    assert module.name == "tiny (4 left out that a later split repeats)"
    assert len(data(tmp_path, replaced, {"drop_duplicates": False}).splits.train) == 20


def test_repeats_inside_train_stay(tmp_path):
    train = arrays()["train_images"].copy()
    train[1] = train[0]
    assert len(data(tmp_path, {"train_images": train}).splits.train) == 20


def test_nothing_left_to_train_on(tmp_path):
    refused(
        data(tmp_path, {"train_images": np.full((20, 3, 4), 30, np.uint8)}), "every image of the training split is also"
    )


def test_missing_file_names_the_page(tmp_path):
    refused(NpzImages(root=str(tmp_path)), "pneumoniamnist.npz is missing: fetch it from https://medmnist.com/.*KAN_D")


@pytest.mark.parametrize("key", ["train_images", "val_labels", "test_images"])
def test_missing_array(tmp_path, key):
    refused(data(tmp_path, {key: None}), rf"tiny\.npz has no array '{key}': it must hold train_images, .*found ")


def test_wrong_types(tmp_path):
    refused(
        data(tmp_path, {"val_images": np.zeros((6, 3, 4), np.float32)}),
        "val_images must be unsigned bytes, found type float32",
    )
    refused(data(tmp_path, {"test_labels": np.zeros((8, 1))}), "test_labels must hold integers, found type float64")


@pytest.mark.parametrize("shape", [(20, 3), (20, 3, 4, 2), (20, 4, 4, 4, 3), (20, 0, 4)])
def test_wrong_image_shape(tmp_path, shape):
    found = "x".join(map(str, shape))
    refused(data(tmp_path, {"train_images": np.zeros(shape, np.uint8)}), f"n x height x width x 3, found {found}")


def test_multi_label_is_refused(tmp_path):
    refused(
        data(tmp_path, {"train_labels": np.zeros((20, 14), np.int64)}),
        "train_labels has 14 labels per image: this is single-label classification, multi-label sets such as ChestMN",
    )


def test_lengths_differ(tmp_path):
    refused(
        data(tmp_path, {"val_labels": np.zeros((5, 1), np.int64)}),
        "val_images and its labels must be as many: found 6 and 5",
    )


def test_sizes_differ(tmp_path):
    refused(
        data(tmp_path, {"test_images": np.zeros((8, 5, 5), np.uint8)}),
        r"test_images are 1x5x5 \(channels x height x width\) but train_images are 1x3x4",
    )


@pytest.mark.parametrize("label", [3, -1])
def test_label_out_of_range(tmp_path, label):
    labels = arrays()["test_labels"].copy()
    labels[6] = label
    refused(
        data(tmp_path, {"test_labels": labels}),
        f"test_labels: label {label} of image 6 is out of range: there are 3 classes, 0 to 2",
    )


def test_one_class(tmp_path):
    refused(data(tmp_path, {"train_labels": np.zeros((20, 1), int)}), "needs at least two classes, found 1 in train")


def test_pickled_content_is_never_loaded(tmp_path):
    refused(
        data(tmp_path, {"train_images": np.array([{"a": 1}] * 20, dtype=object)}), "holds pickled Python objects, which"
    )


DAMAGES = {
    "empty": (lambda raw: b"", r"tiny\.npz is not an npz file; fetch it again"),
    "pickle": (lambda raw: b"\x80\x04K\x01.", r"tiny\.npz is not an npz file; fetch it again"),
    "one array": (lambda raw: raw[raw.index(b"\x93NUMPY") :][:1000], r"tiny\.npz is not an npz file; fetch it again"),
    "half": (lambda raw: raw[: len(raw) // 2], r"tiny\.npz is truncated; fetch it again"),
    "a changed pixel": (lambda raw: raw.replace(b"\x07" * 12, b"\x08" * 12), r"tiny\.npz is damaged \(Bad CRC-32"),
    "a changed header": (lambda raw: raw.replace(b"'shape'", b"'shope'", 1), r"tiny\.npz is damaged \("),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_broken_files(tmp_path, damage):
    module = data(tmp_path)
    path = tmp_path / "tiny.npz"
    break_it, message = DAMAGES[damage]
    path.write_bytes(break_it(path.read_bytes()))
    refused(module, message)


def test_a_member_that_is_no_array(tmp_path):
    module = data(tmp_path, {"val_images": None})
    with zipfile.ZipFile(tmp_path / "tiny.npz", "a") as archive:
        archive.writestr("val_images.npy", b"hello")
    refused(module, "has no array 'val_images'")


def test_pneumoniamnist(shared_data):
    module = NpzImages(root=str(shared_data("pneumoniamnist").parent))
    splits = module.splits
    parts = [splits.train, splits.val, splits.test]
    assert [torch.bincount(part.labels).tolist() for part in parts] == [[1214, 3484], [135, 389], [234, 390]]
    assert module.name == "pneumoniamnist (10 left out that a later split repeats)"
    assert module.class_names == ["normal", "pneumonia"]
    assert (module.in_chans, module.img_size) == (1, 28)
    train, val, test = (set(part.digests()) for part in parts)
    assert len(train | val | test) == len(train) + len(val) + len(test)
    sums = [int(part._pixels.sum(dtype=torch.int64)) for part in parts]
    assert sums[1:] == [59_624_090, 70_355_184]
    (mean,), (std,) = module.statistics
    assert mean == pytest.approx(sums[0] / 255 / (4698 * 784), abs=1e-7)
    assert (mean, std) == (pytest.approx(0.57194, abs=5e-6), pytest.approx(0.16837, abs=5e-6))


def test_pneumoniamnist_as_it_is(shared_data):
    splits = NpzImages(root=str(shared_data("pneumoniamnist").parent), drop_duplicates=False).splits
    parts = [splits.train, splits.val, splits.test]
    assert [len(part) for part in parts] == [4708, 524, 624]
    keys = [part.digests() for part in parts]
    train, val, test = map(set, keys)
    assert int(splits.train._pixels.sum(dtype=torch.int64)) == 538_305_934
    # the audit of the card: 8 validation images occur in train, 18 copies inside train, 3 inside test
    assert sum(key in train for key in keys[1]) == 8
    assert (len(keys[0]) - len(train), len(keys[1]) - len(val), len(keys[2]) - len(test)) == (18, 0, 3)
    assert not (train | val) & test
