"""The data modules that all sets share: loaders, normalisation, augmentation and what a model must know."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, Generic, Literal

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from kan_core.errors import KANError
from kan_vision.data.augment import augment as augment_images
from kan_vision.data.images import ImageBatch, Images, NormalisedImages, SplitsOf, T, channel_statistics

Augment = Literal["none", "affine", "flip_crop", "flip_crop_cutout", "trivial_augment"]


class VisionDataModule(pl.LightningDataModule, Generic[T]):
    """What every data set of this package is to a task; `T` is the kind of its splits.

    The set is read when it is first needed, on every process.

    Args:
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        batch_size: Images per training batch.
        num_workers: Loader processes; 0 reads in the training process, the faster choice for small images.
    """

    def __init__(self, root: str | None, batch_size: int, num_workers: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise KANError(f"batch_size must be at least 1, got {batch_size}")
        # not to the logger: it refuses names that the task has too, with other values (class_names)
        self.save_hyperparameters(logger=False)
        self.root = root
        self.batch_size = batch_size
        self.num_workers = num_workers

    @abstractmethod
    def load(self) -> SplitsOf[T]:
        """Read and check the set.

        Raises:
            KANError: When a file is missing or cannot be used.
        """

    @property
    @abstractmethod
    def name(self) -> str:  # type: ignore[override]
        """The name of the data for tables and reports; it says when only a part of the set is used."""

    @cached_property
    def splits(self) -> SplitsOf[T]:
        """The training, validation and test images, read once."""
        return self.load()

    def setup(self, stage: str) -> None:
        """Read the set, so that a mistake in it shows before training starts."""
        self.statistics  # noqa: B018

    @property
    @abstractmethod
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training images, never over held-out ones."""

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in label order."""
        return list(self.splits.class_names)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.splits.class_names)

    @property
    @abstractmethod
    def in_chans(self) -> int:
        """Channels of an image."""

    @property
    @abstractmethod
    def img_size(self) -> int | tuple[int, int]:
        """The side of square training images, else height and width."""

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images, in order."""
        return self._loader(self.splits.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images, in order."""
        return self._loader(self.splits.test)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The images of `predict_images`, in order."""
        return self._loader(self.predict_images)

    @property
    def predict_images(self) -> T:
        """What ``predict`` runs on: the test images."""
        return self.splits.test

    @abstractmethod
    def _loader(self, images: T) -> DataLoader[Any]:
        """All of `images`, in order."""


class ImageDataModule(VisionDataModule[Images]):
    """Batches of one image set; a subclass says how the set is read (`load`) and called (`name`).

    The set is read when it is first needed, on every process. Batches are `ImageBatch`. Order and augmentation come
    from torch's global generator, which the command line seeds anew in every epoch: a resumed run sees what an
    uninterrupted one would.

    Args:
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        batch_size: Images per batch.
        num_workers: Loader processes; 0 reads in the training process, the faster choice for small images.
        augment: What happens to training batches, see `kan_vision.data.augment`.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        augment: Augment = "none",
    ) -> None:
        super().__init__(root, batch_size, num_workers)
        self.augment = augment

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training images, never over held-out ones."""
        return channel_statistics(self.splits.train)

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self._image_shape[0]

    @property
    def img_size(self) -> int | tuple[int, int]:
        """The side of square images, else height and width."""
        _, height, width = self._image_shape
        return height if height == width else (height, width)

    @cached_property
    def _image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.splits.train.pixels([0]).shape[1:]
        return channels, height, width

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Shuffled training batches; the last, smaller one is dropped unless it is the only one."""
        images = self.splits.train
        return self._loader(images, shuffle=True, drop_last=len(images) >= self.batch_size)

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Augment training batches, on the device they are on."""
        if self.trainer is None or not self.trainer.training:
            return batch
        mean, std = (torch.tensor(values) for values in self.statistics)
        black, white = -mean / std, (1 - mean) / std
        return batch._replace(image=augment_images(batch.image, self.augment, background=black, white=white))

    def _loader(self, images: Images, **options: Any) -> DataLoader[ImageBatch]:
        return DataLoader(
            NormalisedImages(images, *self.statistics),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_it_is,
            **options,
        )


def as_it_is(batch: Any) -> Any:
    """The data sets of this package build whole batches."""
    return batch
