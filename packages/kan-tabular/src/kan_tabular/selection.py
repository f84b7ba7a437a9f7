"""Selection of columns by what KANs, trained on parts of the training rows, make of the other rows."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from kan_core.errors import KANError
from kan_tabular.data.tables import infer_task
from kan_tabular.encoding import TableEncoder, as_frame
from kan_tabular.estimators import KANClassifier, KANRegressor, _checked_table
from kan_tabular.scores import SCORES, column_scores, normalised
from kan_tabular.tasks.tabular import row_losses

Floats = NDArray[np.float64]

ALPHAS = (1.0, 4.0, 16.0, 64.0)
"""Strengths of the prior among which a selector without an estimator of its own chooses."""

_MOST_ROWS = 10_000  # held-out rows of a fold that are scored, at most


class KANSelector(SelectorMixin, BaseEstimator):
    r"""Keep the columns of a table that KANs rely on most.

    The rows are divided into `folds` parts, each with its share of every class. For each part a KAN is trained on the
    other parts, and its columns are scored on the part that it has not seen; the scores are means over the parts. That
    is more reproducible than the scores of one training, and ``"knockout"`` measures the loss on unseen rows. Only rows
    given to `fit` are used: in a `Pipeline` under cross-validation nothing leaks.

    There is one class with `criterion`, not one class per score: everything else is shared, and a grid search can try
    them. (The argument is not called score, which scikit-learn takes for a method.)

    Args:
        criterion: One of `kan_tabular.scores.SCORES`; see `column_scores`.
        n_features: What to keep: a whole number of columns; a fraction p in (0, 1) of the d columns, max(1, ⌈p·d⌉);
            ``"mean"``: the columns that score the mean or more; ``"shadow"``: those that score more than the best of d
            copies of the columns in shuffled row order, which know nothing of the target (as in Boruta; trains on 2d
            columns). Ties are broken by column order.
        estimator: A `KANClassifier` or `KANRegressor`, which is cloned. None: one of them by
            `kan_tabular.data.tables.infer_task` (a classifier for two values, text, or few distinct whole numbers, else
            a regressor), with the strongest prior of `ALPHAS` whose held-out loss is within one standard error of the
            least (the rule of Breiman et al. 1984): columns are then kept for what is certain about them.
        folds: Parts of the rows, at least 2.
        random_state: Of the parts, of the trainings and of the shuffled copies.

    Attributes:
        scores_: ``(columns,)``: `normalised` scores, which sum to 1.
        raw_scores_: ``(folds, columns)``: what they are means of.
        ranking_: ``(columns,)``: 1 for the best column.
        support_: ``(columns,)``: which columns are kept.
        threshold_: With ``"shadow"``: the best score of a shuffled copy, mean over the folds; else None.
        estimators_: The trained estimators, one per fold.
        n_features_in_: Columns seen in `fit`.
        feature_names_in_: Their names, when all are text.

    Example:
        >>> selector = KANSelector(criterion="knockout", n_features=0.4).set_output(transform="pandas")

    Reference: scores of arXiv 2509.23366 and 2408.10205, see `kan_tabular.scores`. The pipeline published with the
    first selects on all rows and cross-validates afterwards; this one does not.
    """

    def __init__(
        self,
        *,
        criterion: str = "attribution",
        n_features: float | Literal["mean", "shadow"] = "mean",
        estimator: BaseEstimator | None = None,
        folds: int = 5,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.criterion = criterion
        self.n_features = n_features
        self.estimator = estimator
        self.folds = folds
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags

    def fit(self, X: Any, y: Any) -> KANSelector:
        """Score the columns and choose.

        Args:
            X: A data frame, or an array of shape ``(rows, columns)``.
            y: Labels ``(rows,)``, or numbers ``(rows,)`` or ``(rows, targets)``.

        Raises:
            ValueError: For tables or targets that cannot be used, or a parameter out of its range.
        """
        if y is None:
            raise KANError("requires y to be passed, but the target y is None")
        X = _checked_table(self, X, reset=True, least_rows=2)
        y = y if isinstance(y, pd.Series | pd.DataFrame) else np.asarray(y)
        check_consistent_length(X, y)
        self._check_parameters()
        random = check_random_state(self.random_state)
        shadow = self.n_features == "shadow"
        trained = train_folds(self.estimator, X, y, folds=self.folds, random_state=random, shadow=shadow)
        raw = trained.scores(self.criterion)
        columns = self.n_features_in_
        self.estimators_ = trained.estimators
        self.raw_scores_ = raw[:, :columns]
        self.threshold_ = float(raw[:, columns:].max(axis=1).mean()) if shadow else None
        self.scores_ = normalised(self.raw_scores_.mean(axis=0))
        self.ranking_ = ranking(self.scores_)
        self.support_ = self._choose()
        return self

    def transform(self, X: Any) -> Any:
        """The columns that are kept, of a data frame as a data frame, of an array as an array.

        Raises:
            ValueError: When the columns are not those of `fit`.
        """
        check_is_fitted(self)
        return self._transform(_checked_table(self, X, reset=False))

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        return self.support_

    def _choose(self) -> NDArray[np.bool_]:
        if self.threshold_ is not None:
            return np.asarray(self.raw_scores_.mean(axis=0) > self.threshold_)
        if self.n_features == "mean":
            return np.asarray((self.scores_ > 0) & (self.scores_ >= self.scores_.mean()))
        return np.asarray(self.ranking_ <= number_to_keep(self.n_features, len(self.scores_)))

    def _check_parameters(self) -> None:
        folds: Any = self.folds
        if self.criterion not in SCORES:
            raise KANError(f"criterion must be one of {', '.join(SCORES)}, got {self.criterion!r}")
        if self.n_features not in ("mean", "shadow"):
            number_to_keep(self.n_features, self.n_features_in_)
        if not isinstance(folds, numbers.Integral) or int(folds) < 2:
            raise KANError(f"folds must be a whole number of at least 2, got {folds!r}")
        if not (self.estimator is None or isinstance(self.estimator, KANClassifier | KANRegressor)):
            raise KANError(f"estimator must be a KANClassifier or KANRegressor, got {type(self.estimator).__name__}")


def number_to_keep(n_features: Any, columns: int) -> int:
    """How many columns ``n_features`` asks for: a count, or max(1, ⌈p·d⌉) of a fraction p.

    Raises:
        KANError: When it is neither, or more than there are.
    """
    value = float(n_features) if isinstance(n_features, int | float | np.number) else math.nan
    if isinstance(n_features, int | np.integer) and not isinstance(n_features, bool) and 1 <= value <= columns:
        return int(n_features)
    if 0 < value < 1:
        return max(1, math.ceil(value * columns - 1e-9))  # 0.1 · 30 is a little above 3
    raise KANError(
        f"n_features must be 'mean', 'shadow', a whole number from 1 to {columns} (the columns), or a fraction between "
        f"0 and 1, got {n_features!r}"
    )


def ranking(scores: Floats) -> NDArray[np.intp]:
    """Ranks ``(columns,)``, 1 for the highest score; of equal ones the earlier column is better."""
    ranks = np.empty(len(scores), dtype=np.intp)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


# Training on folds ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TrainedFolds:
    """Estimators, each with rows that it has not seen.

    Attributes:
        estimators: Fitted, one per fold.
        rows: Encoded held-out rows of each, ``(rows, columns)``.
        targets: Their targets, as the network's outputs are.
    """

    estimators: list[Any]
    rows: list[Floats]
    targets: list[NDArray[Any]]

    def scores(self, score: str) -> Floats:
        """Raw scores on the held-out rows, ``(folds, columns)``."""
        parts = zip(self.estimators, self.rows, self.targets, strict=True)
        return np.array([column_scores(e.module_, x, score=score, y=y, task=e.task_) for e, x, y in parts])

    def losses(self) -> Floats:
        """Losses of all held-out rows."""
        return np.concatenate([_losses(*part) for part in zip(self.estimators, self.rows, self.targets, strict=True)])


def train_folds(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    folds: int,
    random_state: Any = None,
    shadow: bool = False,
) -> TrainedFolds:
    """Train an estimator on all folds but one, for each; see `KANSelector`.

    Args:
        estimator: A `KANClassifier` or `KANRegressor`, or None to choose its kind and prior.
        X: A data frame or an array.
        y: The target.
        folds: Their number; the number of rows, where that is less.
        random_state: Of the folds, the trainings and the shuffled copies.
        shadow: Train on twice the columns, the second half shuffled.
    """
    random = check_random_state(random_state)
    own = _own_estimator(y) if estimator is None else estimator
    parts = _folds(y if is_classifier(own) else None, len(X), folds, random)
    seeds = random.randint(2**31 - 1, size=(len(parts), 2))
    tables = [_with_shadows(X, np.random.RandomState(seed)) if shadow else X for seed in seeds[:, 1]]
    if shadow:
        mask = [column.kind == "categorical" for column in TableEncoder(own.categorical_features).fit(X).columns]
        own = clone(own).set_params(categorical_features=mask * 2)

    def train(**changes: Any) -> TrainedFolds:
        return _train(clone(own).set_params(**changes), tables, y, parts, seeds[:, 0])

    return _strongest_prior(train) if estimator is None else train()


def _own_estimator(y: Any) -> Any:
    values = np.asarray(y)
    one = values.ndim == 1 or values.shape[1] == 1
    task = infer_task(pd.Series(values.ravel()) if one else pd.DataFrame(values))
    return KANRegressor() if task == "regression" else KANClassifier()


def _folds(labels: Any, rows: int, folds: int, random: np.random.RandomState) -> list[NDArray[np.intp]]:
    """Held-out rows of each fold; each class is dealt out in turn, one with a single row is never held out."""
    order = random.permutation(rows)
    if labels is None:
        return np.array_split(order, min(folds, rows))
    codes = pd.factorize(np.asarray(labels).ravel())[0][order]
    order = order[np.argsort(codes, kind="stable")]
    codes = np.sort(codes)
    alone = np.bincount(codes - codes.min())[codes - codes.min()] == 1
    dealt = order[~alone]
    parts = [dealt[k :: min(folds, rows)] for k in range(min(folds, rows))]
    return [part for part in parts if len(part)]


def _with_shadows(X: Any, random: np.random.RandomState) -> pd.DataFrame:
    """The columns, and a copy of each with its rows in another order."""
    frame = as_frame(X)
    shadows = {}
    for name in frame.columns:
        other = f"shadow of {name}"
        while other in frame.columns:
            other += "'"
        shadows[other] = frame[name].array[random.permutation(len(frame))]
    return pd.concat([frame, pd.DataFrame(shadows, index=frame.index)], axis=1)


def _train(
    estimator: Any, tables: list[Any], y: Any, parts: list[NDArray[np.intp]], seeds: NDArray[Any]
) -> TrainedFolds:
    estimators, rows, targets = [], [], []
    for table, held, seed in zip(tables, parts, seeds, strict=True):
        kept = np.setdiff1d(np.arange(len(table)), held)
        fitted = clone(estimator).set_params(random_state=int(seed))
        fitted.fit(_safe_indexing(table, kept), _safe_indexing(y, kept))
        held = held[:_MOST_ROWS]
        estimators.append(fitted)
        rows.append(fitted.encoder_.transform(_safe_indexing(table, held)))
        targets.append(_network_targets(fitted, _safe_indexing(y, held)))
    return TrainedFolds(estimators, rows, targets)


def _network_targets(estimator: Any, y: Any) -> NDArray[Any]:
    """Class indices, or standardised targets."""
    if is_classifier(estimator):
        return np.asarray(pd.Index(estimator.classes_).get_indexer(np.asarray(y).ravel()))
    values = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
    return np.asarray((values - estimator.target_center_) / estimator.target_scale_)


def _losses(estimator: Any, x: Floats, y: NDArray[Any]) -> Floats:
    with torch.no_grad():
        outputs = estimator.module_(torch.from_numpy(x))
    target = torch.from_numpy(y)
    if estimator.task_ == "binary":
        target = target.double()[:, None]
    return np.asarray(row_losses(estimator.task_, outputs, target).numpy())


def _strongest_prior(train: Callable[..., TrainedFolds]) -> TrainedFolds:
    """The strongest prior within one standard error of the least loss; none is tried after the first that is not."""
    trained: list[tuple[float, TrainedFolds]] = []
    best = limit = math.inf
    for alpha in ALPHAS:
        candidate = train(alpha=alpha)
        losses = candidate.losses()
        loss = float(losses.mean())
        trained.append((loss, candidate))
        if loss < best:
            best, limit = loss, loss + float(losses.std()) / math.sqrt(len(losses))
        if loss > limit:
            break
    return next(candidate for loss, candidate in reversed(trained) if loss <= limit)
