"""The descriptors: card `hea.md`, section 6, facts 1 to 5."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from kan_core.errors import KANError
from kan_tabular.alloys import DESCRIPTORS, AlloyDescriptors, alloy_descriptors, element_symbols, element_table

ELEMENTS = list(element_symbols())


def of(formula):
    values = AlloyDescriptors().fit_transform([formula])[0]
    return dict(zip(DESCRIPTORS, values, strict=True))


@pytest.mark.parametrize("symbol", ELEMENTS)
def test_fact_1_a_pure_element_has_no_mixing(symbol):
    found = of(symbol)
    properties = element_table().loc[symbol]
    for name in ("mixing_entropy", "mixing_enthalpy", "size_mismatch", "electronegativity_spread"):
        assert found[name] == pytest.approx(0, abs=1e-12)
    assert found["valence_electrons"] == properties["valence_electrons"]
    assert found["melting_point"] == properties["melting_point_k"]
    assert found["omega"] == 100
    assert found["components"] == found["largest_fraction"] == 1


@pytest.mark.parametrize("n", range(1, 11))
def test_fact_2_equiatomic_entropy_is_r_ln_n(n):
    values = alloy_descriptors(np.full((1, n), 1 / n), ELEMENTS[:n])
    assert values[0, 0] == pytest.approx(8.314 * np.log(n))


def test_fact_2_entropy_of_five_components_is_above_the_criterion():
    assert of("CoCrFeMnNi")["mixing_entropy"] == pytest.approx(13.381, abs=5e-4)
    assert of("CoCrFeMnNi")["mixing_entropy"] >= 1.5 * 8.314 == pytest.approx(12.471)
    assert of("CoCrFeNi")["mixing_entropy"] < 12.471


def test_fact_3_neither_order_nor_scale_of_amounts_matters():
    rng = np.random.default_rng(0)
    fractions = rng.dirichlet(np.ones(len(ELEMENTS)), 20)
    order = rng.permutation(len(ELEMENTS))
    values = alloy_descriptors(fractions, ELEMENTS)
    np.testing.assert_allclose(alloy_descriptors(fractions[:, order], [ELEMENTS[i] for i in order]), values)
    np.testing.assert_allclose(alloy_descriptors(fractions * 37, ELEMENTS), values)
    assert of("CoCrFeNi") == of("Co1Cr1Fe1Ni1") == of("Ni3 Fe3 Cr3 Co3")


@pytest.mark.parametrize(("pair", "enthalpy"), [("AlNi", -22), ("CuFe", 13), ("NiZr", -49), ("CoNi", 0)])
def test_fact_4_a_binary_has_its_enthalpy_and_half_its_relative_difference_of_radii(pair, enthalpy):
    found = of(pair)
    r1, r2 = element_table().loc[[pair[:2], pair[2:]], "radius_pm"]
    assert found["mixing_enthalpy"] == pytest.approx(enthalpy)
    assert found["size_mismatch"] == pytest.approx(100 * abs(r1 - r2) / (r1 + r2))


@pytest.mark.parametrize("n", [2, 5])
def test_fact_5_entropy_is_greatest_at_the_equiatomic_composition(n):
    def entropy(c):
        return alloy_descriptors(c[None], ELEMENTS[:n])[0, 0]

    middle, step = np.full(n, 1 / n), 1e-3
    for direction in np.linalg.svd(np.ones((1, n)))[2][1:]:  # along the simplex
        ahead, behind = entropy(middle + step * direction), entropy(middle - step * direction)
        assert (ahead - behind) / (2 * step) == pytest.approx(0, abs=1e-3)
        assert (ahead + behind - 2 * entropy(middle)) / step**2 == pytest.approx(-8.314 * n, rel=1e-3)


def test_the_cantor_alloy_has_its_published_values():
    found = of("CoCrFeMnNi")
    assert found["mixing_enthalpy"] == pytest.approx(-4.16)
    assert found["valence_electrons"] == pytest.approx(8)
    assert found["size_mismatch"] == pytest.approx(3.27, abs=0.01)
    assert found["omega"] == pytest.approx(5.79, abs=0.01)


def test_omega_is_capped_where_enthalpies_cancel():
    values = alloy_descriptors([[0.5, 0.5], [0.5, 0.5]], ["Co", "Ni"], omega_cap=7.0)
    assert values[:, DESCRIPTORS.index("omega")].tolist() == [7, 7]
    assert of("CrMo")["omega"] == 100


def test_traces_are_no_components():
    values = alloy_descriptors([[0.004, 0.996], [0.006, 0.994]], ["Al", "Ni"])
    assert values[:, DESCRIPTORS.index("components")].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("fractions", "elements", "message"),
    [
        ([[1.0]], ["Xx"], "unknown element 'Xx'"),
        ([[0.5, 0.5]], ["Al"], r"\(rows, 1\), got shape \(1, 2\)"),
        ([[0.0, 0.0]], ["Al", "Ni"], "not all 0"),
        ([[-0.5, 1.5]], ["Al", "Ni"], "not negative"),
        ([[np.nan, 1.0]], ["Al", "Ni"], "finite"),
    ],
)
def test_bad_fractions(fractions, elements, message):
    with pytest.raises(KANError, match=message):
        alloy_descriptors(fractions, elements)


def test_the_transformer_takes_formulas_or_columns_of_elements():
    formulas = pd.DataFrame({"alloy": ["AlNi", "Al20Ni80"]})
    columns = pd.DataFrame({"Ni": [50, 80], "Al": [50, 20]})
    of_formulas = AlloyDescriptors().fit_transform(formulas)
    np.testing.assert_allclose(AlloyDescriptors().fit_transform(columns), of_formulas)
    for other in (formulas["alloy"], ["AlNi", "Al20Ni80"], np.array([["AlNi"], ["Al20Ni80"]])):
        np.testing.assert_allclose(AlloyDescriptors().fit_transform(other), of_formulas)


def test_the_transformer_names_its_output():
    formulas = pd.DataFrame({"alloy": ["AlNi", "TiNi"]}, index=[5, 6])
    transformer = AlloyDescriptors(fractions=True).set_output(transform="pandas")
    table = transformer.fit_transform(formulas)
    assert table.columns.tolist() == ["Al", "Ni", "Ti", *DESCRIPTORS] == transformer.get_feature_names_out().tolist()
    assert table.index.tolist() == [5, 6]
    assert table.loc[6, "Ti"] == 0.5
    assert transformer.n_features_in_ == 1
    assert transformer.feature_names_in_.tolist() == ["alloy"]


def test_a_known_element_that_training_lacked_counts_in_descriptors_only():
    transformer = AlloyDescriptors(fractions=True).fit(["AlNi"])
    row = transformer.transform(["TiNi"])[0]
    assert row[:2].tolist() == [0.0, 0.5]
    assert row[2:].tolist() == AlloyDescriptors().fit_transform(["TiNi"])[0].tolist()


def test_the_transformer_works_in_a_pipeline_beside_process_columns():
    table = pd.DataFrame({"alloy": ["AlNi", "TiNi", "CoCr", "CoNi"], "rolled": [0.0, 10.0, 20.0, 30.0]})
    columns = make_column_transformer((AlloyDescriptors(), ["alloy"]), remainder="passthrough")
    model = clone(make_pipeline(columns, LinearRegression()))
    assert model.fit(table, table["rolled"]).predict(table) == pytest.approx(table["rolled"].tolist())
    assert model[:-1].get_feature_names_out()[-1] == "remainder__rolled"


@pytest.mark.parametrize(
    ("transformer", "X", "message"),
    [
        (AlloyDescriptors(omega_cap=0), ["Al"], "omega_cap must be positive, got 0"),
        (AlloyDescriptors(), np.ones((3, 2)), "one column"),
        (AlloyDescriptors(), np.ones(3), "a formula is text"),
        (AlloyDescriptors(), pd.DataFrame({"Al": [0.5], "iron": [0.5]}), "unknown element 'iron'"),
    ],
)
def test_what_is_no_composition_is_refused(transformer, X, message):
    with pytest.raises(KANError, match=message):
        transformer.fit(X)
