"""Public tables by name: those that scikit-learn brings along, and those that lie under the data root."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_tabular.data.files import read_file
from kan_tabular.data.mpea import MPEA_SETS
from kan_tabular.data.tables import Table, TaskKind, make_table

UCI = "https://archive.ics.uci.edu/dataset"


def load_set(name: str, root: str | None = None) -> Table:
    """A public table.

    Args:
        name: One of `SETS`.
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``. The sets of scikit-learn need none.

    Raises:
        KANError: For another name, and when a file is missing or cannot be used; it names the project page.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise KANError(f"unknown data set {name!r}: {hint}choose one of {', '.join(SETS)}, or give --data.file")
    return SETS[name](root)


def breast_cancer(root: str | None = None) -> Table:
    """569 cell samples; the positive class is ``benign``, as in scikit-learn, where it is 1."""
    table = _bundled("breast_cancer", datasets.load_breast_cancer)
    return Table(table.X, table.y, table.name, "binary", positive="benign")


def wine(root: str | None = None) -> Table:
    """178 wines of three growers."""
    return _bundled("wine", datasets.load_wine)


def digits(root: str | None = None) -> Table:
    """1,797 handwritten digits as 64 pixels, three of which are constant."""
    return _bundled("digits", datasets.load_digits)


def iris(root: str | None = None) -> Table:
    """150 flowers of three species."""
    return _bundled("iris", datasets.load_iris)


def diabetes(root: str | None = None) -> Table:
    """442 patients; the target is how the disease progressed, 25 to 346."""
    data = datasets.load_diabetes(as_frame=True)
    return Table(data.data, data.target.astype("float64"), "diabetes", "regression")


def _bundled(name: str, load: Callable[..., Any]) -> Table:
    data = load(as_frame=True)
    classes = pd.Series([str(data.target_names[i]) for i in data.target], name="target", dtype="str")
    return Table(data.data, classes, name, "binary" if len(data.target_names) == 2 else "multiclass")


ADULT = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
]


def adult(root: str | None = None) -> Table:
    """Who earns more than 50,000 dollars (UCI "Adult"): 32,561 rows and 16,281 of the official test, 13 features.

    ``?`` is missing; the dot behind the labels of the test file is taken away. ``fnlwgt``, how many people a row
    stands for, says nothing about the person and is left out; rows count equally, as in published results. Rows that
    stand twice stay.
    """
    page = f"{UCI}/2/adult"
    known = _read(root, page, {"adult/adult.data": {}}, names=ADULT, na_values=["?"])
    test = _read(root, page, {"adult/adult.test": {}}, names=ADULT, na_values=["?"], skip_lines=1)
    frame = pd.concat([known, test], ignore_index=True)
    frame["income"] = frame["income"].str.removesuffix(".")
    mask = np.arange(len(frame)) >= len(known)
    return _table(frame, "adult", "income", "binary", drop=["fnlwgt"], test=mask, positive=">50K")


CREDIT_G = [
    "checking_account",
    "duration",
    "credit_history",
    "purpose",
    "credit_amount",
    "savings",
    "employment",
    "installment_rate",
    "personal_status",
    "other_debtors",
    "residence_since",
    "property",
    "age",
    "other_installment_plans",
    "housing",
    "existing_credits",
    "job",
    "people_liable",
    "telephone",
    "foreign_worker",
    "credit",
]


def credit_g(root: str | None = None) -> Table:
    """German credit (UCI "Statlog"): 1,000 applicants, ``good`` (1 in the file) or ``bad`` (2), the positive class.

    The file is ``german.data``, or a copy of it, ``german.csv``, with commas.
    """
    files = {"credit-g/german.data": {"separator": " "}, "credit-g/german.csv": {}}
    frame = _read(root, f"{UCI}/144/statlog+german+credit+data", files, names=CREDIT_G, na_values=[])
    frame["credit"] = frame["credit"].map({1: "good", 2: "bad"}).astype("str")
    return _table(frame, "credit-g", "credit", "binary", positive="bad")


def credit_approval(root: str | None = None) -> Table:
    """Credit approval (UCI "crx"): 690 anonymous applicants, ``+`` (positive) or ``-``.

    The file is ``crx.data``, or a copy of it, ``crx.csv``, with a header. ``?`` (``N/A`` in some copies) is missing;
    rows that have one stay. Numbers such as ``00202`` are numbers.
    """
    files = {"credit-approval/crx.data": {"names": [f"A{i}" for i in range(1, 17)]}, "credit-approval/crx.csv": {}}
    frame = _read(root, f"{UCI}/27/credit+approval", files, na_values=["?", "N/A"])
    return _table(frame, "credit-approval", "A16", "binary", positive="+")


def telco_churn(root: str | None = None) -> Table:
    """Who leaves a telephone company (IBM sample data): 7,043 customers.

    ``customerID`` is left out. ``TotalCharges`` is blank, hence missing, for the 11 customers of tenure 0. That there
    is no internet service is said by six columns and stays so.
    """
    page = "https://github.com/IBM/telco-customer-churn-on-icp4d"
    frame = _read(root, page, {"telco-churn/Telco-Customer-Churn.csv": {}}, na_values=[])
    return _table(frame, "telco-churn", "Churn", "binary", drop=["customerID"], positive="Yes")


def bank_marketing(root: str | None = None) -> Table:
    """Who subscribes when a bank calls (UCI "bank-additional-full"): 41,188 calls in time order, 19 features.

    ``duration`` is known only after the call and left out. 999 in ``pdays`` means "never called before" and is made
    missing. ``unknown`` stays a category of its own: that something is not known of a client is a fact in this table.
    """
    file = "bank-marketing/bank-additional-full.csv"
    files: dict[str, dict[str, Any]] = {file: {}, f"{file}.zip": {}}
    frame = _read(root, f"{UCI}/222/bank+marketing", files, separator=";", na_values=[])
    frame["pdays"] = frame["pdays"].where(frame["pdays"] != 999)
    return _table(frame, "bank-marketing", "y", "binary", drop=["duration"], positive="yes")


def california_housing(root: str | None = None) -> Table:
    """What houses cost (1990 census, Géron's variant): 20,640 districts, the target in dollars, capped at 500,001.

    207 districts lack ``total_bedrooms``; ``ocean_proximity`` is a category.
    """
    page = "https://github.com/ageron/handson-ml2"
    frame = _read(root, page, {"california-housing/housing.csv": {}}, na_values=[])
    return _table(frame, "california-housing", "median_house_value", "regression")


def _read(root: str | None, page: str, files: Mapping[str, Mapping[str, Any]], **options: Any) -> pd.DataFrame:
    """The first of the files under the data root that is there; each may have options of its own."""
    for path, own in files.items():
        if (data_root(root) / path).is_file():
            return read_file(data_root(root) / path, **{"separator": ",", **options, **own})
    missing = data_root(root) / next(iter(files))
    raise KANError(
        f"{missing} is missing: fetch it from {page}, or name another data root with --data.root or KAN_DATA"
    )


def _table(frame: pd.DataFrame, name: str, target: str, task: TaskKind, **options: Any) -> Table:
    return make_table(frame, name, [target], task=task, **options)


SETS: dict[str, Callable[[str | None], Table]] = {
    "breast_cancer": breast_cancer,
    "wine": wine,
    "digits": digits,
    "iris": iris,
    "diabetes": diabetes,
    "adult": adult,
    "credit-g": credit_g,
    "credit-approval": credit_approval,
    "telco-churn": telco_churn,
    "bank-marketing": bank_marketing,
    "california-housing": california_housing,
    **MPEA_SETS,
}
"""The sets by name."""
