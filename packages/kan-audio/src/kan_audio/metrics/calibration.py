"""Turning scores into log-likelihood ratios, and these into probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from kan_audio.metrics.tally import Costs, Floats, check_prior, check_scores, check_trials
from kan_core.errors import KANError

LEAST_SCALE = 1e-6
"""The smallest scale per standard deviation of the scores: the order of the trials is kept whatever the data says."""


@dataclass(frozen=True)
class Calibration:
    """An increasing affine map of scores to natural-log likelihood ratios (bona fide over spoof).

    Attributes:
        scale: Positive.
        offset: Nats.

    Raises:
        KANError: When the scale is not positive or a number is not finite.
    """

    scale: float
    offset: float

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and math.isfinite(self.offset)):
            raise KANError(f"a calibration needs a positive scale and a finite offset, got {self}")

    def llr(self, scores: ArrayLike | Tensor) -> Floats:
        """``scale * score + offset`` of ``(trials,)`` finite scores."""
        return self.scale * check_scores(scores) + self.offset

    def probability(self, scores: ArrayLike | Tensor, spoof_prior: float = Costs().spoof_prior) -> Floats:
        """Probability that each trial is bona fide.

        Args:
            scores: ``(trials,)``.
            spoof_prior: Probability of a spoof before the trial was heard; state it beside the result.
        """
        check_prior(spoof_prior)
        return np.asarray(expit(self.llr(scores) + _log_odds(spoof_prior)))


def fit_calibration(
    scores: ArrayLike | Tensor, labels: ArrayLike | Tensor, spoof_prior: float = Costs().spoof_prior
) -> Calibration:
    """Affine calibration by prior-weighted logistic regression (Brummer and du Preez 2006; Platt's targets).

    Minimises (1 - pi) mean_bonafide ln(1 + e^-(llr + tau)) + pi mean_spoof ln(1 + e^(llr + tau)) over
    llr = scale * s + offset with tau = ln((1 - pi) / pi), so the share of spoofs in the fitted set does not matter.

    Separable and tiny sets: as in the rule of succession, each class is taken to behave like the other in one out of
    n + 2 trials. The optimum is then finite (two separated clusters of n trials each come to +-ln(n + 1)), and the
    influence vanishes as 1/n. The scale is kept positive: scores that are on the wrong side or all alike get next
    to none, and log-likelihood ratios near 0. This is not the place where flipped scores are found; an equal error
    rate above 50 % is.

    Args:
        scores: ``(trials,)`` of a set that is not the one evaluated.
        labels: ``(trials,)`` 1 = bona fide, 0 = spoof.
        spoof_prior: The operating point that matters most, pi.

    Raises:
        KANError: As `Tally.of`, or when the spread of the scores overflows or underflows.
    """
    check_prior(spoof_prior)
    array, bonafide = check_trials(scores, labels)
    centre = float(np.median(array))
    if (array == centre).all():
        return Calibration(LEAST_SCALE, -LEAST_SCALE * centre)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(np.std(array))
    if not 0 < spread < math.inf:
        raise KANError(
            f"scores reach {np.abs(array).max():.3g}, too large or too close to calibrate: rescale them first"
        )
    standard = (array - centre) / spread
    as_bonafide, as_spoof = _softened_weights(bonafide, spoof_prior)
    tau = _log_odds(spoof_prior)

    def objective(parameters: Floats) -> tuple[float, Floats]:
        logit = parameters[0] * standard + parameters[1] + tau
        loss = np.dot(as_bonafide, np.logaddexp(0, -logit)) + np.dot(as_spoof, np.logaddexp(0, logit))
        slope = as_spoof * expit(logit) - as_bonafide * expit(-logit)
        return float(loss), np.array([np.dot(slope, standard), slope.sum()])

    found = minimize(
        objective,
        x0=np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(LEAST_SCALE, None), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
    )
    scale, offset = (float(value) for value in found.x)
    return Calibration(scale / spread, offset - scale * centre / spread)


def llr_from_logits(
    logits: ArrayLike | Tensor,
    class_weights: Sequence[float] = (1.0, 1.0),
    class_counts: Sequence[int] = (1, 1),
) -> Floats:
    """Log-likelihood ratios of a network that was trained with weighted cross-entropy on an unbalanced set.

    (z_bonafide - z_spoof) - ln(w_bonafide n_bonafide / (w_spoof n_spoof)).

    Args:
        logits: ``(trials, 2)`` in the order spoof, bona fide.
        class_weights: Of the loss, in that order.
        class_counts: Trials of each class that it was trained on, in that order; where a sampler balanced the
            classes, leave the default.

    Raises:
        KANError: For other shapes, logits that are not finite, or weights and counts that are not positive.
    """
    array = logits.detach().cpu().double().numpy() if isinstance(logits, Tensor) else np.asarray(logits, np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise KANError(f"logits must be (trials, 2) in the order spoof, bona fide, got shape {array.shape}")
    for name, pair in (("class_weights", class_weights), ("class_counts", class_counts)):
        if len(pair) != 2 or not all(0 < value < math.inf for value in pair):
            raise KANError(f"{name} must be two positive numbers in the order spoof, bona fide, got {tuple(pair)}")
    (w_spoof, w_bonafide), (n_spoof, n_bonafide) = class_weights, class_counts
    shift = math.log(w_bonafide * n_bonafide) - math.log(w_spoof * n_spoof)
    return check_scores(array[:, 1] - array[:, 0] - shift)


def _softened_weights(bonafide: np.ndarray, spoof_prior: float) -> tuple[Floats, Floats]:
    """Weight of every trial as a bona fide and as a spoof one."""
    n_bonafide, n_spoof = int(bonafide.sum()), int((~bonafide).sum())
    mean = np.where(bonafide, 1 / n_bonafide, 1 / n_spoof)
    odd_bonafide, odd_spoof = 1 / (n_bonafide + 2), 1 / (n_spoof + 2)
    as_bonafide = (1 - spoof_prior) * mean * np.where(bonafide, 1 - odd_bonafide, odd_bonafide)
    as_spoof = spoof_prior * mean * np.where(bonafide, odd_spoof, 1 - odd_spoof)
    return as_bonafide, as_spoof


def _log_odds(spoof_prior: float) -> float:
    return math.log((1 - spoof_prior) / spoof_prior)
