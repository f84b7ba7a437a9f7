"""Figures of a classifier: where it is wrong and how sure it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kan_vision.data.images import Images


class Prediction(NamedTuple):
    """One tested image: its position in the split, true and predicted class, and the probability of the latter."""

    position: int
    label: int
    predicted: int
    probability: float


def predictions_figure(
    tested: Sequence[Prediction], images: Images, class_names: Sequence[str], columns: int = 8
) -> Figure:
    """Two rows of images: the most confident mistakes, and the first images that were right.

    Args:
        tested: The predictions.
        images: What `Prediction.position` counts in.
        class_names: In label order.
        columns: Images per row, at most.
    """
    wrong = sorted((p for p in tested if p.predicted != p.label), key=lambda p: -p.probability)
    right = [p for p in tested if p.predicted == p.label]
    rows = [
        (f"Most confident mistakes ({len(wrong):,} of {len(tested):,} are wrong)", wrong[:columns], "firebrick"),
        (f"Right predictions ({len(right):,} of {len(tested):,})", right[:columns], "darkgreen"),
    ]
    rows = [row for row in rows if row[1]]
    figure = Figure(figsize=(1.45 * columns, 2.3 * len(rows)), layout="constrained")
    panels = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for panel, (title, predictions, colour) in zip(panels, rows, strict=True):
        panel.suptitle(title)
        for axes, prediction in zip(panel.subplots(1, columns, squeeze=False)[0], predictions, strict=False):
            _show(axes, images.pixels([prediction.position])[0])
            true, predicted = class_names[prediction.label], class_names[prediction.predicted]
            text = f"{predicted} ({prediction.probability:.0%})"
            axes.set_title(text if true == predicted else f"{text}\ntrue: {true}", fontsize=9, color=colour)
        for axes in panel.axes:
            axes.set_axis_off()
    return figure


def attention_figure(images: Tensor, maps: Sequence[Tensor], grid: tuple[int, int], titles: Sequence[str]) -> Figure:
    """What the class token takes from every patch, in each block: the mean over heads, one row per image.

    Learned maps may be negative, and their rows need not sum to 1: red is positive, blue negative, on one scale per
    panel.

    Args:
        images: ``(n, channels, height, width)``.
        maps: Of each block, ``(n, heads, tokens, tokens)``; the class token is the first, the patches are the last.
        grid: Rows and columns of patches.
        titles: Of the images.
    """
    figure = Figure(figsize=(1.7 * (len(maps) + 1), 1.9 * len(images)), layout="constrained")
    figure.suptitle("Learned attention of the class token (mean over heads)")
    patches = grid[0] * grid[1]
    for row, line in enumerate(figure.subplots(len(images), len(maps) + 1, squeeze=False)):
        _show(line[0], images[row])
        line[0].set_title(titles[row], fontsize=9)
        for block, axes in enumerate(line[1:]):
            weights = maps[block][row, :, 0, -patches:].mean(dim=0).view(grid).numpy()
            limit = max(float(np.abs(weights).max()), 1e-12)
            axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            if row == 0:
                axes.set_title(f"block {block + 1}", fontsize=9)
        for axes in line:
            axes.set_axis_off()
    return figure


def _show(axes: Axes, image: Tensor) -> None:
    """Draw ``(channels, height, width)``; the values are stretched to the image's own range."""
    low, high = image.min(), image.max()
    pixels = ((image - low) / (high - low).clamp_min(1e-12)).permute(1, 2, 0).numpy()
    if pixels.shape[2] == 3:
        axes.imshow(pixels, interpolation="nearest")
    else:
        axes.imshow(pixels[:, :, 0], cmap="gray", interpolation="nearest")
