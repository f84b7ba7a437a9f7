"""The public sets, and the trap of each that the data's README names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kan_core.errors import KANError
from kan_tabular.data import SETS, load_set
from kan_tabular.data.tables import check_table


@pytest.fixture
def shared_set(shared_data):
    def load(name, folder=None):
        return load_set(name, str(shared_data(folder or name).parent))

    return load


@pytest.mark.parametrize(
    ("name", "shape", "task", "counts"),
    [
        ("breast_cancer", (569, 30), "binary", {"malignant": 212, "benign": 357}),
        ("wine", (178, 13), "multiclass", {"class_0": 59, "class_1": 71, "class_2": 48}),
        ("iris", (150, 4), "multiclass", {"setosa": 50, "versicolor": 50, "virginica": 50}),
        ("digits", (1797, 64), "multiclass", {"0": 178, "1": 182, "8": 174, "9": 180}),
    ],
)
def test_bundled_classes(name, shape, task, counts):
    table = load_set(name)
    check_table(table)
    assert (table.X.shape, table.task) == (shape, task)
    assert counts.items() <= table.y.value_counts().to_dict().items()


def test_in_breast_cancer_the_positive_class_is_benign():
    assert load_set("breast_cancer").positive == "benign"


def test_digits_has_three_constant_pixels():
    assert (load_set("digits").X.nunique() == 1).sum() == 3


def test_diabetes():
    table = load_set("diabetes")
    check_table(table)
    assert (table.X.shape, table.task) == ((442, 10), "regression")
    assert table.y.mean() == pytest.approx(152.13, abs=0.005)
    assert table.X.std(ddof=0).to_numpy() == pytest.approx(np.full(10, 0.04756), abs=1e-4)


def test_adult(shared_set):
    table = shared_set("adult")
    check_table(table)
    assert table.test.sum() == 16_281
    train = table.X[~table.test]
    assert len(train) == 32_561
    assert (table.y[~table.test] == ">50K").mean() == pytest.approx(0.241, abs=5e-4)
    # the labels of the test file end in a dot
    assert set(table.y) == {"<=50K", ">50K"}
    assert train.isna().sum().loc[lambda n: n > 0].to_dict() == {
        "workclass": 1836,
        "occupation": 1843,
        "native-country": 583,
    }
    # a sampling weight is no feature, and duplicates stay
    assert "fnlwgt" not in table.X
    assert table.X.shape == (48_842, 13)
    assert table.weight is None
    assert (train["native-country"] == "Holand-Netherlands").sum() == 1
    assert table.positive == ">50K"


def test_credit_g(shared_set):
    table = shared_set("credit-g")
    check_table(table)
    assert table.X.shape == (1000, 20)
    assert table.y.value_counts().to_dict() == {"good": 700, "bad": 300}
    assert (table.X.dtypes == "str").sum() == 13
    assert not table.X.isna().any(axis=None)
    assert table.X["checking_account"].tolist()[:2] == ["A11", "A12"]
    assert table.X["age"].tolist()[:2] == [67, 22]


def test_credit_approval(shared_set):
    table = shared_set("credit-approval")
    check_table(table)
    assert table.y.value_counts().to_dict() == {"-": 383, "+": 307}
    # rows with gaps stay
    assert len(table.X) == 690
    assert table.X.isna().any(axis=1).sum() == 37
    assert table.X.isna().sum().sum() == 67
    numeric = [name for name in table.X if table.X[name].dtype != "str"]
    assert numeric == ["A2", "A3", "A8", "A11", "A14", "A15"]
    assert table.X["A14"].iloc[0] == 202


def test_telco_churn(shared_set):
    table = shared_set("telco-churn")
    check_table(table)
    assert table.X.shape == (7043, 19)
    assert table.y.value_counts().to_dict() == {"No": 5174, "Yes": 1869}
    assert "customerID" not in table.X
    gaps = table.X["TotalCharges"].isna()
    assert gaps.sum() == 11
    assert (table.X["tenure"][gaps] == 0).all()
    assert table.X["TotalCharges"].dtype == np.float64


def test_bank_marketing(shared_set):
    table = shared_set("bank-marketing")
    check_table(table)
    assert table.X.shape == (41_188, 19)
    assert table.y.value_counts().to_dict() == {"no": 36_548, "yes": 4640}
    # known only after the call
    assert "duration" not in table.X
    assert table.X["pdays"].isna().sum() == 39_673
    # `unknown` is a category of its own
    assert (table.X["default"] == "unknown").sum() == 8597
    assert (table.X["job"] == "unknown").sum() == 330
    assert table.X.drop(columns="pdays").notna().all(axis=None)


def test_california_housing(shared_set):
    table = shared_set("california-housing")
    check_table(table)
    assert table.X.shape == (20_640, 9)
    assert (table.y.min(), table.y.max(), (table.y == 500_001).sum()) == (14_999, 500_001, 965)
    assert table.X.isna().sum().loc[lambda n: n > 0].to_dict() == {"total_bedrooms": 207}
    assert (table.X["ocean_proximity"] == "ISLAND").sum() == 5
    assert table.task == "regression"


def test_alloys_come_with_groups(shared_set):
    table = shared_set("mpea-hardness", "mpea")
    check_table(table)
    assert len(table.X) == 530
    assert table.groups is not None


def test_files_as_uci_has_them_are_read_as_the_copies(shared_set, shared_data, tmp_path):
    source = shared_data("credit-g").parent
    copies = {"credit-g/german.data": "credit-g/german.csv", "credit-approval/crx.data": "credit-approval/crx.csv"}
    for path, copy in copies.items():
        text = (source / copy).read_text()
        text = text.replace(",", " ") if "german" in path else text.partition("\n")[2].replace("N/A", "?")
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text)
    for name in ("credit-g", "credit-approval"):
        pd.testing.assert_frame_equal(load_set(name, str(tmp_path)).X, shared_set(name).X)


def test_an_unknown_set_names_close_ones():
    with pytest.raises(KANError, match="unknown data set 'breastcancer': did you mean breast_cancer"):
        load_set("breastcancer")


@pytest.mark.parametrize("name", [name for name in SETS if "-" in name or name == "adult"])
def test_a_missing_set_names_the_file_and_where_to_fetch_it(name, tmp_path):
    with pytest.raises(KANError, match=r"\.(csv|data|zip).*https://") as error:
        load_set(name, str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
