"""Splits: every row in one part, the same for every run, stratified, by groups, in time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kan_core.errors import KANError
from kan_tabular.data import Table
from kan_tabular.data.splits import split_rows

ROWS = 200


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    y = pd.Series(np.where(np.arange(ROWS) % 10 < 3, "rare", "often"), name="y")
    return Table(pd.DataFrame({"a": rng.random(ROWS)}), y, "t")


def split(table, task="binary", **options):
    return split_rows(
        table, task, **{"how": "random", "test_fraction": 0.2, "val_fraction": 0.25, "seed": 0, **options}
    )


@pytest.mark.parametrize("how", ["random", "time"])
def test_every_row_is_in_one_part(table, how):
    parts = split(table, how=how)
    assert [len(part) for part in parts] == [120, 40, 40]
    assert sorted(np.concatenate(parts)) == list(range(ROWS))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_classes_keep_their_shares(table):
    for part in split(table):
        assert (table.y.iloc[part] == "rare").mean() == pytest.approx(0.3)


def test_the_seed_alone_decides_and_no_global_state_is_touched(table):
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    first, again, other = split(table), split(table), split(table, seed=1)
    assert np.random.get_state()[1].tolist() == before
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.test != other.test).any()


def test_in_time_order_the_test_comes_last(table):
    train, val, test = split(table, how="time")
    assert train.max() < val.min()
    assert val.max() < test.min()


def test_groups_are_never_divided(table):
    groups = pd.Series(np.arange(ROWS) // 7)
    parts = split(replace(table, groups=groups))
    found = [set(groups.iloc[part]) for part in parts]
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]
    assert sorted(np.concatenate(parts)) == list(range(ROWS))


@pytest.mark.parametrize("how", ["random", "time"])
def test_official_test_rows_are_the_test(table, how):
    mask = np.arange(ROWS) % 3 == 0
    parts = split(replace(table, test=mask), how=how)
    np.testing.assert_array_equal(parts.test, np.flatnonzero(mask))
    assert len(parts.val) == round((~mask).sum() * 0.25 + 1e-9) or len(parts.val) == 34


def test_a_class_that_is_too_rare(table):
    y = table.y.copy()
    y.iloc[3] = "once"
    with pytest.raises(KANError, match=r"t: no test rows .* class 'once' has 1 row\(s\)"):
        split(replace(table, y=y), "multiclass")


def test_too_few_rows(table):
    small = Table(table.X[:3], pd.Series([1.0, 2.0, 3.5], name="y"), "t")
    with pytest.raises(KANError, match="t: no "):
        split(small, "regression", test_fraction=0.9)
    with pytest.raises(KANError, match="3 rows are too few"):
        split(small, "regression", how="time", val_fraction=0.1)


def test_too_few_groups(table):
    with pytest.raises(KANError, match=r"1 group\(s\) are too few"):
        split(replace(table, groups=pd.Series([0] * ROWS)))


def test_groups_in_time_order_are_refused(table):
    with pytest.raises(KANError, match="split=time keeps no groups together"):
        split(replace(table, groups=pd.Series(range(ROWS))), how="time")
