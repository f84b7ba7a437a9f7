"""One number that makes probabilities honest: logits divided by a temperature (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LIMITS = (0.2, 5.0)
"""Between which the temperature lies, so that few held-out rows cannot make answers certain or void."""


def fit_temperature(logits: NDArray[np.float64], y: NDArray[Any], weight: NDArray[np.float64]) -> float:
    """The temperature T with the least weighted log-loss of ``logits / T`` on held-out rows.

    Args:
        logits: ``(rows, 1)`` of the second of two classes, or ``(rows, classes)``.
        y: Class indices, ``(rows,)`` or ``(rows, 1)``.
        weight: ``(rows,)``.
    """
    if logits.shape[1] == 1:
        logits = np.column_stack([np.zeros(len(logits)), logits[:, 0]])
    rows, label = np.arange(len(logits)), np.asarray(y).reshape(-1).astype(int)

    def loss(log_temperature: float) -> float:
        return float(-(weight * log_softmax(logits / np.exp(log_temperature), axis=1)[rows, label]).sum())

    found = minimize_scalar(loss, bounds=tuple(np.log(LIMITS)), method="bounded")
    return float(np.exp(found.x))
