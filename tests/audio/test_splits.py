"""Splits: nothing leaks between the parts, the same seed gives the same split, and what cannot be split is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kan_audio.data.splits import (
    SpoofSplit,
    at_random,
    by_attack,
    by_part,
    by_speaker,
    check_disjoint,
    check_speakers,
    fold,
)
from kan_audio.data.utterances import Splits, Utterance
from kan_core.errors import KANError


def utterances(speakers=10, each=6, attacks=("A01", "A02", "A03")):
    """`each` bona fide utterances of every speaker, and as many spoofs of each attack."""
    return [
        Utterance(f"s{s}-{attack}-{i}", None, {"key": "bonafide" if attack == "-" else "spoof"}, f"s{s}", attack)
        for s in range(speakers)
        for attack in ("-", *attacks)
        for i in range(each)
    ]


def speakers_of(part):
    return {u.speaker for u in part}


def ids_of(part):
    return [u.id for u in part]


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 30), st.integers(1, 4), st.floats(0.1, 0.4), st.floats(0.1, 0.4), st.integers(0, 99))
def test_by_speaker_no_speaker_is_in_two_parts_and_nothing_is_lost(speakers, each, val, test, seed):
    every = utterances(speakers, each, attacks=())
    counts = [math.ceil(round(share * speakers, 6)) for share in (val, test)]
    if sum(counts) >= speakers:
        with pytest.raises(KANError, match="speakers"):
            by_speaker(every, val, test, seed)
        return
    splits = by_speaker(every, val, test, seed)
    assert [len(speakers_of(part)) for part in splits[1:]] == counts
    check_disjoint(splits, "set")
    check_speakers(splits, "set")
    assert sorted(ids_of(splits.train) + ids_of(splits.val) + ids_of(splits.test)) == sorted(ids_of(every))


def test_by_speaker_shares_are_of_speakers():
    splits = by_speaker(utterances(10), val=0.2, test=0.3)
    assert [len(speakers_of(part)) for part in splits] == [5, 2, 3]


@pytest.mark.parametrize("split", [by_speaker, at_random, lambda u, seed: fold(u, 1, 4, seed)])
def test_the_seed_alone_decides(split):
    every = utterances()
    first, again, other = (split(every, seed=seed) for seed in (3, 3, 4))
    assert [ids_of(part) for part in first] == [ids_of(part) for part in again]
    assert [ids_of(part) for part in first] != [ids_of(part) for part in other]


def test_parts_keep_the_order_of_the_set():
    every = utterances()
    place = {u.id: i for i, u in enumerate(every)}
    for splits in (by_speaker(every), at_random(every), fold(every, 0)):
        for part in splits:
            places = [place[u.id] for u in part]
            assert places == sorted(places)


def test_unknown_speakers_cannot_be_kept_apart():
    with pytest.raises(KANError, match="the speaker of x is not known"):
        by_speaker([*utterances(), Utterance("x", None, {"key": "spoof"})])


def test_two_speakers_cannot_be_in_three_parts():
    with pytest.raises(KANError, match=r"cannot be split with val=0\.2 and test=0\.2"):
        by_speaker(utterances(speakers=2))


@pytest.mark.parametrize(("val", "test"), [(0, 0.2), (0.2, 0), (0.5, 0.5), (-0.1, 0.2)])
def test_shares_must_leave_something_for_every_part(val, test):
    with pytest.raises(KANError, match="above 0 and together below 1"):
        at_random(utterances(), val, test)


def test_at_random_keeps_the_proportion_of_each_kind():
    splits = at_random(utterances(), 0.25, 0.25, stratify=lambda u: u.attack)
    for part, size in zip(splits, (30, 15, 15), strict=True):
        assert [sum(u.attack == a for u in part) for a in ("-", "A01", "A02", "A03")] == [size] * 4


def test_at_random_refuses_a_kind_that_cannot_be_in_every_part():
    with pytest.raises(KANError, match=r"cannot be split .*least populated"):
        at_random([*utterances(), Utterance("x", None, {}, attack="A99")], stratify=lambda u: u.attack)


@pytest.mark.parametrize("disjoint", ["speaker", "id"])
def test_held_out_attacks_are_in_the_test_alone_and_bona_fide_does_not_overlap(disjoint):
    splits = by_attack(utterances(), ["A02"], disjoint)
    check_disjoint(splits, "set")
    assert {u.attack for u in splits.train} == {u.attack for u in splits.val} == {"-", "A01", "A03"}
    assert {u.attack for u in splits.test} == {"-", "A02"}
    if disjoint == "speaker":
        check_speakers(splits, "set")


def test_attack_wise_by_id_uses_every_utterance():
    every = utterances()
    splits = by_attack(every, ["A01", "A03"], "id")
    assert sorted(ids_of(splits.train) + ids_of(splits.val) + ids_of(splits.test)) == sorted(ids_of(every))


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (["A02", "A77"], "has no attack 'A77': choose from A01, A02, A03"),
        ([], "no attack in this option"),
        (["A01", "A02", "A03"], "all attacks are held out"),
    ],
)
def test_held_out_attacks_must_exist_and_leave_one(held_out, message):
    with pytest.raises(KANError, match=message):
        by_attack(utterances(), held_out)


def test_every_utterance_is_tested_in_exactly_one_fold():
    every = utterances(speakers=1, each=23, attacks=())
    folds = [fold(every, i, 5) for i in range(5)]
    assert sorted(u.id for splits in folds for u in splits.test) == sorted(ids_of(every))
    for i, splits in enumerate(folds):
        check_disjoint(splits, "set")
        assert ids_of(splits.val) == ids_of(folds[(i + 1) % 5].test)


@pytest.mark.parametrize(
    ("number", "folds", "message"), [(5, 5, "fold must be 0 to 4"), (0, 2, "at least 3"), (0, 41, "40 utterances")]
)
def test_folds_that_do_not_fit_are_refused(number, folds, message):
    with pytest.raises(KANError, match=message):
        fold(utterances()[:40], number, folds)


def test_by_part_sorts_utterances_by_name_of_part():
    every = utterances(speakers=3, each=1, attacks=())
    splits = by_part(every, lambda u: {"s0": "test", "s1": "val", "s2": "train"}[u.speaker])
    assert [ids_of(part) for part in splits] == [["s2---0"], ["s1---0"], ["s0---0"]]


def test_an_utterance_in_two_parts_is_a_leak():
    a, b, c = utterances(speakers=3, each=1, attacks=())
    with pytest.raises(KANError, match="set: the utterance s0---0 is in the train part and in the test part"):
        check_disjoint(Splits([a, b], [c], [a]), "set")


def test_an_utterance_twice_in_one_part_is_refused():
    a, b, c = utterances(speakers=3, each=1, attacks=())
    with pytest.raises(KANError, match="set, val part: the id s1---0 stands there twice"):
        check_disjoint(Splits([a], [b, b], [c]), "set")


def test_an_empty_part_is_refused():
    a, b, _ = utterances(speakers=3, each=1, attacks=())
    with pytest.raises(KANError, match="the test part is empty"):
        check_disjoint(Splits([a], [b], []), "set")


def test_a_speaker_in_two_parts_is_a_leak():
    a, other, c = utterances(speakers=1, each=3, attacks=())
    with pytest.raises(KANError, match="the speaker s0 is in the train part and in the val part"):
        check_speakers(Splits([a], [other], [c]), "set")


@pytest.mark.parametrize(("rule", "held_out"), [("attack", None), ("attack-id", []), ("speaker", ["A01"])])
def test_held_out_belongs_to_the_attack_rules(rule, held_out):
    with pytest.raises(KANError, match="held_out names attacks"):
        SpoofSplit(rule, held_out)


def test_an_unknown_rule_is_refused():
    with pytest.raises(KANError, match="split must be one of speaker, attack, attack-id, random, got 'fold'"):
        SpoofSplit("fold")


@pytest.mark.parametrize(
    ("rule", "held_out", "same_as"),
    [
        ("speaker", None, lambda u: by_speaker(u, 0.2, 0.3, 1)),
        ("random", None, lambda u: at_random(u, 0.2, 0.3, 1, lambda x: x.attack)),
        ("attack", ["A01"], lambda u: by_attack(u, ["A01"], "speaker", 0.2, 0.3, 1)),
        ("attack-id", ["A01"], lambda u: by_attack(u, ["A01"], "id", 0.2, 0.3, 1)),
    ],
)
def test_each_rule_is_the_function_of_its_name(rule, held_out, same_as):
    every = utterances()
    splits = SpoofSplit(rule, held_out, 0.2, 0.3, 1)(every, "set")
    assert [ids_of(part) for part in splits] == [ids_of(part) for part in same_as(every)]
