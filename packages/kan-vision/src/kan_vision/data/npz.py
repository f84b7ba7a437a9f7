"""MedMNIST and the sets in its format: one npz file with images and labels of three splits."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_vision.data.base import Augment, ImageDataModule
from kan_vision.data.images import ArrayImages, Splits, leak_free
from kan_vision.data.repeats import described

_PAGE = "https://medmnist.com/"
_NAMES = {"pneumoniamnist": ("normal", "pneumonia")}
_SPLITS = ("train", "val", "test")


class NpzImages(ImageDataModule):
    """Grey or RGB images in an npz file as those of MedMNIST, for single-label classification.

    The arrays are ``{train,val,test}_images``, uint8 of shape ``(n, height, width)`` or ``(n, height, width, 3)``, and
    ``{train,val,test}_labels``, integers of shape ``(n, 1)`` or ``(n,)``. The splits are those of the file, except that
    an image of train that val or test holds too, pixel for pixel, is left out, and so is one of val that test holds:
    PneumoniaMNIST loses 10 of its 4,708 training images, which are 8 of its validation images. `name` says how many.

    Args:
        file: The npz file, relative to the data root (or absolute).
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        class_names: In label order; by default those of PneumoniaMNIST for its files, else the labels themselves, 0 to
            the largest in train.
        drop_duplicates: Whether images are left out as said above; the test split always stays whole.
        batch_size: Images per batch.
        num_workers: Loader processes.
        augment: What happens to training batches.
    """

    def __init__(
        self,
        file: str = "pneumoniamnist/pneumoniamnist.npz",
        root: str | None = None,
        class_names: list[str] | None = None,
        drop_duplicates: bool = True,
        batch_size: int = 128,
        num_workers: int = 0,
        augment: Augment = "affine",
    ) -> None:
        super().__init__(root, batch_size, num_workers, augment)
        self.file = file
        self.names = class_names
        self.drop_duplicates = drop_duplicates

    def load(self) -> Splits:
        """Read the six arrays."""
        path = data_root(self.root) / self.file
        arrays = read_arrays(path)
        images = {split: _images(arrays[f"{split}_images"], f"{path}: {split}_images") for split in _SPLITS}
        labels = {split: _labels(arrays[f"{split}_labels"], f"{path}: {split}_labels") for split in _SPLITS}
        names = tuple(
            self.names or _NAMES.get(path.stem.split("_")[0]) or map(str, range(int(labels["train"].max()) + 1))
        )
        if len(names) < 2:
            raise KANError(f"{path}: classification needs at least two classes, found {len(names)} in train")
        for split in _SPLITS:
            _check(images[split], labels[split], f"{path}: {split}", names)
            if images[split].shape[1:] != images["train"].shape[1:]:
                sizes = ["x".join(map(str, images[part].shape[1:])) for part in (split, "train")]
                raise KANError(
                    f"{path}: {split}_images are {sizes[0]} (channels x height x width) but train_images are {sizes[1]}"
                )
        train, val, test = (ArrayImages(images[split], labels[split]) for split in _SPLITS)
        return (
            leak_free(train, val, test, names, str(path)) if self.drop_duplicates else Splits(train, val, test, names)
        )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The file's name, and how many repeated images were left out."""
        return described(Path(self.file).stem, self.splits.repeats)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the six arrays of a MedMNIST file, never unpickling anything.

    Args:
        path: The file.

    Raises:
        KANError: When the file is missing, is no npz, lacks an array, is damaged, or holds Python objects.
    """
    if not path.is_file():
        raise KANError(
            f"{path} is missing: fetch it from {_PAGE}, or name another data root with --data.root or KAN_DATA"
        )
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            cut = file.read(2) == b"PK"
        raise KANError(f"{path} is {'truncated' if cut else 'not an npz file'}; fetch it again")
    keys = [f"{split}_{kind}" for split in _SPLITS for kind in ("images", "labels")]
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = list(archive.files)
            arrays = {key: archive[key] for key in keys if key in found}
    except (ValueError, zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        if "allow_pickle" in str(error):
            raise KANError(f"{path} holds pickled Python objects, which are not read: save plain arrays") from None
        raise KANError(f"{path} is damaged ({error}); fetch it again") from None
    for key in keys:
        if not isinstance(arrays.get(key), np.ndarray):  # numpy returns the bytes of what is not in its format
            raise KANError(
                f"{path} has no array {key!r}: it must hold {', '.join(keys)}; found {', '.join(found) or 'nothing'}"
            )
    return arrays


def _images(images: np.ndarray, what: str) -> Tensor:
    """``(n, channels, height, width)`` uint8."""
    if images.dtype != np.uint8:
        raise KANError(f"{what} must be unsigned bytes, found type {images.dtype}")
    is_grey, is_rgb = images.ndim == 3, images.ndim == 4 and images.shape[3] == 3
    if not (is_grey or is_rgb) or not images.size:
        shape = "x".join(map(str, images.shape))
        raise KANError(f"{what} must have the shape n x height x width or n x height x width x 3, found {shape}")
    tensor = torch.from_numpy(images)
    return tensor.unsqueeze(1) if is_grey else tensor.permute(0, 3, 1, 2).contiguous()


def _labels(labels: np.ndarray, what: str) -> Tensor:
    """``(n,)`` int64."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise KANError(
            f"{what} has {labels.shape[1]} labels per image: this is single-label classification, "
            "multi-label sets such as ChestMNIST are not supported"
        )
    if labels.ndim not in (1, 2):
        raise KANError(f"{what} must have the shape n x 1, found {'x'.join(map(str, labels.shape))}")
    if labels.dtype.kind not in "iu":
        raise KANError(f"{what} must hold integers, found type {labels.dtype}")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def _check(images: Tensor, labels: Tensor, what: str, names: tuple[str, ...]) -> None:
    if len(images) != len(labels):
        raise KANError(f"{what}_images and its labels must be as many: found {len(images):,} and {len(labels):,}")
    bad = (labels < 0) | (labels >= len(names))
    if bad.any():
        at = int(bad.int().argmax())
        raise KANError(
            f"{what}_labels: label {int(labels[at])} of image {at} is out of range: there are {len(names)} classes, "
            f"0 to {len(names) - 1} (name more with class_names)"
        )
