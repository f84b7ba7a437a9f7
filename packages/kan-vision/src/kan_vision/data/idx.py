"""The idx format of MNIST: two zero bytes, a type, the number of dimensions, the dimensions, then the values."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kan_core.errors import KANError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.generic]:
    """Read an idx file, gzip-compressed when its name ends in ``.gz``.

    Args:
        path: The file.
        dimensions: How many the array must have: 3 for grey images, 1 for labels.

    Returns:
        The array in the machine's byte order.

    Raises:
        KANError: When the file cannot be read, is not idx, has other dimensions, or is shorter or longer than its
            header says.
    """
    raw = _content(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise KANError(
            f"{path} is not an idx file: it must start with 00 00, a type (08 to 0e) and the number of dimensions, "
            f"found {raw[:4].hex(' ') or 'nothing'}; fetch it again"
        )
    if raw[3] != dimensions:
        raise KANError(f"{path} must hold an array of {dimensions} dimension(s), its header says {raw[3]}")
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(raw[4:start].ljust(4 * dimensions, b"\0"), ">u4").tolist())
    dtype = np.dtype(_TYPES[raw[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        state = "truncated" if len(raw) < expected else "too long"
        raise KANError(
            f"{path} is {state}: its header (shape {'x'.join(map(str, shape))}) announces {expected:,} bytes, "
            f"found {len(raw):,}; fetch it again"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return _gunzip(raw) if path.suffix == ".gz" else raw
    except OSError as error:
        raise KANError(f"{path} cannot be read: {error.strerror}") from None
    except zlib.error as error:
        raise KANError(f"{path} is not a valid gzip file ({error}); fetch it again") from None


def _gunzip(data: bytes) -> bytes:
    """As much as can be decompressed: the caller can then say how many bytes of a truncated file are missing."""
    parts = []
    while data:
        stream = zlib.decompressobj(wbits=31)
        parts.append(stream.decompress(data))
        data = stream.unused_data
    return b"".join(parts)
