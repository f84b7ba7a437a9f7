"""Masks over images: for files, and for the figures of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

RIGHT, FALSE_ALARM, MISSED = (46, 160, 67), (218, 54, 51), (31, 111, 235)


class MaskSample(NamedTuple):
    """One image of a figure.

    Attributes:
        title: Above it.
        pixels: ``(channels, height, width)`` in 0..1.
        predicted: ``(height, width)`` class indices.
        mask: The true ones, larger than every class where unknown.
    """

    title: str
    pixels: Tensor
    predicted: Tensor
    mask: Tensor


def colours_of(num_classes: int) -> list[tuple[int, int, int]]:
    """A colour for every class but the first, the background: orange, green, red, ..., again after 20."""
    palette = colormaps["tab20"]
    order = [*range(2, 20, 2), 0, *range(3, 20, 2), 1]  # saturated ones first; blue, which stains often have, late
    return [tuple(round(255 * c) for c in palette(order[i % 20])[:3]) for i in range(num_classes - 1)]


def overlay(pixels: Tensor, classes: Tensor, colours: Sequence[tuple[int, int, int]], alpha: float = 0.5) -> Tensor:
    """An image with its classes painted over it, the background left as it is.

    Args:
        pixels: ``(channels, height, width)`` in 0..1; of other than 3 channels the first is shown in grey.
        classes: ``(height, width)`` class indices; those without a colour are not painted.
        colours: Of the classes 1, 2, ...
        alpha: Opacity.

    Returns:
        ``(3, height, width)`` uint8.
    """
    rgb = pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
    image = (rgb * 255).round().to(torch.uint8)
    painted = torch.stack([classes == label for label in range(1, len(colours) + 1)])
    return draw_segmentation_masks(image, painted, alpha=alpha, colors=list(colours)) if painted.any() else image


def samples_figure(samples: Iterable[MaskSample], title: str, class_names: Sequence[str]) -> Figure:
    """One row for each image: as it is, the true mask, the predicted one, and where the two differ."""
    rows = list(samples)
    figure = Figure(figsize=(11, 0.6 + 2.7 * len(rows)), layout="constrained")
    figure.suptitle(title)
    colours = colours_of(len(class_names))
    heads = ("image", "true mask", "predicted", "right (green), false (red), missed (blue)")
    for index, (sample, line) in enumerate(zip(rows, figure.subplots(len(rows), 4, squeeze=False), strict=True)):
        panels = (
            overlay(sample.pixels, torch.zeros_like(sample.mask), colours),
            overlay(sample.pixels, sample.mask, colours),
            overlay(sample.pixels, sample.predicted, colours),
            overlay(sample.pixels, _differences(sample, len(class_names)), [RIGHT, FALSE_ALARM, MISSED]),
        )
        for axes, panel, head in zip(line, panels, heads, strict=True):
            axes.imshow(panel.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_axis_off()
            if index == 0:
                axes.set_title(head, fontsize=9)
        line[0].text(0, -0.04, sample.title, transform=line[0].transAxes, va="top", fontsize=8)
    return figure


def _differences(sample: MaskSample, num_classes: int) -> Tensor:
    """1 where a foreground class is right, 2 where one is predicted wrongly, 3 where one is missed; else 0."""
    known, same = sample.mask < num_classes, sample.predicted == sample.mask
    differences = torch.zeros_like(sample.mask)
    differences[known & ~same & (sample.mask > 0)] = 3
    differences[known & ~same & (sample.predicted > 0)] = 2
    differences[known & same & (sample.mask > 0)] = 1
    return differences
