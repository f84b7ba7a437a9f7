"""Facts about elements, against values known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from kan_core.errors import KANError
from kan_tabular.alloys import element_symbols, element_table, mixing_enthalpy_table
from kan_tabular.alloys.elements import element_values, mixing_enthalpies
from kan_tabular.alloys.synthetic import ELEMENTS

# kJ/mol, Takeuchi and Inoue 2005, as quoted in the high-entropy alloy literature
KNOWN = {
    "Al-Ni": -22, "Al-Ti": -30, "Ni-Ti": -35, "Ni-Zr": -49, "Cr-Fe": -1, "Cu-Fe": 13, "Co-Cr": -4, "Al-Co": -19,
    "Al-Fe": -11, "Al-Cr": -10, "Ni-Cr": -7, "Al-Cu": -1, "Al-Mn": -19, "Al-V": -16, "Al-Nb": -18, "Al-Si": -19,
    "Al-Zr": -44, "Al-Mg": -2, "Al-Ga": 1, "Co-Cu": 6, "Co-Fe": -1, "Co-Mn": -5, "Co-Ni": 0, "Co-Ti": -28, "Co-V": -14,
    "Co-Mo": -5, "Cr-Cu": 12, "Cr-Mn": 2, "Cr-V": -2, "Cr-Ti": -7, "Cu-Ni": 4, "Fe-Mn": 0, "Fe-Ni": -2, "Fe-Ti": -17,
    "Fe-Mo": -2, "Mn-Ni": -8, "Mo-Ni": -7, "Mo-Ti": -4, "Mo-V": 0, "Mo-Cr": 0, "Nb-Ti": 2, "Nb-Zr": 4, "Nb-V": -1,
    "Hf-Nb": 4, "Hf-Ta": 3, "Ta-Ti": 1, "Ta-Zr": 3, "Ti-V": -2, "Ti-Zr": 0, "Hf-Ti": 0, "V-Zr": -4, "B-Co": -24,
    "B-Cr": -31, "B-Cu": 0, "B-Fe": -26, "B-Ni": -24, "B-Zr": -71, "C-Co": -42,
}  # fmt: skip

# Miedema's parameters (de Boer et al. 1988) of transition metals: V in cm3, n_ws in d.u., phi* in V
MIEDEMA = {
    "Ti": (10.58, 3.51, 3.80), "V": (8.36, 4.41, 4.25), "Cr": (7.23, 5.18, 4.65), "Mn": (7.35, 4.17, 4.45),
    "Fe": (7.09, 5.55, 4.93), "Co": (6.70, 5.36, 5.10), "Ni": (6.60, 5.36, 5.20), "Zr": (14.00, 2.80, 3.45),
    "Nb": (10.87, 4.41, 4.05), "Mo": (9.40, 5.55, 4.65), "Hf": (13.45, 3.05, 3.60), "Ta": (10.81, 4.33, 4.05),
    "W": (9.55, 5.93, 4.80), "Re": (8.85, 6.33, 5.20), "Pd": (8.90, 4.66, 5.45),
}  # fmt: skip


def miedema(a, b):
    """Mixing enthalpy of the equiatomic liquid of two transition metals, with concentration-dependent volumes."""
    (v_a, n_a, phi_a), (v_b, n_b, phi_b) = MIEDEMA[a], MIEDEMA[b]
    n_a, n_b = np.cbrt(n_a), np.cbrt(n_b)
    area_a, area_b = v_a ** (2 / 3), v_b ** (2 / 3)
    s_a, s_b = area_a, area_b
    for _ in range(20):
        share = s_a / (s_a + s_b)
        s_a = area_a * (1 + 0.04 * (1 - share) * (phi_a - phi_b))
        s_b = area_b * (1 + 0.04 * share * (phi_b - phi_a))
    inner = 14.2 * (9.4 * (n_a - n_b) ** 2 - (phi_a - phi_b) ** 2)
    return s_a * s_b / (s_a + s_b) * inner / (1 / n_a + 1 / n_b)


@pytest.mark.parametrize("pair", KNOWN)
def test_known_mixing_enthalpies(pair):
    a, b = pair.split("-")
    table = mixing_enthalpy_table()
    assert table.loc[a, b] == table.loc[b, a] == KNOWN[pair]


def test_pairs_of_transition_metals_follow_from_miedemas_equation():
    table = mixing_enthalpy_table()
    for a in MIEDEMA:
        for b in MIEDEMA:
            assert table.loc[a, b] == pytest.approx(miedema(a, b) if a != b else 0.0, abs=0.8), (a, b)


def test_the_table_is_symmetric_whole_and_zero_on_its_diagonal():
    table = mixing_enthalpy_table()
    values = table.to_numpy()
    assert list(table.index) == list(table.columns) == list(element_symbols())
    assert (values == values.T).all()
    assert (np.diag(values) == 0).all()
    assert np.issubdtype(values.dtype, np.integer)


def test_elements_have_plausible_complete_properties():
    table = element_table()
    assert len(table) == 30
    assert list(table.index) == sorted(table.index)
    needed = table.drop(columns="bulk_modulus_gpa")
    assert not needed.isna().any(axis=None)
    assert table["radius_pm"].between(77, 200).all()
    assert table["electronegativity"].between(0.98, 2.55).all()
    assert table.loc[["Al", "Ti", "Fe", "Ni", "Cu", "Zn"], "valence_electrons"].tolist() == [3, 4, 8, 10, 11, 12]
    assert table["melting_point_k"].idxmax() == "C"
    assert table["melting_point_k"].idxmin() == "Ga"
    assert table.index[table["bulk_modulus_gpa"].notna()].tolist() == sorted(ELEMENTS)


def test_a_table_that_is_changed_does_not_change_the_facts():
    table, enthalpies = element_table(), mixing_enthalpy_table()
    table.loc["Al", "radius_pm"] = 0
    enthalpies.loc["Al", "Ni"] = 0
    assert element_values("radius_pm", ["Al"]) == [143.2]
    assert mixing_enthalpies(["Al", "Ni"]).tolist() == [[0, -22], [-22, 0]]


def test_an_unknown_element_is_named():
    with pytest.raises(KANError, match=r"unknown element 'Xx'.*Ag, Al"):
        element_values("radius_pm", ["Al", "Xx"])
