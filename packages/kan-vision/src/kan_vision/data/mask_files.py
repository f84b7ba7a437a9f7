"""Image and mask files, paired: how masks of several files and kinds become one class index per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kan_core.errors import KANError
from kan_vision.data.decode import ColourMode, Readable, decode_image, decode_mask
from kan_vision.data.labelled_images import IGNORE, LabelledImages


@dataclass(frozen=True)
class Pair:
    """One image and the files of its mask.

    Attributes:
        name: What to call it.
        image: The image file.
        masks: For class 1, class 2, ... the binary files whose union it is; pixels in none are class 0, and of
            classes that overlap the later one counts. A file of class indices is the only one of the only class.
    """

    name: str
    image: Readable
    masks: tuple[tuple[Readable, ...], ...]


class PairedFiles(LabelledImages):
    """Image and mask files, decoded when asked for.

    Args:
        pairs: The files.
        mode: ``"grey"`` or ``"rgb"``.
        indexed: The number of classes where mask files hold class indices (255 is unknown); ``None`` where they are
            binary.
        threshold: The share of the full scale above which a pixel of a binary mask is set; ``None`` refuses masks
            with anything between.
    """

    def __init__(
        self, pairs: Sequence[Pair], mode: ColourMode, indexed: int | None = None, threshold: float | None = None
    ) -> None:
        self.pairs = list(pairs)
        self._mode: ColourMode = mode
        self._indexed = indexed
        self._threshold = threshold

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode, check that the sizes agree, and unite the masks."""
        files = self.pairs[index]
        image = decode_image(files.image, self._mode)
        mask = np.zeros(image.shape[1:], np.uint8)
        for label, members in enumerate(files.masks, start=1):
            for file in members:
                values = decode_mask(file).numpy()  # numpy is ten times faster than torch on single bytes
                if values.shape != mask.shape:
                    raise KANError(
                        f"{file} is {_size(values)} but its image {files.image} is {_size(image)} (height x width): "
                        "a mask must have the size of its image"
                    )
                if self._indexed is not None:
                    return image, torch.from_numpy(class_indices(values, self._indexed, file))
                np.copyto(mask, label, where=is_set(values, self._threshold, file))
        return image, torch.from_numpy(mask)

    def name(self, index: int) -> str:
        """What `Pair` says."""
        return self.pairs[index].name

    def __len__(self) -> int:
        return len(self.pairs)


class UnlabelledFiles(LabelledImages):
    """Image files whose masks are unknown everywhere, decoded when asked for.

    Args:
        files: The files.
        mode: ``"grey"`` or ``"rgb"``.
    """

    def __init__(self, files: Sequence[Readable], mode: ColourMode) -> None:
        self.files = list(files)
        self._mode: ColourMode = mode

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode the image."""
        image = decode_image(self.files[index], self._mode)
        return image, torch.full(image.shape[1:], IGNORE, dtype=torch.uint8)

    def name(self, index: int) -> str:
        """The path of the file."""
        return str(self.files[index])

    def __len__(self) -> int:
        return len(self.files)


def is_set(values: np.ndarray, threshold: float | None, file: Readable) -> npt.NDArray[np.bool_]:
    """Which pixels of a binary mask are foreground.

    Args:
        values: ``(height, width)`` uint8 or int32: 0 and 1, or 0 and the full scale (255, of 16 bits 65535).
        threshold: As in `PairedFiles`.
        file: For the message.

    Returns:
        ``(height, width)`` bool.

    Raises:
        KANError: When there are other values and no threshold.
    """
    full = 255 if values.dtype == np.uint8 else 65535
    top = 1 if int(values.max()) == 1 else full
    if threshold is not None:
        soft: npt.NDArray[np.bool_] = values > threshold * top
        return soft
    foreground: npt.NDArray[np.bool_] = values == top
    if np.count_nonzero(foreground) != np.count_nonzero(values):
        row, column = np.argwhere(~foreground & (values != 0))[0]
        raise KANError(
            f"{file}: a binary mask holds 0 and {full} (or 0 and 1), found {values[row, column]} at row {row}, "
            f"column {column}; set mask_threshold (such as 0.5) for soft masks, or class_names for class indices"
        )
    return foreground


def class_indices(values: np.ndarray, num_classes: int, file: Readable) -> npt.NDArray[np.uint8]:
    """Check the values of a mask of class indices.

    Args:
        values: ``(height, width)``.
        num_classes: Values must be below it, or 255 for unknown.
        file: For the message.

    Returns:
        ``(height, width)`` uint8.

    Raises:
        KANError: When a value is out of range.
    """
    bad = (values != IGNORE) & ((values < 0) | (values >= num_classes))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise KANError(
            f"{file}: class index {values[row, column]} at row {row}, column {column} is out of range: there are "
            f"{num_classes} classes, 0 to {num_classes - 1}, and {IGNORE} for unknown (name more with class_names)"
        )
    return values.astype(np.uint8)


def _size(values: np.ndarray | Tensor) -> str:
    return "x".join(map(str, values.shape[-2:]))
