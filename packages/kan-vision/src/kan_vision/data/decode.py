"""One image or mask file to one tensor, with an error that names the file."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from kan_core.errors import KANError

ColourMode = Literal["grey", "rgb"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
"""The file names that are taken for images, in lower case."""


class Readable(Protocol):
    """A file on disk or in a zip archive, whose text names it: `pathlib.Path` or `zipfile.Path`."""

    def read_bytes(self) -> bytes:
        """The content."""
        ...


def decode(path: Path, size: tuple[int, int], mode: ColourMode) -> Tensor:
    """Read an image file and resize it.

    Args:
        path: PNG, JPEG, BMP or TIFF: 8-bit in any colour mode, 16-bit grey, or float grey with values in 0..1.
        size: Height and width to resize to (bilinear, antialiased).
        mode: ``"grey"`` gives one channel, ``"rgb"`` three.

    Returns:
        ``(channels, height, width)`` float32 in 0..1.

    Raises:
        KANError: When the file cannot be decoded to the end, or holds NaN, infinite or out-of-range floats.
    """
    tensor = torch.from_numpy(_read(path, lambda image: _resized(image, size, mode)))
    return tensor.expand(3, -1, -1) if tensor.ndim == 2 and mode == "rgb" else tensor.view(-1, *size)


def decode_image(file: Readable, mode: ColourMode) -> Tensor:
    """Read an image file at its own size.

    Args:
        file: As for `decode`. An alpha channel is dropped.
        mode: ``"grey"`` gives one channel, ``"rgb"`` three.

    Returns:
        ``(channels, height, width)``: uint8 where the file holds 8 bits per channel, else float32 in 0..1.

    Raises:
        KANError: As `decode`.
    """
    tensor = torch.from_numpy(_read(file, lambda image: _unscaled(image, mode)))
    if tensor.ndim == 2:
        return tensor.expand(3 if mode == "rgb" else 1, -1, -1)
    return tensor.permute(2, 0, 1).contiguous()


def decode_mask(file: Readable) -> Tensor:
    """Read the values of a mask file as they are.

    Grey values, or the indices of a palette (its grey values when all its colours are grey). An alpha channel is
    dropped, and equal red, green and blue count as grey.

    Args:
        file: PNG, JPEG, BMP or TIFF of 1, 8 or 16 bits; floats when they are whole numbers.

    Returns:
        ``(height, width)``: uint8 where the file holds up to 8 bits, else int32.

    Raises:
        KANError: When the file cannot be decoded to the end, holds colours, or fractions.
    """
    return torch.from_numpy(_read(file, _mask_values))


def _read(file: Readable, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    try:
        content = io.BytesIO(file.read_bytes())
        with Image.open(content) as image:
            image.verify()  # the checksums of a PNG: decoding alone misses a cut after the last pixel
        with Image.open(content) as image:
            return convert(image)
    except KANError as error:
        raise KANError(f"{file}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last: encrypted
        raise KANError(f"{file} cannot be read from its archive ({error}); fetch it again") from None
    # Pillow raises ValueError, SyntaxError or its own errors, depending on where a file is broken
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # Pillow's text for this one names the memory that the bytes came from
        reason = "no format is recognised" if isinstance(error, UnidentifiedImageError) else error
        raise KANError(f"{file} is not a readable image ({reason}); repair or remove it") from None


def _resized(image: Image.Image, size: tuple[int, int], mode: ColourMode) -> np.ndarray:
    """``(height, width)`` or ``(channels, height, width)`` float32 in 0..1."""
    if _is_deep(image):
        grey = _unit_floats(image)
        return np.array(Image.fromarray(grey).resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.float32)
    converted = image.convert("RGB" if mode == "rgb" else "L").resize(size[::-1], Image.Resampling.BILINEAR)
    array = np.asarray(converted, dtype=np.float32) / 255
    return array.transpose(2, 0, 1).copy() if mode == "rgb" else array


def _unscaled(image: Image.Image, mode: ColourMode) -> np.ndarray:
    """``(height, width)`` or ``(height, width, 3)``, uint8 or float32 in 0..1."""
    return _unit_floats(image) if _is_deep(image) else np.array(image.convert("RGB" if mode == "rgb" else "L"))


def _is_deep(image: Image.Image) -> bool:
    """Whether the values are 16-bit or floats, which Pillow would clip to 0..255 on conversion."""
    return image.mode == "F" or image.mode.startswith("I")


def _unit_floats(image: Image.Image) -> np.ndarray:
    """16-bit integers scaled to 0..1, floats checked to be in it."""
    grey = np.asarray(image, dtype=np.float32) / np.float32(1 if image.mode == "F" else 65535)
    if not np.isfinite(grey).all():
        raise KANError("a pixel is NaN or infinite; repair or remove the image")
    if grey.min() < 0 or grey.max() > 1:
        raise KANError(f"float pixels must be in 0..1, found {grey.min():g} to {grey.max():g}")
    return grey


def _mask_values(image: Image.Image) -> np.ndarray:
    """``(height, width)`` uint8 or int32."""
    if image.mode == "P":
        palette = np.array(image.getpalette()).reshape(-1, 3)
        is_grey = bool((palette == palette[:, :1]).all())
        return np.array(image.convert("L") if is_grey else image)
    if _is_deep(image):
        values = np.array(image)
        whole = values.astype(np.int32)
        if not np.array_equal(whole, values):
            raise KANError("a mask must hold whole numbers")
        return whole
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))
    colours = np.array(image.convert("RGB"))
    if not (colours == colours[..., :1]).all():
        raise KANError("a mask must be grey (class indices, or 0 and 255), found colours")
    return colours[..., 0].copy()
