"""Tables of alloys from files, and the MPEA set itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kan_core.errors import KANError
from kan_tabular.alloys import DESCRIPTORS
from kan_tabular.data.mpea import MPEA_SETS, TARGETS, load_alloy_table, load_mpea, mpea

TINY = """alloy,Al,Ni,Ti,anneal,route,strength,phase
Al20Ni80,20,80,0,1.5,cast,300,FCC
Ni0.8Al0.2,20,80,0,,rolled,310,
NiTi,0,50,50,8,cast,,BCC
TiAl,50,0,50,0,,450.5,other
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.csv"
    path.write_text(TINY)
    return path


@pytest.mark.parametrize("composition", ["alloy", ["Ti", "Al", "Ni"]])
def test_formulas_and_columns_give_the_same_table(tiny, composition):
    units = {"anneal": "h", "strength": "MPa"}
    X, y, groups = load_alloy_table(tiny, composition, "strength", ["anneal", "route"], units=units)
    assert X.columns.tolist() == ["Al", "Ni", "Ti", *DESCRIPTORS, "anneal", "route"]
    assert X.index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(X[["Al", "Ni", "Ti"]], [[0.2, 0.8, 0], [0.2, 0.8, 0], [0.5, 0, 0.5]])
    assert y.tolist() == [300, 310, 450.5]
    assert groups["formula"].tolist() == ["Al0.2Ni0.8", "Al0.2Ni0.8", "Al0.5Ti0.5"]
    assert groups["system"].tolist() == ["Al-Ni", "Al-Ni", "Al-Ti"]
    assert X.attrs["units"]["anneal"] == "h"
    assert X.attrs["units"]["mixing_enthalpy"] == "kJ/mol"
    assert y.attrs["unit"] == "MPa"


def test_missing_process_values_stay_missing(tiny):
    X, _, _ = load_alloy_table(tiny, "alloy", "strength", ["anneal", "route"])
    assert X["anneal"].isna().tolist() == [False, True, False]
    assert X["route"].isna().tolist() == [False, False, True]


def test_only_elements_of_the_rows_with_a_target_are_columns(tiny):
    X, y, _ = load_alloy_table(tiny, "alloy", "phase", descriptors=False)
    assert X.columns.tolist() == ["Al", "Ni", "Ti"]
    assert y.tolist() == ["FCC", "BCC", "other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("alloys", "strength"), "tiny.csv: there is no column 'alloys': did you mean 'alloy'?"),
        (("alloy", "stregth"), "there is no column 'stregth': did you mean 'strength'?"),
        ((["Al", "Ni", "Fe"], "strength"), "there is no column 'Fe'"),
        ((["Al", "Ni"], "strength"), "sums to 50, not to 100"),
        (("route", "strength"), "cannot read 'cast'"),
    ],
)
def test_mistakes_are_told_in_one_line(tiny, arguments, message):
    with pytest.raises(KANError) as error:
        load_alloy_table(tiny, *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_element_is_named(tiny):
    tiny.write_text(TINY.replace("NiTi", "NiQq").replace("NiQq,0,50,50,8,cast,", "NiQq,0,50,50,8,cast,99"))
    with pytest.raises(KANError, match="formula 'NiQq': unknown element 'Qq'"):
        load_alloy_table(tiny, "alloy", "strength")


def test_a_target_that_nobody_knows(tiny):
    tiny.write_text("alloy,strength,x\nAlNi,,1\nTi,,2\n")
    with pytest.raises(KANError, match="no row has a value of the target 'strength'"):
        load_alloy_table(tiny, "alloy", "strength")


def test_a_missing_set_names_the_page(tmp_path):
    with pytest.raises(KANError, match=r"holds neither MPEA_dataset.csv.*fetch it from https://github.com/Citrine"):
        load_mpea(tmp_path)
    with pytest.raises(KANError, match=r"target must be one of yield_strength.*got 'price'"):
        load_mpea(tmp_path, "price")


# the set itself ---------------------------------------------------------------------------------------------------


def test_mpea_has_its_published_counts(shared_data):
    folder = shared_data("mpea")
    rows = {"yield_strength": 1067, "hardness": 530, "uts": 539, "elongation": 619, "phase": 1545}
    for target in TARGETS:
        X, y, groups = load_mpea(folder, target)
        assert len(X) == len(y) == len(groups) == rows[target]
        assert y.notna().all()
        assert y.name == target
    assert y.value_counts().to_dict() == {"other": 812, "BCC": 468, "FCC": 265}
    # 630 spellings, of which two are the same alloy
    assert groups["formula"].nunique() == 629
    assert "phase" not in X


def test_mpea_yield_strength_has_26_elements_and_its_conditions(shared_data):
    X, y, _ = load_mpea(shared_data("mpea").parent)
    fractions = X.iloc[:, : X.columns.get_loc("mixing_entropy")]
    assert fractions.shape == (1067, 26)
    np.testing.assert_allclose(fractions.sum(axis=1), 1)
    assert X.columns[-4:].tolist() == ["processing", "phase", "test_type", "test_temperature"]
    assert X["processing"].nunique() == 5
    assert set(X["test_type"].dropna()) == {"C", "T"}
    assert X.attrs["units"]["test_temperature"] == "°C"
    assert y.attrs["unit"] == "MPa"
    assert (y.min(), y.max()) == (24, 3416)


def test_mpea_test_temperatures_are_never_filled(shared_data):
    column = r"PROPERTY: Test temperature ($^\circ$C)"
    path = shared_data("mpea") / "MPEA_dataset.csv"
    X, _, _ = load_alloy_table(path, "FORMULA", "PROPERTY: BCC/FCC/other", [column])
    assert X[column].isna().sum() == 181
    assert (X[column] == 25).sum() == (pd.read_csv(path)[column] == 25).sum()


def test_mpea_is_a_table_whose_groups_are_formulas_or_systems(shared_data):
    root = str(shared_data("mpea").parent)
    table = mpea(root, "phase")
    assert (table.task, table.name, table.groups.nunique()) == ("multiclass", "mpea (phase)", 629)
    assert mpea(root, "phase", "system").groups.nunique() == 208
    assert [load(root).y.name for load in MPEA_SETS.values()] == list(TARGETS)
    with pytest.raises(KANError, match="group must be formula or system, got 'paper'"):
        mpea(root, "phase", "paper")
