"""Random crops of images to train on, and whole images to evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kan_vision.data.labelled_images import LabelledImages, MaskBatch, unit


class Crop(NamedTuple):
    """Which image to cut from, and where: 0 is the topmost or leftmost place, the last one is just below 1."""

    position: int
    y: float
    x: float


class CropSampler(Sampler[Crop]):
    """Every image `per_image` times per epoch, shuffled, each time with another place to cut.

    Everything is drawn from torch's global generator in the process that iterates: the crops of an epoch do not depend
    on the number of loader processes.

    Args:
        num_images: How many images there are.
        per_image: Crops per image and epoch.
    """

    def __init__(self, num_images: int, per_image: int) -> None:
        self._images = num_images
        self._crops = num_images * per_image

    def __iter__(self) -> Iterator[Crop]:
        order = torch.randperm(self._crops) % self._images
        places = torch.rand(self._crops, 2)
        return map(Crop._make, zip(order.tolist(), *places.T.tolist(), strict=True))

    def __len__(self) -> int:
        return self._crops


class _Normalised(Dataset[MaskBatch]):
    def __init__(self, images: LabelledImages, mean: Sequence[float], std: Sequence[float]) -> None:
        self.images = images
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._std = torch.tensor(std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def _batch(self, images: list[Tensor], masks: list[Tensor], positions: list[int]) -> MaskBatch:
        normalised = (unit(torch.stack(images)) - self._mean) / self._std
        return MaskBatch(normalised, torch.stack(masks).long(), torch.tensor(positions))


class Crops(_Normalised):
    """Batches of normalised crops, looked up by `Crop`.

    A side shorter than the crop is padded: image and mask alike continue by reflection, as often as it takes.

    Args:
        images: What to cut from.
        size: Height and width of the crops.
        mean: Per channel, on the scale of `LabelledImages.image`.
        std: Per channel.
    """

    def __init__(
        self, images: LabelledImages, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(images, mean, std)
        self._size = size

    def __getitem__(self, key: Crop) -> MaskBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Crop]) -> MaskBatch:
        """The whole batch at once: the loader calls this instead of collating single crops."""
        pairs = [self._cut(key) for key in keys]
        return self._batch([image for image, _ in pairs], [mask for _, mask in pairs], [key.position for key in keys])

    def _cut(self, key: Crop) -> tuple[Tensor, Tensor]:
        image, mask = self.images.pair(key.position)
        rows = _places(image.shape[1], self._size[0], key.y)
        columns = _places(image.shape[2], self._size[1], key.x)
        return unit(image[:, rows][:, :, columns]), mask[rows][:, columns]


class WholeImages(_Normalised):
    """Normalised images of their own sizes, each a batch of one.

    Args:
        images: The images.
        mean: Per channel, on the scale of `LabelledImages.image`.
        std: Per channel.
    """

    def __getitem__(self, index: int) -> MaskBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> MaskBatch:
        """The images at `indices`, which must be of one size when there are several."""
        pairs = [self.images.pair(i) for i in indices]
        return self._batch([image for image, _ in pairs], [mask for _, mask in pairs], indices)


def _places(length: int, size: int, share: float) -> Tensor:
    """``(size,)`` positions along a side of `length`: a window inside it, or around it with reflected ends."""
    start = int(share * (abs(length - size) + 1))
    places = torch.arange(size) + (start if length >= size else -start)
    if length == 1:
        return torch.zeros_like(places)
    # a triangle wave: 0 1 2 1 0 1 2 ... for a length of 3
    places = places.remainder(2 * (length - 1))
    return torch.minimum(places, 2 * (length - 1) - places)
