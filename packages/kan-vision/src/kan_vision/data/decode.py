"""One image file to one tensor, with an error that names the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from kan_core.errors import KANError

ColourMode = Literal["grey", "rgb"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
"""The file names that are taken for images, in lower case."""


def decode(path: Path, size: tuple[int, int], mode: ColourMode) -> Tensor:
    """Read an image file.

    Args:
        path: PNG, JPEG, BMP or TIFF: 8-bit in any colour mode, 16-bit grey, or float grey with values in 0..1.
        size: Height and width to resize to (bilinear, antialiased).
        mode: ``"grey"`` gives one channel, ``"rgb"`` three.

    Returns:
        ``(channels, height, width)`` float32 in 0..1.

    Raises:
        KANError: When the file cannot be decoded to the end, or holds NaN, infinite or out-of-range floats.
    """
    try:
        content = io.BytesIO(path.read_bytes())
        with Image.open(content) as image:
            image.verify()  # the checksums of a PNG: decoding alone misses a cut after the last pixel
        with Image.open(content) as image:
            array = _resized(image, size, mode)
    except KANError as error:
        raise KANError(f"{path}: {error}") from None
    # Pillow raises ValueError, SyntaxError or its own errors, depending on where a file is broken
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # Pillow's text for this one names the memory that the bytes came from
        reason = "no format is recognised" if isinstance(error, UnidentifiedImageError) else error
        raise KANError(f"{path} is not a readable image ({reason}); repair or remove it") from None
    tensor = torch.from_numpy(array)
    return tensor.expand(3, -1, -1) if tensor.ndim == 2 and mode == "rgb" else tensor.view(-1, *size)


def _resized(image: Image.Image, size: tuple[int, int], mode: ColourMode) -> np.ndarray:
    """``(height, width)`` or ``(channels, height, width)`` float32 in 0..1."""
    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow would clip these to 0..255 on conversion
        grey = _unit_floats(image)
        return np.array(Image.fromarray(grey).resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.float32)
    converted = image.convert("RGB" if mode == "rgb" else "L").resize(size[::-1], Image.Resampling.BILINEAR)
    array = np.asarray(converted, dtype=np.float32) / 255
    return array.transpose(2, 0, 1).copy() if mode == "rgb" else array


def _unit_floats(image: Image.Image) -> np.ndarray:
    """16-bit integers scaled to 0..1, floats checked to be in it."""
    grey = np.asarray(image, dtype=np.float32) / np.float32(1 if image.mode == "F" else 65535)
    if not np.isfinite(grey).all():
        raise KANError("a pixel is NaN or infinite; repair or remove the image")
    if grey.min() < 0 or grey.max() > 1:
        raise KANError(f"float pixels must be in 0..1, found {grey.min():g} to {grey.max():g}")
    return grey
