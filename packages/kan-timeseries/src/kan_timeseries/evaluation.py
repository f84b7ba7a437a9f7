"""Scores of forecasts in a long table: every window counts, and how many there were is part of the result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.columns import as_table, check_columns, numbers_of

Floats = NDArray[np.float64]

_INTERVAL = re.compile(r"^(?P<model>.+)-(?P<side>lo|hi)-(?P<level>\d+(?:\.\d+)?)$")
_MEDIAN = "-median"


def evaluate(
    forecasts: Any,
    *,
    train: Any = None,
    season: int = 1,
    models: Sequence[str] | None = None,
    by_step: bool = False,
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
) -> pd.DataFrame:
    r"""Score the forecasts of one or more models.

    With e = y − f, a metric is averaged over the points of each series, and then over series:

    * ``mae`` \|e\|; ``mse`` e²; ``rmse``, the root of a series' mean e²; ``smape`` 200 \|e\| / (\|f\| + \|y\|), 0 where
      both are 0; ``mase`` \|e\| divided by the series' mean \|y_t − y_{t−season}\| in training;
    * with interval columns ``-lo-80``, ``-hi-80``, ``-median``, which are the quantiles 0.1, 0.9, 0.5:
      ``pinball-q`` max(q (y − f_q), (q − 1)(y − f_q)) of each; ``crps``, the mean of 2 pinball over the quantiles;
      ``wql``, the mean over quantiles of Σ 2 pinball / Σ \|y\|, over all points at once; ``coverage-80``, the share of
      points within the interval, and ``width-80``, its mean width; ``noncrossing``, the share of points whose
      quantiles are in order.

    Args:
        forecasts: One row per series, cutoff and time: `id_col`, `time_col`, `target_col`, a column per model, with its
            intervals, and, for more than one window per series, ``cutoff``. Rows whose target is NaN are not scored.
        train: Past of the same series in long form, for MASE. Of each series the rows up to its first cutoff are used,
            or all where there is no cutoff. None: MASE is left out.
        season: Of MASE, in rows of `train`, which must have all steps.
        models: Columns to score; None: all that are numbers and no intervals.
        by_step: A row per step of the horizon, 1 to H, in place of one for all.
        id_col: Column of the series' names.
        time_col: Column of the time stamps.
        target_col: Column of the true values.

    Returns:
        One row per model and metric: ``model``, ``metric``, (``step``,) ``value``, and of how many: ``series``,
        ``windows``, ``points``, and ``undefined``, the series without this metric (MASE where the training change is
        zero or unknown).

    Raises:
        KANError: For missing columns, a forecast that is no finite number, or no known target at all.
    """
    table = as_table(forecasts, "forecasts")
    check_columns(table, "forecasts", [id_col, time_col, target_col, *(models or [])])
    window_cols = [id_col, "cutoff"] if "cutoff" in table else [id_col]
    reserved = {*window_cols, time_col, target_col}
    names = [str(name) for name in models] if models is not None else _models(table, reserved)
    if not names:
        raise KANError("forecasts has no column of a model: add one per model, of numbers")
    table = table.sort_values([*window_cols, time_col], kind="stable").reset_index(drop=True)
    if (twice := table.duplicated([*window_cols, time_col])).any():
        row = table.iloc[int(twice.to_numpy().argmax())]
        raise KANError(f"series {row[id_col]!r} at {row[time_col]}: forecasts has more than one such row: keep one")
    table["step"] = table.groupby(window_cols, sort=False).cumcount() + 1
    table = table[np.isfinite(numbers_of(table[target_col], "forecasts"))]
    if not len(table):
        raise KANError(f"forecasts: {target_col} is missing in every row: there is nothing to score")
    scale = None if train is None else _scales(train, table, season, (id_col, time_col, target_col))
    groups = ["step"] if by_step else []
    parts = []
    for name in names:
        losses, y_size = _losses(table, name, (id_col, time_col, target_col), scale)
        result = _average(losses, table[id_col], table["step"] if by_step else None, y_size)
        parts.append(result.assign(model=name))
    keys = [table[name] for name in groups]
    counted = table.assign(window=table.groupby(window_cols).ngroup())
    grouped = counted.groupby(keys) if keys else counted.groupby(lambda _: 0)
    counts = grouped.agg(series=(id_col, "nunique"), windows=("window", "nunique"), points=(id_col, "size"))
    result = pd.concat(parts, ignore_index=True)
    result = result.merge(counts, left_on="step", right_index=True).sort_index()
    result["undefined"] = result["series"] - result.pop("defined")
    columns = ["model", "metric", *groups, "value", "series", "windows", "points", "undefined"]
    return result[columns].reset_index(drop=True)


def quantile_columns(model: str, levels: Sequence[float]) -> dict[str, float]:
    """Names of a model's interval columns with the quantile that each is, ascending.

    Args:
        model: The model's column.
        levels: Per cent, such as ``[80, 95]``.

    Raises:
        KANError: For a level that is not between 0 and 100.
    """
    for level in levels:
        if not 0 < level < 100:
            raise KANError(f"level must lie between 0 and 100 per cent, got {level!r}")
    ordered = sorted(set(levels))
    low = {f"{model}-lo-{level:g}": round((100 - level) / 200, 6) for level in reversed(ordered)}
    high = {f"{model}-hi-{level:g}": round((100 + level) / 200, 6) for level in ordered}
    return {**low, f"{model}{_MEDIAN}": 0.5, **high}


def _models(table: pd.DataFrame, reserved: set[str]) -> list[str]:
    """Columns of numbers that are nobody's interval."""
    found = [str(name) for name in table if name not in reserved and pd.api.types.is_numeric_dtype(table[name])]
    return [
        name
        for name in found
        if not ((match := _INTERVAL.match(name)) and match["model"] in found)
        and not (name.endswith(_MEDIAN) and name.removesuffix(_MEDIAN) in found)
    ]


def _losses(
    table: pd.DataFrame, model: str, columns: tuple[str, str, str], scale: pd.Series | None
) -> tuple[dict[str, Floats], Floats]:
    """Each point's loss by metric, and |y|."""
    id_col, time_col, target_col = columns
    levels = [float(m["level"]) for name in table if (m := _INTERVAL.match(str(name))) and m["model"] == model]
    quantiles = {name: q for name, q in quantile_columns(model, levels).items() if name in table} if levels else {}
    values = {name: numbers_of(table[name], "forecasts") for name in [model, *quantiles]}
    for name, value in values.items():
        if not np.isfinite(value).all():
            row = table.iloc[int((~np.isfinite(value)).argmax())]
            raise KANError(f"series {row[id_col]!r} at {row[time_col]}: the forecast {name} is {row[name]}, no number")
    y, f = numbers_of(table[target_col], "forecasts"), values[model]
    error, size = np.abs(y - f), np.abs(y) + np.abs(f)
    losses = {"mae": error, "mse": error**2, "rmse": error**2}
    losses["smape"] = 200 * np.divide(error, size, out=np.zeros_like(error), where=size > 0)
    if scale is not None:
        losses["mase"] = error / scale.reindex(table[id_col]).to_numpy()
    if quantiles:
        pinball = {f"pinball-{q:g}": _pinball(y, values[name], q) for name, q in quantiles.items()}
        losses.update(pinball)
        losses["crps"] = losses["wql"] = 2 * np.stack(list(pinball.values())).mean(axis=0)
        for level in sorted(set(levels)):
            low, high = values.get(f"{model}-lo-{level:g}"), values.get(f"{model}-hi-{level:g}")
            if low is not None and high is not None:
                losses[f"coverage-{level:g}"] = ((low <= y) & (y <= high)).astype(np.float64)
                losses[f"width-{level:g}"] = high - low
        rises = np.diff(np.stack([values[name] for name in quantiles]), axis=0) >= 0
        losses["noncrossing"] = np.asarray(rises.all(axis=0), dtype=np.float64)
    return losses, np.abs(y)


def _pinball(y: Floats, f: Floats, q: float) -> Floats:
    return np.maximum(q * (y - f), (q - 1) * (y - f))


def _average(losses: dict[str, Floats], series: pd.Series, step: pd.Series | None, size: Floats) -> pd.DataFrame:
    """``metric``, ``step`` (0 for all), ``value``, and ``defined``: how many series have one."""
    steps = np.zeros(len(series), dtype=np.int64) if step is None else step.to_numpy()
    points = pd.DataFrame({**losses, "size": size})
    # NaN of an undefined MASE stays NaN in the mean of its series, and is left out of the mean over series
    by_series = points.groupby([series.to_numpy(), steps], sort=False).mean()
    by_series["rmse"] = np.sqrt(by_series["rmse"])
    grouped = by_series.drop(columns="size").groupby(level=1)
    mean, defined = grouped.mean(), grouped.count()
    if "wql" in mean:
        total = points[["wql", "size"]].groupby(steps).sum()
        mean["wql"] = total["wql"] / total["size"].where(total["size"] > 0)
    result = mean.rename_axis(index="step", columns="metric").T.stack(future_stack=True).rename("value").reset_index()
    result["defined"] = defined.rename_axis(index="step", columns="metric").T.stack(future_stack=True).to_numpy()
    return result


def _scales(train: Any, table: pd.DataFrame, season: int, columns: tuple[str, str, str]) -> pd.Series:
    """Each series' mean |y_t − y_{t−season}| in training; NaN where zero or unknown."""
    if season < 1:
        raise KANError(f"season must be at least 1 step, got {season}")
    id_col, time_col, target_col = columns
    past = as_table(train, "train")
    check_columns(past, "train", list(columns))
    past = past[past[id_col].isin(table[id_col].unique())]
    if "cutoff" in table:
        first = table.groupby(id_col, sort=False)["cutoff"].min()
        past = past[past[time_col].to_numpy() <= first.reindex(past[id_col]).to_numpy()]
    past = past.sort_values([id_col, time_col], kind="stable")
    y = pd.Series(numbers_of(past[target_col], "train"), index=past.index)
    series = past[id_col].to_numpy()
    change = (y - y.groupby(series).shift(season)).abs()
    mean = change.groupby(series).mean()
    return mean.where(mean > 0)
