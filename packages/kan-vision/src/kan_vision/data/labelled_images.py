"""What a split of images with masks is, before any loader: pixels and classes by index, names, and statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from kan_vision.data.images import SplitsOf
from kan_vision.data.repeats import digest, without_repeats

IGNORE = 255
"""The class index of a pixel whose class is not known: no loss and no metric counts it."""

MEMORY = 2 << 30
"""Bytes up to which the decoded images and masks of a split are kept."""


class MaskBatch(NamedTuple):
    """What every loader of a segmentation data set yields.

    Attributes:
        image: ``(batch, channels, height, width)`` float32, normalised with the training split's mean and std.
        mask: ``(batch, height, width)`` int64 class indices, 255 (`IGNORE`) where the class is not known.
        position: ``(batch,)`` int64 positions in the split, for `LabelledImages.name`.
    """

    image: Tensor
    mask: Tensor
    position: Tensor


class LabelledImages(ABC):
    """Images of any sizes, each with a class index per pixel."""

    @abstractmethod
    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask as they are stored.

        Args:
            index: Position in the split.

        Returns:
            ``(channels, height, width)`` uint8, or float32 in 0..1, and ``(height, width)`` uint8 class indices.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call image `index` in a table: its file."""

    @abstractmethod
    def __len__(self) -> int: ...

    def image(self, index: int) -> Tensor:
        """``(channels, height, width)`` float32 in 0..1."""
        return unit(self.pair(index)[0])

    def mask(self, index: int) -> Tensor:
        """``(height, width)`` uint8 class indices, 255 where unknown."""
        return self.pair(index)[1]

    def part(self, indices: Tensor) -> LabelledImages:
        """The images at `indices`, in that order."""
        return _Part(self, indices.tolist())


class _Part(LabelledImages):
    def __init__(self, whole: LabelledImages, indices: list[int]) -> None:
        self._whole = whole
        self._indices = indices

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        return self._whole.pair(self._indices[index])

    def name(self, index: int) -> str:
        return self._whole.name(self._indices[index])

    def __len__(self) -> int:
        return len(self._indices)


class DecodedImages(LabelledImages):
    """Images and masks held in memory.

    Args:
        pairs: What `pair` returns.
        names: What `name` returns.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]) -> None:
        self._pairs = pairs
        self._names = names

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Look up."""
        return self._pairs[index]

    def name(self, index: int) -> str:
        """Look up."""
        return self._names[index]

    def __len__(self) -> int:
        return len(self._pairs)


def unit(pixels: Tensor) -> Tensor:
    """Pixels as float32 in 0..1, from uint8 or from just that."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def read_all(images: LabelledImages, memory: int = MEMORY) -> tuple[LabelledImages, list[bytes]]:
    """Decode every image and mask once: whatever is wrong with a file shows now.

    Args:
        images: What to read.
        memory: Bytes up to which the decoded values are kept.

    Returns:
        The same images, in memory when they fit, and a digest of the pixels of each.

    Raises:
        KANError: When a file cannot be used.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    digests: list[bytes] = []
    size = 0
    with ThreadPoolExecutor() as pool:
        for image, mask in pool.map(images.pair, range(len(images))):
            digests.append(digest(image))
            size += image.nbytes + mask.nbytes
            if size <= memory:
                kept.append((image, mask))
            else:
                kept.clear()
    if size > memory:
        return images, digests
    return DecodedImages(kept, [images.name(i) for i in range(len(images))]), digests


class MaskSplits(SplitsOf[LabelledImages]):
    """The three splits of a segmentation data set."""


def leak_free_masks(
    parts: Sequence[tuple[LabelledImages, list[bytes]]], names: tuple[str, ...], what: str
) -> MaskSplits:
    """Splits whose later ones share no image with an earlier one; see `without_repeats`.

    Args:
        parts: Of train, val and test: the images and their digests, as `read_all` returns them.
        names: Of the classes.
        what: The name of the data, for the message.
    """
    (train, train_keys), (val, val_keys), (test, test_keys) = parts
    train, val, dropped = without_repeats(train, val, [train_keys, val_keys, test_keys], what)
    return MaskSplits(train, val, test, names, dropped)


def pixel_statistics(images: LabelledImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel; a constant channel has standard deviation 1.

    Every image counts the same, however large: so it is in training, where each gives as many crops.

    Args:
        images: At least one image.
    """

    def moments(index: int) -> Tensor:
        pixels = images.image(index).double()
        return torch.stack([pixels.mean((1, 2)), pixels.square().mean((1, 2))])

    with ThreadPoolExecutor() as pool:
        mean, square = torch.stack(list(pool.map(moments, range(len(images))))).mean(0)
    variance = (square - mean.square()).clamp_min(0)
    std = torch.where(variance > 1e-12, variance.sqrt(), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
