"""Entity and intent metrics of spoken language understanding (spec card ``spoofing-metrics.md``, part B)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

from torchaudio import functional as AF

from kan_core.errors import KANError

__all__ = ["Average", "Entity", "Score", "intent_accuracy", "intent_f1", "slu_f1", "span_f1"]

Average = Literal["micro", "macro"]
Distance = Literal["slu", "word", "char"]
T = TypeVar("T")


class Entity(NamedTuple):
    """What an utterance says of one thing.

    Attributes:
        type: Such as ``"time"``.
        filler: Its words, such as ``"eight am"``; compared in lower case, words separated by one space.
    """

    type: str
    filler: str


class Score(NamedTuple):
    """Precision, recall and their harmonic mean; 0 where a denominator is 0."""

    precision: float
    recall: float
    f1: float


@dataclass
class _Tally:
    tp: float = 0.0
    fp: float = 0.0
    fn: float = 0.0

    def __iadd__(self, other: _Tally) -> _Tally:
        self.tp, self.fp, self.fn = self.tp + other.tp, self.fp + other.fp, self.fn + other.fn
        return self

    def score(self) -> Score:
        precision = _ratio(self.tp, self.tp + self.fp)
        recall = _ratio(self.tp, self.tp + self.fn)
        return Score(precision, recall, _ratio(2 * precision * recall, precision + recall))


_Tallies = dict[str, _Tally]


def slu_f1(
    gold: Mapping[str, Sequence[Entity]],
    predicted: Mapping[str, Sequence[Entity]],
    average: Average = "micro",
    distance: Distance = "slu",
    allow_partial: bool = False,
) -> Score:
    """SLURP's SLU-F1: entities of the right type with a filler that is nearly right count nearly.

    The predicted entities of an utterance are walked in their order, which therefore matters. One whose type is among
    the remaining gold entities takes the nearest of them, at distance d: TP + 1, FP + d, FN + d. One of another type is
    FP + 1; gold entities that remain are FN + 1 each. This is done with the word error rate (edits by gold words, which
    may exceed 1) and with the character distance (edits by the longer filler's length); both tallies are added up.

    Args:
        gold: Utterance id -> entities.
        predicted: The same; an utterance that is missing counts as one with no entity.
        average: ``"micro"`` pools the types, ``"macro"`` averages over them.
        distance: ``"slu"`` for the metric, ``"word"`` or ``"char"`` for one of its halves.
        allow_partial: Score the utterances that were predicted only, as the reference does.

    Raises:
        KANError: For a gold filler without words, or predictions for an unknown utterance, naming it.

    Reference: SLURP (Bastianelli et al., EMNLP 2020).
    """
    _check_choice("distance", distance, get_args(Distance))
    _check_fillers(gold)
    kinds = ("word", "char") if distance == "slu" else (distance,)
    tallies: _Tallies = defaultdict(_Tally)
    for utterance, entities in _scored(gold, predicted, allow_partial).items():
        for kind in kinds:
            _match(entities, predicted.get(utterance, ()), _DISTANCES[kind], tallies)
    return _average(tallies, average)


def span_f1(
    gold: Mapping[str, Sequence[Entity]],
    predicted: Mapping[str, Sequence[Entity]],
    average: Average = "micro",
    allow_partial: bool = False,
) -> Score:
    """F1 of entities whose type and filler are both exactly right; each gold entity can be found once.

    Args:
        gold: Utterance id -> entities.
        predicted: The same; an utterance that is missing counts as one with no entity.
        average: ``"micro"`` pools the types, ``"macro"`` averages over them.
        allow_partial: Score the utterances that were predicted only.

    Raises:
        KANError: For a gold filler without words, or predictions for an unknown utterance, naming it.
    """
    _check_fillers(gold)
    tallies: _Tallies = defaultdict(_Tally)
    for utterance, entities in _scored(gold, predicted, allow_partial).items():
        true = Counter((e.type, " ".join(_words(e.filler))) for e in entities)
        found = Counter((e.type, " ".join(_words(e.filler))) for e in predicted.get(utterance, ()))
        for kind, pairs in (("tp", true & found), ("fp", found - true), ("fn", true - found)):
            for (name, _), count in pairs.items():
                tallies[name] += _Tally(**{kind: count})
    return _average(tallies, average)


def intent_accuracy(gold: Mapping[str, T], predicted: Mapping[str, T], allow_partial: bool = False) -> float:
    """Share of utterances whose intent (a name, or a tuple of all slots) is exactly right; a missing one is wrong.

    Args:
        gold: Utterance id -> intent. SLURP's is ``scenario_action``: its field ``intent`` lacks the scenario at times.
        predicted: The same.
        allow_partial: Score the utterances that were predicted only.

    Raises:
        KANError: For predictions for an unknown utterance, or when there is nothing to score.
    """
    scored = _scored(gold, predicted, allow_partial)
    if not scored:
        raise KANError("there is no utterance to score: the predictions have none of the gold ids")
    return sum(u in predicted and predicted[u] == intent for u, intent in scored.items()) / len(scored)


def intent_f1(
    gold: Mapping[str, str], predicted: Mapping[str, str], average: Average = "micro", allow_partial: bool = False
) -> Score:
    """Multi-class F1: a right intent is a TP of it, a wrong one an FP of the predicted and an FN of the gold one.

    Args:
        gold: Utterance id -> intent.
        predicted: The same; an utterance that is missing is an FN.
        average: ``"micro"`` (the accuracy, when nothing is missing), or ``"macro"`` over the intents that occur.
        allow_partial: Score the utterances that were predicted only.

    Raises:
        KANError: For predictions for an unknown utterance, naming it.
    """
    tallies: _Tallies = defaultdict(_Tally)
    for utterance, intent in _scored(gold, predicted, allow_partial).items():
        found = predicted.get(utterance)
        if found == intent:
            tallies[intent] += _Tally(tp=1)
            continue
        tallies[intent] += _Tally(fn=1)
        if found is not None:
            tallies[found] += _Tally(fp=1)
    return _average(tallies, average)


def _match(
    gold: Sequence[Entity], predicted: Sequence[Entity], distance: Callable[[str, str], float], tallies: _Tallies
) -> None:
    remaining = list(gold)
    for entity in predicted:
        same = [g for g in remaining if g.type == entity.type]
        if not same:
            tallies[entity.type] += _Tally(fp=1)
            continue
        d, nearest = min(((distance(g.filler, entity.filler), g) for g in same), key=lambda pair: pair[0])
        tallies[entity.type] += _Tally(tp=1, fp=d, fn=d)
        remaining.remove(nearest)
    for entity in remaining:
        tallies[entity.type] += _Tally(fn=1)


def _words(filler: str) -> list[str]:
    return filler.lower().split()


def _word_distance(gold: str, predicted: str) -> float:
    words = _words(gold)
    return int(AF.edit_distance(words, _words(predicted))) / len(words)


def _char_distance(gold: str, predicted: str) -> float:
    gold, predicted = " ".join(_words(gold)), " ".join(_words(predicted))
    return int(AF.edit_distance(gold, predicted)) / max(len(gold), len(predicted))


_DISTANCES = {"word": _word_distance, "char": _char_distance}


def _scored(gold: Mapping[str, T], predicted: Mapping[str, object], allow_partial: bool) -> dict[str, T]:
    """The utterances that count."""
    for utterance in predicted:
        if utterance not in gold:
            raise KANError(f"there is a prediction for {utterance}, which is not among the {len(gold)} gold utterances")
    return {u: value for u, value in gold.items() if u in predicted or not allow_partial}


def _check_fillers(gold: Mapping[str, Sequence[Entity]]) -> None:
    for utterance, entities in gold.items():
        for entity in entities:
            if not _words(entity.filler):
                raise KANError(f"{utterance}: the gold entity {entity.type!r} has an empty filler: give its words")


def _average(tallies: _Tallies, average: Average) -> Score:
    _check_choice("average", average, get_args(Average))
    if average == "macro":
        scores = [tally.score() for tally in tallies.values()]
        return (
            Score(*(_ratio(sum(column), len(scores)) for column in zip(*scores, strict=True)))
            if scores
            else Score(0, 0, 0)
        )
    pooled = _Tally()
    for tally in tallies.values():
        pooled += tally
    return pooled.score()


def _check_choice(option: str, value: Hashable, choices: Sequence[str]) -> None:
    if value not in choices:
        raise KANError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
