"""How reproducible a selection of columns is: overlap over resamples, frequencies, and redundancy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.multiclass import type_of_target

from kan_core.errors import KANError


@dataclass(frozen=True)
class Stability:
    """What `selection_stability` found.

    Attributes:
        jaccard: Mean over pairs of resamples of |A ∩ B| / |A ∪ B|, in [0, 1]; 1 for the same columns every time.
        jaccard_std: Standard deviation over the pairs.
        frequency: ``(columns,)``: share of the resamples that selected a column.
        redundancy: Mean |correlation| between selected columns, mean over the resamples; NaN where no resample
            selected two numeric columns that vary.
        redundancy_all: The same between all columns.
        supports: ``(resamples, columns)``: which columns each resample selected.
    """

    jaccard: float
    jaccard_std: float
    frequency: NDArray[np.float64]
    redundancy: float
    redundancy_all: float
    supports: NDArray[np.bool_]


def selection_stability(
    selector: Any,
    X: Any,
    y: Any,
    *,
    n_resamples: int = 10,
    fraction: float = 0.8,
    random_state: int | np.random.RandomState | None = None,
) -> Stability:
    """Fit copies of a selector on random parts of the rows and compare what they keep.

    Parts are drawn without replacement (duplicates would make small tables look more certain than they are), with the
    proportions of the classes kept where every class has two rows. Two parts of 80 % share about 80 % of their rows:
    the figure says how a selection reacts to losing some rows, and is above that of independent tables.

    Args:
        selector: Any scikit-learn selector, with `get_support`; it is cloned and left unfitted.
        X: The table, ``(rows, columns)``: data frame or array.
        y: The target.
        n_resamples: Parts, at least 2.
        fraction: Share of the rows in each, in (0, 1).
        random_state: Of the parts. The selector's own is its `random_state`.

    Raises:
        KANError: For fewer than two resamples, or a fraction outside (0, 1).
    """
    if n_resamples < 2:
        raise KANError(f"n_resamples must be at least 2, got {n_resamples}")
    if not 0 < fraction < 1:
        raise KANError(f"fraction must lie between 0 and 1, got {fraction}")
    supports, redundancies = [], []
    for rows in _parts(y, n_resamples, fraction, check_random_state(random_state)):
        part = _safe_indexing(X, rows)
        support = clone(selector).fit(part, _safe_indexing(y, rows)).get_support()
        supports.append(support)
        redundancies.append(redundancy(part, support))
    kept = np.array(supports)
    mean, spread = jaccard(kept)
    known = [value for value in redundancies if not np.isnan(value)]
    return Stability(
        jaccard=mean,
        jaccard_std=spread,
        frequency=kept.mean(axis=0),
        redundancy=float(np.mean(known)) if known else float("nan"),
        redundancy_all=redundancy(X),
        supports=kept,
    )


def _parts(y: Any, count: int, fraction: float, random: np.random.RandomState) -> list[NDArray[np.intp]]:
    """Row indices of each part."""
    labels = np.asarray(y)
    classes = labels.ndim == 1 and type_of_target(labels) in ("binary", "multiclass")
    smallest = np.unique(labels, return_counts=True)[1] if classes else np.zeros(1)
    few = smallest.min() < 2 or len(smallest) > min(fraction, 1 - fraction) * len(labels)
    kind = ShuffleSplit if few else StratifiedShuffleSplit
    splitter = kind(n_splits=count, train_size=fraction, random_state=random)
    return [rows for rows, _ in splitter.split(np.zeros(len(labels)), labels)]


def jaccard(supports: ArrayLike) -> tuple[float, float]:
    """Mean and standard deviation over all pairs of |A ∩ B| / |A ∪ B|; two empty selections agree: 1.

    Args:
        supports: ``(selections, columns)`` masks, at least two of them.

    Raises:
        KANError: For fewer than two.
    """
    masks = np.asarray(supports, dtype=bool)
    if masks.ndim != 2 or len(masks) < 2:
        raise KANError(f"supports must be at least two masks, got an array of shape {masks.shape}")
    overlaps = [_overlap(a, b) for a, b in combinations(masks, 2)]
    return float(np.mean(overlaps)), float(np.std(overlaps))


def _overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def redundancy(X: Any, support: ArrayLike | None = None) -> float:
    """Mean |Pearson correlation| over the pairs of selected columns; NaN without two that can be correlated.

    Over rows where both are there. Columns that are constant or not numeric have no correlation, and are skipped.

    Args:
        X: ``(rows, columns)``: data frame or array.
        support: ``(columns,)`` mask; None for all.
    """
    frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    if support is not None:
        frame = frame.loc[:, np.asarray(support, dtype=bool)]
    numbers = frame.select_dtypes(["number", "bool"]).astype("float64")
    numbers = numbers.loc[:, (numbers.max() > numbers.min()).to_numpy()]
    pairs = numbers.corr().abs().to_numpy()[np.triu_indices(numbers.shape[1], 1)]
    pairs = pairs[~np.isnan(pairs)]
    return float(pairs.mean()) if len(pairs) else float("nan")
