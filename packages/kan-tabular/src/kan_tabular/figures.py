"""Figures of what a fitted estimator has learned and how well; matplotlib without any global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.calibration import calibration_curve
from sklearn.metrics import r2_score

from kan_core.errors import KANError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 10
"""Outputs that one panel shows."""

MOST_BARS = 15
"""Categories that one panel shows: those with the largest contributions."""

_MOST_POINTS = 5000  # of a scatter plot


def curves_figure(curves: pd.DataFrame, max_features: int = 12) -> Figure:
    """One panel per column: a line over original units with the deciles of the data as a rug, or bars of categories.

    Dotted lines are what a missing value contributes. Panels share the vertical axis, so that heights compare.

    Args:
        curves: What `kan_tabular.explain.feature_curves` returned.
        max_features: Show the columns whose contributions spread most, at most so many.
    """
    from matplotlib.figure import Figure

    spread = curves[curves["part"].isin(["value", "category"])].groupby("feature", sort=False)["contribution"]
    order = (spread.max() - spread.min()).reindex(curves["feature"].unique(), fill_value=0.0)
    shown = order.sort_values(ascending=False, kind="stable").index[:max_features]
    across = min(4, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(3.2 * across, 2.5 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes, feature in zip(panels, shown, strict=False):
        _curve_panel(axes, curves[curves["feature"] == feature])
        axes.set_title(str(feature), fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    outputs = list(dict.fromkeys(curves["output"]))[:MOST_LINES]
    if len(outputs) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    figure.suptitle(f"Contribution to the score ({curves['kind'].iloc[0]})", fontsize=10)
    return figure


def _curve_panel(axes: Axes, curve: pd.DataFrame) -> None:
    outputs = list(dict.fromkeys(curve["output"]))[:MOST_LINES]
    if "category" in set(curve["part"]):
        _bars(axes, curve, outputs)
        return
    for colour, output in enumerate(outputs):
        own = curve[curve["output"] == output]
        line = own[own["part"] == "value"]
        x = line["x"].to_numpy(dtype=np.float64)
        style = "o-" if len(x) == 1 else "-"
        axes.plot(x, line["contribution"], style, color=f"C{colour}", linewidth=1.5, label=str(output))
        missing = own.loc[own["part"] == "missing", "contribution"].iloc[0]
        axes.axhline(missing, color=f"C{colour}", linestyle=":", linewidth=0.8)
    axes.locator_params(axis="x", nbins=5)
    share = line["share"].to_numpy(dtype=np.float64)
    if len(x) > 1 and np.isfinite(share).all():
        deciles = np.interp(np.arange(1, 10) / 10, share, x)
        axes.plot(deciles, np.zeros(9), "|", color="0.3", transform=axes.get_xaxis_transform(), markersize=9)


def _bars(axes: Axes, curve: pd.DataFrame, outputs: Sequence[Any]) -> None:
    size = curve.assign(size=curve["contribution"].abs(), label=curve["x"].where(curve["x"].notna(), curve["part"]))
    size["label"] = size["label"].astype(str)
    largest = size.groupby("label", sort=False)["size"].max().sort_values(ascending=False, kind="stable")
    kept = set(largest.index[:MOST_BARS])
    labels = [label for label in dict.fromkeys(size["label"]) if label in kept]
    places = np.arange(len(labels))
    width = 0.8 / len(outputs)
    for colour, output in enumerate(outputs):
        own = size[size["output"] == output].drop_duplicates("label").set_index("label")["contribution"]
        offset = (colour - (len(outputs) - 1) / 2) * width
        axes.bar(places + offset, own.reindex(labels), width, color=f"C{colour}", label=str(output))
    axes.axhline(0, color="0.3", linewidth=0.6)
    axes.set_xticks(places, [label[:14] for label in labels], rotation=60, ha="right", fontsize=6)


def importances_figure(importances: pd.DataFrame, most: int = 25) -> Figure:
    """Bars of the most important columns, the first on top.

    Args:
        importances: What `kan_tabular.explain.importances` returned.
        most: Bars.
    """
    from matplotlib.figure import Figure

    top = importances.sort_values("importance", ascending=False, kind="stable").head(most)
    figure = Figure(figsize=(6, 0.9 + 0.25 * len(top)), layout="constrained")
    axes = figure.subplots()
    axes.barh(np.arange(len(top)), top["importance"])
    axes.set_yticks(np.arange(len(top)), [str(name)[:30] for name in top["feature"]], fontsize=8)
    axes.invert_yaxis()
    rest = len(importances) - len(top)
    axes.set(xlabel="share of importance", title="Importance of columns" + (f" ({rest} more)" if rest else ""))
    return figure


def interactions_figure(interactions: pd.DataFrame) -> Figure:
    """A heat map of pairs: coloured by strength in units of the score, with H² in the cells; means over outputs.

    Args:
        interactions: What `kan_tabular.explain.interactions` returned.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys([*interactions["feature_1"], *interactions["feature_2"]]))
    pairs = interactions.groupby(["feature_1", "feature_2"], sort=False)[["h2", "strength"]].mean()
    strength, h2 = (np.full((len(names), len(names)), np.nan) for _ in range(2))
    for (one, two), found in pairs.iterrows():
        for cell in ((names.index(one), names.index(two)), (names.index(two), names.index(one))):
            strength[cell], h2[cell] = found["strength"], found["h2"]
    side = 2.5 + 0.55 * len(names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    highest = max(float(np.nanmax(strength)), 1e-12)
    image = axes.imshow(strength, cmap="Blues", vmin=0, vmax=highest)
    figure.colorbar(image, ax=axes, label="strength (units of the score)", shrink=0.8)
    for (row, column), value in np.ndenumerate(h2):
        if not math.isnan(value):
            colour = "white" if strength[row, column] > highest / 2 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    short = [str(name)[:18] for name in names]
    axes.set_xticks(range(len(names)), short, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), short, fontsize=8)
    axes.set_title("Interactions: Friedman's H²")
    return figure


def reliability_figure(y: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> Figure:
    """How often a probability comes true: observed shares against predicted ones in bins of equal counts.

    Of two classes the second one's probability is shown; of more, that of the predicted class.

    Args:
        y: True class indices, ``(rows,)``.
        probabilities: ``(rows, classes)``; or of the second class, ``(rows,)``.
        bins: At most so many.

    Raises:
        KANError: When the lengths differ or there are no rows.
    """
    from matplotlib.figure import Figure

    truth, p = np.asarray(y), np.asarray(probabilities, dtype=np.float64)
    if len(truth) != len(p) or not len(p):
        raise KANError(f"reliability_figure needs as many probabilities as labels, got {len(p)} and {len(truth)}")
    if p.ndim == 2 and p.shape[1] > 2:
        happened, p, what = truth == p.argmax(axis=1), p.max(axis=1), "the predicted class"
    else:
        happened, p, what = truth == 1, p[:, 1] if p.ndim == 2 else p, "the second class"
    observed, predicted = calibration_curve(happened, np.clip(p, 0, 1), n_bins=bins, strategy="quantile", pos_label=1)
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    axes.plot(predicted, observed, "o-")
    brier = float(np.mean((p - happened) ** 2))
    axes.set(ylabel="observed share", ylim=(-0.02, 1.02))
    axes.set_title(f"Reliability of {what} (Brier score {brier:.4f})", fontsize=10)
    below.hist(p, bins=np.linspace(0, 1, 21), color="0.6")
    below.set(xlabel="predicted probability", ylabel="rows", xlim=(-0.02, 1.02))
    return figure


def predicted_figure(true: ArrayLike, predicted: ArrayLike, names: Sequence[str] = ()) -> Figure:
    """Predicted against true values, one panel per target, with R².

    Args:
        true: ``(rows,)`` or ``(rows, targets)``, in original units.
        predicted: The same shape.
        names: Of the targets.

    Raises:
        KANError: When the shapes differ or there are no rows.
    """
    from matplotlib.figure import Figure

    y, answer = (np.asarray(values, dtype=np.float64) for values in (true, predicted))
    if y.shape != answer.shape or not len(y):
        raise KANError(f"predicted_figure needs as many predictions as true values, got {answer.shape} and {y.shape}")
    y, answer = y.reshape(len(y), -1), answer.reshape(len(y), -1)
    across = min(3, y.shape[1])
    down = math.ceil(y.shape[1] / across)
    figure = Figure(figsize=(4 * across, 4 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    rows = np.linspace(0, len(y) - 1, min(len(y), _MOST_POINTS)).round().astype(int)
    for k, axes in enumerate(panels[: y.shape[1]]):
        both = np.concatenate([y[:, k], answer[:, k]])
        ends = [both.min(), both.max()]
        axes.plot(ends, ends, color="0.6", linestyle="--", linewidth=1)
        axes.plot(y[rows, k], answer[rows, k], ".", markersize=4, alpha=0.5, rasterized=True)
        r2 = f" (R² {r2_score(y[:, k], answer[:, k]):.3f})" if len(y) > 1 else ""
        axes.set(xlabel="true", ylabel="predicted", title=(names[k] if k < len(names) else f"target {k}") + r2)
    for axes in panels[y.shape[1] :]:
        axes.set_axis_off()
    return figure
