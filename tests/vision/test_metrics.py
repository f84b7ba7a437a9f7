"""Segmentation metrics: golden values, ignored pixels, absent classes, and boundaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kan_vision.data import IGNORE
from kan_vision.metrics import MaskScores, boundary_scores, confusion_counts

BINARY = ["background", "nucleus"]


def scores(predicted, mask, names=BINARY):
    metric = MaskScores(list(names), IGNORE)
    for one_predicted, one_mask in zip(predicted, mask, strict=True):
        metric.update(one_predicted[None], one_mask[None])
    return {name: float(value) for name, value in metric.compute().items()}


def test_golden_values_of_two_images():
    predicted = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 0]]])
    mask = torch.tensor([[[1, 0], [1, 0]], [[1, 0], [0, 0]]])
    found = scores(predicted, mask)
    # together: tp 2, fp 1, fn 1, tn 4
    expected = {"iou": 2 / 4, "dice": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "accuracy": 6 / 8}
    assert found == pytest.approx({**expected, "image_iou": (1 / 3 + 1) / 2})


def test_pooled_counts_do_not_depend_on_batches():
    generator = torch.Generator().manual_seed(0)
    predicted, mask = (torch.randint(3, (6, 5, 7), generator=generator) for _ in range(2))
    one = MaskScores(["a", "b", "c"], IGNORE)
    one.update(predicted, mask)
    other = MaskScores(["a", "b", "c"], IGNORE)
    for part in ([5, 0], [3], [1, 2, 4]):
        other.update(predicted[part], mask[part])
    assert {k: v.item() for k, v in one.compute().items()} == pytest.approx(
        {k: v.item() for k, v in other.compute().items()}
    )


def test_against_a_direct_count():
    generator = torch.Generator().manual_seed(1)
    predicted, mask = (torch.randint(4, (2, 9, 8), generator=generator) for _ in range(2))
    mask[:, :2] = IGNORE
    counts = confusion_counts(predicted, mask, 4, IGNORE)
    for image in range(2):
        known = mask[image] != IGNORE
        for label in range(4):
            p, t = predicted[image][known] == label, mask[image][known] == label
            expected = [(p & t).sum(), (p & ~t).sum(), (~p & t).sum(), (~p & ~t).sum()]
            assert counts[image, :3, label].tolist() == [int(n) for n in expected[:3]]


def test_ignored_pixels_change_nothing():
    predicted = torch.tensor([[[1, 1, 0, 1]]])
    mask = torch.tensor([[[1, 0, 0, IGNORE]]])
    assert scores(predicted, mask) == pytest.approx(scores(predicted[..., :3], mask[..., :3]))


def test_a_class_that_is_nowhere_counts_in_no_mean():
    """Not 0 and not 1 (torchmetrics #2558, #2866; MONAI #7504)."""
    predicted, mask = torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 1, 1, 0]]])
    found = scores(predicted, mask, ["a", "b", "never"])
    assert found["iou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert math.isnan(found["iou_never"])


def test_empty_masks():
    empty = torch.zeros(1, 4, 4, dtype=torch.long)
    both = scores(empty, empty)
    assert math.isnan(both["iou"])
    assert both["accuracy"] == 1
    false_alarm = scores(empty + 1, empty)
    assert false_alarm["iou"] == false_alarm["image_iou"] == false_alarm["precision"] == false_alarm["recall"] == 0
    # an empty image among others is left out of the mean over images when nothing is predicted there
    full = torch.ones(1, 4, 4, dtype=torch.long)
    assert scores(torch.cat([empty, full]), torch.cat([empty, full]))["image_iou"] == 1


def square(top: int, left: int, side: int = 6, size: int = 20) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_boundaries_that_agree_and_that_are_shifted():
    assert boundary_scores(square(5, 5), square(5, 5)) == (1.0, 0.0)
    f1, hd95 = boundary_scores(square(5, 7), square(5, 5))
    assert f1 == 1.0  # two pixels off is within the tolerance
    assert hd95 == 2.0
    f1, hd95 = boundary_scores(square(5, 14), square(5, 0))
    assert f1 == 0.0
    assert 8 < hd95 <= 14


def test_boundaries_of_empty_masks_are_not_a_number():
    nothing, everything = np.zeros((9, 9), dtype=bool), np.ones((9, 9), dtype=bool)
    for pair in ((nothing, square(2, 2, size=9)), (square(2, 2, size=9), nothing), (nothing, nothing)):
        assert all(math.isnan(value) for value in boundary_scores(*pair))
    assert all(math.isnan(value) for value in boundary_scores(everything, everything))
