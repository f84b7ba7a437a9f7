"""Outputs to losses, metrics and figures: one Lightning module per kind of task."""

from kan_vision.tasks.classification import ClassificationTask

__all__ = ["ClassificationTask"]
