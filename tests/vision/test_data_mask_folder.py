"""Folders of images and masks made of real files: every layout, whole and broken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kan_core.errors import KANError
from kan_vision.data import MaskFolder


def image(i, size=(10, 12)):
    """The brightness is the number of the image."""
    return np.full((*size, 3), 5 * i + 5, np.uint8)


def square(i, size=(10, 12)):
    """A foreground of ``i + 1`` pixels."""
    mask = np.zeros(size, np.uint8)
    mask.flat[: i + 1] = 255
    return mask


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_set(folder, n=10, mask="masks/{i:02}.png", start=0):
    for i in range(start, start + n):
        save(folder / "images" / f"{i:02}.png", image(i))
        save(folder / mask.format(i=i), square(i))
    return folder


def data(tmp_path, **options):
    return MaskFolder("cells", root=str(tmp_path), **{"crop_size": 8, **options})


def refused(tmp_path, message, **options):
    with pytest.raises(KANError, match=message) as error:
        data(tmp_path, **options).setup("fit")
    assert "\n" not in str(error.value)


def parts(module):
    return [module.splits.train, module.splits.val, module.splits.test]


def every(module):
    """Number of the image -> mask, over all splits."""
    return {int(part.pair(i)[0][0, 0, 0]) // 5 - 1: part.mask(i) for part in parts(module) for i in range(len(part))}


def names(part):
    return {part.name(i) for i in range(len(part))}


@pytest.mark.parametrize("mask", ["masks/{i:02}.png", "masks/{i:02}_mask.png", "masks/{i:02}.tif", "masks/{i:02}.bmp"])
def test_one_file_per_image(tmp_path, mask):
    write_set(tmp_path / "cells", mask=mask)
    module = data(tmp_path)
    found = every(module)
    assert {i: int(values.sum()) for i, values in found.items()} == {i: i + 1 for i in range(10)}
    assert all(values.dtype == torch.uint8 and values.shape == (10, 12) for values in found.values())
    assert (module.num_classes, module.in_chans, module.img_size, module.name) == (2, 3, 8, "cells")
    assert module.class_names == ["background", "foreground"]


def test_the_split_is_by_image_seeded_disjoint_and_complete(tmp_path):
    write_set(tmp_path / "cells")
    splits = parts(data(tmp_path))
    assert [len(part) for part in splits] == [6, 2, 2]
    assert len(set().union(*map(names, splits))) == 10
    torch.manual_seed(99)
    assert [names(part) for part in parts(data(tmp_path))] == [names(part) for part in splits]
    assert names(parts(data(tmp_path, split_seed=1))[2]) != names(splits[2])
    assert sorted(names(splits[0])) == [splits[0].name(i) for i in range(6)]


def test_masks_may_be_zero_and_one_or_sixteen_bits(tmp_path):
    folder = write_set(tmp_path / "cells")
    save(folder / "masks" / "03.png", square(3) // 255)
    save(folder / "masks" / "04.png", square(4).astype(np.uint16) * 257)
    save(folder / "masks" / "05.png", square(5) > 0)
    save(folder / "masks" / "06.png", np.repeat(square(6)[..., None], 4, axis=2))
    found = every(data(tmp_path))
    assert [int(found[i].sum()) for i in (3, 4, 5, 6)] == [4, 5, 6, 7]


def test_empty_masks_are_fine(tmp_path):
    folder = write_set(tmp_path / "cells")
    save(folder / "masks" / "02.png", np.zeros((10, 12), np.uint8))
    assert int(every(data(tmp_path))[2].sum()) == 0


def test_images_of_sixteen_bits_and_with_alpha(tmp_path):
    folder = write_set(tmp_path / "cells")
    save(folder / "images" / "00.png", np.full((10, 12), 32768, np.uint16))
    save(folder / "images" / "01.png", np.dstack([image(1), np.full((10, 12), 7, np.uint8)]))
    module = data(tmp_path)
    shown = {part.name(i)[-6:]: part.image(i) for part in parts(module) for i in range(len(part))}
    assert shown["00.png"].dtype == torch.float32
    torch.testing.assert_close(shown["00.png"], torch.full((3, 10, 12), 32768 / 65535))
    torch.testing.assert_close(shown["01.png"], torch.full((3, 10, 12), 10 / 255))
    batch = next(iter(module.train_dataloader()))
    assert torch.isfinite(batch.image).all()


def test_class_indices(tmp_path):
    folder = write_set(tmp_path / "cells")
    for i in range(10):
        save(folder / "masks" / f"{i:02}.png", np.arange(120, dtype=np.uint8).reshape(10, 12) % 4)
    mask = np.zeros((10, 12), np.uint8)
    mask[2, 3] = 255
    save(folder / "masks" / "07.png", mask)
    module = data(tmp_path, class_names=["sky", "road", "car", "tree"])
    found = every(module)
    assert found[4].flatten().tolist() == [i % 4 for i in range(120)]
    assert found[7][2, 3] == 255
    assert int((found[7] == 255).sum()) == 1
    assert (module.num_classes, module.class_names[2]) == (4, "car")


def write_classes(folder, classes=("disc", "cup"), suffix=""):
    """Class k of every image is column k."""
    for i in range(6):
        save(folder / "images" / f"p{i}.jpg", image(i))
        for k, name in enumerate(classes):
            mask = np.zeros((10, 12), np.uint8)
            mask[:, k] = 255
            mask[0, 5] = 255  # in every class
            save(folder / "masks" / name / f"p{i}{suffix}.png", mask)
    return folder


@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_one_folder_per_class(tmp_path, suffix):
    write_classes(tmp_path / "cells", suffix=suffix)
    module = data(tmp_path)
    assert module.class_names == ["background", "cup", "disc"]
    mask = module.splits.train.mask(0)
    assert mask[3, :3].tolist() == [2, 1, 0]  # disc was written first, cup comes first
    assert mask[0, 5] == 2  # the later class counts where both are
    ordered = data(tmp_path, class_names=["rest", "disc", "cup"])
    assert ordered.class_names == ["rest", "disc", "cup"]
    assert ordered.splits.train.mask(0)[3, :3].tolist() == [1, 2, 0]
    assert ordered.splits.train.mask(0)[0, 5] == 2


def test_one_class_folder_is_binary(tmp_path):
    """The layout of U-KAN: ``masks/0/<id>.png``."""
    write_classes(tmp_path / "cells", classes=("0",))
    module = data(tmp_path)
    assert module.class_names == ["background", "0"]
    assert int(module.splits.train.mask(0).sum()) == 11


def test_a_class_folder_named_as_an_image_is_still_a_class(tmp_path):
    write_set(tmp_path / "cells", n=5, mask="masks/00/{i:02}.png")
    assert int(every(data(tmp_path))[3].sum()) == 4


def test_objects_of_an_image_are_united(tmp_path):
    folder = tmp_path / "cells"
    for i in range(6):
        save(folder / "images" / f"{i}.png", image(i))
        for j in range(i):
            mask = np.zeros((10, 12), np.uint8)
            mask[j : j + 2, 3] = 255  # neighbours overlap
            save(folder / "masks" / str(i) / f"{j}.png", mask)
    (folder / "masks" / "0").mkdir()
    found = every(data(tmp_path))
    assert {i: int(mask.sum()) for i, mask in found.items()} == {0: 0, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6}
    assert found[5].max() == 1
    refused(tmp_path, "which gives two classes, but class_names has 3", class_names=["a", "b", "c"])


def test_given_splits_are_kept(tmp_path):
    for split, n, start in (("train", 6, 0), ("valid", 2, 6), ("test", 4, 8)):
        write_set(tmp_path / "cells" / split, n, start=start)
    train, val, test = parts(data(tmp_path))
    assert [len(part) for part in (train, val, test)] == [6, 2, 4]
    assert all("/valid/images/" in name for name in names(val))
    assert all("/test/images/" in name for name in names(test))


def test_validation_is_split_off_train_where_none_is_given(tmp_path):
    write_set(tmp_path / "cells" / "train", 10)
    write_set(tmp_path / "cells" / "test", 4, start=10)
    train, val, test = parts(data(tmp_path, val_fraction=0.3))
    assert [len(part) for part in (train, val, test)] == [7, 3, 4]
    assert not names(val) & names(train)


def test_images_of_later_splits_are_left_out_and_counted(tmp_path):
    write_set(tmp_path / "cells" / "train", 6)
    write_set(tmp_path / "cells" / "val", 2, start=5)  # image 5 is in train too
    write_set(tmp_path / "cells" / "test", 3, start=7)
    module = data(tmp_path)
    assert [len(part) for part in parts(module)] == [5, 2, 3]
    assert module.name == "cells (1 left out that a later split repeats)"


def test_folders_may_have_other_names(tmp_path):
    write_set(tmp_path / "cells")
    (tmp_path / "cells" / "images").rename(tmp_path / "cells" / "Original")
    (tmp_path / "cells" / "masks").rename(tmp_path / "cells" / "Ground Truth")
    assert len(every(data(tmp_path, images="Original", masks="Ground Truth"))) == 10


def test_soft_masks_need_a_threshold(tmp_path):
    folder = write_set(tmp_path / "cells")
    mask = square(3)
    mask[4, 5], mask[4, 6] = 127, 128
    save(folder / "masks" / "03.png", mask)
    refused(
        tmp_path,
        r"masks/03\.png: a binary mask holds 0 and 255 \(or 0 and 1\), found 127 at row 4, column 5; set mask_th",
    )
    assert int(every(data(tmp_path, mask_threshold=0.5))[3].sum()) == 5
    # a file of 0 and 1 has the full scale 1
    save(folder / "masks" / "03.png", square(3) // 255)
    assert int(every(data(tmp_path, mask_threshold=0.5))[3].sum()) == 4


def test_ones_beside_the_full_scale_are_no_binary_mask(tmp_path):
    folder = write_set(tmp_path / "cells")
    mask = square(3)
    mask[9, 9] = 1
    save(folder / "masks" / "03.png", mask)
    refused(tmp_path, r"masks/03\.png: a binary mask holds .*, found 1 at row 9, column 9")


def test_class_index_out_of_range(tmp_path):
    folder = write_set(tmp_path / "cells")
    for i in range(10):
        save(folder / "masks" / f"{i:02}.png", square(i) // 255)
    mask = np.zeros((10, 12), np.uint8)
    mask[7, 1] = 3
    save(folder / "masks" / "08.png", mask)
    refused(
        tmp_path,
        r"masks/08\.png: class index 3 at row 7, column 1 is out of range: there are 3 classes, 0 to 2, and 255 for",
        class_names=["a", "b", "c"],
    )
    save(folder / "masks" / "08.png", mask.astype(np.uint16) * 1000)
    refused(tmp_path, r"masks/08\.png: class index 3000 at row 7", class_names=["a", "b", "c"])


def test_image_without_mask(tmp_path):
    (write_set(tmp_path / "cells") / "masks" / "04.png").unlink()
    refused(
        tmp_path, r"images/04\.png has no mask in .*masks \(1 such image\(s\)\): an image without objects needs an e"
    )


def test_mask_without_image(tmp_path):
    folder = write_set(tmp_path / "cells")
    (folder / "images" / "04.png").unlink()
    (folder / "images" / "06.png").unlink()
    refused(tmp_path, r"masks/04\.png has no image of that name \(2 such mask\(s\)\)")


def test_image_without_a_class(tmp_path):
    (write_classes(tmp_path / "cells") / "masks" / "cup" / "p3.png").unlink()
    refused(tmp_path, r"images/p3\.jpg has no mask in .*masks/cup \(1 such image\(s\)\)")


def test_image_without_a_folder_of_objects(tmp_path):
    folder = write_set(tmp_path / "cells", mask="masks/{i:02}/a.png")
    (folder / "masks" / "03" / "a.png").unlink()
    (folder / "masks" / "03").rename(folder / "masks" / "zz")
    refused(tmp_path, r"images/03\.png has no mask in")
    save(folder / "masks" / "03" / "a.png", square(3))
    refused(tmp_path, r"masks/zz has no image of that name")


def test_two_masks_for_one_image(tmp_path):
    folder = write_set(tmp_path / "cells")
    save(folder / "masks" / "04_mask.png", square(4))
    refused(tmp_path, r"masks holds both 04\.png and 04_mask\.png: which one is '04'\?")


def test_two_images_of_one_name(tmp_path):
    folder = write_set(tmp_path / "cells")
    save(folder / "images" / "04.bmp", image(4))
    refused(tmp_path, r"images holds both 04\.bmp and 04\.png: which one is '04'\?")


def test_sizes_differ(tmp_path):
    save(write_set(tmp_path / "cells") / "masks" / "05.png", square(5, size=(12, 10)))
    refused(
        tmp_path,
        r"masks/05\.png is 12x10 but its image .*images/05\.png is 10x12 \(height x width\): a mask must have the size",
    )


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_broken_file_is_named(tmp_path, kind, damage):
    path = write_set(tmp_path / "cells") / kind / "04.png"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) - 20], "text": b"hello", "empty": b""}[damage])
    refused(tmp_path, rf"cells/{kind}/04\.png is not a readable image \(.*\); repair or remove it")


def test_missing_folders(tmp_path):
    refused(tmp_path, "cells is missing: it must hold the folders 'images' and 'masks'; .*--data.root or KAN_DATA")
    save(tmp_path / "cells" / "images" / "a.png", image(0))
    refused(tmp_path, "cells/masks is missing: .*cells must hold 'images' and 'masks'")


def test_no_images(tmp_path):
    (tmp_path / "cells" / "images").mkdir(parents=True)
    (tmp_path / "cells" / "masks").mkdir()
    refused(tmp_path, r"cells/images holds no images \(\.bmp, ")


def test_too_few_to_split(tmp_path):
    write_set(tmp_path / "cells", n=2)
    refused(tmp_path, r"cells: 2 image\(s\) are too few for 3 splits")


def test_train_without_test(tmp_path):
    write_set(tmp_path / "cells" / "train")
    refused(tmp_path, "cells has a 'train' but no 'test' folder: add one, or put 'images' and 'masks' side by side")


def test_test_with_other_classes(tmp_path):
    write_classes(tmp_path / "cells" / "train")
    write_classes(tmp_path / "cells" / "test", classes=("disc", "rim"))
    refused(tmp_path, r"test must have the classes of 'train' \(background, cup, disc\), found background, disc, rim")


def test_names_must_be_those_of_the_class_folders(tmp_path):
    write_classes(tmp_path / "cells")
    refused(
        tmp_path,
        r"class_names after the background \(disc, rim\) must be the folders of .*masks \(cup, disc\)",
        class_names=["rest", "disc", "rim"],
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction and test_fraction must be above 0 and their sum below 1, got 0 and 0.2"),
        ({"class_names": ["a"]}, "class_names must name 2 to 255 classes, the background first, got 1"),
        ({"mask_threshold": 1.0}, "mask_threshold must be at least 0 and below 1, got 1"),
    ],
    ids=["fraction", "names", "threshold"],
)
def test_options_out_of_range(options, message):
    with pytest.raises(KANError, match=message):
        MaskFolder("cells", **options)
