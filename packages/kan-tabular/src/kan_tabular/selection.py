"""Selection of columns by what KANs, trained on parts of the training rows, make of them."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from kan_core.errors import KANError
from kan_tabular.data.tables import infer_task
from kan_tabular.encoding import as_frame
from kan_tabular.estimators import KANClassifier, KANRegressor
from kan_tabular.scores import SCORES, column_scores, normalised

Floats = NDArray[np.float64]
Rule = float | Literal["mean", "shadow"]


class KANSelector(SelectorMixin, BaseEstimator):
    r"""Keep the columns of a table that KANs rely on most.

    The training rows are divided into `folds` parts (each with its share of every class). For each part a KAN is
    trained on the other parts, and its columns are scored on the part that it has not seen; scores are means over the
    parts. Averages over resampled trainings are far more reproducible than the scores of one, and the loss that
    ``"knockout"`` measures is that of unseen rows. Only rows given to `fit` are used, so in a `Pipeline` under
    cross-validation nothing leaks.

    One class with `score`, not one class per score: all scores share every other argument and are interchangeable in a
    grid search over `score`.

    Args:
        score: One of `kan_tabular.scores.SCORES`, see `column_scores`.
        n_features: How many columns to keep: a whole number; a fraction p in (0, 1) of the d columns,
            max(1, ⌈p·d⌉); ``"mean"``: those that score the mean or more; ``"shadow"``: those that score more than the
            best of d copies of columns in shuffled row order, which know nothing of the target (as in Boruta; trains
            on 2d columns). Ties are broken by column order.
        estimator: A `KANClassifier` or `KANRegressor`, which also says how the target is meant. None: one of these with
            settings for selection, by `kan_tabular.data.tables.infer_task`: a classifier for two values, text, or few
            distinct whole numbers, else a regressor.
        folds: Parts of the rows; 1 trains once and scores on the rows that it trained on.
        random_state: Of the parts, the shuffled copies and the trainings.

    Attributes:
        scores_: ``(columns,)``: `normalised` scores, which sum to 1.
        raw_scores_: ``(folds, columns)``: what the scores are means of.
        ranking_: ``(columns,)``: 1 for the best column.
        support_: ``(columns,)``: mask of those that are kept.
        threshold_: The mean best score of shuffled copies, in units of `raw_scores_`; None but for ``"shadow"``.
        estimators_: The trained estimators, one per fold.
        n_features_in_: Columns seen in `fit`.
        feature_names_in_: Their names, when all are text.

    Example:
        >>> KANSelector(score="knockout", n_features=0.4).set_output(transform="pandas")

    Reference: after arXiv 2509.23366, whose published pipeline selects on all rows before it cross-validates.
    """

    support_: NDArray[np.bool_]

    def __init__(
        self,
        *,
        score: str = "sensitivity",
        n_features: Rule = "mean",
        estimator: BaseEstimator | None = None,
        folds: int = 5,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.score = score
        self.n_features = n_features
        self.estimator = estimator
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> KANSelector:  # noqa: N803
        """Score the columns of `X` for predicting `y`.

        Args:
            X: The table: data frame or array, ``(rows, columns)``.
            y: The target: ``(rows,)``, or ``(rows, targets)`` for regression.

        Raises:
            KANError: For an unknown score or rule, more columns to keep than there are, or what the estimator refuses.
        """
        self._check_arguments()
        ...
        return self
