"""What a split of images is, before any loader: pixels by index, labels, names, and the statistics of its channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from kan_core.errors import KANError
from kan_vision.data.repeats import digest, without_repeats

UNLABELLED = -1
"""The label of an image whose class is not known."""


class ImageBatch(NamedTuple):
    """What every loader of this package yields.

    Attributes:
        image: ``(batch, channels, height, width)`` float32, normalised with the training split's mean and std.
        label: ``(batch,)`` int64 class indices, -1 where the class is not known.
        position: ``(batch,)`` int64 positions in the split, for `Images.name`.
    """

    image: Tensor
    label: Tensor
    position: Tensor


class Images(ABC):
    """Images of one size and their labels.

    Attributes:
        labels: ``(n,)`` int64 class indices, -1 where unknown.
    """

    labels: Tensor

    @abstractmethod
    def pixels(self, indices: Sequence[int]) -> Tensor:
        """The images at `indices`: ``(len(indices), channels, height, width)`` float32, 8-bit values scaled to 0..1."""

    def name(self, index: int) -> str:
        """What to call image `index` in a table: its position, or its file."""
        return str(index)

    def __len__(self) -> int:
        return len(self.labels)


class ArrayImages(Images):
    """Images held in memory.

    Args:
        pixels: ``(n, channels, height, width)``, uint8, or float32 taken as it is.
        labels: ``(n,)`` class indices.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self._pixels = pixels
        self.labels = labels.long()

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Pick from the array."""
        picked = self._pixels[torch.as_tensor(indices)]
        return picked.float().div_(255) if picked.dtype == torch.uint8 else picked

    def digests(self) -> list[bytes]:
        """What each image is recognised by among others of this set."""
        return [digest(pixels) for pixels in self._pixels]

    def part(self, indices: slice | Tensor) -> ArrayImages:
        """The images at `indices`, in that order."""
        return ArrayImages(self._pixels[indices], self.labels[indices])


T = TypeVar("T")


@dataclass(frozen=True)
class SplitsOf(Generic[T]):
    """The three splits of a data set, of whatever kind.

    Attributes:
        train: To learn from.
        val: To select with.
        test: To report.
        class_names: In label order.
        repeats: How many images were left out of `train` and `val` because a later split holds them too.
    """

    train: T
    val: T
    test: T
    class_names: tuple[str, ...]
    repeats: int = 0


class Splits(SplitsOf[Images]):
    """The three splits of a classification data set."""


def leak_free(train: ArrayImages, val: ArrayImages, test: ArrayImages, names: tuple[str, ...], what: str) -> Splits:
    """Splits whose later ones share no image with an earlier one; see `without_repeats`."""
    kept, kept_val, dropped = without_repeats(train, val, [part.digests() for part in (train, val, test)], what)
    return Splits(kept, kept_val, test, names, dropped)


class NormalisedImages(Dataset[ImageBatch]):
    """Batches of `images`, normalised per channel; indexing with one position gives a batch of one.

    Args:
        images: Where the pixels come from.
        mean: Per channel, on the scale of `Images.pixels`.
        std: Per channel.
    """

    def __init__(self, images: Images, mean: Sequence[float], std: Sequence[float]) -> None:
        self.images = images
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._std = torch.tensor(std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        """The whole batch at once: the loader calls this instead of collating single images."""
        position = torch.as_tensor(indices)
        image = (self.images.pixels(indices) - self._mean) / self._std
        return ImageBatch(image, self.images.labels[position], position)


def channel_statistics(images: Images, chunk: int = 256) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel over all pixels; a constant channel has standard deviation 1.

    Every image is read once, several at a time, so this also finds the file that cannot be decoded.

    Args:
        images: At least one image.
        chunk: How many images are read at a time.
    """

    def moments(start: int) -> Tensor:
        pixels = images.pixels(range(start, min(start + chunk, len(images)))).double()
        return torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))]) / pixels[0, 0].numel()

    with ThreadPoolExecutor() as pool:
        mean, square = torch.stack(list(pool.map(moments, range(0, len(images), chunk)))).sum(0) / len(images)
    variance = (square - mean.square()).clamp_min(0)
    std = torch.where(variance > 1e-12, variance.sqrt(), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def stratified_split(labels: Tensor, fraction: float, seed: int, what: str) -> tuple[Tensor, Tensor]:
    """Split positions into a rest and a part of `fraction`, every class in its proportion.

    Args:
        labels: ``(n,)`` class indices.
        fraction: Share of the second part, between 0 and 1; an integer is how many it has.
        seed: The same seed gives the same split.
        what: The name of the data, for the message.

    Returns:
        The positions of the rest and of the part, each ascending.

    Raises:
        KANError: When a class has too few images to be in both.
    """
    try:
        rest, part = train_test_split(
            range(len(labels)), test_size=fraction, stratify=labels.numpy(), random_state=seed
        )
    except ValueError as error:
        raise KANError(f"{what}: cannot hold out a stratified share of {fraction:g}: {error}") from None
    return torch.tensor(sorted(rest)), torch.tensor(sorted(part))
