"""Paired comparisons of models: on one table over its fits, and over tables.

References: Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003), for one table;
Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006), for several.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kan_core.errors import KANError

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean paired difference and its interval.

    Attributes:
        mean: Mean of first minus second.
        low: Lower end of the `LEVEL` interval.
        high: Upper end.
        p: Two-sided p-value of no difference.
    """

    mean: float
    low: float
    high: float
    p: float

    def verdict(self, higher_is_better: bool) -> str:
        """``"better"`` or ``"worse"`` where the interval leaves out 0, else ``"on par"``: of the first model."""
        if self.low <= 0 <= self.high:
            return "on par"
        return "better" if (self.low > 0) == higher_is_better else "worse"


def corrected_difference(differences: ArrayLike, test_to_train: float) -> Difference:
    r"""The corrected resampled t interval: d̄ ± t_{J-1} √((1/J + n_test/n_train) s²).

    Folds share training rows, so their differences depend on each other, and s²/J alone is far too small.

    Args:
        differences: One difference for each of the J fits, over folds and seeds.
        test_to_train: n_test/n_train of one fit, 1/(k - 1) for k folds.

    Raises:
        KANError: For fewer than two differences.
    """
    d = _several(differences)
    return _difference(float(d.mean()), float((1 / len(d) + test_to_train) * d.var(ddof=1)), len(d) - 1)


def fixed_split_difference(differences: ArrayLike) -> Difference:
    r"""An interval for a fixed test file: d̄ ± t √(s²_seeds/S + s²_parts/P), with min(S, P) - 1 degrees of freedom.

    Seeds alone know nothing of another sample of test rows: two models without randomness would differ "surely" by
    anything. So the test rows are cut into P parts; the spread of the differences over parts (each a mean over seeds)
    is that of test samples, and is added to the spread over seeds (each a mean over parts). The choice is ours, and
    cautious: noise of the seeds within parts counts twice.

    Args:
        differences: ``(seeds, parts)``.

    Raises:
        KANError: For fewer than two seeds or parts.
    """
    d = np.asarray(differences, dtype=np.float64)
    seeds, parts = _several(d.mean(axis=1)), _several(d.mean(axis=0))
    variance = seeds.var(ddof=1) / len(seeds) + parts.var(ddof=1) / len(parts)
    return _difference(float(d.mean()), float(variance), min(len(seeds), len(parts)) - 1)


def _several(differences: ArrayLike) -> NDArray[np.float64]:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2:
        raise KANError(f"an interval needs at least two differences, got an array of shape {d.shape}")
    return d


def _difference(mean: float, variance: float, freedom: int) -> Difference:
    error = math.sqrt(variance)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Difference(mean, mean - half, mean + half, p)


def wilcoxon(first: ArrayLike, second: ArrayLike) -> dict[str, Any]:
    """Wilcoxon's signed-rank test over tables; differences of 0 are split between the signs.

    Returns:
        ``tables``, ``wins`` (first above second), ``losses``, ``statistic`` (the smaller rank sum) and two-sided ``p``.
        With fewer than six tables no p can be below 0.05.
    """
    d = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    counts = {"tables": len(d), "wins": int((d > 0).sum()), "losses": int((d < 0).sum())}
    if not d.any():
        return {**counts, "statistic": len(d) * (len(d) + 1) / 4, "p": 1.0}
    result = stats.wilcoxon(d, zero_method="zsplit")
    return {**counts, "statistic": float(result.statistic), "p": float(result.pvalue)}


def average_ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """Mean rank of each model, 1 for the best; ties share their ranks.

    Args:
        scores: ``(tables, models)``, higher is better.
    """
    ranks: NDArray[np.float64] = stats.rankdata(-np.asarray(scores, dtype=np.float64), axis=1).mean(axis=0)
    return ranks


def friedman(scores: ArrayLike) -> dict[str, float]:
    """Friedman's test that all models rank alike, with its correction for ties.

    Args:
        scores: ``(tables, models)``, three models or more.
    """
    columns = np.asarray(scores, dtype=np.float64).T
    if (columns == columns[0]).all():
        return {"statistic": 0.0, "p": 1.0}
    result = stats.friedmanchisquare(*columns)
    return {"statistic": float(result.statistic), "p": float(result.pvalue)}


def critical_difference(models: int, tables: int) -> float:
    r"""Nemenyi's: mean ranks that differ by more are different, CD = q √(k(k+1)/(6N)).

    q is the `LEVEL` quantile of the studentised range of k models with infinite degrees of freedom, over √2.
    """
    q = float(stats.studentized_range.ppf(LEVEL, models, np.inf)) / math.sqrt(2)
    return q * math.sqrt(models * (models + 1) / (6 * tables))
