"""Tables: the rule that infers the task, the roles of columns, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kan_core.errors import KANError
from kan_tabular.data.tables import Table, check_table, infer_task, make_table, task_reason


def frame(rows=60, **columns):
    base = {"a": np.arange(rows) / 7, "b": ["x", "y", "z"] * (rows // 3), "y": [0, 1] * (rows // 2)}
    return pd.DataFrame({**base, **columns})


def refused(message, *args, **options):
    with pytest.raises(KANError, match=message) as error:
        make_table(*args, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0, 1] * 50, "binary"),
        ([0.5, 1.5] * 50, "binary"),
        (["no", "yes"] * 50, "binary"),
        ([True, False] * 50, "binary"),
        (["a", "b", "c"] * 30, "multiclass"),
        (pd.Series(["a", "b", "c"] * 30, dtype="category"), "multiclass"),
        ([1, 2, 3] * 10, "multiclass"),  # ten rows each
        ([1, 2, 3] * 9, "regression"),  # too few rows each for a quantity to be taken for classes
        (list(range(20)) * 10, "multiclass"),
        (list(range(21)) * 10, "regression"),
        ([1.0, 2.0, 3.0] * 10, "multiclass"),  # whole numbers that came with a decimal point
        ([1.0, 2.0, 3.5] * 10, "regression"),
        (pd.Series([1, 2, 3] * 10, dtype="Int64"), "multiclass"),
        (list(range(200)), "regression"),
    ],
)
def test_the_rule_for_tasks(values, task):
    assert infer_task(pd.Series(values)) == task
    assert task_reason(pd.Series(values))


def test_several_targets_are_regression_of_numbers():
    assert infer_task(pd.DataFrame({"u": [0, 1], "v": [1, 0]})) == "regression"
    with pytest.raises(KANError, match="'v' is no number"):
        infer_task(pd.DataFrame({"u": [0, 1], "v": ["a", "b"]}))


def test_the_reason_names_the_two_values():
    assert task_reason(pd.Series(["no", "yes"])) == "2 values: no, yes"
    assert task_reason(pd.Series([1.0, 0.0])) == "2 values: 0, 1"


def test_roles():
    data = frame(w=np.ones(60), g=np.arange(60) // 6, extra=1, code=[1, 2, 3] * 20, flag=[True, False] * 30)
    table = make_table(data, "t", ["y"], weights="w", group="g", drop=["extra"], categorical=["code"])
    assert list(table.X.columns) == ["a", "b", "code", "flag"]
    assert table.X["code"].dtype == "str"
    assert table.X["code"].tolist() == ["1", "2", "3"] * 20
    assert table.X["flag"].tolist() == [1.0, 0.0] * 30
    assert table.weight.tolist() == [1.0] * 60
    assert table.groups.nunique() == 10


def test_a_nullable_boolean_becomes_a_number_that_may_be_missing():
    flag = pd.Series([True, None, False] * 20, dtype="boolean")
    values = make_table(frame(flag=flag), "t", ["y"]).X["flag"].to_numpy()
    np.testing.assert_array_equal(values[:3], [1.0, np.nan, 0.0])
    assert values.dtype == np.float64


def test_a_missing_category_stays_missing():
    code = pd.Series([1, 2, None] * 20)
    assert make_table(frame(code=code), "t", ["y"], categorical=["code"]).X["code"].isna().sum() == 20


def test_constant_and_all_missing_columns_are_fine():
    table = make_table(frame(nothing=np.nan, same=3, void=pd.Series([None] * 60, dtype="str")), "t", ["y"])
    assert {"nothing", "same", "void"} <= set(table.X.columns)


def test_a_missing_target_column_names_close_ones():
    refused(r"my\.csv \(target\): there is no column 'Y': did you mean 'y'\?", frame(), "my.csv", ["Y"])
    refused("there is no column 'result': the columns are a, b, y", frame(), "my.csv", ["result"])


@pytest.mark.parametrize("role", ["weights", "group"])
def test_other_missing_columns(role):
    refused(rf"\({role}\): there is no column 'q'", frame(), "t", ["y"], **{role: "q"})


def test_two_roles():
    refused("column 'a' cannot be both weights and group", frame(), "t", ["y"], weights="a", group="a")
    refused("column 'y' cannot be both target and drop", frame(), "t", ["y"], drop=["y"])


def test_duplicate_names():
    refused("two columns are called 'a'", pd.concat([frame(), frame()[["a"]]], axis=1), "t", ["y"])


def test_infinite_values_name_column_and_row():
    refused("column 'a' is infinite in row 5", frame(a=[0.0] * 4 + [-np.inf] + [1.0] * 55), "t", ["y"])


def test_mixed_types():
    refused(
        r"column 'm' holds mixed types \(number, str\)", frame(m=pd.Series([1, "x"] * 30, dtype=object)), "t", ["y"]
    )


def test_dates_are_told_what_to_become():
    refused("column 'when' is of dtype datetime64.*year", frame(when=pd.date_range("2020", periods=60)), "t", ["y"])


def test_values_of_another_type():
    refused("column 'm' holds values of type list", frame(m=[[1]] * 60), "t", ["y"])


def test_an_unnamed_column_is_most_likely_an_index():
    refused("column 1 has no name in the header", frame(**{"Unnamed: 0": range(60)}), "t", ["y"])


def test_missing_targets():
    refused(
        r"the target 'y' is missing in 2 of 60 rows \(first in row 3\)",
        frame(y=[0, 1] + [None] * 2 + [1] * 56),
        "t",
        ["y"],
    )


def test_a_single_class():
    refused("the target 'y' has one value only, '1'", frame(y=1), "t", ["y"])


def test_no_features_and_no_rows():
    refused("no column is left", frame()[["y"]], "t", ["y"])
    refused("no rows", frame()[:0], "t", ["y"])


def test_weights_that_are_none():
    refused("the weight 'w' of row 2 is -1.0", frame(w=[1.0, -1.0] * 30), "t", ["y"], weights="w")
    refused("the weight 'w' of row 1 is nan", frame(w=[np.nan, 1.0] * 30), "t", ["y"], weights="w")
    refused("the weights 'b' are no numbers", frame(), "t", ["y"], weights="b")


def test_a_table_made_by_hand_is_checked_too():
    with pytest.raises(KANError, match="one value only"):
        check_table(Table(frame()[["a"]], pd.Series([1] * 60, name="y"), "t"))
