"""The data module: statistics of training rows alone, other files with the same columns, contradicting options."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from kan_core.errors import KANError
from kan_tabular.batches import TableBatch
from kan_tabular.data import TableData

ROWS = 300


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)


def table(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=rows)
    return pd.DataFrame(
        {
            "a": np.where(rng.random(rows) < 0.1, np.nan, a).round(4),
            "b": rng.choice(["x", "y", "z"], rows),
            "flag": rng.random(rows) < 0.5,
            "y": np.where(a + rng.normal(size=rows) > 0, "yes", "no"),
        }
    )


@pytest.fixture
def csv(tmp_path):
    def write(frame, name="my.csv"):
        frame.to_csv(tmp_path / name, index=False)
        return name

    return write


def data(file="my.csv", target="y", **options):
    return TableData(file=file, target=target, **options)


def refused(message, make):
    with pytest.raises(KANError, match=message) as error:
        make().setup("fit")
    assert "\n" not in str(error.value)


def test_without_options_it_is_breast_cancer(capsys):
    module = TableData()
    assert (module.name, module.task, module.num_outputs) == ("breast_cancer", "binary", 1)
    assert module.classes == ["malignant", "benign"]
    assert module.cardinalities == [0] * 30
    module.setup("fit")
    module.setup("fit")
    out = capsys.readouterr().out
    assert out.count("569 rows (364 train, 91 validate, 114 test); 30 numeric and 0 categorical columns") == 1
    assert "binary (as the set says)" in out


def test_what_was_inferred_is_said_with_the_reason(csv, capsys):
    csv(table())
    data().setup("fit")
    assert "target 'y': binary (2 values: no, yes)" in capsys.readouterr().out


def test_statistics_are_those_of_the_training_rows(csv):
    frame = table()
    csv(frame)
    module = data(split="time")
    assert [len(part.x) for part in module.parts.values()] == [192, 48, 60]
    column = module.known.encoder.columns[0]
    known = frame["a"][:192].dropna()
    assert column.low == known.min()
    assert column.high == known.max()
    assert column.center == pytest.approx(known.median(), abs=0.03)
    # whatever validation and test rows hold, the training rows become the same numbers
    frame.loc[192:, "a"] = 1e6
    frame.loc[192:, "b"] = "unseen"
    csv(frame, "other.csv")
    other = data("other.csv", split="time")
    assert other.columns == module.columns
    torch.testing.assert_close(other.parts["train"].x, module.parts["train"].x, equal_nan=True)
    assert set(other.parts["test"].x[:, 1].tolist()) == {0.0}


def test_encoded_rows(csv):
    csv(table())
    module = data(split="time")
    assert module.cardinalities == [0, 5, 0]
    x, y, weight = module.parts["train"]
    assert x.dtype == torch.float32
    assert x[:, 0].isnan().sum() == table()["a"][:192].isna().sum()
    assert x[~x.isnan()].abs().max() < 5
    assert x[:, 1].tolist() == [2.0 + "xyz".index(value) for value in table()["b"][:192]]
    assert y.flatten().tolist() == [float(value == "yes") for value in table()["y"][:192]]
    assert weight.tolist() == [1.0] * 192


def test_regression_facts(csv):
    frame = table().assign(y=np.arange(ROWS) + 0.5)
    csv(frame)
    module = data(split="time")
    assert (module.task, module.num_outputs, module.classes) == ("regression", 1, [])
    assert module.target_center == [pytest.approx(96.0)]
    y = module.parts["train"].y
    assert y.mean().item() == pytest.approx(0, abs=1e-6)
    assert y.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_several_targets(csv):
    csv(table().assign(u=np.arange(ROWS) / 2, v=1.5))
    with pytest.raises(KANError, match="'v' has one value only"):
        data(target=["u", "v"]).setup("fit")
    csv(table().assign(u=np.arange(ROWS) / 2, v=np.arange(ROWS) % 7))
    assert data(target=["u", "v"]).parts["test"].y.shape == (60, 2)


def test_the_split_is_not_the_runs(csv):
    csv(table())
    torch.manual_seed(1)
    first = data().parts["test"].x
    torch.manual_seed(2)
    torch.testing.assert_close(data().parts["test"].x, first, equal_nan=True)
    assert not torch.equal(data(split_seed=1).parts["test"].y, data().parts["test"].y)


def test_no_row_of_validation_and_test_is_dropped(csv):
    csv(table())
    module = data(batch_size=7)
    for loader, part in ((module.val_dataloader(), "val"), (module.test_dataloader(), "test")):
        batches = list(loader)
        assert max(len(batch.x) for batch in batches) <= 7
        joined = torch.cat([batch.x for batch in batches])
        torch.testing.assert_close(joined, module.parts[part].x, equal_nan=True)
    assert isinstance(batches[0], TableBatch)


def test_the_order_of_training_comes_from_torchs_generator(csv):
    csv(table())
    module = data(batch_size=16)

    def epoch():
        torch.manual_seed(3)
        return torch.cat([batch.y for batch in module.train_dataloader()])

    first = epoch()
    assert torch.equal(first, epoch())
    assert not torch.equal(first, module.parts["train"].y)
    assert sorted(first.flatten().tolist()) == sorted(module.parts["train"].y.flatten().tolist())


def test_weights_are_one_on_average_and_are_no_feature(csv):
    csv(table().assign(w=np.arange(ROWS)))
    module = data(weights="w")
    assert module.parts["train"].weight.mean().item() == pytest.approx(1)
    assert len(module.cardinalities) == 3
    csv(table().assign(w=0))
    refused("every training row has weight 0", lambda: data(weights="w"))


def test_group_drop_and_categorical_features(csv):
    frame = table().assign(patient=np.arange(ROWS) // 5, id=np.arange(ROWS), code=np.arange(ROWS) % 4)
    csv(frame)
    module = data(group="patient", drop=["id"], categorical_features=["code"])
    assert [column.name for column in module.known.encoder.columns] == ["a", "b", "flag", "code"]
    assert module.cardinalities == [0, 5, 0, 6]


def test_an_identifier_is_noted(csv, capsys):
    csv(table().assign(id=[f"id{i}" for i in range(ROWS)]))
    data().setup("fit")
    assert "note: column 'id' has 192 categories in 192 rows" in capsys.readouterr().out


def test_a_test_file_is_the_test(csv):
    csv(table())
    later = table(50, seed=1)
    later.loc[0, "b"] = "unseen"
    csv(later, "test.csv")
    module = data(test_file="test.csv")
    assert [len(part.x) for part in module.parts.values()] == [240, 60, 50]
    assert module.parts["test"].x[0, 1] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[["b", "a", "flag", "y"]], "in another order: column 1 is 'b', in training it was 'a'"),
        (
            lambda t: t.rename(columns={"flag": "flags"}),
            "column 'flag' of the training table is missing: is it 'flags'",
        ),
        (lambda t: t.drop(columns="a"), "column 'a' of the training table is missing"),
        (lambda t: t.assign(more=1), "column 'more' was not in the training table"),
        (lambda t: t.assign(a=["low", *["1"] * 49]), "'a' mixes numbers and text, such as 'low' in row 1"),
        (lambda t: t.assign(a="high"), "column 'a' holds numbers in training, but 'high' in row 1"),
        (lambda t: t.assign(a=np.inf), "column 'a' (is|has an) infinite"),
    ],
    ids=["order", "renamed", "missing", "more", "mixed", "text", "infinite"],
)
def test_another_file_must_have_the_same_columns(csv, change, message):
    csv(table())
    csv(change(table(50, seed=1)), "other.csv")
    refused(f"{message}", lambda: data(test_file="other.csv"))
    csv(change(table(50, seed=1)).drop(columns="y"), "other.csv")
    module = data(predict_file="other.csv")
    with pytest.raises(KANError, match=rf"other\.csv: .*{message}|other\.csv: {message}"):
        module.setup("predict")


def test_a_file_to_predict_needs_no_target(csv):
    frame = table()
    csv(frame)
    csv(frame[:5].drop(columns="y"), "new.csv")
    csv(frame[:5], "labelled.csv")
    for name in ("new.csv", "labelled.csv"):
        module = data(split="time", predict_file=name)
        module.setup("predict")
        (batch,) = module.predict_dataloader()
        torch.testing.assert_close(batch.x, module.parts["train"].x[:5], equal_nan=True)
        assert batch.y.isnan().all()


def test_prediction_without_a_file_is_of_the_test_rows(csv):
    csv(table())
    module = data()
    module.setup("predict")
    assert sum(len(batch.x) for batch in module.predict_dataloader()) == 60


def test_a_checkpoint_knows_columns_and_classes(csv, tmp_path):
    csv(table())
    module = data(split="time")
    state = module.state_dict()
    assert json.loads(json.dumps(state)) == state
    stored = {"state_dict": {}, "TableData": state, "pytorch-lightning_version": "2.6.0"}
    torch.save(stored, tmp_path / "last.ckpt")
    csv(table()[:5].drop(columns="y"), "new.csv")
    (tmp_path / "my.csv").unlink()
    again = data(split="time", predict_file="new.csv", checkpoint="last.ckpt")
    assert (again.classes, again.cardinalities, again.num_rows) == (["no", "yes"], [0, 5, 0], 192)
    again.setup("predict")
    (batch,) = again.predict_dataloader()
    torch.testing.assert_close(batch.x, module.parts["train"].x[:5], equal_nan=True)


def test_training_does_not_go_on_with_another_table(csv):
    csv(table())
    state = data().state_dict()
    data().load_state_dict(state)
    with pytest.raises(KANError, match="not the one that the checkpoint was trained with"):
        data(split_seed=1).load_state_dict(state)


def test_adult_has_an_official_test(shared_data):
    root = str(shared_data("adult").parent)
    module = TableData(dataset="adult", root=root)
    assert len(module.parts["test"].x) == 16_281
    assert module.classes == ["<=50K", ">50K"]
    refused(
        "test_fraction=0.3 does not go with the official test",
        lambda: TableData(dataset="adult", root=root, test_fraction=0.3),
    )


def test_alloys_are_split_by_formula(shared_data):
    module = TableData(dataset="mpea-hardness", root=str(shared_data("mpea").parent))
    assert sum(len(part.x) for part in module.parts.values()) == 530


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": "my.csv", "target": "y", "dataset": "iris"}, "dataset=iris does not go with file=my.csv"),
        ({"file": "my.csv"}, "my.csv: which column is to be predicted"),
        ({"target": "y"}, "target needs a file"),
        ({"dataset": "iris", "target": "y"}, "target=y does not go with dataset=iris"),
        ({"dataset": "iris", "separator": ";"}, "separator=; does not go with dataset=iris"),
        ({"dataset": "iris", "test_file": "a.csv"}, "test_file=a.csv does not go with dataset=iris"),
        ({"dataset": "irish"}, "unknown data set 'irish': did you mean iris"),
        (
            {"file": "my.csv", "target": "y", "test_file": "t.csv", "test_fraction": 0.2},
            "test_fraction=0.2 does not go",
        ),
        ({"val_fraction": 1.0}, "val_fraction must be between 0 and 1, got 1.0"),
        ({"test_fraction": 0.0}, "test_fraction must be between 0 and 1, got 0.0"),
        ({"batch_size": 0}, "batch_size must be auto or at least 1, got 0"),
        ({"file": "my.csv", "target": "y", "decimal": ""}, "decimal must be one character"),
        ({"checkpoint": "last.ckpt"}, "checkpoint is for predict_file"),
        ({"task": "regression"}, "'target' is no number, so the task cannot be regression"),
        ({"dataset": "wine", "positive": "class_0"}, "positive='class_0' is for two classes"),
        ({"drop": ["none"]}, r"breast_cancer \(drop\): there is no column 'none'"),
        ({"group": "none"}, r"breast_cancer \(group\): there is no column 'none'"),
        ({"categorical_features": ["none"]}, r"breast_cancer \(categorical_features\): there is no column 'none'"),
    ],
)
def test_options_that_cannot_be(csv, options, message):
    csv(table())
    refused(message, lambda: TableData(**options))
