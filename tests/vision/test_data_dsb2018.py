"""The nuclei of the Data Science Bowl, on a small set of the same layout and on the real one."""

from __future__ import annotations

import io
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from kan_core.errors import KANError
from kan_vision.data import DSB2018
from kan_vision.data.dsb2018 import members, paired
from kan_vision.data.mask_files import PairedFiles

PAGE = "https://bbbc.broadinstitute.org/BBBC038"


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def contents(n=30, prefix="stage1_train/"):
    """Path -> bytes: image i is bright when i % 6 == 1; nucleus j is row j, and all share the first column."""
    files = {}
    for i in range(n):
        image = np.full((12, 10, 4), (240 if i % 6 == 1 else 10) + i % 5, np.uint8)
        image[0, 0, :3] = i
        files[f"{prefix}id{i:02}/images/id{i:02}.png"] = png(image)
        for j in range(i % 3 + 1):
            mask = np.zeros((12, 10), np.uint8)
            mask[j], mask[:3, 0] = 255, 255
            files[f"{prefix}id{i:02}/masks/m{j}.png"] = png(mask)
    return files


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_folder(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def data(tmp_path, **options):
    return DSB2018(root=str(tmp_path), **{"crop_size": 8, **options})


def refused(module, message):
    with pytest.raises(KANError, match=message) as error:
        module.setup("fit")
    assert "\n" not in str(error.value)


def parts(module):
    return [module.splits.train, module.splits.val, module.splits.test]


def names(part):
    return [part.name(i) for i in range(len(part))]


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "dsb2018" / "stage1_train_subset.zip"
    write_zip(path, contents())
    return path


def test_every_fifth_image_is_for_the_test_and_every_fifth_of_the_rest_for_validation(tmp_path, archive):
    train, val, test = parts(data(tmp_path))
    assert names(test) == ["id00", "id05", "id10", "id15", "id20", "id25"]
    rest = [i for i in range(30) if i % 5]
    by_kind = [i for i in rest if i % 6 != 1] + [i for i in rest if i % 6 == 1]
    assert names(val) == sorted(f"id{i:02}" for i in by_kind[::5])
    assert sorted(names(train) + names(val)) == [f"id{i:02}" for i in rest]
    assert names(train) == sorted(names(train))


def test_folds_share_nothing_and_keep_the_test(tmp_path, archive):
    folds = [parts(data(tmp_path, val_fold=fold)) for fold in range(5)]
    assert sorted(name for _, val, _ in folds for name in names(val)) == [f"id{i:02}" for i in range(30) if i % 5]
    assert all(names(test) == names(folds[0][2]) for _, _, test in folds)


def test_masks_are_united(tmp_path, archive):
    for part in parts(data(tmp_path)):
        for i in range(len(part)):
            number = int(part.name(i)[2:])
            expected = torch.zeros(12, 10, dtype=torch.uint8)
            expected[: number % 3 + 1] = 1
            expected[:3, 0] = 1
            assert torch.equal(part.mask(i), expected)
            assert int(part.pair(i)[0][0, 0, 0]) == number


def test_facts(tmp_path, archive):
    module = data(tmp_path)
    assert (module.num_classes, module.in_chans, module.img_size) == (2, 3, 8)
    assert module.class_names == ["background", "nucleus"]
    assert module.name == "dsb2018 (30 images)"
    assert module.predict_images.name(0) == "id00"
    batch = next(iter(module.train_dataloader()))
    assert batch.image.shape == (8, 3, 8, 8)
    assert len(module.train_dataloader()) == 19 * 4 // 8


@pytest.mark.parametrize("prefix", ["stage1_train/", "", "a/b/"])
@pytest.mark.parametrize("packed", [True, False])
def test_every_way_to_keep_the_set(tmp_path, prefix, packed):
    files = contents(prefix=prefix)
    if packed:
        write_zip(tmp_path / "nuclei.zip", {**files, "__MACOSX/id00/images/._id00.png": b"x"})
        module = DSB2018("nuclei.zip", root=str(tmp_path))
    else:
        write_folder(tmp_path / "nuclei", files)
        module = DSB2018("nuclei", root=str(tmp_path))
    assert [len(part) for part in parts(module)] == [19, 5, 6]


def test_loader_processes_read_nothing_from_the_archive(tmp_path, archive):
    module = data(tmp_path, num_workers=1)
    module.setup("fit")
    archive.unlink()
    assert len(list(module.val_dataloader())) == 5


def test_missing_set_names_the_page(tmp_path):
    refused(data(tmp_path), rf"dsb2018 is missing: put stage1_train\.zip from {PAGE} there, or name .* KAN_DATA")
    (tmp_path / "dsb2018").mkdir()
    refused(data(tmp_path), rf"dsb2018/stage1_train\.zip is missing: put stage1_train\.zip from {PAGE} there")


def test_two_archives(tmp_path, archive):
    write_zip(archive.with_name("stage1_train.zip"), contents())
    refused(data(tmp_path), r"dsb2018 holds 2 archives: name one, such as --data\.file .*stage1_train\.zip")


def test_truncated_archive(tmp_path, archive):
    archive.write_bytes(archive.read_bytes()[:5000])
    refused(data(tmp_path), rf"stage1_train_subset\.zip is not a whole zip archive \(.*\); fetch it again from {PAGE}")


def test_damaged_member(tmp_path, archive):
    raw = archive.read_bytes()
    start = raw.index(b"id07/images/id07.png") + 60
    archive.write_bytes(raw[:start] + b"????" + raw[start + 4 :])
    refused(data(tmp_path), r"stage1_train/id07/images/id07\.png cannot be read from its archive \(Bad CRC-32")


def test_broken_image(tmp_path):
    files = contents()
    files["stage1_train/id08/masks/m1.png"] = files["stage1_train/id08/masks/m1.png"][:-20]
    write_zip(tmp_path / "dsb2018" / "stage1_train.zip", files)
    refused(data(tmp_path), r"stage1_train\.zip/stage1_train/id08/masks/m1\.png is not a readable image")


def test_mask_of_another_size(tmp_path):
    files = contents()
    files["stage1_train/id08/masks/m1.png"] = png(np.zeros((10, 10), np.uint8))
    write_zip(tmp_path / "dsb2018" / "stage1_train.zip", files)
    refused(data(tmp_path), r"id08/masks/m1\.png is 10x10 but its image .*id08/images/id08\.png is 12x10")


def test_ids_without_image_or_masks(tmp_path):
    files = contents()
    del files["stage1_train/id09/masks/m0.png"]
    write_zip(tmp_path / "dsb2018" / "stage1_train.zip", files)
    refused(data(tmp_path), r"id09 has 1 image\(s\) and 0 mask\(s\), must have one image and at least one mask")
    files = contents()
    del files["stage1_train/id04/images/id04.png"]
    write_zip(tmp_path / "dsb2018" / "stage1_train.zip", files)
    refused(data(tmp_path), r"id04 has 0 image\(s\) and 2 mask\(s\)")


def test_another_layout(tmp_path):
    write_zip(tmp_path / "dsb2018" / "stage1_train.zip", {"images/a.png": b"", "masks/a.png": b""})
    refused(data(tmp_path), rf"holds no <id>/images/<id>\.png: it must be laid out as stage1_train of {PAGE}")


def test_too_few_images(tmp_path):
    write_zip(tmp_path / "dsb2018" / "stage1_train.zip", contents(9))
    refused(data(tmp_path), r"holds 9 image\(s\): fewer than 10 cannot be split")


def test_fold_out_of_range():
    with pytest.raises(KANError, match="val_fold must be 0 to 4, got 5"):
        DSB2018(val_fold=5)


def test_the_real_files_are_paired(shared_data):
    folder = shared_data("dsb2018")
    with members(folder) as files:
        pairs = paired(files, folder)
        # the first image, and the first of the purple ones
        images = PairedFiles([pairs[0], pairs[8]], "rgb")
        (image, mask), (purple, other) = images.pair(0), images.pair(1)
    counts = [len(pair.masks[0]) for pair in pairs]
    assert (len(pairs), sum(counts), min(counts), max(counts)) == (111, 5227, 5, 369)
    assert pairs[0].name.startswith("00071198d059")
    assert (tuple(image.shape), int(image.sum()), int(mask.sum())) == ((3, 256, 256), 1_207_611, 5_714)
    assert (tuple(purple.shape), int(purple.sum()), int(other.sum())) == ((3, 256, 320), 43_208_764, 9_435)


@pytest.mark.slow
def test_the_real_set(shared_data):
    module = DSB2018(root=str(shared_data("dsb2018").parent))
    assert [len(part) for part in parts(module)] == [70, 18, 23]
    assert module.name == "dsb2018 (111 images)"
    every = [part.pair(i) for part in parts(module) for i in range(len(part))]
    sizes = Counter(tuple(mask.shape) for _, mask in every)
    assert sizes == {
        (256, 256): 54, (256, 320): 24, (520, 696): 16, (360, 360): 14, (1024, 1024): 2, (1040, 1388): 1,
    }  # fmt: skip
    foreground = [mask.float().mean().item() for _, mask in every]
    assert sum(foreground) / 111 == pytest.approx(0.14865, abs=1e-5)
    # per split: bright images, pixel sum, foreground pixels
    facts = [
        (
            sum(part.image(i).mean().item() > 0.5 for i in range(len(part))),
            sum(int(part.pair(i)[0].sum()) for i in range(len(part))),
            sum(int(part.mask(i).sum()) for i in range(len(part))),
        )
        for part in parts(module)
    ]
    assert facts == [(18, 2_255_775_063, 1_333_172), (4, 389_996_650, 554_540), (3, 254_226_822, 636_678)]
    mean, std = module.statistics
    assert mean == pytest.approx((0.215884, 0.186582, 0.238492), abs=1e-6)
    assert std == pytest.approx((0.295790, 0.265631, 0.328227), abs=1e-6)
