"""Search for stiff alloys: a classifier says which are high-entropy alloys, a regressor how stiff these are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import f1_score, r2_score, root_mean_squared_error
from sklearn.utils.validation import check_is_fitted

from kan_core.errors import KANError

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


class Gated(NamedTuple):
    """The regression error on some rows.

    Attributes:
        rows: How many rows have a prediction and a known target.
        rmse: NaN without rows.
        r2: NaN below two rows.
    """

    rows: int
    rmse: float
    r2: float


class CascadeReport(NamedTuple):
    """How well both stages do on rows with known answers.

    Attributes:
        accepted: Rows whose probability reaches the threshold.
        f1: Of the class "accepted", at the threshold; 0 when nothing is accepted or nothing should be.
        rule_f1: The same of a rule instead of the classifier; NaN without a rule.
        oracle: The regressor on the rows that truly are accepted: the error when the first stage makes no mistake.
        model: The regressor on the rows that the classifier accepts: what a user sees. It has no say about alloys that
            were wrongly rejected, so read it beside f1.
        top_k: How many rows were ranked first by probability times prediction.
        top_k_true: How many of these truly are high-entropy alloys.
    """

    accepted: int
    f1: float
    rule_f1: float
    oracle: Gated
    model: Gated
    top_k: int
    top_k_true: int


class AlloyCascade(BaseEstimator):
    """A classifier on all rows, and a regressor on the true high-entropy alloys (HEA) of the training rows.

    The regressor estimates E[target | HEA]. Where the probability of HEA is below the threshold, the prediction is NaN.
    Third example of Bandyopadhyay, Avlani and Zhuang 2024 (arXiv 2410.08452); threshold and estimators are not stated
    there.

    Args:
        classifier: Any scikit-learn classifier with ``predict_proba``, such as `KANClassifier`. It is cloned.
        regressor: Any regressor, such as `KANRegressor`. It is cloned.
        threshold: Least probability of an accepted alloy. 0 accepts all, more than 1 none.

    Attributes:
        classifier_: Fitted on all rows.
        regressor_: Fitted on the HEA rows.
        low_: Least training value of every numeric column (of all rows), by name.
        high_: The greatest.
    """

    def __init__(self, classifier: Any, regressor: Any, *, threshold: float = 0.5) -> None:
        self.classifier = classifier
        self.regressor = regressor
        self.threshold = threshold

    def fit(self, X: Any, y: ArrayLike, hea: ArrayLike) -> AlloyCascade:
        """Fit both stages.

        Args:
            X: ``(rows, columns)``.
            y: ``(rows,)`` targets; looked at in HEA rows only, so it may be missing in others.
            hea: ``(rows,)`` booleans: which rows are high-entropy alloys.

        Raises:
            KANError: When all rows or none are HEA, or the target is missing in one.
        """
        accept = _booleans(hea, len(X))
        target = np.asarray(y, dtype=np.float64)
        if accept.all() or not accept.any():
            raise KANError(f"hea: {accept.sum()} of {len(accept)} rows are HEA: a cascade needs both kinds")
        if np.isnan(target[accept]).any():
            raise KANError(f"y: the target is missing in {np.isnan(target[accept]).sum()} HEA rows: leave these out")
        numbers = pd.DataFrame(X).select_dtypes("number")
        self.low_, self.high_ = numbers.min(), numbers.max()
        self.classifier_ = clone(self.classifier).fit(X, accept)
        self.regressor_ = clone(self.regressor).fit(_rows(X, accept), target[accept])
        return self

    def predict_hea(self, X: Any) -> Floats:
        """Probability of every row to be a high-entropy alloy, ``(rows,)``."""
        check_is_fitted(self)
        column = list(self.classifier_.classes_).index(True)
        return np.asarray(self.classifier_.predict_proba(X)[:, column], dtype=np.float64)

    def predict(self, X: Any) -> Floats:
        """E[target | HEA] where the probability reaches the threshold, else NaN, ``(rows,)``."""
        accepted = self.predict_hea(X) >= self.threshold
        return np.where(accepted, np.asarray(self.regressor_.predict(X), dtype=np.float64), np.nan)

    def rank(self, X: Any) -> NDArray[np.int64]:
        """Positions of all rows by probability times prediction, the best first; the threshold plays no part."""
        return np.argsort(-self.predict_hea(X) * np.asarray(self.regressor_.predict(X)), kind="stable")

    def out_of_grid(self, X: Any) -> Floats:
        """Share of numeric columns outside the range of the training rows, ``(rows,)``.

        Where it is more than 0 both stages extrapolate. Missing values are not outside.
        """
        check_is_fitted(self)
        return out_of_range(X, self.low_, self.high_)

    def report(
        self,
        X: Any,
        y: ArrayLike,
        hea: ArrayLike,
        *,
        top_k: int = 10,
        rule: ArrayLike | None = None,
    ) -> CascadeReport:
        """Judge both stages, together and apart.

        Args:
            X: Rows that were not fitted on.
            y: Their targets; rows where it is missing count for the classifier only.
            hea: Which truly are high-entropy alloys.
            top_k: How many of the best ranked to look at.
            rule: ``(rows,)`` booleans of a rule, such as `is_hea_by_rule`: where it does as well as the classifier, the
                class is a definition and no law was learned.
        """
        truth, target = _booleans(hea, len(X)), np.asarray(y, dtype=np.float64)
        accepted = self.predict_hea(X) >= self.threshold
        predicted = np.asarray(self.regressor_.predict(X), dtype=np.float64)
        best = self.rank(X)[:top_k]
        return CascadeReport(
            int(accepted.sum()),
            _f1(truth, accepted),
            np.nan if rule is None else _f1(truth, _booleans(rule, len(X))),
            _gated(target, predicted, truth),
            _gated(target, predicted, accepted),
            len(best),
            int(truth[best].sum()),
        )


def is_hea_by_rule(fractions: ArrayLike) -> Booleans:
    """The definition of a high-entropy alloy: at least five elements with 5 to 35 at.% each (Yeh et al. 2004).

    Args:
        fractions: ``(rows, elements)`` that sum to 1.
    """
    c = np.asarray(fractions, dtype=np.float64)
    return np.asarray(((c >= 0.05) & (c <= 0.35)).sum(axis=1) >= 5)


def out_of_range(X: Any, low: pd.Series, high: pd.Series) -> Floats:
    """Share of columns whose value is below `low` or above `high`, ``(rows,)``.

    Args:
        X: Rows, with the columns of `low`.
        low: Least value by column.
        high: Greatest value by column.
    """
    values = pd.DataFrame(X)[list(low.index)].to_numpy(dtype=np.float64, na_value=np.nan)
    outside = (values < low.to_numpy(dtype=np.float64)) | (values > high.to_numpy(dtype=np.float64))
    return np.asarray(outside.mean(axis=1))


def _f1(truth: Booleans, accepted: Booleans) -> float:
    return float(f1_score(truth, accepted, zero_division=0.0))


def _gated(target: Floats, predicted: Floats, chosen: Booleans) -> Gated:
    rows = chosen & ~np.isnan(target)
    count = int(rows.sum())
    if not count:
        return Gated(0, np.nan, np.nan)
    rmse = float(root_mean_squared_error(target[rows], predicted[rows]))
    return Gated(count, rmse, float(r2_score(target[rows], predicted[rows])) if count > 1 else np.nan)


def _booleans(values: ArrayLike, rows: int) -> Booleans:
    array = np.asarray(values)
    if array.shape != (rows,) or array.dtype != np.bool_:
        raise KANError(f"hea and rule are booleans of shape ({rows},), got {array.dtype} of shape {array.shape}")
    return array


def _rows(X: Any, chosen: Booleans) -> Any:
    return X.loc[chosen] if isinstance(X, pd.DataFrame) else np.asarray(X)[chosen]
