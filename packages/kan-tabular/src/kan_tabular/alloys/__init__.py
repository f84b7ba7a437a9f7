"""High-entropy alloys: compositions, descriptors, synthetic data, splits without leaks, and the two-stage search."""

from kan_tabular.alloys.cascade import AlloyCascade, CascadeReport, Gated, is_hea_by_rule, out_of_range
from kan_tabular.alloys.composition import (
    chemical_system,
    normalise_fractions,
    parse_formula,
    parse_formulas,
    reduced_formula,
)
from kan_tabular.alloys.descriptors import DESCRIPTORS, UNITS, AlloyDescriptors, alloy_descriptors
from kan_tabular.alloys.elements import element_symbols, element_table, mixing_enthalpy_table
from kan_tabular.alloys.splits import ElementFold, Fold, check_disjoint, grouped_folds, leave_one_element_out
from kan_tabular.alloys.synthetic import SyntheticAlloys, synthetic_alloys

__all__ = [
    "DESCRIPTORS",
    "UNITS",
    "AlloyCascade",
    "AlloyDescriptors",
    "CascadeReport",
    "ElementFold",
    "Fold",
    "Gated",
    "SyntheticAlloys",
    "alloy_descriptors",
    "check_disjoint",
    "chemical_system",
    "element_symbols",
    "element_table",
    "grouped_folds",
    "is_hea_by_rule",
    "leave_one_element_out",
    "mixing_enthalpy_table",
    "normalise_fractions",
    "out_of_range",
    "parse_formula",
    "parse_formulas",
    "reduced_formula",
    "synthetic_alloys",
]
