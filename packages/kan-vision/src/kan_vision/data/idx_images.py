"""MNIST and the sets in its format: Fashion-MNIST, KMNIST, or your own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_vision.data.base import Augment, ImageDataModule
from kan_vision.data.idx import read_idx
from kan_vision.data.images import ArrayImages, Splits

_PAGES = {
    "mnist": "http://yann.lecun.com/exdb/mnist/",
    "fashion-mnist": "https://github.com/zalandoresearch/fashion-mnist",
    "kmnist": "https://github.com/rois-codh/kmnist",
}


class IdxImages(ImageDataModule):
    """Grey images in the four idx files of MNIST, plain or ``.gz``.

    The test split is the given one; the last images of the training files are held out for selection.

    Args:
        folder: Where the files are, relative to the data root (or absolute).
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        class_names: In label order; by default the labels themselves, 0 to the largest in train.
        val_size: How many of the last training images are held out for selection.
        limit_train: Train on the first so many only, for a quick sample; the data set's `name` says so.
        limit_test: Test on the first so many only.
        batch_size: Images per batch.
        num_workers: Loader processes.
        augment: What happens to training batches.
    """

    def __init__(
        self,
        folder: str = "mnist",
        root: str | None = None,
        class_names: list[str] | None = None,
        val_size: int = 10_000,
        limit_train: int | None = None,
        limit_test: int | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        augment: Augment = "affine",
    ) -> None:
        for option, value in (("val_size", val_size), ("limit_train", limit_train), ("limit_test", limit_test)):
            if value is not None and value < 1:
                raise KANError(f"{option} must be at least 1, got {value}")
        super().__init__(root, batch_size, num_workers, augment)
        self.folder = folder
        self.names = class_names
        self.val_size = val_size
        self.limit_train = limit_train
        self.limit_test = limit_test

    def load(self) -> Splits:
        """Read the four files."""
        folder = data_root(self.root) / self.folder
        given, test = self._read(folder, "train"), self._read(folder, "t10k")
        if given.pixels([0]).shape != test.pixels([0]).shape:
            sizes = ["x".join(map(str, images.pixels([0]).shape[2:])) for images in (given, test)]
            raise KANError(f"{folder}: training images are {sizes[0]} but test images are {sizes[1]}")
        if self.val_size >= len(given):
            raise KANError(f"val_size={self.val_size} leaves nothing to train on: {folder} has {len(given)} images")
        names = tuple(self.names or map(str, range(int(given.labels.max()) + 1)))
        if len(names) < 2:
            raise KANError(f"{folder}: classification needs at least two classes, found {len(names)} in train")
        for images, prefix in ((given, "train"), (test, "t10k")):
            _check_labels(images.labels, names, _find(folder, f"{prefix}-labels-idx1-ubyte"))
        kept = len(given) - self.val_size
        train = given.part(slice(min(kept, self.limit_train or kept)))
        return Splits(train, given.part(slice(kept, None)), test.part(slice(self.limit_test)), names)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The folder's name, and the parts taken when there is a limit."""
        limits = [
            f"first {limit:,} {split} images"
            for limit, split in ((self.limit_train, "training"), (self.limit_test, "test"))
            if limit is not None
        ]
        name = Path(self.folder).name
        return f"{name} ({', '.join(limits)})" if limits else name

    def _read(self, folder: Path, prefix: str) -> ArrayImages:
        image_file = _find(folder, f"{prefix}-images-idx3-ubyte")
        label_file = _find(folder, f"{prefix}-labels-idx1-ubyte")
        images, labels = read_idx(image_file, dimensions=3), read_idx(label_file, dimensions=1)
        if len(images) != len(labels):
            raise KANError(
                f"{label_file} holds {len(labels):,} labels but {image_file.name} holds {len(images):,} images: "
                "both must come from the same set"
            )
        if not images.size:
            raise KANError(f"{image_file} holds no pixels: its shape is {'x'.join(map(str, images.shape))}")
        if labels.dtype.kind == "f":
            raise KANError(f"{label_file} must hold integers, found type {labels.dtype}")
        return ArrayImages(_pixels(images, image_file), torch.from_numpy(labels.astype(np.int64)))


def _find(folder: Path, name: str) -> Path:
    """The file `name` in `folder`, compressed or not; ``train-images.idx3-ubyte`` is another common spelling."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    page = _PAGES.get(folder.name)
    source = f" from {page}" if page else ""
    raise KANError(
        f"{folder / name}(.gz) is missing: put the four idx files{source} into that folder, "
        "or name another data root with --data.root or KAN_DATA"
    )


def _pixels(images: np.ndarray, path: Path) -> Tensor:
    if images.dtype.kind == "f":
        bad = ~np.isfinite(images).all(axis=(1, 2))
        if bad.any():
            raise KANError(
                f"{path}: image {int(bad.argmax())} has a pixel that is NaN or infinite "
                f"({int(bad.sum())} such image(s)); repair or remove it"
            )
        images = images.astype(np.float32)
    elif images.dtype != np.uint8:
        raise KANError(f"{path}: pixels must be unsigned bytes or floats, found type {images.dtype}")
    return torch.from_numpy(images).unsqueeze(1)


def _check_labels(labels: Tensor, names: tuple[str, ...], path: Path) -> None:
    bad = (labels < 0) | (labels >= len(names))
    if bad.any():
        at = int(bad.int().argmax())
        raise KANError(
            f"{path}: label {int(labels[at])} of image {at} is out of range: there are {len(names)} classes, 0 to "
            f"{len(names) - 1} (name more with class_names)"
        )
