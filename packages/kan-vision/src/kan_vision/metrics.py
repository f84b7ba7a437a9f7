"""Metrics of segmentation, counted over a whole split: never a mean of the batches' values."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from segmentation_models_pytorch.metrics import get_stats
from torch import Tensor
from torchmetrics import Metric

BOUNDARY_TOLERANCE = 2.0
"""Pixels within which a boundary counts as found."""


class MaskScores(Metric):
    """Intersection over union and what goes with it, from counts per class that are summed over all images.

    The classes that count are the foreground for two classes and all of them for more. A class that neither the masks
    nor the predictions of the split have counts in no mean.

    ``compute`` returns iou, dice (F1), precision and recall, each the mean over classes; accuracy of the pixels; and
    image_iou, the mean over images of their mean IoU over the classes that are in the image's mask or prediction
    (images with none are left out). With more than two classes also ``iou_<class>`` for each.

    Args:
        class_names: All classes, background included, in label order.
        ignore_index: Label of pixels that do not count.
    """

    full_state_update = False
    counts: Tensor
    image_iou: Tensor
    images: Tensor

    def __init__(self, class_names: list[str], ignore_index: int) -> None:
        super().__init__()
        self.class_names = class_names
        self.ignore_index = ignore_index
        self.add_state("counts", torch.zeros(4, len(class_names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("image_iou", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, mask: Tensor) -> None:
        """Count a batch of class indices, both ``(batch, height, width)``."""
        for per_image in confusion_counts(predicted, mask, len(self.class_names), self.ignore_index):
            self.counts += per_image
            iou = _ratios(per_image)["iou"][self._counting()].nanmean()
            if not iou.isnan():
                self.image_iou += iou
                self.images += 1

    def compute(self) -> dict[str, Tensor]:
        """The scores, as scalars; NaN where nothing counts."""
        ratios = _ratios(self.counts)
        scores = {name: values[self._counting()].nanmean() for name, values in ratios.items()}
        # every pixel is a true or a false positive of exactly one class
        scores["accuracy"] = self.counts[0].sum() / self.counts[:2].sum()
        scores["image_iou"] = self.image_iou / self.images
        if len(self.class_names) > 2:
            scores |= {f"iou_{name}": value for name, value in zip(self.class_names, ratios["iou"], strict=True)}
        return {name: value.float() for name, value in scores.items()}

    def _counting(self) -> slice:
        return slice(1 if len(self.class_names) == 2 else 0, None)


def confusion_counts(predicted: Tensor, mask: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """True positives, false positives, false negatives and true negatives per image and class.

    Args:
        predicted: ``(batch, height, width)`` class indices.
        mask: The same, with `ignore_index` where a pixel does not count.
        num_classes: Background included.
        ignore_index: Outside ``0 .. num_classes - 1``.

    Returns:
        ``(batch, 4, num_classes)`` float64.
    """
    stats = get_stats(predicted, mask, mode="multiclass", num_classes=num_classes, ignore_index=ignore_index)
    return torch.stack([count.double() for count in stats], dim=1)


def _ratios(counts: Tensor) -> dict[str, Tensor]:
    """From ``(4, classes)`` counts to ``(classes,)`` ratios, NaN for a class that is nowhere."""
    tp, fp, fn, _ = counts
    return {
        "iou": tp / (tp + fp + fn),
        "dice": 2 * tp / (2 * tp + fp + fn),
        "precision": _or_zero(tp, tp + fp, present=tp + fn > 0),
        "recall": _or_zero(tp, tp + fn, present=tp + fp > 0),
    }


def _or_zero(share: Tensor, whole: Tensor, present: Tensor) -> Tensor:
    """Share / whole; 0 for 0/0 where the class is `present` on the other side, else NaN."""
    return torch.where((whole == 0) & present, 0.0, share / whole)


def boundary_scores(predicted: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """How well the outline of one foreground mask is found.

    Args:
        predicted: ``(height, width)`` booleans.
        mask: The same, the truth.

    Returns:
        The F1 score of boundary pixels within 2 pixels of the other boundary, and the 95th percentile of the distances
        between the boundaries, in both directions (HD95), in pixels. Both are NaN where either mask is empty: there is
        no boundary to compare.
    """
    if not (predicted.any() and mask.any()):
        return float("nan"), float("nan")
    outlines = [m & ~binary_erosion(m, border_value=1) for m in (predicted, mask)]
    if not all(outline.any() for outline in outlines):  # a mask that fills the image has no outline
        return float("nan"), float("nan")
    to_mask, to_predicted = (distance_transform_edt(~outline) for outline in reversed(outlines))
    found, missed = to_mask[outlines[0]], to_predicted[outlines[1]]
    precision, recall = (float((d <= BOUNDARY_TOLERANCE).mean()) for d in (found, missed))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return f1, float(np.percentile(np.concatenate([found, missed]), 95))
