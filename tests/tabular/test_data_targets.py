"""Targets: classes and their order, standardised numbers, what no training row has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from kan_core.errors import KANError
from kan_tabular.data.targets import Target


def fit(values, task, weight=None, positive=None):
    y = values if isinstance(values, pd.DataFrame) else pd.DataFrame({"y": values})
    return Target.fit(y, np.ones(len(y)) if weight is None else np.array(weight, float), task, positive, "t")


def encoded(target, values):
    return target.encode(pd.DataFrame({"y": values}), "t")


def test_two_classes_are_0_and_1_in_a_column():
    target = fit(["b", "a", "b"], "binary")
    assert (target.classes, target.num_outputs) == (["a", "b"], 1)
    y = encoded(target, ["a", "b"])
    assert y.dtype == torch.float32
    assert y.tolist() == [[0.0], [1.0]]


def test_the_positive_class_is_the_last():
    target = fit(["b", "a"], "binary", positive="a")
    assert target.classes == ["b", "a"]
    assert encoded(target, ["a"]).tolist() == [[1.0]]


def test_numbers_are_ordered_as_numbers_and_have_no_fraction():
    target = fit([10.0, 9.0, 100.0], "multiclass")
    assert target.classes == ["9", "10", "100"]
    y = encoded(target, [100, 9])
    assert y.dtype == torch.int64
    assert y.tolist() == [2, 0]


def test_booleans():
    assert fit([True, False], "binary").classes == ["False", "True"]


def test_regression_is_standardised_by_weight():
    target = fit([0.0, 10.0, 20.0, 1e6], "regression", weight=[1, 2, 1, 0])
    assert target.center == [10.0]
    assert target.scale == [pytest.approx(np.sqrt(50))]
    assert encoded(target, [10.0 + np.sqrt(50)]).item() == pytest.approx(1.0)
    doubled = fit([0.0, 10.0, 10.0, 20.0], "regression")
    assert (doubled.center, doubled.scale) == (target.center, pytest.approx(target.scale))


def test_several_targets_are_standardised_apart():
    y = pd.DataFrame({"u": [0.0, 2.0], "v": [100.0, 500.0]})
    target = fit(y, "regression")
    assert target.num_outputs == 2
    assert target.encode(y, "t").tolist() == [[-1.0, -1.0], [1.0, 1.0]]


def test_a_constant_target_has_scale_one():
    assert fit([3.0, 3.0], "regression").scale == [1.0]


@pytest.mark.parametrize(("task", "values"), [("binary", "ab"), ("multiclass", "abc"), ("regression", [1.0, 2.0])])
def test_unknown_targets_have_the_right_shape(task, values):
    target = fit(list(values), task)
    known, unknown = encoded(target, list(values)[:2]), target.unknown(2)
    assert (unknown.shape, unknown.dtype) == (known.shape, known.dtype)
    assert (unknown == -1).all() if task == "multiclass" else unknown.isnan().all()


@pytest.mark.parametrize(
    ("values", "task", "positive", "message"),
    [
        (["a", "a"], "binary", None, "one class only, 'a'"),
        (["a", "b", "c"], "binary", None, "have 3 classes, so the task cannot be binary"),
        (["a", "b"], "multiclass", None, "have 2 classes, so the task cannot be multiclass"),
        (["a", "b"], "regression", None, "'y' is no number, so the task cannot be regression"),
        (["a", "b"], "binary", "z", "positive='z' is no class: the classes are a and b"),
        (["a", "b", "c"], "multiclass", "a", "positive='a' is for two classes"),
        (pd.DataFrame({"u": [0, 1], "v": [0, 1]}), "binary", None, "2 targets at once can be regression only"),
    ],
)
def test_what_does_not_fit(values, task, positive, message):
    with pytest.raises(KANError, match=message):
        fit(values, task, positive=positive)


def test_a_class_that_training_lacks():
    with pytest.raises(KANError, match="class 'c' of 'y' is in no training row, which have a, b"):
        encoded(fit(["a", "b"], "binary"), ["a", "c"])
