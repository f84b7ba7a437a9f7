"""The binary CIFAR reader, on hand-made files of the published layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kan_core.errors import KANError
from kan_vision.data import CifarBinary

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def records(labels, seed):
    """``labels``: (n, labels per image); the pixels are noise."""
    labels = np.asarray(labels, np.uint8)
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    return np.concatenate([labels, pixels], axis=1)


def write_cifar10(folder, per_batch=40):
    folder.mkdir(parents=True, exist_ok=True)
    labels = (np.arange(per_batch) % 10)[:, None]
    for i in range(5):
        records(labels, seed=i).tofile(folder / f"data_batch_{i + 1}.bin")
    records(labels, seed=5).tofile(folder / "test_batch.bin")
    return folder


def write_cifar100(folder):
    folder.mkdir(parents=True, exist_ok=True)
    fine = np.arange(300) % 100
    for name, seed in (("train", 0), ("test", 1)):
        records(np.stack([fine // 5, fine], axis=1), seed).tofile(folder / f"{name}.bin")
    return folder


def data(tmp_path, **options):
    return CifarBinary("cifar-10-batches-bin", root=str(tmp_path), **{"val_size": 50, **options})


def refused(module, message):
    with pytest.raises(KANError, match=message) as error:
        module.setup("fit")
    assert "\n" not in str(error.value)


@pytest.fixture
def folder(tmp_path):
    return write_cifar10(tmp_path / "cifar-10-batches-bin")


def test_a_record_is_one_label_and_the_three_planes(tmp_path, folder):
    record = np.zeros((10, 3073), np.uint8)
    record[:, 0] = np.arange(10)
    record[3, 1 + 1024 * 0 + 32 * 5 + 7] = 255  # red, row 5, column 7
    record[3, 1 + 1024 * 2 + 32 * 30 + 1] = 51  # blue, row 30, column 1
    record.tofile(folder / "test_batch.bin")
    test = data(tmp_path).splits.test
    assert test.labels.tolist() == list(range(10))
    image = test.pixels([3])[0]
    assert image.shape == (3, 32, 32)
    assert image.nonzero().tolist() == [[0, 5, 7], [2, 30, 1]]
    assert image[0, 5, 7].item() == 1
    assert image[2, 30, 1].item() == pytest.approx(0.2)


def test_the_hold_out_is_seeded_stratified_and_disjoint(tmp_path, folder):
    module = data(tmp_path)
    splits = module.splits
    parts = [splits.train, splits.val, splits.test]
    assert [torch.bincount(part.labels).tolist() for part in parts] == [[15] * 10, [5] * 10, [4] * 10]
    keys = [set(part.digests()) for part in parts]
    assert len(set().union(*keys)) == 240
    torch.manual_seed(7)
    assert data(tmp_path).splits.val.digests() == splits.val.digests()
    assert set(data(tmp_path, split_seed=1).splits.val.digests()) != keys[1]
    assert (module.num_classes, module.in_chans, module.img_size, module.name) == (10, 3, 32, "cifar-10")
    assert module.class_names == NAMES


def test_five_thousand_are_held_out_by_default():
    assert CifarBinary().val_size == 5_000


def test_repeated_images_are_left_out_of_train(tmp_path, folder):
    batch = np.fromfile(folder / "data_batch_1.bin", np.uint8).reshape(-1, 3073)
    batch[7] = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(-1, 3073)[7]
    batch.tofile(folder / "data_batch_1.bin")
    module = data(tmp_path)
    assert len(module.splits.train) + len(module.splits.val) == 199
    assert module.name == "cifar-10 (1 left out that a later split repeats)"


def test_class_names_come_from_the_meta_file(tmp_path, folder):
    (folder / "batches.meta.txt").write_text("\n".join(f"c{i}" for i in range(10)) + "\n\n")
    assert data(tmp_path).class_names == [f"c{i}" for i in range(10)]
    (folder / "batches.meta.txt").write_text("one\ntwo\n")
    refused(data(tmp_path), r"batches\.meta\.txt must name 10 classes, one per line, found 2")


def test_cifar100_has_fine_and_coarse_labels(tmp_path):
    folder = write_cifar100(tmp_path / "cifar-100-binary")
    (folder / "fine_label_names.txt").write_text("\n".join(f"fine{i}" for i in range(100)))
    (folder / "coarse_label_names.txt").write_text("\n".join(f"coarse{i}" for i in range(20)))
    fine = CifarBinary("cifar-100-binary", root=str(tmp_path), val_size=100)
    assert fine.splits.test.labels.tolist() == (np.arange(300) % 100).tolist()
    assert (fine.num_classes, fine.class_names[99], fine.name) == (100, "fine99", "cifar-100")
    coarse = CifarBinary("cifar-100-binary", root=str(tmp_path), val_size=100, coarse=True)
    assert coarse.splits.test.labels.tolist() == (np.arange(300) % 100 // 5).tolist()
    assert (coarse.num_classes, coarse.class_names[19], coarse.name) == (20, "coarse19", "cifar-100 (coarse)")
    assert torch.equal(fine.splits.test.pixels([5]), coarse.splits.test.pixels([5]))


def test_missing_files_name_the_page(tmp_path, folder):
    refused(CifarBinary("nowhere", root=str(tmp_path)), f"data_batch_1.bin is missing: unpack .* from {PAGE} .*KAN_DA")
    (folder / "data_batch_4.bin").unlink()
    refused(data(tmp_path), f"data_batch_4.bin is missing: unpack .* from {PAGE}")


@pytest.mark.parametrize("size", [0, 1, 3073 * 40 - 1, 3074 * 40])
def test_wrong_file_size(tmp_path, folder, size):
    (folder / "data_batch_2.bin").write_bytes(b"\0" * size)
    refused(data(tmp_path), f"data_batch_2.bin has {size:,} bytes, which is not a multiple of the 3,073 of an image")


def test_label_out_of_range(tmp_path, folder):
    records([[1], [2], [11]], seed=9).tofile(folder / "data_batch_5.bin")
    refused(
        data(tmp_path), r"data_batch_5\.bin: label 11 of image 2 is out of range: there are 10 classes, 0 to 9; is this"
    )


def test_coarse_labels_are_of_cifar100(tmp_path, folder):
    refused(data(tmp_path, coarse=True), "coarse classes are those of CIFAR-100, but .* holds no train.bin of it")


def test_validation_as_large_as_train(tmp_path, folder):
    refused(data(tmp_path, val_size=200), "val_size=200 leaves nothing to train on: .* has 200 images")
    with pytest.raises(KANError, match="val_size must be at least 1, got 0"):
        CifarBinary(val_size=0)
