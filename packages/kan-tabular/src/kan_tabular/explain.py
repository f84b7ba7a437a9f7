"""What a fitted estimator has learned, as tables: curves, interactions, importances; and where data leave training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from kan_core.errors import KANError
from kan_tabular.encoding import Column, TableEncoder, as_frame, numeric_values
from kan_tabular.estimators import KANClassifier, KANRegressor
from kan_tabular.models.column_layer import FIRST, MISSING, UNKNOWN

Floats = NDArray[np.float64]

_BATCH = 4096  # rows that go through a network at once


@dataclass(frozen=True)
class Scores:
    """A fitted network as a function of encoded rows, in the units of its answers.

    Attributes:
        net: ``(rows, columns) -> (rows, K)``.
        encoder: Of the columns.
        outputs: K labels: the positive class of two, every class of more, or the numbers of a regressor's targets.
        scale: Factor on each output of the network: 1/temperature, or the standard deviation of a target; ``(K,)``.
        center: Added to each: 0, or the mean of a target; ``(K,)``.
        additive: Whether the scores are a constant and one function per column.
        means: Of an additive network: each column's mean contribution over the training rows, ``(columns, K)``.
    """

    net: torch.nn.Module
    encoder: TableEncoder
    outputs: list[Any]
    scale: Floats
    center: Floats
    additive: bool = False
    means: Floats | None = None

    def __call__(self, z: Floats) -> Floats:
        """Scores of encoded rows: ``(rows, columns) -> (rows, K)``."""
        return self._batches(self.net, z) * self.scale + self.center

    def contributions(self, z: Floats) -> Floats:
        """Of an additive network: ``(rows, columns, K)``, each column centred on the training rows."""
        assert self.means is not None
        return self._batches(column_layer(self.net).contributions, z) * self.scale - self.means

    @property
    def intercept(self) -> Floats:
        """Of an additive network: what the centred contributions are added to, ``(K,)``."""
        assert self.means is not None
        bias = column_layer(self.net).bias
        constant = np.zeros(len(self.outputs)) if bias is None else bias.detach().double().cpu().numpy()
        return np.asarray(constant * self.scale + self.center + self.means.sum(axis=0))

    def _batches(self, function: Callable[[torch.Tensor], torch.Tensor], z: Floats) -> Floats:
        like = next(self.net.parameters())
        with torch.no_grad():
            parts = [
                function(torch.as_tensor(part).to(like)).double().cpu().numpy()
                for part in np.array_split(z, max(1, -(-len(z) // _BATCH)))
            ]
        return np.concatenate(parts)


def scores_of(est: Any) -> Scores:
    """The network of a fitted estimator with the units of its answers; what is that already passes through.

    Raises:
        KANError: For another object than a `KANClassifier` or `KANRegressor`.
        NotFittedError: Before ``fit``.
    """
    if isinstance(est, Scores):
        return est
    if not isinstance(est, KANClassifier | KANRegressor):
        raise KANError(f"expected a fitted KANClassifier or KANRegressor, got {type(est).__name__}")
    check_is_fitted(est)
    if isinstance(est, KANRegressor):
        outputs: list[Any] = list(range(len(est.target_center_)))
    else:
        outputs = est.classes_.tolist()[1:] if est.task_ == "binary" else est.classes_.tolist()
    scale, center = (np.broadcast_to(v, len(outputs)).copy() for v in (est._output_scale, est._output_center))
    means = est.term_means_ * scale if est._is_additive else None
    return Scores(est.module_, est.encoder_, outputs, scale, center, means is not None, means)


def _encoded(est: Any, X: Any) -> Floats:
    """Rows as the network sees them, with the checks of the estimator's ``predict``; those for `Scores` are already."""
    if isinstance(est, Scores):
        return np.asarray(X, dtype=np.float64)
    return np.asarray(est._encode(X).numpy())


def column_layer(net: torch.nn.Module) -> Any:
    """The one layer of an additive network."""
    (layer,) = net.column_layers()  # type: ignore[operator]
    return layer


def feature_curves(
    est: Any,
    X: Any = None,
    *,
    features: Sequence[Any] | None = None,
    points: int = 64,
    max_rows: int = 200,
) -> pd.DataFrame:
    r"""How the score depends on every column, in original units.

    Of an additive model (``hidden=()``) these are its parts themselves (`kind` is ``"exact"``): φ_j(x) with mean 0 over
    the training rows; their sum and ``est.intercept_`` is the decision function or the prediction. Of any other model
    it is the partial dependence PD_j(x) = mean_i f(x, x_{i,-j}) over the rows i of `X`, minus its mean over their own
    values x_ij (`kind` is ``"partial dependence"``; scikit-learn's ``partial_dependence(method="brute")``, centred).

    Args:
        est: A fitted `KANClassifier` or `KANRegressor`; or `Scores`, and then the rows of `X` are encoded ones.
        X: Rows to average over, and to take shares from; an additive model needs none.
        features: Names or positions of the columns to show; None for all.
        points: Values of a numeric column: even steps of its scaled value over the training range, and both its ends.
        max_rows: Average over at most so many rows, taken evenly from `X`.

    Returns:
        One row for each column, place and output: ``feature``; ``part``: ``"value"`` of a numeric column,
        ``"category"``, ``"missing"`` or ``"unknown"`` (a category that training never saw); ``x``: the number, the
        category or None; ``output``: the positive class of two, a class, or a target's number; ``contribution``: to the
        decision function or to the prediction, in its units; ``share``: of the rows of `X` with this category (or
        missing, or unknown), for a number of those that are not above it; NaN without `X`; ``kind``.

    Raises:
        KANError: When a model that is not additive gets no `X`, or a column is unknown.

    Reference: partial dependence as in Friedman 2001, section 8.2.
    """
    model = scores_of(est)
    rows = None if X is None else _encoded(est, X)
    if rows is None and not model.additive:
        raise KANError("feature_curves needs X, the rows to average over: this model is not additive (hidden=() is)")
    tables = []
    for j in chosen_columns(model.encoder.columns, features):
        places, z = column_places(model.encoder, j, points)
        if model.additive:
            flat = np.zeros((len(z), len(model.encoder.columns)))
            flat[:, j] = z
            values = model.contributions(flat)[:, j]
        else:
            assert rows is not None
            values = _centred_dependence(model, _evenly(rows, max_rows), j, z)
        places["share"] = np.nan if rows is None else _shares(rows[:, j], z, places["part"].to_numpy())
        for k, output in enumerate(model.outputs):
            tables.append(places.assign(output=_repeat(output, len(z)), contribution=values[:, k]))
    table = pd.concat(tables, ignore_index=True)
    table["kind"] = "exact" if model.additive else "partial dependence"
    return table[["feature", "part", "x", "output", "contribution", "share", "kind"]]


def interactions(
    est: Any,
    X: Any,
    *,
    features: Sequence[Any] | None = None,
    max_features: int = 8,
    max_rows: int = 40,
) -> pd.DataFrame:
    r"""How much of what two columns do together is not the sum of what each does.

    H²_jk = Σ_i (PD_jk(x_ij, x_ik) - PD_j(x_ij) - PD_k(x_ik))² / Σ_i PD_jk(x_ij, x_ik)² with centred partial
    dependences over the rows of `X`: 0 when the two are additive (always, up to rounding, for ``hidden=()``), 1 when
    there is nothing but their interaction. A pair that does nearly nothing can have a large H²: `strength`, the root of
    the mean of the numerator's squares, in units of the score, says whether it matters.

    Args:
        est: A fitted `KANClassifier` or `KANRegressor`.
        X: Rows to average over.
        features: Names or positions of the columns; None for the `max_features` most important ones.
        max_features: See `features`.
        max_rows: Use at most so many rows, taken evenly from `X`: the cost is rows² per pair.

    Returns:
        One row for each pair and output, the strongest first: ``feature_1``, ``feature_2``, ``output``, ``h2``,
        ``strength``.

    Raises:
        KANError: When a column is unknown, or there are fewer than two columns or rows.

    Reference: Friedman and Popescu 2008, section 8.1.
    """
    model = scores_of(est)
    rows = _evenly(_encoded(est, X), max_rows)
    if features is None:
        order = np.argsort(-np.asarray(est.feature_importances_), kind="stable")
        indices = sorted(int(j) for j in order[:max_features])
    else:
        indices = chosen_columns(model.encoder.columns, features)
    if len(indices) < 2 or len(rows) < 2:
        raise KANError(f"interactions need two columns and two rows, got {len(indices)} and {len(rows)}")
    alone = {j: _centred_at_rows(model, rows, [j]) for j in indices}
    found = []
    for j, k in combinations(indices, 2):
        both = _centred_at_rows(model, rows, [j, k])
        excess = np.square(both - alone[j] - alone[k]).mean(axis=0)
        total = np.square(both).mean(axis=0)
        names = (model.encoder.columns[j].name, model.encoder.columns[k].name)
        for output, numerator, denominator in zip(model.outputs, excess, total, strict=True):
            h2 = numerator / denominator if denominator > 0 else 0.0
            found.append((*names, output, h2, np.sqrt(numerator)))
    table = pd.DataFrame(found, columns=["feature_1", "feature_2", "output", "h2", "strength"])
    return table.sort_values("strength", ascending=False, kind="stable", ignore_index=True)


def importances(est: Any, X: Any = None, *, max_rows: int = 1000, repeats: int = 3) -> pd.DataFrame:
    r"""How much the score depends on every original column, interactions included.

    With `X`: the total effect T_j = E[(f(x) - f(x with x_j of another row))²] / 2. Of an additive model it is the
    variance of φ_j(x_j). `importance` is √T_j as a share of the sum over the columns, `spread` is √T_j itself, in units
    of the score; both are means over the outputs. Without `X`: ``est.feature_importances_`` alone.

    Args:
        est: A fitted `KANClassifier` or `KANRegressor`.
        X: Rows to measure on; None for what training measured.
        max_rows: Use at most so many rows, taken evenly from `X`.
        repeats: Other rows per row.

    Returns:
        One row for each column, the most important first: ``feature``, ``importance``, ``spread`` (NaN without `X`).

    Reference: Jansen's estimator of total effects (Jansen 1999; Saltelli et al. 2010, table 2).
    """
    model = scores_of(est)
    names = [column.name for column in model.encoder.columns]
    if X is None:
        share = np.asarray(est.feature_importances_, dtype=np.float64)
        table = pd.DataFrame({"feature": names, "importance": share, "spread": np.nan})
    else:
        spread = np.sqrt(_total_effects(model, _evenly(_encoded(est, X), max_rows), repeats)).mean(axis=1)
        share = spread / spread.sum() if spread.sum() > 0 else np.full(len(spread), 1 / len(spread))
        table = pd.DataFrame({"feature": names, "importance": share, "spread": spread})
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def out_of_grid(est: Any, X: Any) -> pd.DataFrame:
    """How much of a table lies outside what training saw: there a model extrapolates.

    Args:
        est: A fitted `KANClassifier` or `KANRegressor`, or a fitted `TableEncoder`.
        X: Rows in original units.

    Returns:
        One row for each column: ``feature``; ``out_of_grid``: the share of its values outside the training range, or
        with a category that training never saw, among those that are there (0 when none is); ``missing``: the share of
        missing values; ``low`` and ``high``: the training range (NaN for categories).
    """
    encoder = est if isinstance(est, TableEncoder) else scores_of(est).encoder
    z = encoder.transform(X) if isinstance(est, TableEncoder) else _encoded(est, X)
    frame = as_frame(X)
    found = []
    for j, column in enumerate(encoder.columns):
        if column.kind == "categorical":
            missing, outside = z[:, j] == MISSING, z[:, j] == UNKNOWN
            low = high = np.nan
        else:
            values = numeric_values(frame.iloc[:, j])
            low, high = column.low, column.high
            missing, outside = np.isnan(values), (values < low) | (values > high)
        there = int((~missing).sum())
        found.append((column.name, outside.sum() / max(1, there), missing.mean(), low, high))
    return pd.DataFrame(found, columns=["feature", "out_of_grid", "missing", "low", "high"])


def chosen_columns(columns: Sequence[Column], features: Sequence[Any] | None) -> list[int]:
    """Positions of the columns that `features` names, by name or position; all for None.

    Raises:
        KANError: For a name or a position that there is not.
    """
    if features is None:
        return list(range(len(columns)))
    names = [column.name for column in columns]
    positions = []
    for feature in features:
        if str(feature) in names:
            positions.append(names.index(str(feature)))
        elif isinstance(feature, int | np.integer) and 0 <= feature < len(names):
            positions.append(int(feature))
        else:
            raise KANError(f"there is no column {feature!r}: choose among {', '.join(names[:10])}")
    return positions


def column_places(encoder: TableEncoder, j: int, points: int) -> tuple[pd.DataFrame, Floats]:
    """Where to look at column `j`: a frame of ``feature``, ``part``, ``x``, and the encoded values of its rows."""
    column = encoder.columns[j]
    if column.kind == "categorical":
        x: list[Any] = [*column.categories, None, None]
        part = ["category"] * len(column.categories) + ["missing", "unknown"]
        z = np.array([*range(FIRST, column.cardinality), MISSING, UNKNOWN], dtype=np.float64)
    else:
        inner = numeric_places(encoder, j, points)
        x = [*inner.tolist(), None]
        part = ["value"] * len(inner) + ["missing"]
        z = np.append(encoder.scaled(j, inner), np.nan)
    frame = pd.DataFrame({"feature": column.name, "part": part})
    frame.insert(2, "x", pd.Series(x, dtype=object))
    return frame, z


def numeric_places(encoder: TableEncoder, j: int, points: int) -> Floats:
    """Increasing values of numeric column `j`: even steps of its scaled value, ends at its training range."""
    column = encoder.columns[j]
    if column.scale == 0 or column.low == column.high:
        return np.array([column.center])
    low, high = encoder.scaled(j, [column.low, column.high])
    x = encoder.original(j, np.linspace(low, high, max(2, points)))
    x[0], x[-1] = column.low, column.high
    return np.unique(np.clip(x, column.low, column.high))


def _evenly(rows: Floats, most: int) -> Floats:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _repeat(value: Any, count: int) -> pd.Series:
    return pd.Series([value] * count, dtype=object)


def _shares(known: Floats, z: Floats, parts: NDArray[Any]) -> Floats:
    """Share of `known` with each code, missing, or not above each number."""
    there = np.sort(known[~np.isnan(known)])
    below = np.searchsorted(there, z, side="right") / max(1, len(there))
    equal = np.array([np.isnan(known).mean() if np.isnan(v) else (known == v).mean() for v in z])
    return np.where(parts == "value", below, equal)


def _dependence(model: Scores, rows: Floats, columns: list[int], values: Floats) -> Floats:
    """Mean score over `rows` with `columns` set to each row of `values`: ``(len(values), K)``."""
    block = max(1, 4 * _BATCH // len(rows))
    means = []
    for part in np.array_split(values, max(1, -(-len(values) // block))):
        z = np.tile(rows, (len(part), 1))
        z[:, columns] = np.repeat(part, len(rows), axis=0)
        means.append(model(z).reshape(len(part), len(rows), -1).mean(axis=1))
    return np.concatenate(means)


def _centred_dependence(model: Scores, rows: Floats, j: int, z: Floats) -> Floats:
    own, counts = np.unique(rows[:, j], return_counts=True)
    values = _dependence(model, rows, [j], np.concatenate([z, own])[:, None])
    return np.asarray(values[: len(z)] - np.average(values[len(z) :], axis=0, weights=counts))


def _centred_at_rows(model: Scores, rows: Floats, columns: list[int]) -> Floats:
    values = _dependence(model, rows, columns, rows[:, columns])
    return np.asarray(values - values.mean(axis=0))


def _total_effects(model: Scores, rows: Floats, repeats: int) -> Floats:
    """T_j of every column and output: ``(columns, K)``."""
    before, total = model(rows), np.zeros((rows.shape[1], len(model.outputs)))
    for other in _other_rows(len(rows), repeats):
        for j in range(rows.shape[1]):
            changed = rows.copy()
            changed[:, j] = rows[other, j]
            total[j] += np.square(model(changed) - before).mean(axis=0) / (2 * repeats)
    return total


def _other_rows(count: int, repeats: int) -> Iterator[NDArray[np.int64]]:
    """For each row another one, never itself where there are two: shifts of one shuffled circle."""
    circle = np.random.default_rng(0).permutation(count)
    for shift in range(1, repeats + 1):
        other = np.empty(count, dtype=np.int64)
        other[circle] = np.roll(circle, max(1, shift * count // (repeats + 1)))
        yield other
