"""Which parts of a waveform decided a slot: importances per word or segment, and how far to trust them.

A network here is anything that maps ``(batch, samples)`` waveforms and ``(batch,)`` lengths to logits of all slots, one
after another. Spans are in samples. The rules are those of the spec card ``kan-slu.md``, section 7; where it states
none, the docstrings say what was chosen.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kan_core.errors import KANError

__all__ = [
    "AFTER",
    "BEFORE",
    "SHARES",
    "Faithfulness",
    "Network",
    "Plausibility",
    "Span",
    "equal_segments",
    "faithfulness",
    "gradient_importance",
    "leave_one_out",
    "plausibility",
    "read_alignment",
    "word_spans",
]

Network = Callable[[Tensor, Tensor], Tensor]

BEFORE, AFTER = 0.100, 0.040
"""Seconds around a word that go with it, for what its neighbours' sounds tell of it (SpeechXAI, EACL 2024)."""

SHARES = tuple(tenths / 10 for tenths in range(1, 11))
"""Of the spans, for `faithfulness`."""

_BATCH = 32


class Span(NamedTuple):
    """Samples `start` to `end` - 1 of a waveform; nothing when they are equal.

    Attributes:
        start: The first sample.
        end: The sample behind the last.
        word: What is said there, where that is known.
    """

    start: int
    end: int
    word: str = ""


class Faithfulness(NamedTuple):
    """AOPC scores of one slot's importances.

    Attributes:
        comprehensiveness: Mean loss of probability without the most important spans; higher is better.
        sufficiency: Mean loss with nothing but them; lower is better.
    """

    comprehensiveness: float
    sufficiency: float


class Plausibility(NamedTuple):
    """How far the most important spans are those that a human marked.

    Attributes:
        token_f1: Over spans.
        iou: Over time: what both mark, by what either marks.
    """

    token_f1: float
    iou: float


def equal_segments(samples: int, count: int) -> list[Span]:
    """`count` spans of equal width, to a sample, that cover a waveform: for speech without word times.

    Raises:
        KANError: When `count` is below 1.
    """
    if count < 1:
        raise KANError(f"segments must be at least 1, got {count}")
    edges = [round(i * samples / count) for i in range(count + 1)]
    return [Span(start, end) for start, end in pairwise(edges)]


def word_spans(
    words: Sequence[tuple[str, float, float]],
    sample_rate: int,
    samples: int,
    before: float = BEFORE,
    after: float = AFTER,
) -> list[Span]:
    """The samples that are removed with each word: from `before` its start to `after` its end, within the waveform.

    Args:
        words: Word, start and end in seconds; a word of no duration stays an empty span.
        sample_rate: In Hz.
        samples: Of the waveform.
        before: Seconds before the word.
        after: Seconds behind it.
    """

    def sample(seconds: float) -> int:
        return min(max(round(seconds * sample_rate), 0), samples)

    spans = []
    for word, start, end in words:
        empty = end <= start
        spans.append(
            Span(sample(start), sample(start), word)
            if empty
            else Span(sample(start - before), sample(end + after), word)
        )
    return spans


def read_alignment(path: str | Path) -> list[tuple[str, float, float]]:
    """Word times of one utterance from a CSV file with the columns ``word``, ``start`` and ``end`` (seconds).

    Raises:
        KANError: When the file is missing, has other columns, or a line's times are no numbers or out of order.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise KANError(f"{path}: cannot be read ({error.strerror}): give a CSV file with word,start,end") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if sorted(header) != ["end", "start", "word"]:
        raise KANError(f"{path}: the first line must be word,start,end, found {','.join(header) or 'nothing'}")
    columns = [header.index(name) for name in ("word", "start", "end")]
    words: list[tuple[str, float, float]] = []
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != 3:
            raise KANError(f"{path}, line {line}: expected 3 fields, found {len(row)}")
        word, start, end = (row[column].strip() for column in columns)
        times = _seconds(start), _seconds(end)
        if not 0 <= times[0] <= times[1] < math.inf:
            raise KANError(f"{path}, line {line}: start and end must be seconds, start first, found {start} and {end}")
        if words and times[0] < words[-1][1]:
            raise KANError(f"{path}, line {line}: starts at {start}, before the word above it: sort the words by time")
        words.append((word, *times))
    return words


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def leave_one_out(
    net: Network, wave: Tensor, spans: Sequence[Span], num_classes: Sequence[int], targets: Sequence[int]
) -> Tensor:
    """p(x) - p(x with the span silenced) of each slot's target class.

    Args:
        net: In evaluation mode.
        wave: ``(samples,)``.
        spans: What is replaced by zeros, one at a time; an empty span has importance 0.
        num_classes: Of each slot.
        targets: The class of each slot that is explained, such as the predicted one.

    Returns:
        ``(slots, len(spans))``.
    """
    sets = [[], *([index] for index in range(len(spans)))]
    p = _probabilities(net, _without(wave, spans, sets), num_classes, targets)
    return (p[0] - p[1:]).T


def gradient_importance(
    net: Network,
    wave: Tensor,
    spans: Sequence[Span],
    num_classes: Sequence[int],
    targets: Sequence[int],
    times_input: bool = False,
) -> Tensor:
    """Gradient of each slot's target logit by the samples, averaged over each span.

    The mean of |∂z/∂x|, for a plain mean of a waveform's gradient is that of an oscillation; with `times_input` the
    mean of x · ∂z/∂x, signed. Logits rather than probabilities, whose gradient vanishes where a network is sure. Both
    are our choice: the card states neither.

    Args:
        net: In evaluation mode.
        wave: ``(samples,)``.
        spans: Over what to average; an empty span has importance 0.
        num_classes: Of each slot.
        targets: The class of each slot that is explained.
        times_input: Multiply by the samples.

    Returns:
        ``(slots, len(spans))``.
    """
    x = wave.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = net(x[None], torch.tensor([len(wave)], device=wave.device))
        rows = []
        for part, target in zip(torch.split(logits, list(num_classes), dim=1), targets, strict=True):
            gradient = torch.zeros_like(x)
            if part.requires_grad:  # else the network looks at nothing
                found = torch.autograd.grad(part[0, target], x, retain_graph=True, allow_unused=True)[0]
                gradient = gradient if found is None else found
            rows.append(wave * gradient if times_input else gradient.abs())
    return torch.stack(
        [
            torch.stack([row[s.start : s.end].mean() if s.end > s.start else row.new_zeros(()) for s in spans])
            for row in rows
        ]
    )


def faithfulness(
    net: Network,
    wave: Tensor,
    spans: Sequence[Span],
    importance: Tensor,
    num_classes: Sequence[int],
    targets: Sequence[int],
    shares: Sequence[float] = SHARES,
) -> list[Faithfulness]:
    """Area over the perturbation curve: what the most important spans do when they are removed, or alone kept.

    For every share t the set S(t) holds the ⌊t · n⌋ most important of the n spans, as far as their importance is
    positive; comprehensiveness is the mean of p(x) - p(x without S), sufficiency that of p(x) - p(S alone). Empty sets
    and sets like the one before are skipped; when none is left both are 0. (Shares and the positive part are our
    choice.)

    Args:
        net: In evaluation mode.
        wave: ``(samples,)``.
        spans: What importances are of.
        importance: ``(slots, len(spans))``.
        num_classes: Of each slot.
        targets: The class of each slot that is explained.
        shares: Increasing, each in (0, 1].

    Returns:
        One pair for each slot.
    """
    scores = []
    for slot, row in enumerate(importance):
        sets = _top_sets(row, shares)
        if not sets:
            scores.append(Faithfulness(0.0, 0.0))
            continue
        waves = torch.cat([wave[None], _without(wave, spans, sets), _only(wave, spans, sets)])
        p = _probabilities(net, waves, num_classes, targets)[:, slot]
        without, alone = torch.split(p[1:], len(sets))
        scores.append(Faithfulness(float((p[0] - without).mean()), float((p[0] - alone).mean())))
    return scores


def plausibility(importance: Tensor, spans: Sequence[Span], human: Sequence[tuple[int, int]]) -> Plausibility:
    """Agreement of one slot's importances with what a human marked.

    A span is the human's when its middle lies in what was marked; as many of the most important spans are compared with
    them (ours: the paper's measure is not stated).

    Args:
        importance: ``(len(spans),)``.
        spans: Words without their margins, or segments.
        human: Marked samples, start and end.

    Raises:
        KANError: When the human marked none of the spans.
    """
    theirs = {i for i, s in enumerate(spans) if any(a <= (s.start + s.end) / 2 < b for a, b in human)}
    if not theirs:
        raise KANError("the human spans contain the middle of no word or segment: there is nothing to agree with")
    ours = set(importance.argsort(descending=True, stable=True)[: len(theirs)].tolist())
    f1 = len(ours & theirs) / len(theirs)  # equally many: precision, recall and F1 are the same
    return Plausibility(f1, _time_iou([spans[i][:2] for i in sorted(ours)], human))


def _time_iou(ours: Sequence[tuple[int, int]], theirs: Sequence[tuple[int, int]]) -> float:
    cuts = sorted({cut for pair in (*ours, *theirs) for cut in pair})
    both = either = 0
    for start, end in pairwise(cuts):
        inside = [any(a <= start and end <= b for a, b in pairs) for pairs in (ours, theirs)]
        both += (end - start) * all(inside)
        either += (end - start) * any(inside)
    return both / either if either else 0.0


def _top_sets(importance: Tensor, shares: Sequence[float]) -> list[list[int]]:
    """Growing sets of spans, none empty and none twice."""
    order = [i for i in importance.argsort(descending=True, stable=True).tolist() if importance[i] > 0]
    # 1e-9: 0.3 * 10 is a little less than 3
    sizes = [min(math.floor(share * len(importance) + 1e-9), len(order)) for share in shares]
    return [order[:size] for size in sorted(set(sizes) - {0})]


def _without(wave: Tensor, spans: Sequence[Span], sets: Sequence[Sequence[int]]) -> Tensor:
    """``(sets, samples)``: the waveform with the spans of each set silenced."""
    waves = wave.repeat(len(sets), 1)
    for row, chosen in zip(waves, sets, strict=True):
        for index in chosen:
            row[spans[index].start : spans[index].end] = 0
    return waves


def _only(wave: Tensor, spans: Sequence[Span], sets: Sequence[Sequence[int]]) -> Tensor:
    """``(sets, samples)``: silence but for the spans of each set."""
    return wave - _without(wave, spans, sets)


@torch.no_grad()
def _probabilities(net: Network, waves: Tensor, num_classes: Sequence[int], targets: Sequence[int]) -> Tensor:
    """``(len(waves), slots)``: of each slot's target class."""
    rows = []
    for batch in torch.split(waves, _BATCH):
        length = torch.full((len(batch),), batch.shape[1], device=batch.device)
        parts = torch.split(net(batch, length).float(), list(num_classes), dim=1)
        rows.append(torch.stack([p.softmax(dim=1)[:, t] for p, t in zip(parts, targets, strict=True)], dim=1))
    return torch.cat(rows)
