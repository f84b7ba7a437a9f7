"""From readings to windows: one rate, people split, windows cut, statistics of the training people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from kan_core.errors import KANError
from kan_timeseries.data.activity.recordings import ActivityBatch, Readings, Recording
from kan_timeseries.data.activity.resample import regular
from kan_timeseries.data.activity.sets import ActivitySet, Grouping
from kan_timeseries.data.activity.splits import People, choose_validation, people_folds, read_folds, sorted_people
from kan_timeseries.data.activity.windows import WindowRule, cut


@dataclass(frozen=True)
class Known:
    """What is learned from the training people, and how windows are cut; it is stored in checkpoints.

    Attributes:
        name: Of the set.
        rate: Samples per second.
        num_samples: Of a window.
        step: Samples from one window to the next.
        short: What happens to recordings shorter than a window.
        max_gap: Seconds.
        channels: Names.
        units: Of the channels.
        classes: Names by index.
        people: Of the parts.
        channel_mean: Over the samples of the training people.
        channel_std: The same; 1 for a channel that does not change.
    """

    name: str
    rate: float
    num_samples: int
    step: int
    short: Literal["pad", "drop"]
    max_gap: float
    channels: list[str]
    units: list[str]
    classes: list[str]
    people: dict[str, list[str]]
    channel_mean: list[float]
    channel_std: list[float]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that `ActivityData` gives.

    Attributes:
        known: What checkpoints store.
        recordings: At one rate, labelled with classes.
        subjects: People by index.
        trials: Person and trial by index.
        folds: The test people of each fold.
        parts: The windows.
        counts: What was left out or repaired.
        message: What to tell the user.
    """

    known: Known
    recordings: list[Recording]
    subjects: list[str]
    trials: list[tuple[str, str]]
    folds: list[list[str]]
    parts: dict[str, ActivityBatch]
    counts: dict[str, int]
    message: str


def prepare(readings: Readings, own: ActivitySet, name: str, given: Mapping[str, Any]) -> Prepared:
    """Split people, cut windows, and learn channel statistics from the training people.

    Args:
        readings: The set.
        own: Its defaults.
        name: For messages.
        given: The options of `ActivityData`.

    Raises:
        KANError: When an option does not fit the set, or a part would be empty.
    """
    counts = Counter(readings.counts)
    kept, classes = _with_classes(readings.recordings, _grouping(readings, own, name, given["classes"]), counts, name)
    rate = float(given["rate"] or readings.rate)
    recordings, subjects, trials = at_one_rate(kept, rate, given["max_gap"], counts)
    folds = _folds(subjects, own, name, given)
    people = _people(recordings, subjects, folds, given)
    rule = _rule(recordings, rate, own, given)
    parts: dict[str, ActivityBatch] = {}
    for part, names in people._asdict().items():
        again = part == "test" and people.test == people.val
        of_part = [recording for recording in recordings if recording.subject in names]
        parts[part] = cut(of_part, rule, classes, subjects, trials, Counter() if again else counts)
        if not len(parts[part].x):
            raise KANError(f"{name}: the {part} part has no window: give shorter windows or other people")
    mean, std = channel_statistics([recording for recording in recordings if recording.subject in people.train])
    known = Known(
        name=name,
        rate=rate,
        num_samples=rule.length,
        step=rule.step,
        short=rule.short,
        max_gap=given["max_gap"],
        channels=readings.channels,
        units=readings.units,
        classes=classes,
        people=people._asdict(),
        channel_mean=mean,
        channel_std=std,
    )
    said = {text: count for text, count in counts.items() if count}
    message = _description(known, trials, len(subjects), parts, said, readings.notes)
    return Prepared(known, recordings, subjects, trials, folds, parts, said, message)


def at_one_rate(
    recordings: Sequence[Recording], rate: float, max_gap: float, counts: Counter[str]
) -> tuple[list[Recording], list[str], list[tuple[str, str]]]:
    """The pieces of all recordings at `rate` (`regular`), their people, and their (person, trial)."""
    pieces = [piece for recording in recordings for piece in regular(recording, rate, max_gap, counts)]
    trials = dict.fromkeys((piece.subject, piece.trial) for piece in pieces)
    return pieces, sorted_people(person for person, _ in trials), list(trials)


def channel_statistics(recordings: Sequence[Recording]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (of the population) per channel over all samples; 1 for a constant channel.

    Args:
        recordings: Of the training people.
    """
    count = sum(len(recording.x) for recording in recordings)
    mean = sum(recording.x.sum(axis=0, dtype=np.float64) for recording in recordings) / count
    squares = sum(((recording.x - mean) ** 2).sum(axis=0) for recording in recordings)
    std = np.sqrt(np.asarray(squares) / count)
    return np.asarray(mean).tolist(), np.where(std > 1e-8, std, 1.0).tolist()


def said_counts(counts: Mapping[str, int]) -> str:
    """The counts above 0 as one line, after a colon; empty where there are none."""
    said = "; ".join(f"{count:,} {text}" for text, count in counts.items() if count)
    return f": {said}" if said else ""


# Classes --------------------------------------------------------------------------------------------------------------


def _grouping(readings: Readings, own: ActivitySet, name: str, chosen: str | Sequence[str] | None) -> Grouping:
    if chosen is None:
        return lambda label: label or None
    if isinstance(chosen, str):
        if chosen not in own.groupings:
            names = ", ".join(own.groupings) or "none"
            raise KANError(f"classes: there is no grouping {chosen!r} (there are: {names}): name one, or list labels")
        return own.groupings[chosen]
    labels = _labels_of(readings.recordings)
    unknown = [label for label in chosen if label not in labels]
    if unknown or len(set(chosen)) < 2:
        what = f"there is no label {unknown[0]!r}" if unknown else "two are needed"
        raise KANError(f"classes: {what}: {name} has {', '.join(sorted(labels))}")
    return lambda label: label if label in chosen else None


def _labels_of(recordings: Sequence[Recording]) -> Counter[str]:
    """How many recordings have each label; of one in which it changes, each of its labels counts."""
    found = Counter[str]()
    for recording in recordings:
        found.update([recording.label] if recording.labels is None else np.unique(recording.labels).tolist())
    del found[""]
    return found


def _with_classes(
    recordings: Sequence[Recording], grouping: Callable[[str], str | None], counts: Counter[str], name: str
) -> tuple[list[Recording], list[str]]:
    """Recordings that have a class, labelled with it, and the classes, sorted."""
    kept = []
    for recording in recordings:
        if recording.labels is None:
            renamed = replace(recording, label=grouping(recording.label) or "")
        else:
            names, codes = np.unique(recording.labels, return_inverse=True)
            renamed = replace(recording, labels=np.array([grouping(str(n)) or "" for n in names])[codes])
        if _labels_of([renamed]):
            kept.append(renamed)
        else:
            counts["recordings of other classes (left out)"] += 1
    classes = sorted(_labels_of(kept))
    if len(classes) < 2:
        raise KANError(f"{name}: {len(classes)} classes were found, two are needed")
    return kept, classes


# People and windows ---------------------------------------------------------------------------------------------------


def _folds(subjects: list[str], own: ActivitySet, name: str, given: Mapping[str, Any]) -> list[list[str]]:
    """The test people of each fold."""
    folds = own.folds if given["folds"] is None else given["folds"]
    if folds in ("official", "literal"):
        if own.test is None or (folds == "literal" and not own.literal):
            raise KANError(f"folds={folds}: {name} has no such split: give a number of folds, or lopo")
        test = [person for person in subjects if own.test(person)]
        if not test:
            raise KANError(
                f"folds={folds}: none of the test people of {name} is there: give a number of folds, or lopo"
            )
        return [test]
    if str(folds).endswith(".json"):
        return read_folds(str(folds), given["dataset"], subjects)
    if folds != "lopo" and not str(folds).isdecimal():
        raise KANError(f"folds must be a number, lopo, official, literal or a .json file, got {folds!r}")
    return people_folds(subjects, len(subjects) if folds == "lopo" else int(folds), given["split_seed"])


def _people(
    recordings: Sequence[Recording], subjects: Sequence[str], folds: Sequence[list[str]], given: Mapping[str, Any]
) -> People:
    if not 0 <= given["fold"] < len(folds):
        raise KANError(f"fold must be 0 to {len(folds) - 1}, got {given['fold']}")
    test = folds[given["fold"]]
    rest = {person: Counter[str]() for person in subjects if person not in test}
    if given["folds"] == "literal":
        return People(list(rest), test, test)
    for recording in recordings:
        if recording.subject in rest:
            rest[recording.subject].update(_labels_of([recording]))
    val = choose_validation(rest, given["val_people"], given["split_seed"])
    return People([person for person in rest if person not in val], val, test)


def _rule(recordings: Sequence[Recording], rate: float, own: ActivitySet, given: Mapping[str, Any]) -> WindowRule:
    window = given["window"] or own.window
    if window is None:
        raise KANError("how long is a window of this table? Give --data.window in seconds, or trial")
    if window == "trial" and given["step"] is not None:
        raise KANError(f"step={given['step']} needs a window in seconds: here each recording is one window")
    if window == "trial":
        length = step = max(len(recording.x) for recording in recordings)
    else:
        length, step = round(window * rate), max(round((given["step"] or window / 2) * rate), 1)
    return WindowRule(length, step, given["short"], given["label_rule"], given["min_share"])


# What is said ---------------------------------------------------------------------------------------------------------


def _description(
    known: Known,
    trials: Sequence[tuple[str, str]],
    people: int,
    parts: Mapping[str, ActivityBatch],
    counts: Mapping[str, int],
    notes: Sequence[str],
) -> str:
    lines = [
        f"{known.name}: {len(trials):,} recordings of {people} people, {len(known.classes)} classes, "
        f"{len(known.channels)} channels at {known.rate:g} Hz; windows of {known.num_samples} samples "
        f"({known.num_samples / known.rate:.3g} s) every {known.step}"
    ]
    lines += [f"{part}: {len(windows.x):,} windows of {_some(known.people[part])}" for part, windows in parts.items()]
    lines += [f"counted{said_counts(counts)}"] if counts else []
    notes = [*notes, *_missing_classes(parts, known.classes)]
    if known.people["val"] == known.people["test"]:
        notes.append(
            "the validation people are the test people, as in the paper: what is reported is chosen on the test"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _missing_classes(parts: Mapping[str, ActivityBatch], classes: Sequence[str]) -> list[str]:
    notes = []
    for part, windows in parts.items():
        counted = torch.bincount(windows.y, minlength=len(classes)).tolist()
        absent = [name for name, count in zip(classes, counted, strict=True) if not count]
        if absent:
            notes.append(f"no window of the {part} part is {' or '.join(absent)}")
    return notes


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
