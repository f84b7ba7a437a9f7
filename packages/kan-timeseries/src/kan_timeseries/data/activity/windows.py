"""Windows of recordings: none spans two trials, and none is labelled by a minority."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_timeseries.data.activity.recordings import ActivityBatch, Recording

UNKNOWN = -1
"""The class index of a window whose label is not known."""


@dataclass(frozen=True)
class WindowRule:
    """How windows are cut and labelled.

    Attributes:
        length: T samples.
        step: Samples from one window to the next.
        short: What happens to a recording shorter than T: ``"pad"``: it is one window whose end repeats its last sample
            and is masked; ``"drop"``: it is left out and counted.
        label: ``"majority"``: the class that most measured samples of a window have; ``"last"``: that of the last one.
        min_share: Of the majority; windows with less are left out and counted.

    Raises:
        KANError: When a value is out of range.
    """

    length: int
    step: int
    short: Literal["pad", "drop"] = "pad"
    label: Literal["majority", "last"] = "majority"
    min_share: float = 0.8

    def __post_init__(self) -> None:
        """Check the values."""
        if self.length < 2 or self.step < 1:
            raise KANError(f"a window of {self.length} samples every {self.step} is too small: raise window and step")
        if not 0 < self.min_share <= 1:
            raise KANError(f"min_share must be above 0 and at most 1, got {self.min_share:g}")
        if self.short not in ("pad", "drop") or self.label not in ("majority", "last"):
            raise KANError(f"short must be pad or drop, label_rule majority or last: got {self.short}, {self.label}")


def window_count(samples: int, length: int, step: int) -> int:
    """``floor((n - T) / step) + 1``, and 0 for n < T."""
    return (samples - length) // step + 1 if samples >= length else 0


def cut(
    recordings: Sequence[Recording],
    rule: WindowRule,
    classes: Sequence[str],
    subjects: Sequence[str],
    trials: Sequence[tuple[str, str]],
    counts: Counter[str],
) -> ActivityBatch:
    """All windows of regular recordings, in their order.

    Args:
        recordings: Without times or NaN.
        rule: How they are cut.
        classes: Names by index. A label that is not there, such as an empty one, is no class: windows of it are left
            out and counted. Without classes every window is kept, with y = -1.
        subjects: Names by index.
        trials: ``(subject, trial)`` by index.
        counts: Counts what is left out or padded.

    Raises:
        KANError: Without any recording.
    """
    person = {name: i for i, name in enumerate(subjects)}
    number = {name: i for i, name in enumerate(trials)}
    if not recordings:
        raise KANError("no recording has two samples without a gap")
    pieces = [_of_one(recording, rule, classes, counts) for recording in recordings]
    x, y, mask, start = (torch.from_numpy(np.concatenate([piece[i] for piece in pieces])) for i in range(4))

    def of_each(values: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype=np.int64), [len(piece[1]) for piece in pieces]))

    return ActivityBatch(
        x=x,
        y=y,
        subject=of_each([person[recording.subject] for recording in recordings]),
        trial=of_each([number[recording.subject, recording.trial] for recording in recordings]),
        mask=mask,
        start=start,
    )


def _of_one(
    recording: Recording, rule: WindowRule, classes: Sequence[str], counts: Counter[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32]]:
    """Values, classes, masks and starts of the windows of one recording."""
    x, samples = recording.x, len(recording.x)
    if samples < rule.length:
        counts[f"recordings shorter than a window ({'padded' if rule.short == 'pad' else 'left out'})"] += 1
        if rule.short == "pad":
            x = np.pad(x, ((0, rule.length - samples), (0, 0)), mode="edge")
    first = np.arange(window_count(len(x), rule.length, rule.step)) * rule.step
    if len(first):
        counts["samples after a recording's last window"] += max(samples - int(first[-1]) - rule.length, 0)
    rows = first[:, None] + np.arange(rule.length)
    mask = rows < samples
    y, keep = _labels(recording, rule, classes, np.minimum(rows, samples - 1), mask, counts)
    start = (recording.begin + first / recording.rate).astype(np.float32)
    return x[rows[keep]], y[keep], mask[keep], start[keep]


def _labels(
    recording: Recording,
    rule: WindowRule,
    classes: Sequence[str],
    rows: NDArray[np.int64],
    mask: NDArray[np.bool_],
    counts: Counter[str],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Class indices, and which windows have one."""
    index = {name: i for i, name in enumerate(classes)}
    if not classes or recording.labels is None:
        y = np.full(len(rows), index.get(recording.label, UNKNOWN))
        share = np.ones(len(rows))
    else:
        names, codes = np.unique(recording.labels, return_inverse=True)
        held = codes[rows]
        votes = np.stack([((held == code) & mask).sum(axis=1) for code in range(len(names))], axis=1)
        won = votes.argmax(axis=1)
        share = votes.max(axis=1) / mask.sum(axis=1)
        if rule.label == "last":
            won, share = held[np.arange(len(rows)), mask.sum(axis=1) - 1], np.ones(len(rows))
        y = np.array([index.get(name, UNKNOWN) for name in names], dtype=np.int64)[won]
    mixed = share < rule.min_share
    unknown = ~mixed & (y == UNKNOWN) & bool(classes)
    counts[f"windows in which no label has a share of {rule.min_share:g} (left out)"] += int(mixed.sum())
    counts["windows without a label (left out)"] += int(unknown.sum())
    return y, ~(mixed | unknown)
