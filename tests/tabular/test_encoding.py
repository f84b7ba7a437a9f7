"""How a table becomes numbers: robust scaling, categories, gaps, and nothing from rows that are not there."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kan_core.errors import KANError
from kan_tabular import TableEncoder


def test_values_are_scaled_by_median_and_quartiles_and_clipped_smoothly():
    x = np.arange(101.0)[:, None]
    encoder = TableEncoder().fit(x)
    u = (x - 50) / 50
    np.testing.assert_allclose(encoder.transform(x), u / np.sqrt(1 + (u / 3) ** 2))
    assert np.abs(encoder.transform([[1e300], [-1e300]])).max() <= 3


def test_equal_quartiles_take_half_the_range_and_a_constant_column_becomes_zero():
    x = np.zeros((100, 2))
    x[:10, 0] = 8.0
    encoder = TableEncoder().fit(x)
    assert encoder.columns[0].scale == 1 / 4
    assert (encoder.transform(x + 5)[:, 1] == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_original_undoes_scaled(values):
    encoder = TableEncoder().fit(np.array(values)[:, None])
    inside = np.array(values)
    back = encoder.original(0, encoder.scaled(0, inside))
    spread = 1 / encoder.columns[0].scale if encoder.columns[0].scale else np.inf
    far = np.abs(inside - encoder.columns[0].center) > 1e3 * spread
    if encoder.columns[0].scale:
        np.testing.assert_allclose(back[~far], inside[~far], rtol=1e-6, atol=1e-6 * spread)
    else:
        np.testing.assert_allclose(back, encoder.columns[0].center)


def test_categories_have_codes_from_two_on_missing_is_one_and_unknown_zero():
    encoder = TableEncoder().fit(pd.DataFrame({"c": ["b", "a", None, "b"]}))
    assert encoder.columns[0].categories == ("a", "b")
    assert encoder.cardinalities == [4]
    assert encoder.transform(pd.DataFrame({"c": ["a", "zz", None, "b"]}))[:, 0].tolist() == [2, 0, 1, 3]


def test_whole_numbers_are_no_categories_unless_they_are_named():
    frame = pd.DataFrame({"code": [1, 2, 1, 3], "x": [0.5, 1, 2, 3]})
    assert TableEncoder().fit(frame).cardinalities == [0, 0]
    for chosen in (["code"], [0], [True, False]):
        assert TableEncoder(chosen).fit(frame).cardinalities == [5, 0]
    assert TableEncoder(None).fit(frame).cardinalities == [0, 0]


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA, pd.NaT])
def test_every_kind_of_missing_number_is_a_nan(missing):
    frame = pd.DataFrame({"x": pd.Series([1.0, missing, 3.0], dtype=object)})
    assert np.isnan(TableEncoder().fit(frame).transform(frame)[:, 0]).tolist() == [False, True, False]


def test_booleans_are_numbers():
    frame = pd.DataFrame({"x": [True, False, True], "y": pd.array([True, None, False], dtype="boolean")})
    encoder = TableEncoder().fit(frame)
    assert encoder.cardinalities == [0, 0]
    assert np.isnan(encoder.transform(frame)[1, 1])


def test_a_weight_of_two_is_a_row_twice_and_one_of_zero_no_row():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=30), "c": rng.choice(list("abcdef"), 30)})
    weight = rng.integers(0, 4, 30)
    repeated = frame.loc[frame.index.repeat(weight)]
    assert TableEncoder().fit(frame, weight).columns == TableEncoder().fit(repeated).columns


def test_an_encoder_goes_through_json():
    frame = pd.DataFrame({"x": [1.0, np.nan, 3.0], "c": ["a", "b", None], "n": pd.Categorical([1, 2, 1])})
    encoder = TableEncoder().fit(frame)
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again.columns == encoder.columns
    np.testing.assert_array_equal(again.transform(frame), encoder.transform(frame))


def test_a_column_like_an_identifier_is_warned_of():
    frame = pd.DataFrame({"id": [f"row {i}" for i in range(50)]})
    with pytest.warns(UserWarning, match="'id' has 50 categories in 50 rows"):
        TableEncoder().fit(frame)


def test_text_where_numbers_were_is_refused():
    encoder = TableEncoder().fit(pd.DataFrame({"x": [1.0, 2.0]}))
    with pytest.raises(KANError, match="column 'x' was numeric in training"):
        encoder.transform(pd.DataFrame({"x": ["one", "two"]}))
