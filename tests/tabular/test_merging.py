"""Equal rows become one row with the sum of their weights."""

from __future__ import annotations

import numpy as np

from kan_tabular.merging import merge_rows


def table(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (rows, 3)).astype(float)
    x[rng.random((rows, 3)) < 0.1] = np.nan
    return x, rng.integers(0, 2, (rows, 1)).astype(float), rng.integers(0, 4, rows).astype(float)


def test_the_sum_of_weights_stays_and_rows_are_distinct():
    x, y, weight = table()
    merged_x, merged_y, merged_weight = merge_rows(x, y, weight)
    assert merged_weight.sum() == weight.sum()
    rows = {tuple(np.nan_to_num(row, nan=-1)) for row in np.hstack([merged_x, merged_y])}
    assert len(rows) == len(merged_x) < len(x)


def test_repeated_rows_in_any_order_are_weighted_rows():
    x, y, weight = table()
    again = np.random.default_rng(1).permutation(np.repeat(np.arange(len(x)), weight.astype(int)))
    for one, other in zip(merge_rows(x, y, weight), merge_rows(x[again], y[again], np.ones(len(again))), strict=True):
        np.testing.assert_array_equal(one, other)


def test_negative_zero_and_any_nan_are_equal():
    x = np.array([[0.0], [-0.0], [np.nan], [np.float64(np.frombuffer(b"\x01\x00\x00\x00\x00\x00\xf8\x7f")[0])]])
    merged_x, _, weight = merge_rows(x, np.zeros((4, 1)), np.ones(4))
    assert len(merged_x) == 2
    assert sorted(weight) == [2, 2]


def test_rows_of_another_target_stay_apart():
    assert len(merge_rows(np.ones((2, 1)), np.array([[0.0], [1.0]]), np.ones(2))[0]) == 2
