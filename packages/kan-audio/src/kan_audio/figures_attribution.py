"""Figures of what decided: the segments of waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kan_audio.attribution import Span

MOST_SLOTS = 3
"""With more, the panels of explanations are too small."""


class SlotExplanation(NamedTuple):
    """One utterance and what decided each slot.

    Attributes:
        name: Of the utterance.
        wave: ``(samples,)``.
        sample_rate: In Hz.
        spans: Segments of the waveform.
        importance: ``(slots, segments)``.
        titles: Of each slot: what was predicted.
    """

    name: str
    wave: Tensor
    sample_rate: int
    spans: Sequence[Span]
    importance: Tensor
    titles: Sequence[str]


def explanation_figure(explanations: Sequence[SlotExplanation]) -> Figure:
    """Waveforms over their segments' importance: one row per utterance, one column per slot.

    Red segments speak for the prediction (without them its probability falls), blue ones against it; the scale is that
    of the panel's largest.
    """
    slots = min(len(explanations[0].titles), MOST_SLOTS)
    figure = Figure(figsize=(5.2 * slots, 1.9 * len(explanations)), layout="constrained")
    figure.suptitle("Change of the prediction's probability when a segment is silenced", fontsize=10)
    panels = figure.subplots(len(explanations), slots, squeeze=False)
    for line, explanation in zip(panels, explanations, strict=True):
        for slot, axes in enumerate(line):
            _show(axes, explanation, slot)
        line[0].set_ylabel(explanation.name, fontsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("seconds", fontsize=8)
    return figure


def _show(axes: Axes, explanation: SlotExplanation, slot: int) -> None:
    rate = explanation.sample_rate
    values = explanation.importance[slot].tolist()
    largest = max(map(abs, values), default=0.0)
    peak = max(float(explanation.wave.abs().max()), 1e-6)
    for span, value in zip(explanation.spans, values, strict=True):
        strength = 0.75 * abs(value) / largest if largest else 0.0
        axes.axvspan(
            span.start / rate, span.end / rate, color="tab:red" if value > 0 else "tab:blue", alpha=strength, lw=0
        )
    axes.plot(np.arange(len(explanation.wave)) / rate, explanation.wave.numpy(), color="0.15", linewidth=0.4)
    axes.set(xlim=(0, len(explanation.wave) / rate), ylim=(-peak, peak))
    axes.set_title(f"{explanation.titles[slot]}; largest change {largest:.2f}", fontsize=8)
    axes.tick_params(labelsize=6)
