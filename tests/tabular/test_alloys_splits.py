"""No alloy, system or element on both sides: card `hea.md`, fact 9."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_score

from kan_core.errors import KANError
from kan_tabular.alloys import check_disjoint, grouped_folds, leave_one_element_out, synthetic_alloys

ALLOYS = synthetic_alloys(300, seed=1)


@pytest.mark.parametrize("by", ["formula", "system"])
@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("stratified", [False, True])
def test_fact_9_no_group_is_on_both_sides(by, seed, stratified):
    groups = ALLOYS.groups[by]
    folds = list(grouped_folds(groups, 5, seed=seed, stratify=ALLOYS.single_phase if stratified else None))
    for train, test in folds:
        assert not set(groups.iloc[train]) & set(groups.iloc[test])
        assert sorted([*train, *test]) == list(range(300))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(300))


def test_a_seed_repeats_its_folds_and_another_gives_others():
    def tests(seed):
        return [fold.test.tolist() for fold in grouped_folds(ALLOYS.groups["system"], seed=seed)]

    assert tests(3) == tests(3)
    assert tests(3) != tests(4)


def test_folds_go_into_scikit_learn():
    folds = [tuple(fold) for fold in grouped_folds(ALLOYS.groups["system"], 4)]
    assert len(cross_val_score(LinearRegression(), ALLOYS.X, ALLOYS.yield_strength, cv=folds)) == 4


def test_stratified_folds_have_similar_shares():
    label = ALLOYS.single_phase.to_numpy()
    shares = [label[f.test].mean() for f in grouped_folds(ALLOYS.groups["formula"], 5, seed=0, stratify=label)]
    assert np.ptp(shares) < 0.05


def test_an_element_left_out_is_in_no_training_row():
    folds = list(leave_one_element_out(ALLOYS.fractions))
    assert [fold.element for fold in folds] == sorted(ALLOYS.fractions.columns)
    for element, train, test in folds:
        assert (ALLOYS.fractions[element].iloc[train] == 0).all()
        assert (ALLOYS.fractions[element].iloc[test] > 0).all()
        assert len(train) + len(test) == 300


def test_rare_and_common_elements_can_be_left_out():
    fractions = pd.DataFrame({"Al": [1.0, 0.5, 0.5], "Ni": [0.0, 0.5, 0.5], "Ti": [0.0, 0.0, 0.0]})
    assert [fold.element for fold in leave_one_element_out(fractions)] == ["Ni"]
    assert list(leave_one_element_out(fractions, min_rows=2)) == []


def test_a_leak_is_told():
    with pytest.raises(KANError, match="groups: b is on both sides of the split, and 0 more are"):
        check_disjoint(["a", "b", "b", "c"], [0, 1], [2, 3])


@pytest.mark.parametrize(
    ("groups", "n", "message"),
    [
        (["a", "a", "b"], 3, "3 folds of 2 groups"),
        (["a", "b"], 1, "1 folds of 2 groups"),
        (pd.Series(["a", None, "b"]), 2, "row 1 has no group"),
    ],
)
def test_impossible_folds(groups, n, message):
    with pytest.raises(KANError, match=message):
        list(grouped_folds(groups, n))
