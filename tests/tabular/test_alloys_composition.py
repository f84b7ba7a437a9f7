"""Formulas and columns of amounts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kan_core.errors import KANError
from kan_tabular.alloys import chemical_system, normalise_fractions, parse_formula, parse_formulas, reduced_formula


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("Al0.25 Co1 Fe1 Ni1", {"Al": 1 / 13, "Co": 4 / 13, "Fe": 4 / 13, "Ni": 4 / 13}),
        ("CoCrFeNi", {"Co": 0.25, "Cr": 0.25, "Fe": 0.25, "Ni": 0.25}),
        ("Co1Cr1Fe1Ni1", {"Co": 0.25, "Cr": 0.25, "Fe": 0.25, "Ni": 0.25}),
        ("Al20Ni80", {"Al": 0.2, "Ni": 0.8}),
        ("Al 20% Ni 80%", {"Al": 0.2, "Ni": 0.8}),
        ("Ni80at.% Al20at.%", {"Al": 0.2, "Ni": 0.8}),
        ("Ti-Zr-Nb", {"Nb": 1 / 3, "Ti": 1 / 3, "Zr": 1 / 3}),
        ("Al.5Ni1e0", {"Al": 1 / 3, "Ni": 2 / 3}),
        ("Al0CoNi", {"Co": 0.5, "Ni": 0.5}),
        ("CoNiCo", {"Co": 2 / 3, "Ni": 1 / 3}),
        ("W", {"W": 1.0}),
    ],
)
def test_formulas(formula, expected):
    parsed = parse_formula(formula)
    assert list(parsed) == sorted(parsed)
    assert parsed == pytest.approx(expected)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("Xx0.5Ni", "formula 'Xx0.5Ni': unknown element 'Xx'"),
        ("CO", "unknown element 'O'"),
        ("(CoCrFeNi)94Ti6", "no brackets"),
        ("conife", "cannot read 'conife'"),
        ("Al20%Ni70%", "sum to 90, not to 100"),
        ("Al20%Ni80", "some amounts are percent"),
        ("Al0", "amounts sum to 0"),
        ("Al-0.5Ni", "cannot read '0.5Ni'"),
        ("  ", "a formula is text"),
        (None, "a formula is text"),
        (float("nan"), "a formula is text"),
    ],
)
def test_bad_formulas(formula, message):
    with pytest.raises(KANError) as error:
        parse_formula(formula)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_formulas_of_a_series_keep_their_index():
    table = parse_formulas(pd.Series(["AlNi", "Ti"], index=[7, 3]))
    assert table.columns.tolist() == ["Al", "Ni", "Ti"]
    assert table.index.tolist() == [7, 3]
    assert table.to_numpy().tolist() == [[0.5, 0.5, 0], [0, 0, 1]]


def test_given_elements_are_the_columns():
    assert parse_formulas(["AlNi"], ["Ni", "W"]).to_numpy().tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("whole", [1, 100])
def test_fractions_and_percent_within_one_percent_are_normalised(whole):
    table = normalise_fractions(pd.DataFrame({"Al": [0.2, 0.5], "Ni": [0.795, 0.508]}) * whole)
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-15)
    assert table.loc[0, "Al"] == pytest.approx(0.2 / 0.995)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Al": [0.2, 0.2], "Ni": [0.8, 0.78]}, r"row 1 sums to 0.98, not to 1"),
        ({"Al": [20, 20], "Ni": [80, 70]}, r"row 1 sums to 90, not to 100"),
        ({"Al": [0.2, 20], "Ni": [0.8, 80]}, r"row \d sums"),
        ({"Al": [1.2, 0.2], "Ni": [-0.2, 0.8]}, r"row 0 has a negative amount"),
        ({"Al": [0.2, np.nan], "Ni": [0.8, 0.8]}, r"row 1 has a missing or infinite amount"),
        ({"Al": [0.2], "Steel": [0.8]}, r"unknown element 'Steel'"),
        ({"Al": ["a"], "Ni": ["b"]}, r"must be numbers"),
    ],
)
def test_bad_fractions(columns, message):
    with pytest.raises(KANError, match=message) as error:
        normalise_fractions(pd.DataFrame(columns))
    assert "\n" not in str(error.value)


def test_equal_alloys_have_equal_names():
    table = parse_formulas(["Co1Cr1Fe1Ni1", "NiFeCrCo", "Co25Cr25Fe25Ni25", "CoCrFe0.667Ni", "Co3Cr3Fe2Ni3", "CoCr"])
    names = reduced_formula(table).tolist()
    assert names[:3] == ["Co0.25Cr0.25Fe0.25Ni0.25"] * 3
    assert names[3] == names[4]
    assert names[5] == "Co0.5Cr0.5"
    assert chemical_system(table).tolist() == ["Co-Cr-Fe-Ni"] * 5 + ["Co-Cr"]
