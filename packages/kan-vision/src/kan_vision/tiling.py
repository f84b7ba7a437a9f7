"""Tiled prediction: a network on images that are larger than memory, without seams.

Tiles start at multiples of the network's own multiple, so that its strided layers see the phase that they would see on
the whole image, and the last tile of each axis ends with the image. Neighbours fade into each other in the middle of
what they share. Only one row of tiles and what remains of the row above are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan_core import KANError

__all__ = ["class_map", "predict_tiled"]

Array = NDArray[Any]
ReadWindow = Callable[[int, int, int, int], Array]
"""``(y0, y1, x0, x1)`` to the pixels ``(channels, y1 - y0, x1 - x0)``; always inside the image."""
WriteRows = Callable[[int, Array], None]
"""Receives the number of the first row, and rows ``(..., rows, width)``; called from top to bottom."""


def predict_tiled(
    model_fn: Callable[[Tensor], Tensor],
    image: Array | Tensor | ReadWindow,
    out: Array | WriteRows | None = None,
    *,
    size: tuple[int, int] | None = None,
    tile: int = 512,
    overlap: int = 64,
    blend: int | None = None,
    multiple: int = 32,
    batch_size: int = 4,
    postprocess: Callable[[Array], Array] | None = None,
) -> Array | None:
    """Predict an image tile by tile, in memory that does not depend on its height.

    Pixels that one tile alone decides are those that the network gives there for the whole image, wherever its
    receptive field reaches no further than the tile's sides. That holds up to and at the borders of the image, for it
    is padded as :class:`~kan_vision.models._segmenter.Segmenter` pads the whole: on the right and at the bottom, by
    reflection, to `multiple`. In the strip where two tiles fade into each other the result is a weighted mean of both;
    so it is everywhere that of the whole image if the receptive radius is at most (overlap − blend) / 2.

    What is blended is what `model_fn` returns: give probabilities, unless the mean of logits is meant.

    Args:
        model_fn: Tiles ``(batch, channels, height, width)`` on the CPU, of the image's type, to maps ``(batch, K,
            height, width)`` on any device: normalisation, the network in evaluation mode and the sigmoid or softmax.
            Called without gradients.
        image: ``(channels, height, width)``: a numpy array, an ``np.memmap`` or a tensor, of which only windows are
            read, or a function that reads a window.
        out: Where finished rows go: an array (such as an ``np.memmap``) of the result's shape, or a function that
            receives them; None makes an array.
        size: Height and width of the image, needed for a function only.
        tile: Height and width of a tile, a multiple of `multiple`. A smaller image is one tile of its own size, padded.
        overlap: Pixels that neighbouring tiles share at least.
        blend: Width of the strip, in the middle of the overlap, over which one tile fades linearly into the next: 0
            cuts there, None takes the whole overlap.
        multiple: Where tiles may start: the total stride of the network, `multiple` of a ``Segmenter``.
        batch_size: Tiles given to `model_fn` at once.
        postprocess: Finished rows ``(K, rows, width)`` to what is written, ``(..., rows, width)``, such as
            :func:`class_map`; None writes the blended maps, float32.

    Returns:
        The array of the result: ``(K, height, width)`` float32 without `postprocess`. None when `out` is a function.

    Raises:
        KANError: For sizes that do not fit together, an image or an `out` of another shape, or a `model_fn` that
            returns one.

    Example:
        >>> net = create_segmenter("ukan_small", in_chans=3, num_classes=4).eval()
        >>> classes = predict_tiled(lambda x: net(x).softmax(1), image, postprocess=class_map)  # (height, width)
    """
    blend = overlap if blend is None else blend
    _check(tile, overlap, blend, multiple, batch_size)
    read, (height, width) = _reader(image, size)
    ys, xs = (_Axis.plan(length, tile, overlap, blend, multiple) for length in (height, width))
    above = torch.empty(0)
    result: Array | None = None
    for row, y in enumerate(ys.starts):
        band = _predict_row(model_fn, read, ys.pixels(row), xs, batch_size)
        if row:
            shared = above.shape[1]
            band[:, :shared] = torch.lerp(above, band[:, :shared], ys.fade(row)[:, None])
        finished = ys.starts[row + 1] - y if row + 1 < len(ys.starts) else height - y
        rows = band[:, :finished, :width].numpy()
        result = _write(result if out is None else out, y, postprocess(rows) if postprocess else rows, height)
        above = band[:, finished:].clone()  # not a view, which would keep the whole band
    return result


def class_map(probabilities: Array) -> Array:
    """Class of every pixel: ``(K, rows, width) -> (rows, width)``, uint8 (uint16 above 256 classes).

    One map is a binary mask: 1 where it is above 0.5. Several are classes: the largest.
    """
    count = len(probabilities)
    classes: Array = probabilities[0] > 0.5 if count == 1 else probabilities.argmax(axis=0)
    return classes.astype(np.min_scalar_type(count - 1))


@dataclass(frozen=True)
class _Axis:
    """The tiles along one side of the image.

    Attributes:
        size: Pixels of the image.
        tile: Pixels of a tile.
        starts: First pixel of each tile.
        blend: Width over which a tile fades into the next.
    """

    size: int
    tile: int
    starts: list[int]
    blend: int

    @classmethod
    def plan(cls, size: int, tile: int, overlap: int, blend: int, multiple: int) -> _Axis:
        """Tiles at multiples of `multiple`, the last one flush with the end of the padded image."""
        padded = size + -size % multiple
        stride = (tile - overlap) // multiple * multiple
        tile = min(tile, padded)
        last = padded - tile
        return cls(size, tile, [*range(0, last, stride), last], blend)

    def pixels(self, index: int) -> NDArray[np.intp]:
        """The image's pixels that the tile sees: beyond the end reflected, and beyond the reflection pixel 0."""
        start = self.starts[index]
        positions = np.arange(start, start + self.tile)
        return np.where(positions < self.size, positions, np.maximum(2 * (self.size - 1) - positions, 0))

    def fade(self, index: int) -> Tensor:
        """Share of the tile in each pixel that it has in common with the one before it, from 0 to 1."""
        shared = self.starts[index - 1] + self.tile - self.starts[index] if index else 0
        from_middle = torch.arange(shared) + 0.5 - shared / 2
        return (from_middle / self.blend + 0.5).clamp(0, 1) if self.blend else (from_middle > 0).float()


def _predict_row(
    model_fn: Callable[[Tensor], Tensor], read: ReadWindow, rows: NDArray[np.intp], xs: _Axis, batch_size: int
) -> Tensor:
    """One row of tiles, blended: ``(K, len(rows), padded width)`` float32."""
    band = torch.empty(0)
    for first in range(0, len(xs.starts), batch_size):
        numbers = range(first, min(first + batch_size, len(xs.starts)))
        tiles = torch.from_numpy(np.stack([_window(read, rows, xs.pixels(number)) for number in numbers]))
        predictions = _predict(model_fn, tiles)
        if not first:
            band = predictions.new_empty(predictions.shape[1], len(rows), xs.starts[-1] + xs.tile)
        for number, prediction in zip(numbers, predictions, strict=True):
            x, fade = xs.starts[number], xs.fade(number)
            common, new = band[..., x : x + len(fade)], band[..., x + len(fade) : x + xs.tile]
            # lerp leaves equal values and both ends of the fade as they are, to the last bit
            common.copy_(torch.lerp(common, prediction[..., : len(fade)], fade))
            new.copy_(prediction[..., len(fade) :])
    return band


def _window(read: ReadWindow, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Array:
    """The pixels at all pairs of `rows` and `columns`, ``(channels, len(rows), len(columns))``."""
    y, x = int(rows.min()), int(columns.min())
    shape = int(rows.max()) + 1 - y, int(columns.max()) + 1 - x
    pixels = np.asarray(read(y, y + shape[0], x, x + shape[1]))
    if pixels.ndim != 3 or pixels.shape[1:] != shape:
        raise KANError(f"the window at ({y}, {x}) must have the shape (channels, *{shape}), got {pixels.shape}")
    return pixels[:, rows[:, None] - y, columns - x]


def _predict(model_fn: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
    with torch.inference_mode():
        maps = model_fn(tiles)
    if maps.ndim != 4 or len(maps) != len(tiles) or maps.shape[2:] != tiles.shape[2:]:
        raise KANError(
            f"model_fn must return (batch, K, height, width) of the tiles' size, got {tuple(maps.shape)} "
            f"for tiles {tuple(tiles.shape)}"
        )
    return maps.float().cpu()


def _write(out: Array | WriteRows | None, y: int, rows: Array, height: int) -> Array | None:
    """Put finished rows where they belong; returns the array, a new one where there was none."""
    if callable(out):
        out(y, rows)
        return None
    shape = (*rows.shape[:-2], height, rows.shape[-1])
    if out is None:
        out = np.empty(shape, rows.dtype)
    if out.shape != shape:
        raise KANError(f"out has the shape {out.shape}, but the result has {shape}")
    out[..., y : y + rows.shape[-2], :] = rows
    return out


def _reader(image: Array | Tensor | ReadWindow, size: tuple[int, int] | None) -> tuple[ReadWindow, tuple[int, int]]:
    """A function that reads windows, and the image's height and width."""
    if callable(image):
        if size is None or min(size) < 1:
            raise KANError(f"an image that is read by a function needs its size=(height, width), got {size}")
        return image, size
    pixels = image
    if pixels.ndim != 3 or 0 in pixels.shape or size not in (None, tuple(pixels.shape[1:])):
        raise KANError(f"image must have the shape (channels, height, width), got {tuple(pixels.shape)}, size={size}")
    return lambda y0, y1, x0, x1: np.asarray(pixels[:, y0:y1, x0:x1]), (pixels.shape[1], pixels.shape[2])


def _check(tile: int, overlap: int, blend: int, multiple: int, batch_size: int) -> None:
    if multiple < 1 or tile < multiple or tile % multiple:
        raise KANError(f"tile must be a multiple of multiple={multiple}, at least 1, got tile={tile}")
    if not 0 <= overlap <= tile - multiple:
        raise KANError(f"overlap must lie from 0 to tile - multiple = {tile - multiple}, got {overlap}")
    if not 0 <= blend <= overlap:
        raise KANError(f"blend must lie from 0 to overlap = {overlap}, got {blend}")
    if batch_size < 1:
        raise KANError(f"batch_size must be at least 1, got {batch_size}")
