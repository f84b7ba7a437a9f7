"""Metrics of one fit, each named for what it computes, and what chance would give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from kan_core.errors import KANError

Array = NDArray[Any]

LOWER_IS_BETTER = ("log_loss", "ece", "rmse", "mae")
CLASSIFICATION = ("auc", "log_loss", "accuracy", "macro_f1", "ece")
REGRESSION = ("r2", "rmse", "mae")
VERDICTS = {"classification": ("auc", "log_loss"), "regression": ("r2", "rmse")}
"""What verdicts are about; the first also ranks models over tables."""


def kind_of(task: str) -> str:
    """``"regression"``, or ``"classification"`` for two classes and for more."""
    return "regression" if task == "regression" else "classification"


def check_probabilities(proba: Array, classes: int) -> None:
    """Refuse what is no ``(rows, classes)`` array of probabilities.

    An area under the curve of hard labels is another number, the balanced accuracy: it must not appear as an AUC.

    Raises:
        KANError: For another shape, rows that do not sum to 1, or nothing but 0 and 1.
    """
    if proba.ndim != 2 or proba.shape[1] != classes:
        raise KANError(f"scores must be probabilities of {classes} classes for each row, got shape {proba.shape}")
    if not np.isfinite(proba).all() or not np.allclose(proba.sum(axis=1), 1, atol=1e-5) or proba.min() < 0:
        raise KANError("scores must be probabilities: finite, not negative, and with a sum of 1 in each row")
    if np.isin(proba, (0, 1)).all():
        raise KANError("scores are hard labels, all 0 or 1: metrics need the probabilities")


def classification(y: Array, proba: Array) -> dict[str, float]:
    """Metrics of class probabilities.

    `auc` is one against the rest and macro-averaged for more than two classes; `ece` the expected calibration error of
    the chosen class in 15 equal bins.

    Args:
        y: ``(rows,)`` classes from 0.
        proba: ``(rows, classes)``.

    Raises:
        KANError: When `proba` are no probabilities.
    """
    classes = int(proba.shape[1]) if proba.ndim == 2 else 2
    check_probabilities(proba, classes)
    chosen, labels = proba.argmax(axis=1), np.arange(classes)
    return {
        "auc": auc(y, proba),
        "log_loss": float(metrics.log_loss(y, proba, labels=labels)),
        "accuracy": float(metrics.accuracy_score(y, chosen)),
        "macro_f1": float(metrics.f1_score(y, chosen, labels=labels, average="macro", zero_division=0.0)),
        "ece": float(multiclass_calibration_error(torch.from_numpy(proba), torch.from_numpy(y), classes, n_bins=15)),
    }


def auc(y: Array, proba: Array) -> float:
    """Area under the receiver operating characteristic, from probabilities."""
    if proba.shape[1] == 2:
        return float(metrics.roc_auc_score(y, proba[:, 1]))
    labels = np.arange(proba.shape[1])
    return float(metrics.roc_auc_score(y, proba, multi_class="ovr", average="macro", labels=labels))


def regression(y: Array, prediction: Array) -> dict[str, float]:
    """Metrics on the scale of the target; `rmse` is the root of the mean squared error."""
    return {
        "r2": float(metrics.r2_score(y, prediction)),
        "rmse": float(metrics.root_mean_squared_error(y, prediction)),
        "mae": float(metrics.mean_absolute_error(y, prediction)),
    }


def by_parts(task: str, y: Array, prediction: Array, parts: int) -> dict[str, list[float]]:
    """The metrics of `VERDICTS` on disjoint parts of the test rows, the same for every model.

    Rows are dealt in the order of their targets, so that each part has the classes, or the range, of the whole.
    """
    turn = np.empty(len(y), dtype=np.int64)
    turn[np.argsort(y, kind="stable")] = np.arange(len(y)) % parts
    score = regression if task == "regression" else classification
    each = [score(y[turn == part], prediction[turn == part]) for part in range(parts)]
    return {name: [metrics[name] for metrics in each] for name in VERDICTS[kind_of(task)]}


def against_chance(task: str, y: Array, prediction: Array) -> dict[str, float]:
    """What shuffled labels are judged by: a statistic that chance centres on 0, and its standard error under chance.

    Two classes: AUC - 1/2, standard error √((n₀ + n₁ + 1)/(12 n₀ n₁)) (Mann-Whitney). More: the mean over classes of
    both, which is no less than the true error of the mean. Regression: Pearson's r of prediction and target, standard
    error 1/√(n - 1); R² will not do, since it falls below 0 for any model that has learned noise.

    Returns:
        ``statistic`` and ``error``; for classes also ``accuracy_gain``, the accuracy less the share of the commonest
        class, and its ``accuracy_error``.
    """
    if task == "regression":
        constant = np.ptp(prediction) <= 1e-12 * max(1.0, float(np.abs(prediction).max()))
        r = 0.0 if constant else float(np.corrcoef(y, prediction)[0, 1])
        return {"statistic": r, "error": 1 / math.sqrt(len(y) - 1)}
    counts = np.bincount(y, minlength=prediction.shape[1])
    errors = [math.sqrt((len(y) + 1) / (12 * n * (len(y) - n))) for n in counts]
    most = counts.max() / len(y)
    return {
        "statistic": auc(y, prediction) - 0.5,
        "error": float(np.mean(errors)),
        "accuracy_gain": float((prediction.argmax(axis=1) == y).mean() - most),
        "accuracy_error": math.sqrt(most * (1 - most) / len(y)),
    }
