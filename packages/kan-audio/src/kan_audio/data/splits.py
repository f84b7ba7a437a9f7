"""Splitting a set by speaker, by attack or at random, and the checks that nothing leaks between the parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sklearn.model_selection import GroupShuffleSplit, KFold, train_test_split

from kan_audio.data.utterances import Splits, Utterance, UtteranceSplits, check_unique
from kan_core.errors import KANError

SplitRule = Literal["speaker", "attack", "attack-id", "random"]


def by_speaker(
    utterances: Sequence[Utterance], val: float = 0.2, test: float = 0.2, seed: int = 0, where: str = "speakers"
) -> UtteranceSplits:
    """Every speaker is in one part only.

    Args:
        utterances: The set; its order is kept within the parts.
        val: Share of the speakers (rounded up) in the validation part.
        test: Share of the speakers (rounded up) in the test part.
        seed: The same seed gives the same split.
        where: For messages.

    Raises:
        KANError: When a speaker is not known or there are too few of them.
    """
    speakers = [_known_speaker(u, where) for u in utterances]

    def split(positions: list[int], count: int) -> tuple[list[int], list[int]]:
        splitter = GroupShuffleSplit(1, test_size=count, random_state=seed)
        rest, part = next(splitter.split(positions, groups=[speakers[i] for i in positions]))
        return [positions[i] for i in rest], [positions[i] for i in part]

    return _three_parts(utterances, split, len(set(speakers)), val, test, f"{where} ({len(set(speakers))} speakers)")


def at_random(
    utterances: Sequence[Utterance],
    val: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    stratify: Callable[[Utterance], str] = lambda utterance: "",
    where: str = "utterances",
) -> UtteranceSplits:
    """Split utterances at random, each kind in its proportion.

    Args:
        utterances: The set; its order is kept within the parts.
        val: Share of the utterances (rounded up) in the validation part.
        test: Share of the utterances (rounded up) in the test part.
        seed: The same seed gives the same split.
        stratify: The kind of an utterance; by default all are of one kind.
        where: For messages.

    Raises:
        KANError: When a kind has too few utterances to be in every part.
    """
    kinds = [stratify(u) for u in utterances]

    def split(positions: list[int], count: int) -> tuple[list[int], list[int]]:
        rest, part = train_test_split(
            positions, test_size=count, stratify=[kinds[i] for i in positions], random_state=seed
        )
        return rest, part

    return _three_parts(utterances, split, len(utterances), val, test, where)


def by_attack(
    utterances: Sequence[Utterance],
    held_out: Sequence[str],
    disjoint: Literal["speaker", "id"] = "speaker",
    val: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    where: str = "attacks",
) -> UtteranceSplits:
    """Test on attacks that training and validation never see.

    The spoofs of the test part are those of the attacks in `held_out`, the others are in training and validation. With
    `disjoint` = ``"speaker"`` the speakers are split first (`by_speaker`), and what does not fit its part is left out:
    held-out attacks of training and validation speakers, other attacks of test speakers. With ``"id"``, for sets that
    do not name speakers, every utterance is used: bona fide speech is split three ways and the other attacks two ways,
    at random.

    Args:
        utterances: The set.
        held_out: Attacks to test on.
        disjoint: What is kept apart.
        val: Share of the speakers or of the utterances in validation.
        test: Share of the speakers, or of the bona fide utterances, in the test.
        seed: The same seed gives the same split.
        where: For messages.

    Raises:
        KANError: When an attack is not in the set, none is left to train on, or a split is not possible.
    """
    attacks = {u.attack for u in utterances if not u.is_bonafide}
    check_attacks(held_out, attacks, "held_out", where)
    if not attacks - set(held_out):
        raise KANError(f"{where}: all attacks are held out ({', '.join(sorted(attacks))}): leave one to train on")
    if disjoint == "speaker":
        parts = by_speaker(utterances, val, test, seed, where)
        train, chosen = ([u for u in part if u.attack not in held_out] for part in (parts.train, parts.val))
        return Splits(train, chosen, [u for u in parts.test if u.is_bonafide or u.attack in held_out])
    bonafide = at_random([u for u in utterances if u.is_bonafide], val, test, seed, where=where)
    others = [u for u in utterances if not u.is_bonafide and u.attack not in held_out]
    try:
        train, chosen = train_test_split(others, test_size=val, stratify=[u.attack for u in others], random_state=seed)
    except ValueError as error:
        raise KANError(f"{where}: the spoofs cannot be split with val={val:g}: {error}") from None
    spoofs = Splits(train, chosen, [u for u in utterances if not u.is_bonafide and u.attack in held_out])
    return Splits(*[[*real, *fake] for real, fake in zip(bonafide, spoofs, strict=True)])


def fold(
    utterances: Sequence[Utterance], fold: int, folds: int = 5, seed: int = 0, where: str = "utterances"
) -> UtteranceSplits:
    """One fold of a seeded k-fold: fold `fold` is for the test, the next one for validation, the others to train.

    Args:
        utterances: The set; its order is kept within the parts.
        fold: 0 to `folds` - 1.
        folds: How many, at least 3.
        seed: The same seed gives the same folds; each utterance is in the test part of exactly one.
        where: For messages.

    Raises:
        KANError: When the numbers do not fit each other or the set.
    """
    if folds < 3:
        raise KANError(f"folds must be at least 3 (test, validation, training), got {folds}")
    if not 0 <= fold < folds:
        raise KANError(f"fold must be 0 to {folds - 1}, got {fold}")
    if len(utterances) < folds:
        raise KANError(f"{where}: {len(utterances)} utterances cannot be split into {folds} folds")
    parts = [part.tolist() for _, part in KFold(folds, shuffle=True, random_state=seed).split(utterances)]
    test, val = parts[fold], parts[(fold + 1) % folds]
    train = set(range(len(utterances))) - {*test, *val}
    return Splits(*[[utterances[i] for i in sorted(part)] for part in (train, val, test)])


def by_part(utterances: Iterable[Utterance], part_of: Callable[[Utterance], str]) -> UtteranceSplits:
    """Put every utterance into the part that `part_of` names: ``"train"``, ``"val"`` or ``"test"``."""
    parts: dict[str, list[Utterance]] = {part: [] for part in Splits._fields}
    for utterance in utterances:
        parts[part_of(utterance)].append(utterance)
    return Splits(**parts)


@dataclass(frozen=True)
class SpoofSplit:
    """How a set of bona fide and spoofed speech is split that does not say it itself.

    Attributes:
        rule: ``"speaker"``: no speaker is in two parts. ``"attack"``: nor is an attack of `held_out` in training or
            validation. ``"attack-id"``: the same where speakers are not known, so that they may be in several parts.
            ``"random"``: each attack in its proportion; the result says nothing about other speakers or attacks.
        held_out: Attacks to test on, for the two rules that need them.
        val: Share held out for selection.
        test: Share held out for the test.
        seed: The same seed gives the same split.

    Raises:
        KANError: For a rule that does not exist, or one that does not fit `held_out`.
    """

    rule: SplitRule
    held_out: Sequence[str] | None = None
    val: float = 0.2
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        rules = get_args(SplitRule)
        if self.rule not in rules:
            raise KANError(f"split must be one of {', '.join(rules)}, got {self.rule!r}")
        if self.rule.startswith("attack") != bool(self.held_out):
            raise KANError(
                "held_out names attacks to test on with split=attack or attack-id, and is left out otherwise"
            )

    def __call__(self, utterances: Sequence[Utterance], where: str) -> UtteranceSplits:
        """Split `utterances`; `where` is for messages.

        Raises:
            KANError: When that cannot be done.
        """
        shares = (self.val, self.test, self.seed)
        if self.rule == "speaker":
            return by_speaker(utterances, *shares, where)
        if self.rule == "random":
            return at_random(utterances, *shares, lambda utterance: utterance.attack, where)
        return by_attack(
            utterances, self.held_out or (), "id" if self.rule == "attack-id" else "speaker", *shares, where
        )


def check_disjoint(splits: UtteranceSplits, where: str) -> None:
    """Refuse an empty part, and an id that stands twice, in one part or in two.

    Raises:
        KANError: Naming the first such part or id.
    """
    for part, utterances in splits._asdict().items():
        if not utterances:
            raise KANError(f"{where}: the {part} part is empty")
        check_unique(utterances, f"{where}, {part} part")
    _apart(splits, lambda utterance: utterance.id, "the utterance", where)


def check_speakers(splits: UtteranceSplits, where: str) -> None:
    """Refuse a speaker who is in two parts, or who is not known.

    Raises:
        KANError: Naming the first such speaker.
    """
    _apart(splits, lambda utterance: _known_speaker(utterance, where), "the speaker", where)


def check_attacks(chosen: Iterable[str], known: Iterable[str], option: str, where: str) -> None:
    """Refuse a choice of attacks that holds none, or one that does not exist.

    Raises:
        KANError: Naming the attack and those that exist.
    """
    known, missing = sorted(known), sorted(set(chosen) - set(known))
    if missing or not chosen:
        what = f"no attack {missing[0]!r}" if missing else "no attack in this option"
        raise KANError(f"{option}: {where} has {what}: choose from {', '.join(known)}")


def _apart(splits: UtteranceSplits, key: Callable[[Utterance], str], what: str, where: str) -> None:
    part_of: dict[str, str] = {}
    for part, utterances in splits._asdict().items():
        for name in map(key, utterances):
            other = part_of.setdefault(name, part)
            if other != part:
                raise KANError(f"{where}: {what} {name} is in the {other} part and in the {part} part")


def _known_speaker(utterance: Utterance, where: str) -> str:
    if utterance.speaker is None:
        raise KANError(f"{where}: the speaker of {utterance.id} is not known, so speakers cannot be kept apart")
    return utterance.speaker


def _three_parts(
    utterances: Sequence[Utterance],
    split: Callable[[list[int], int], tuple[list[int], list[int]]],
    units: int,
    val: float,
    test: float,
    where: str,
) -> UtteranceSplits:
    """Split off the test part, then the validation part, each a share of the `units` (speakers or utterances)."""
    if min(val, test) <= 0 or val + test >= 1:
        raise KANError(f"val={val:g} and test={test:g} must be above 0 and together below 1")
    # 0.2 of 10 are 2, whatever the last bit of the product says
    tested, chosen = (math.ceil(round(share * units, 6)) for share in (test, val))
    try:
        rest, last = split(list(range(len(utterances))), tested)
        first, middle = split(rest, chosen)
    except ValueError as error:
        raise KANError(f"{where} cannot be split with val={val:g} and test={test:g}: {error}") from None
    return Splits(*[[utterances[i] for i in sorted(part)] for part in (first, middle, last)])
