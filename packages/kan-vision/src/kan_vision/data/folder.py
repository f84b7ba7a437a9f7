"""A folder with one sub-folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_vision.data.base import Augment, ImageDataModule
from kan_vision.data.decode import SUFFIXES, ColourMode, decode
from kan_vision.data.images import UNLABELLED, Images, Splits, channel_statistics, stratified_split


class FileImages(Images):
    """Image files, decoded when asked for.

    Args:
        files: The files.
        labels: ``(len(files),)`` class indices.
        size: Height and width that every image is resized to.
        mode: ``"grey"`` or ``"rgb"``.
    """

    def __init__(self, files: Sequence[Path], labels: Tensor, size: tuple[int, int], mode: ColourMode) -> None:
        self.files = list(files)
        self.labels = labels.long()
        self._size = size
        self._mode: ColourMode = mode

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Decode the files at `indices`."""
        return torch.stack([decode(self.files[i], self._size, self._mode) for i in indices])

    def name(self, index: int) -> str:
        """The path of the file."""
        return str(self.files[index])

    def part(self, indices: Tensor) -> FileImages:
        """The files at `indices`, in that order."""
        return FileImages([self.files[i] for i in indices.tolist()], self.labels[indices], self._size, self._mode)


class ImageFolder(ImageDataModule):
    """Images sorted into one folder per class; the class names are the folder names, in alphabetical order.

    The class folders are either in ``train``, ``val`` (or ``valid``) and ``test``, or directly in the folder, which is
    then split: seeded, stratified. With ``train`` and ``test`` but no ``val``, validation is split off ``train``. Every
    file is decoded once before training starts.

    Args:
        folder: Where the images are, relative to the data root (or absolute).
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        image_size: Height and width, or the side, that every image is resized to.
        mode: ``"rgb"`` or ``"grey"``.
        val_fraction: Share held out for selection where the folder does not say.
        test_fraction: Share held out for the test where the folder does not say.
        split_seed: Of the split; the seed of the run does not change it.
        predict_folder: Images without labels, at any depth, that ``predict`` runs on instead of the test images.
        batch_size: Images per batch.
        num_workers: Loader processes.
        augment: What happens to training batches.
    """

    def __init__(
        self,
        folder: str,
        root: str | None = None,
        image_size: int | tuple[int, int] = 64,
        mode: ColourMode = "rgb",
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        predict_folder: str | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        augment: Augment = "affine",
    ) -> None:
        size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
        if min(size) < 1:
            raise KANError(f"image_size must be at least 1, got {image_size}")
        if not (min(val_fraction, test_fraction) > 0 and val_fraction + test_fraction < 1):
            raise KANError(
                "val_fraction and test_fraction must be above 0 and their sum below 1, got "
                f"{val_fraction:g} and {test_fraction:g}"
            )
        super().__init__(root, batch_size, num_workers, augment)
        self.folder = folder
        self.size = size
        self.mode: ColourMode = mode
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.predict_folder = predict_folder

    def load(self) -> Splits:
        """List the files and decode each once."""
        folder = data_root(self.root) / self.folder
        if not folder.is_dir():
            raise KANError(
                f"{folder} is missing: it must hold one sub-folder of images per class; "
                "name another data root with --data.root or KAN_DATA"
            )
        splits = self._given(folder) if (folder / "train").is_dir() else self._divided(folder)
        for held_out in (splits.val, splits.test):
            channel_statistics(held_out)  # for the decoding alone: nothing is learned from held-out images
        return splits

    @property
    def name(self) -> str:  # type: ignore[override]
        """The folder's name."""
        return Path(self.folder).name

    @cached_property
    def _unlabelled(self) -> FileImages:
        folder = Path(str(self.predict_folder))
        files = _image_files(folder, "**/*")
        if not files:
            raise KANError(f"predict_folder {folder} holds no images ({', '.join(sorted(SUFFIXES))})")
        return FileImages(files, torch.full((len(files),), UNLABELLED), self.size, self.mode)

    @property
    def predict_images(self) -> Images:
        """The images of `predict_folder`, by default the test images."""
        return self.splits.test if self.predict_folder is None else self._unlabelled

    def _given(self, folder: Path) -> Splits:
        """The splits that the folder itself defines."""
        if not (folder / "test").is_dir():
            raise KANError(
                f"{folder} has a 'train' but no 'test' folder: add one, or put the class folders side by side"
            )
        train, names = self._labelled(folder / "train")
        test, test_names = self._labelled(folder / "test")
        val_folder = next((folder / name for name in ("val", "valid") if (folder / name).is_dir()), None)
        if val_folder is None:
            rest, held_out = stratified_split(train.labels, self.val_fraction, self.split_seed, str(folder / "train"))
            train, val, val_names = train.part(rest), train.part(held_out), names
        else:
            val, val_names = self._labelled(val_folder)
        for other, where in ((val_names, val_folder), (test_names, folder / "test")):
            if other != names:
                raise KANError(
                    f"{where} must have the classes of 'train' ({', '.join(names)}), found {', '.join(other)}"
                )
        return Splits(train, val, test, names)

    def _divided(self, folder: Path) -> Splits:
        """Splits made here, of class folders side by side."""
        images, names = self._labelled(folder)
        rest, test = stratified_split(images.labels, self.test_fraction, self.split_seed, str(folder))
        share = self.val_fraction / (1 - self.test_fraction)
        train, val = stratified_split(images.labels[rest], share, self.split_seed, str(folder))
        return Splits(images.part(rest[train]), images.part(rest[val]), images.part(test), names)

    def _labelled(self, folder: Path) -> tuple[FileImages, tuple[str, ...]]:
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(classes) < 2:
            found = f"only {classes[0].name!r}" if classes else "none"
            raise KANError(f"{folder} must hold at least two class folders, found {found}")
        files = [_image_files(path, "*") for path in classes]
        for path, members in zip(classes, files, strict=True):
            if not members:
                raise KANError(
                    f"class folder {path} holds no images ({', '.join(sorted(SUFFIXES))}): add some or remove it"
                )
        labels = torch.repeat_interleave(torch.tensor([len(members) for members in files]))
        every = [file for members in files for file in members]
        return FileImages(every, labels, self.size, self.mode), tuple(path.name for path in classes)


def _image_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file())
