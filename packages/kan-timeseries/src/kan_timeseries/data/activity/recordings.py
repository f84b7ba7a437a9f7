"""What readers give, and what a classification task takes at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Recording:
    """One trial of one person: what sensors said without interruption.

    Attributes:
        subject: The person.
        trial: Names the recording; several pieces of one recording, where a gap split it, share it.
        label: What the person did; where it changes (`labels`), nothing; empty when it is not known.
        t: ``(n,)`` seconds, ascending; None when the samples follow each other at `rate`.
        x: ``(n, C)`` float32 in physical units; NaN where a channel has no value at that time.
        rate: Samples per second, nominal when `t` is given.
        labels: ``(n,)`` names per sample where the label changes within the trial; empty ones are no class.
        begin: Seconds from the start of the trial to the first sample.
    """

    subject: str
    trial: str
    label: str
    t: NDArray[np.float64] | None
    x: NDArray[np.float32]
    rate: float
    labels: NDArray[np.str_] | None = None
    begin: float = 0.0


@dataclass(frozen=True, eq=False)
class Readings:
    """What a reader found.

    Attributes:
        recordings: In the order of the files.
        channels: Names of the C channels, such as ``wrist_acc_x``.
        units: Of each channel, such as ``g``.
        rate: Samples per second that the recordings are brought to unless the user says otherwise.
        counts: What was left out or repaired, in words, with how often; zeros are left out of what is said.
        notes: What the user should know about the set.
    """

    recordings: list[Recording]
    channels: list[str]
    units: list[str]
    rate: float
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


class ActivityBatch(NamedTuple):
    """Windows of T samples and C channels.

    Attributes:
        x: ``(B, T, C)`` float32 in physical units.
        y: ``(B,)`` class index; -1 where it is not known (files to predict).
        subject: ``(B,)`` number of the person in the data module's `subjects`.
        trial: ``(B,)`` number of the recording in the data module's `trials`: windows that share it are of one trial.
        mask: ``(B, T)`` True where a sample was measured. A recording that is shorter than a window ends with False,
            where `x` repeats its last sample.
        start: ``(B,)`` seconds from the start of the trial to the first sample.
    """

    x: Tensor
    y: Tensor
    subject: Tensor
    trial: Tensor
    mask: Tensor
    start: Tensor


class FeatureTable(NamedTuple):
    """Windows that come as finished features.

    Attributes:
        x: ``(n, F)`` float64; NaN where missing.
        names: Of the F features.
        label: ``(n,)`` class names.
        subject: ``(n,)`` people.
    """

    x: NDArray[np.float64]
    names: list[str]
    label: NDArray[np.str_]
    subject: NDArray[np.str_]
