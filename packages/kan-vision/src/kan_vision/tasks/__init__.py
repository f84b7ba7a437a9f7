"""Outputs to losses, metrics and figures: one Lightning module per kind of task."""

from kan_vision.tasks._base import VisionTask
from kan_vision.tasks.classification import ClassificationTask
from kan_vision.tasks.segmentation import SegmentationTask

__all__ = ["ClassificationTask", "SegmentationTask", "VisionTask"]
