"""Splits by person, the folds they come from, and files that fix them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kan_core.errors import KANError
from kan_core.training.files import atomic_write

_DRAWS = 200


class People(NamedTuple):
    """Who is in which part.

    Attributes:
        train: Train on these.
        val: Choose the epoch, and whatever else is chosen, on these.
        test: Looked at once.
    """

    train: list[str]
    val: list[str]
    test: list[str]


def sorted_people(names: Iterable[str]) -> list[str]:
    """Each once; numbers in names count as numbers, so that ``m2`` comes before ``m10``."""
    return sorted(set(names), key=_natural)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    words = [word for word in re.split(r"([0-9]+)", name) if word]
    return [(not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words]


def people_folds(people: Sequence[str], folds: int, seed: int = 0) -> list[list[str]]:
    """The test people of each fold: a seeded shuffle, dealt out evenly; with as many folds as people one by one.

    Args:
        people: Each once.
        folds: 2 up to the number of people; as many as people is "leave one person out", in the order of `people`.
        seed: Of the shuffle.

    Raises:
        KANError: When the number does not fit.
    """
    if not 2 <= folds <= len(people):
        raise KANError(f"folds must be 2 to the number of people, {len(people)}, or lopo: got {folds}")
    if folds == len(people):
        return [[person] for person in people]
    order = np.random.default_rng(seed).permutation(len(people))
    return [sorted_people([people[i] for i in part]) for part in np.array_split(order, folds)]


def choose_validation(
    people: Mapping[str, Counter[str]], chosen: float | int | Sequence[str], seed: int = 0
) -> list[str]:
    """People to validate on, out of those that are not for the test.

    Sets are uneven: one person may have made half of the recordings, or all of a class. So of 200 seeded draws that one
    is taken which leaves most classes to train on, and whose share in each class is closest to its share of people.

    Args:
        people: How many recordings of each class everyone has who is not for the test.
        chosen: How many people; or their share below 1, rounded up; or their names.
        seed: Of the draws.

    Raises:
        KANError: When a person is not there, or nobody would be left to train or to validate on.
    """
    if not isinstance(chosen, int | float):
        unknown = [name for name in chosen if name not in people]
        if unknown:
            raise KANError(f"val_people: {unknown[0]!r} is not among the training people: {', '.join(people)}")
        count = len(set(chosen))
    else:
        count = math.ceil(round(chosen * len(people), 6)) if 0 < chosen < 1 else int(chosen)
    if not 1 <= count < len(people):
        raise KANError(
            f"val_people={chosen} of {len(people)} people who are not for the test leaves none to train or validate on"
        )
    if not isinstance(chosen, int | float):
        return sorted_people(list(chosen))
    names = list(people)
    classes = sorted({label for counted in people.values() for label in counted})
    table = np.array([[people[name][label] for label in classes] for name in names], dtype=np.float64)
    random = np.random.default_rng(seed)
    draws = [random.permutation(len(names))[:count] for _ in range(_DRAWS)]

    def cost(draw: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[int, float]:
        share = table[draw].sum(axis=0) / table.sum(axis=0)
        return int((share == 1).sum()), float(((share - count / len(names)) ** 2).sum())

    return sorted_people([names[i] for i in min(draws, key=cost)])


def write_folds(path: Path | str, dataset: str, folds: Sequence[Sequence[str]]) -> str:
    """Write the test people of each fold to a JSON file, with a hash that `read_folds` checks.

    Args:
        path: The file.
        dataset: The name of the set.
        folds: The people of each fold.

    Returns:
        The hash: SHA-256 of the set's name and the people.
    """
    digest = _digest(dataset, folds)
    with atomic_write(path) as temporary:
        content = {"dataset": dataset, "folds": [list(fold) for fold in folds], "sha256": digest}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return digest


def read_folds(path: Path | str, dataset: str, people: Sequence[str]) -> list[list[str]]:
    """The folds of a file that `write_folds` wrote.

    Args:
        path: The file.
        dataset: The name of the set that they must be of.
        people: Everyone in the set: each is tested in at most one fold, and no other is named.

    Raises:
        KANError: When the file is missing, damaged, changed or of another set.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        name, folds, digest = content["dataset"], content["folds"], content["sha256"]
    except FileNotFoundError:
        raise KANError(f"folds: there is no file {path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise KANError(f"{path} is no file of folds ({type(error).__name__}: {error})") from None
    if digest != _digest(name, folds):
        raise KANError(f"{path} was changed: its hash is not that of its folds; write it anew with write_folds")
    if name != dataset:
        raise KANError(f"{path} holds the folds of {name}, not of {dataset}")
    named = [person for fold in folds for person in fold]
    wrong = sorted(set(named) - set(people)) + [person for person, n in Counter(named).items() if n > 1]
    if wrong:
        raise KANError(f"{path}: {wrong[0]!r} is not among the people of {dataset}, or in two folds")
    return [sorted_people(fold) for fold in folds]


def _digest(dataset: str, folds: Sequence[Sequence[str]]) -> str:
    canonical = json.dumps([dataset, [sorted(fold) for fold in folds]], separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
