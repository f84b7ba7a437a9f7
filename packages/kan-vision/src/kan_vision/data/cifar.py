"""CIFAR-10 and CIFAR-100 from their binary version: nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_vision.data.base import Augment, ImageDataModule
from kan_vision.data.images import ArrayImages, Splits, leak_free, stratified_split
from kan_vision.data.repeats import described

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
PIXELS = 3 * 32 * 32
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CifarBinary(ImageDataModule):
    """The 32 x 32 colour images of CIFAR-10 or CIFAR-100, binary version.

    ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin`` are CIFAR-10: per image one byte of label and
    3,072 of pixels (red, green, blue, each by rows). ``train.bin`` and ``test.bin`` are CIFAR-100, with two labels:
    of 20 coarse and of 100 fine classes. Of the training images `val_size` are held out for selection: seeded,
    stratified. A training image that is also held out, pixel for pixel, is left out, and `name` says so.

    Args:
        folder: Where the files are, relative to the data root (or absolute).
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        coarse: Whether CIFAR-100 is labelled with its 20 coarse classes.
        val_size: How many training images are held out for selection.
        split_seed: Of the hold-out; the seed of the run does not change it.
        batch_size: Images per batch.
        num_workers: Loader processes.
        augment: What happens to training batches.
    """

    def __init__(
        self,
        folder: str = "cifar-10-batches-bin",
        root: str | None = None,
        coarse: bool = False,
        val_size: int = 5_000,
        split_seed: int = 0,
        batch_size: int = 128,
        num_workers: int = 0,
        augment: Augment = "flip_crop_cutout",
    ) -> None:
        if val_size < 1:
            raise KANError(f"val_size must be at least 1, got {val_size}")
        super().__init__(root, batch_size, num_workers, augment)
        self.folder = folder
        self.coarse = coarse
        self.val_size = val_size
        self.split_seed = split_seed

    def load(self) -> Splits:
        """Read the files."""
        folder = data_root(self.root) / self.folder
        if (folder / "train.bin").is_file():
            kind = "coarse" if self.coarse else "fine"
            names = _names(folder / f"{kind}_label_names.txt", 20 if self.coarse else 100)
            labels = (0 if self.coarse else 1, 2)
            train_files, test_file = [folder / "train.bin"], folder / "test.bin"
        else:
            if self.coarse:
                raise KANError(f"coarse classes are those of CIFAR-100, but {folder} holds no train.bin of it")
            names = _names(folder / "batches.meta.txt", 10)
            labels = (0, 1)
            train_files, test_file = [folder / f"data_batch_{i}.bin" for i in range(1, 6)], folder / "test_batch.bin"
        parts = [read_cifar(file, *labels, len(names)) for file in train_files]
        given = ArrayImages(*map(torch.cat, zip(*parts, strict=True)))
        test = ArrayImages(*read_cifar(test_file, *labels, len(names)))
        if self.val_size >= len(given):
            raise KANError(f"val_size={self.val_size} leaves nothing to train on: {folder} has {len(given)} images")
        rest, held_out = stratified_split(given.labels, self.val_size, self.split_seed, str(folder))
        return leak_free(given.part(rest), given.part(held_out), test, names, str(folder))

    @property
    def name(self) -> str:  # type: ignore[override]
        """``cifar-10`` or ``cifar-100`` where the folder's name says so, else that name; and what was left out."""
        folder = Path(self.folder).name
        name = next((known for known in ("cifar-100", "cifar-10") if folder.startswith(known)), folder)
        return described(f"{name} (coarse)" if self.coarse else name, self.splits.repeats)


def read_cifar(path: Path, label: int, labels: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Read one binary file.

    Args:
        path: The file.
        label: Which of the labels is wanted.
        labels: How many labels an image has: 1 in CIFAR-10, 2 in CIFAR-100.
        num_classes: Labels must be below it.

    Returns:
        ``(n, 3, 32, 32)`` uint8 pixels and ``(n,)`` labels.

    Raises:
        KANError: When the file is missing, is not a whole number of images long, or has a label out of range.
    """
    if not path.is_file():
        raise KANError(
            f"{path} is missing: unpack the binary version of CIFAR from {PAGE} into that folder, "
            "or name another data root with --data.root or KAN_DATA"
        )
    raw = np.fromfile(path, np.uint8)
    record = labels + PIXELS
    if not len(raw) or len(raw) % record:
        raise KANError(
            f"{path} has {len(raw):,} bytes, which is not a multiple of the {record:,} of an image: "
            f"fetch it again from {PAGE}"
        )
    rows = torch.from_numpy(raw.reshape(-1, record))
    chosen = rows[:, label].long()
    bad = chosen >= num_classes
    if bad.any():
        at = int(bad.int().argmax())
        raise KANError(
            f"{path}: label {int(chosen[at])} of image {at} is out of range: there are {num_classes} classes, "
            f"0 to {num_classes - 1}; is this the binary version of the right set?"
        )
    return rows[:, labels:].reshape(-1, 3, 32, 32).contiguous(), chosen


def _names(path: Path, count: int) -> tuple[str, ...]:
    """The class names of a set: its own file's, else those known here."""
    if not path.is_file():
        return CIFAR10_NAMES if count == 10 else tuple(map(str, range(count)))
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) != count:
        raise KANError(f"{path} must name {count} classes, one per line, found {len(names)}")
    return names
