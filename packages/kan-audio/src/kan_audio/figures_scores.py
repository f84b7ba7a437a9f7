"""Figures of a detector: what it trades, and how far its classes lie apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.special import ndtri
from torch import Tensor

from kan_audio.metrics.tally import Tally, check_trials

_TICKS = np.array([0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99])


def det_figure(curves: Mapping[str, tuple[ArrayLike | Tensor, ArrayLike | Tensor]]) -> Figure:
    """Detection error trade-off on probit axes, where normally distributed scores make straight lines.

    Rates of 0 and 1 have no place on these axes; they are drawn at half an error of the rarer class. Dots are the equal
    error rates.

    Args:
        curves: Name -> scores ``(trials,)`` and labels ``(trials,)``, 1 = bona fide, 0 = spoof.

    Raises:
        KANError: As `Tally.of`.
    """
    tallies = {name: Tally.of(*trials) for name, trials in curves.items()}
    least = min(0.5 / min(tally.bonafide.sum(), tally.spoof.sum()) for tally in tallies.values())
    low, high = min(max(least, 1e-5), 0.01), 0.99
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    limits = ndtri([low, high])
    axes.plot(limits, limits, color="0.7", linewidth=0.8)
    for name, tally in tallies.items():
        p_fa, p_miss = (ndtri(np.clip(rate, low, high)) for rate in (tally.det.p_fa, tally.det.p_miss))
        eer = tally.eer()
        label = f"{name}: EER {100 * eer:.2f} % ({tally.bonafide.sum():,.0f} bona fide, {tally.spoof.sum():,.0f} spoof)"
        (line,) = axes.plot(p_fa, p_miss, label=label)
        at = ndtri(np.clip(eer, low, high))
        axes.plot(at, at, "o", color=line.get_color(), markersize=5)
    ticks = _TICKS[(low <= _TICKS) & (high >= _TICKS)]
    names = [f"{100 * tick:g}" for tick in ticks]
    axes.set_xticks(ndtri(ticks), names, fontsize=8)
    axes.set_yticks(ndtri(ticks), names, fontsize=8)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="accepted spoof, %", ylabel="missed bona fide, %", title="Detection error trade-off")
    axes.grid(color="0.9")
    axes.legend(fontsize=8, loc="upper right")
    return figure


def score_histogram(
    scores: ArrayLike | Tensor, labels: ArrayLike | Tensor, threshold: float | None = None, bins: int = 60
) -> Figure:
    """The scores of the two classes, each as a share of its class so that the rarer one is seen.

    Args:
        scores: ``(trials,)``, higher is more bona fide.
        labels: ``(trials,)`` 1 = bona fide, 0 = spoof.
        threshold: A line to draw, accepted on its right.
        bins: Of both histograms.

    Raises:
        KANError: As `Tally.of`.
    """
    array, bonafide = check_trials(scores, labels)
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(array, bins).tolist()
    for name, part, colour in (("spoof", ~bonafide, "firebrick"), ("bona fide", bonafide, "steelblue")):
        count = int(part.sum())
        axes.hist(
            array[part], edges, weights=np.full(count, 1 / count), alpha=0.6, color=colour, label=f"{name} ({count:,})"
        )
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.4g}")
    axes.set(xlabel="score (higher: more bona fide)", ylabel="share of the class", title="Scores")
    axes.legend(fontsize=8)
    return figure
