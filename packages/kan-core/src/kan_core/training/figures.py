"""Figures that tasks of several domains draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

MOST_LABELLED_CLASSES = 20
"""With more classes the cells of a confusion matrix are too small for numbers."""


def confusion_figure(matrix: Tensor, class_names: Sequence[str], title: str = "Confusion matrix") -> Figure:
    """A confusion matrix, coloured by the share of each true class, with the counts in its cells.

    Args:
        matrix: ``(classes, classes)`` counts, true classes as rows.
        class_names: In label order.
        title: What the classes are.
    """
    counts = matrix.long().numpy()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.35 * len(class_names), 12)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(title=f"{title}: {counts.trace():,} of {counts.sum():,} right", xlabel="predicted", ylabel="true")
    small = 9 if len(class_names) <= MOST_LABELLED_CLASSES else 6
    turned = max(map(len, class_names)) > 3
    places = range(len(class_names))
    axes.set_xticks(places, class_names, rotation=45 * turned, ha="right" if turned else "center", fontsize=small)
    axes.set_yticks(places, class_names, fontsize=small)
    if len(class_names) <= MOST_LABELLED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    return figure
