"""Metrics per attack and codec, each with the number of trials behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich import box
from rich.table import Table
from torch import Tensor

from kan_audio.metrics.bootstrap import Estimate, Metric, bootstrap
from kan_audio.metrics.tally import Tally, check_trials
from kan_core.errors import KANError

POOLED = "pooled"
PERCENT = frozenset({"eer", "eer_reference", "hter", "p_miss", "p_fa", "accuracy"})
"""Rates: fractions in files, percent in tables."""


@dataclass(frozen=True)
class Cell:
    """The metrics of some trials.

    Attributes:
        attack: Whose spoofs, or ``"pooled"``.
        codec: Of which codec, or ``"pooled"``.
        bonafide: How many bona fide trials.
        spoof: How many spoof trials.
        metrics: Name -> value and interval; NaN where a class is absent.
    """

    attack: str
    codec: str
    bonafide: int
    spoof: int
    metrics: dict[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, with None for what is not finite."""
        return {
            "attack": self.attack,
            "codec": self.codec,
            "bonafide": self.bonafide,
            "spoof": self.spoof,
            "metrics": {name: estimate_as_json(estimate) for name, estimate in self.metrics.items()},
        }


def breakdown(
    scores: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    attacks: Sequence[str] | None = None,
    codecs: Sequence[str] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    speakers: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Cell]:
    """All trials, then each attack, each codec, and each attack in each codec.

    An attack stands against all bona fide trials (of that codec). The pooled value is computed on the pooled trials; it
    is not the mean of the others.

    Args:
        scores: ``(trials,)``.
        labels: ``(trials,)`` 1 = bona fide, 0 = spoof.
        attacks: Of each trial; what bona fide trials have there is not looked at. None where there are none.
        codecs: Of each trial; None where there are none.
        metrics: By default ``eer`` and ``min_dcf``.
        speakers: Of each trial, for intervals over speakers; a cell with too few speakers has no interval.
        resamples: Of the bootstrap, 0 for no intervals.
        seed: Of the bootstrap.

    Raises:
        KANError: As `Tally.of`, and for another number of attacks or codecs.
    """
    array, bonafide = check_trials(scores, labels)
    metrics = metrics or {"eer": Tally.eer, "min_dcf": Tally.min_dcf}
    attack_of, codec_of = (
        np.full(len(array), POOLED) if given is None else np.asarray(given, dtype=str) for given in (attacks, codecs)
    )
    for name, given in (("attacks", attack_of), ("codecs", codec_of)):
        if given.shape != array.shape:
            raise KANError(f"{len(array):,} trials need as many {name}, got {len(given):,}")
    speaker_of = None if speakers is None else np.asarray(speakers, dtype=str)

    def cell(attack: str, codec: str) -> Cell:
        taken = (bonafide | (attack_of == attack) | (attack == POOLED)) & ((codec_of == codec) | (codec == POOLED))
        n_bonafide, n_spoof = int((taken & bonafide).sum()), int((taken & ~bonafide).sum())
        if n_bonafide and n_spoof:
            group = None if speaker_of is None else speaker_of[taken]
            enough = group is None or min(len(set(group[bonafide[taken] == side])) for side in (True, False)) > 1
            found = bootstrap(
                array[taken],
                bonafide[taken],
                metrics,
                speakers=group.tolist() if group is not None and enough else None,
                resamples=resamples if enough else 0,
                seed=seed,
            )
        else:
            found = {name: Estimate(math.nan) for name in metrics}
        return Cell(attack, codec, n_bonafide, n_spoof, found)

    attack_names = [POOLED, *(np.unique(attack_of[~bonafide]).tolist() if attacks is not None else [])]
    codec_names = [POOLED, *(np.unique(codec_of).tolist() if codecs is not None else [])]
    return [cell(attack, codec) for codec in codec_names for attack in attack_names]


def print_ready(cells: Sequence[Cell], title: str = "") -> Table:
    """The cells as a table of rich: one row each, the counts beside the numbers, rates in percent."""
    codecs = len({cell.codec for cell in cells}) > 1
    table = Table(title=title or None, box=box.SIMPLE_HEAD)
    for head in ("attack", *(["codec"] if codecs else [])):
        table.add_column(head)
    names = list(cells[0].metrics)
    for head in ("bona fide", "spoof", *(head_of(name) for name in names)):
        table.add_column(head, justify="right")
    for cell in cells:
        counts = (f"{cell.bonafide:,}", f"{cell.spoof:,}")
        numbers = (" ".join(in_words(name, cell.metrics[name])) for name in names)
        table.add_row(cell.attack, *([cell.codec] if codecs else []), *counts, *numbers)
    return table


def head_of(name: str) -> str:
    """What a metric is called in a table."""
    return _HEADS.get(name, name) + (" %" if name in PERCENT else "")


def in_words(name: str, estimate: Estimate) -> tuple[str, str]:
    """Value and interval of a metric as a table shows them; empty where there is none."""
    factor, form = (100, ".2f") if name in PERCENT else (1, ".4f")
    value, low, high = (format(factor * number, form) for number in estimate)
    return value, "" if math.isnan(estimate.low) else f"[{low}, {high}]"


def estimate_as_json(estimate: Estimate) -> dict[str, float | None]:
    """``value``, ``low`` and ``high``, None where not finite."""
    return {name: value if math.isfinite(value) else None for name, value in estimate._asdict().items()}


_HEADS = {
    "eer": "EER",
    "eer_reference": "EER (reference)",
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr",
    "min_cllr": "min Cllr",
    "hter": "HTER",
    "p_miss": "missed bona fide",
    "p_fa": "accepted spoof",
    "accuracy": "accuracy",
}
