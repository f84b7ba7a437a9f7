"""The idx reader and its data module, on hand-made bytes and on MNIST itself."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from kan_core.errors import KANError
from kan_vision.data import IdxImages
from kan_vision.data.idx import read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array):
    header = struct.pack(">BBBB", 0, 0, CODES[array.dtype.str[1:]], array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_set(folder, n_train=20, n_test=6, suffix="", **replaced):
    """The four files of a small set whose image i is filled with the value i; `replaced` overrides arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for prefix, n in (("train", n_train), ("t10k", n_test)):
        arrays[f"{prefix}_images"] = np.repeat(np.arange(n, dtype=np.uint8), 12).reshape(n, 3, 4)
        arrays[f"{prefix}_labels"] = (np.arange(n) % 3).astype(np.uint8)
    for key, array in {**arrays, **replaced}.items():
        prefix, kind = key.split("_")
        content = idx_bytes(array)
        path = folder / f"{prefix}-{kind}-idx{3 if kind == 'images' else 1}-ubyte{suffix}"
        path.write_bytes(gzip.compress(content) if suffix == ".gz" else content)
    return folder


def data(tmp_path, **options):
    return IdxImages("tiny", root=str(tmp_path), **{"val_size": 5, **options})


@pytest.mark.parametrize("code", CODES)
def test_reader_knows_every_type_and_byte_order(tmp_path, code):
    array = np.array([[[1, 2, 3], [4, 5, 100]]], dtype=code)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    read = read_idx(tmp_path / "a", dimensions=3)
    assert read.dtype == np.dtype(code)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_reader_on_literal_bytes(tmp_path):
    (tmp_path / "labels").write_bytes(bytes.fromhex("00000801 00000003 07 02 ff"))
    assert read_idx(tmp_path / "labels", dimensions=1).tolist() == [7, 2, 255]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_splits_come_from_the_files_in_order(tmp_path, suffix):
    write_set(tmp_path / "tiny", suffix=suffix)
    module = data(tmp_path)
    splits = module.splits
    values = [
        (s.pixels(range(len(s)))[:, 0, 0, 0] * 255).round().int().tolist()
        for s in (splits.train, splits.val, splits.test)
    ]
    assert values == [list(range(15)), list(range(15, 20)), list(range(6))]
    assert splits.val.labels.tolist() == [0, 1, 2, 0, 1]
    assert (module.num_classes, module.in_chans, module.img_size) == (3, 1, (3, 4))
    assert module.class_names == ["0", "1", "2"]
    assert module.name == "tiny"


def test_two_gzip_members_are_one_file(tmp_path):
    content = idx_bytes(np.arange(9, dtype=np.uint8))
    (tmp_path / "a.gz").write_bytes(gzip.compress(content[:7]) + gzip.compress(content[7:]))
    assert read_idx(tmp_path / "a.gz", dimensions=1).tolist() == list(range(9))


def test_the_other_spelling_is_found(tmp_path):
    for path in write_set(tmp_path / "tiny").iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(data(tmp_path).splits.train) == 15


def test_limits_take_the_first_and_say_so(tmp_path):
    write_set(tmp_path / "tiny")
    module = data(tmp_path, limit_train=4, limit_test=2)
    splits = module.splits
    assert (len(splits.train), len(splits.val), len(splits.test)) == (4, 5, 2)
    assert splits.train.labels.tolist() == [0, 1, 2, 0]
    assert module.name == "tiny (first 4 training images, first 2 test images)"


def test_a_limit_never_reaches_into_the_validation_images(tmp_path):
    write_set(tmp_path / "tiny")
    assert len(data(tmp_path, limit_train=18).splits.train) == 15


def test_class_names_can_be_given(tmp_path):
    write_set(tmp_path / "tiny")
    module = data(tmp_path, class_names=["shirt", "bag", "boot", "coat"])
    assert module.class_names == ["shirt", "bag", "boot", "coat"]
    assert module.num_classes == 4


def test_the_environment_names_the_data_root(tmp_path, monkeypatch):
    write_set(tmp_path / "tiny")
    monkeypatch.setenv("KAN_DATA", str(tmp_path))
    assert len(IdxImages("tiny", val_size=5).splits.train) == 15


def refused(tmp_path, message, **options):
    with pytest.raises(KANError, match=message) as error:
        data(tmp_path, **options).setup("fit")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_root_names_folder_page_and_remedy(tmp_path):
    with pytest.raises(KANError) as error:
        IdxImages(root=str(tmp_path / "nowhere")).setup("fit")
    text = str(error.value)
    assert f"{tmp_path}/nowhere/mnist/train-images-idx3-ubyte" in text
    assert "http://yann.lecun.com/exdb/mnist/" in text
    assert "--data.root" in text
    assert "KAN_DATA" in text


def test_truncated_plain_file(tmp_path):
    path = write_set(tmp_path / "tiny") / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:100])
    refused(tmp_path, r"train-images-idx3-ubyte is truncated: .*20x3x4\) announces 256 bytes, found 100")


def test_truncated_gzip_file(tmp_path):
    path = write_set(tmp_path / "tiny", suffix=".gz") / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused(tmp_path, r"t10k-labels-idx1-ubyte\.gz is truncated: .*announces 14 bytes, found \d+")
    path.write_bytes(b"")
    refused(tmp_path, r"t10k-labels-idx1-ubyte\.gz is not an idx file: .*found nothing")


def test_file_cut_inside_its_header(tmp_path):
    path = write_set(tmp_path / "tiny") / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:9])
    refused(tmp_path, "train-images-idx3-ubyte is truncated: .*announces .* bytes, found 9")


def test_too_long_file(tmp_path):
    path = write_set(tmp_path / "tiny") / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"x")
    refused(tmp_path, "train-labels-idx1-ubyte is too long: .*announces 28 bytes, found 29")


@pytest.mark.parametrize("start", [b"\x89PNG", b"\x00\x01\x08\x03", b"\x00\x00\x0a\x03"])
def test_wrong_magic(tmp_path, start):
    path = write_set(tmp_path / "tiny") / "train-images-idx3-ubyte"
    path.write_bytes(start + path.read_bytes()[4:])
    refused(tmp_path, f"train-images-idx3-ubyte is not an idx file: .*found {start.hex(' ')}")


def test_damaged_gzip(tmp_path):
    path = write_set(tmp_path / "tiny", suffix=".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(b"not gzip at all")
    refused(tmp_path, r"train-images-idx3-ubyte\.gz is not a valid gzip file")


def test_labels_where_images_should_be(tmp_path):
    folder = write_set(tmp_path / "tiny")
    (folder / "train-images-idx3-ubyte").write_bytes((folder / "train-labels-idx1-ubyte").read_bytes())
    refused(tmp_path, r"train-images-idx3-ubyte must hold an array of 3 dimension\(s\), its header says 1")


def test_labels_of_another_length(tmp_path):
    write_set(tmp_path / "tiny", train_labels=np.zeros(19, np.uint8))
    refused(tmp_path, "train-labels-idx1-ubyte holds 19 labels but train-images-idx3-ubyte holds 20 images")


def test_test_label_that_train_does_not_know(tmp_path):
    write_set(tmp_path / "tiny", t10k_labels=np.array([0, 1, 2, 0, 9, 1], np.uint8))
    refused(tmp_path, "t10k-labels-idx1-ubyte: label 9 of image 4 is out of range: there are 3 classes, 0 to 2")


def test_label_beyond_the_given_class_names(tmp_path):
    write_set(tmp_path / "tiny")
    refused(tmp_path, "train-labels.*: label 2 of image 2 is out of range: there are 2 classes", class_names=["a", "b"])


def test_negative_label(tmp_path):
    write_set(tmp_path / "tiny", train_labels=np.array([0, 1, 2, -1] * 5, np.int8))
    refused(tmp_path, "train-labels.*: label -1 of image 3 is out of range")


def test_one_class(tmp_path):
    write_set(tmp_path / "tiny", train_labels=np.zeros(20, np.uint8))
    refused(tmp_path, "needs at least two classes, found 1")


def test_nan_pixel_names_file_and_image(tmp_path):
    images = np.random.default_rng(0).random((20, 3, 4)).astype(np.float32)
    write_set(tmp_path / "tiny", train_images=images, t10k_images=images[:6].astype(np.float64))
    module = data(tmp_path)
    module.setup("fit")
    torch.testing.assert_close(module.splits.train.pixels([3])[0, 0], torch.from_numpy(images[3]))
    images[7, 1, 2], images[9, 0, 0] = np.nan, np.inf
    write_set(tmp_path / "tiny", train_images=images)
    refused(tmp_path, r"train-images-idx3-ubyte: image 7 has a pixel that is NaN or infinite \(2 such image\(s\)\)")


def test_signed_pixels_are_refused(tmp_path):
    write_set(tmp_path / "tiny", train_images=np.zeros((20, 3, 4), np.int16))
    refused(tmp_path, "train-images.*: pixels must be unsigned bytes or floats, found type int16")


def test_test_images_of_another_size(tmp_path):
    write_set(tmp_path / "tiny", t10k_images=np.zeros((6, 5, 5), np.uint8))
    refused(tmp_path, "training images are 3x4 but test images are 5x5")


def test_validation_as_large_as_train(tmp_path):
    write_set(tmp_path / "tiny")
    refused(tmp_path, "val_size=20 leaves nothing to train on: .* has 20 images", val_size=20)


@pytest.mark.parametrize("option", ["val_size", "limit_train", "limit_test"])
def test_sizes_are_positive(option):
    with pytest.raises(KANError, match=f"{option} must be at least 1, got 0"):
        IdxImages(**{option: 0})


def test_mnist(shared_data):
    folder = shared_data("mnist")
    module = IdxImages(folder.name, root=str(folder.parent))
    splits = module.splits
    assert (len(splits.train), len(splits.val), len(splits.test)) == (50_000, 10_000, 10_000)
    labels = torch.cat([splits.train.labels, splits.val.labels])
    assert torch.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert splits.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert (module.num_classes, module.in_chans, module.img_size) == (10, 1, 28)
    every = torch.cat([splits.train._pixels, splits.val._pixels]).float() / 255
    assert every.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert every.std().item() == pytest.approx(0.3081, abs=5e-5)
    (mean,), (std,) = module.statistics
    assert mean == pytest.approx(every[:50_000].double().mean().item(), abs=1e-7)
    assert std == pytest.approx(every[:50_000].double().std(correction=0).item(), abs=1e-7)
