"""The data module that all segmentation sets share: crops to train on, whole images to evaluate, folders to predict."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from kan_core.errors import KANError
from kan_vision.data.augment_masks import MaskAugment, augment_masks
from kan_vision.data.base import VisionDataModule, as_it_is
from kan_vision.data.crops import Crops, CropSampler, WholeImages
from kan_vision.data.decode import SUFFIXES, ColourMode
from kan_vision.data.labelled_images import IGNORE, LabelledImages, MaskBatch, MaskSplits, pixel_statistics
from kan_vision.data.mask_files import UnlabelledFiles

__all__ = ["IGNORE", "LabelledImages", "MaskBatch", "MaskDataModule", "MaskSplits"]


class MaskDataModule(VisionDataModule[LabelledImages]):
    """Batches of one segmentation set; a subclass says how the set is read (`load`) and called (`name`).

    Batches are `MaskBatch`. Training batches hold random crops; an image smaller than the crop is padded by reflection,
    image and mask alike. Validation, test and prediction batches hold one whole image of its own size, in order.
    Crops, order and augmentation come from torch's global generator in the training process, which the command line
    seeds anew in every epoch: a resumed run sees what an uninterrupted one would, with any number of loader processes.

    Args:
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        mode: ``"rgb"`` or ``"grey"``.
        crop_size: Height and width, or the side, of training crops in pixels.
        crops_per_image: How many crops of each training image an epoch has.
        predict_folder: Images without masks, at any depth, that ``predict`` runs on instead of the test images.
        batch_size: Crops per training batch.
        num_workers: Loader processes.
        augment: What happens to training batches, see `kan_vision.data.augment_masks`.
    """

    def __init__(
        self,
        root: str | None = None,
        mode: ColourMode = "rgb",
        crop_size: int | tuple[int, int] = 128,
        crops_per_image: int = 1,
        predict_folder: str | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        augment: MaskAugment = "dihedral_colour",
    ) -> None:
        super().__init__(root, batch_size, num_workers)
        size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])
        for option, value in (("crop_size", min(size)), ("crops_per_image", crops_per_image)):
            if value < 1:
                raise KANError(f"{option} must be at least 1, got {value}")
        self.mode: ColourMode = mode
        self.crop_size = size
        self.crops_per_image = crops_per_image
        self.predict_folder = predict_folder
        self.augment = augment

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training images, all counting the same."""
        return pixel_statistics(self.splits.train)

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return 3 if self.mode == "rgb" else 1

    @property
    def img_size(self) -> int | tuple[int, int]:
        """The side of square crops, else height and width; whole images have other sizes."""
        height, width = self.crop_size
        return height if height == width else (height, width)

    def train_dataloader(self) -> DataLoader[MaskBatch]:
        """Shuffled crops; the last, smaller batch is dropped unless it is the only one."""
        images = self.splits.train
        sampler = CropSampler(len(images), self.crops_per_image)
        return DataLoader(
            Crops(images, self.crop_size, *self.statistics),
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=len(sampler) >= self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_it_is,
        )

    @property
    def predict_images(self) -> LabelledImages:
        """The images of `predict_folder`, whose masks are unknown everywhere; by default the test images."""
        return self.splits.test if self.predict_folder is None else self._unlabelled

    @cached_property
    def _unlabelled(self) -> UnlabelledFiles:
        folder = Path(str(self.predict_folder))
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not files:
            raise KANError(f"predict_folder {folder} holds no images ({', '.join(sorted(SUFFIXES))})")
        return UnlabelledFiles(files, self.mode)

    def on_after_batch_transfer(self, batch: MaskBatch, dataloader_idx: int) -> MaskBatch:
        """Augment training batches, on the device they are on."""
        if self.trainer is None or not self.trainer.training:
            return batch
        image, mask = augment_masks(batch.image, batch.mask, self.augment)
        return batch._replace(image=image, mask=mask)

    def _loader(self, images: LabelledImages) -> DataLoader[Any]:
        return DataLoader(
            WholeImages(images, *self.statistics),
            batch_size=1,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_it_is,
        )
