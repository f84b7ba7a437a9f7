"""SLU-F1 and its relatives: the card's golden values and invariants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from kan_audio.metrics.slots import SlotScores
from kan_audio.metrics.slu import Entity, intent_accuracy, intent_f1, slu_f1, span_f1
from kan_core.errors import KANError

GOLDEN_1 = ({"u": [Entity("time", "eight")]}, {"u": [Entity("time", "eight am")]})
GOLDEN_2 = (
    {"u": [Entity("time", "eight"), Entity("date", "next monday")]},
    {"u": [Entity("date", "monday"), Entity("place", "rome")]},
)


@pytest.mark.parametrize(
    ("pair", "word", "char", "slu"),
    [(GOLDEN_1, 0.5, 0.7272727, 0.5925926), (GOLDEN_2, 0.4, 0.4074074, 0.4036697)],
)
def test_golden_values_of_the_card(pair, word, char, slu):
    for distance, expected in (("word", word), ("char", char), ("slu", slu)):
        assert slu_f1(*pair, distance=distance).f1 == pytest.approx(expected, abs=1e-7)


def test_golden_tallies_give_precision_and_recall():
    # word TP 1 FP 1.5 FN 1.5, char TP 1 FP 1.4545455 FN 1.4545455
    assert slu_f1(*GOLDEN_2, distance="word").precision == pytest.approx(1 / 2.5)
    assert slu_f1(*GOLDEN_2, distance="char").recall == pytest.approx(1 / 2.4545455)
    assert slu_f1(*GOLDEN_2).precision == pytest.approx(2 / (2 + 1.5 + 1.4545455))


def test_macro_averages_over_types():
    gold, predicted = GOLDEN_2  # date: word TP 1 FP FN .5, char FP FN 5/11; time: FN 2; place: FP 2
    date = 2 / (2 + 0.5 + 5 / 11)
    assert slu_f1(gold, predicted, average="macro").f1 == pytest.approx(date / 3)


def test_word_distance_may_exceed_one_and_f1_stays_in_range():
    score = slu_f1({"u": [Entity("a", "x")]}, {"u": [Entity("a", "p q r s")]}, distance="word")
    assert score.precision == pytest.approx(1 / 5)  # d = 4
    assert 0 < score.f1 < 1


def test_the_nearest_gold_entity_of_the_type_is_taken_and_order_matters():
    gold = {"u": [Entity("t", "seven"), Entity("t", "eight am")]}
    near_first = {"u": [Entity("t", "eight am"), Entity("t", "eight")]}
    far_first = {"u": [Entity("t", "eight"), Entity("t", "eight am")]}
    assert slu_f1(gold, near_first, distance="word").f1 > slu_f1(gold, far_first, distance="word").f1
    swapped = {"u": [Entity("t", "eight am"), Entity("t", "seven")]}
    assert slu_f1(gold, swapped).f1 == 1


def test_case_and_blanks_do_not_count():
    assert slu_f1({"u": [Entity("t", "Eight  AM")]}, {"u": [Entity("t", " eight am")]}).f1 == 1
    assert span_f1({"u": [Entity("t", "Eight  AM")]}, {"u": [Entity("t", " eight am")]}).f1 == 1


def test_missing_utterances_are_all_false_negatives_unless_partial_is_allowed():
    gold = {"a": [Entity("t", "one")], "b": [Entity("t", "two")]}
    predicted = {"a": [Entity("t", "one")]}
    assert slu_f1(gold, predicted).recall == 0.5
    assert slu_f1(gold, predicted).precision == 1
    assert slu_f1(gold, predicted, allow_partial=True).f1 == 1
    assert span_f1(gold, predicted).recall == 0.5
    assert intent_accuracy({"a": "x", "b": "y"}, {"a": "x"}) == 0.5
    assert intent_accuracy({"a": "x", "b": "y"}, {"a": "x"}, allow_partial=True) == 1


@pytest.mark.parametrize("metric", [slu_f1, span_f1])
def test_an_empty_gold_filler_names_the_utterance(metric):
    with pytest.raises(KANError, match="utt-7: the gold entity 'date' has an empty filler"):
        metric({"utt-7": [Entity("date", "  ")]}, {})


@pytest.mark.parametrize("metric", [slu_f1, span_f1, intent_accuracy, intent_f1])
def test_a_prediction_for_nothing_is_refused(metric):
    with pytest.raises(KANError, match="there is a prediction for x, which is not among the 1 gold utterances"):
        metric({"u": []}, {"x": []})


@pytest.mark.parametrize("option", [{"average": "weighted"}, {"distance": "phone"}])
def test_unknown_options_are_refused(option):
    with pytest.raises(KANError, match="must be one of"):
        slu_f1({"u": []}, {}, **option)


fillers = st.lists(st.sampled_from(["one", "two", "ten"]), min_size=1, max_size=3).map(" ".join)
entities = st.lists(st.builds(Entity, st.sampled_from("abc"), fillers), max_size=4)
one_of_each_type = st.tuples(st.sampled_from(["one", "two ten", "six"]), st.sampled_from(["one", "two", "six"]))


@given(entities)
@settings(max_examples=50, deadline=None)
def test_perfect_is_one_and_empty_is_zero(gold):
    for metric in (slu_f1, span_f1):
        assert metric({"u": gold}, {"u": gold}).f1 == pytest.approx(1.0 if gold else 0.0)
        assert metric({"u": gold}, {"u": []}).f1 == 0


@given(entities, entities)
@settings(max_examples=100, deadline=None)
def test_a_wrong_type_lowers_precision_only(gold, predicted):
    more = [*predicted, Entity("never", "ten")]
    before, after = slu_f1({"u": gold}, {"u": predicted}), slu_f1({"u": gold}, {"u": more})
    assert after.recall == before.recall
    assert after.precision < before.precision or before.precision == 0
    assert 0 <= after.f1 <= 1


@given(st.lists(one_of_each_type, max_size=3))
@settings(max_examples=50, deadline=None)
def test_slu_f1_is_at_least_the_exact_one_when_word_distances_are_at_most_one(pairs):
    gold = {"u": [Entity(str(i), right) for i, (right, _) in enumerate(pairs)]}
    predicted = {"u": [Entity(str(i), said) for i, (_, said) in enumerate(pairs)]}
    assert slu_f1(gold, predicted).f1 >= span_f1(gold, predicted).f1 - 1e-12


def test_span_f1_matches_multisets():
    gold = {"u": [Entity("t", "one"), Entity("t", "one"), Entity("d", "two")]}
    predicted = {"u": [Entity("t", "one"), Entity("t", "one"), Entity("t", "one")]}
    score = span_f1(gold, predicted)
    assert (score.precision, score.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_intent_scores_equal_scikit_learns():
    true, found = list("aabbcd"), list("abbbca")
    gold, predicted = dict(enumerate(true)), dict(enumerate(found))
    assert intent_accuracy(gold, predicted) == pytest.approx(accuracy_score(true, found))
    assert intent_f1(gold, predicted).f1 == pytest.approx(accuracy_score(true, found))
    assert intent_f1(gold, predicted, average="macro").f1 == pytest.approx(f1_score(true, found, average="macro"))


def test_intents_may_be_tuples_of_slots():
    gold = {"u": ("on", "lights", "kitchen"), "v": ("off", "lights", "kitchen")}
    assert intent_accuracy(gold, {"u": ("on", "lights", "kitchen"), "v": ("off", "lights", "none")}) == 0.5


def test_intent_accuracy_of_nothing_is_refused():
    with pytest.raises(KANError, match="no utterance to score"):
        intent_accuracy({"u": "a"}, {}, allow_partial=True)


def test_slot_scores_equal_scikit_learns_and_exact_match_is_at_most_the_least():
    generator = torch.Generator().manual_seed(3)
    sizes = (3, 5, 1)
    label = torch.stack([torch.randint(n, (60,), generator=generator) for n in sizes], dim=1)
    wrong = torch.rand(60, 3, generator=generator) < 0.3
    predicted = torch.where(wrong, torch.stack([torch.randint(n, (60,), generator=generator) for n in sizes], 1), label)
    scores = SlotScores(["a", "b", "c"], sizes)
    for rows in torch.arange(60).split(17):
        scores.update(predicted[rows], label[rows])
    found = scores.compute()
    for index, slot in enumerate("abc"):
        accuracy = accuracy_score(label[:, index], predicted[:, index])
        assert found[f"accuracy_{slot}"] == pytest.approx(accuracy)
        macro = f1_score(label[:, index], predicted[:, index], average="macro")
        assert found[f"macro_f1_{slot}"] == pytest.approx(macro)
        assert found["exact_match"] <= accuracy
    assert found["exact_match"] == pytest.approx((predicted == label).all(dim=1).float().mean().item())
    assert found["accuracy"] == pytest.approx(sum(found[f"accuracy_{s}"] for s in "abc") / 3)


def test_unknown_labels_count_in_no_slot():
    scores = SlotScores(["a", "b"], (2, 2))
    scores.update(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, -1], [0, 1]]))
    found = scores.compute()
    assert (found["accuracy_a"], found["accuracy_b"], found["exact_match"]) == (0.5, 1, 0)
    assert scores.confusion["b"].tolist() == [[0, 0], [0, 1]]
    nothing = SlotScores(["a"], (2,))
    nothing.update(torch.tensor([[0]]), torch.tensor([[-1]]))
    assert all(value.isnan() for value in nothing.compute().values())
