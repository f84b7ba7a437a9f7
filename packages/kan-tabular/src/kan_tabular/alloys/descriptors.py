r"""What a composition says about an alloy: entropy, enthalpy, size mismatch and the other classic descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from kan_core.errors import KANError
from kan_tabular.alloys.composition import normalise_fractions, parse_formulas
from kan_tabular.alloys.elements import element_values, mixing_enthalpies

Floats = NDArray[np.float64]

GAS_CONSTANT = 8.314
"""R in J/(mol K)."""

OMEGA_CAP = 100.0
NO_ENTHALPY = 1e-3
"""Below this |ΔH| in kJ/mol, Ω is its cap."""

PRESENT = 0.005
"""An element counts as a component above this fraction."""

UNITS = {
    "mixing_entropy": "J/(mol K)",
    "mixing_enthalpy": "kJ/mol",
    "size_mismatch": "%",
    "electronegativity_spread": "Pauling",
    "valence_electrons": "1/atom",
    "melting_point": "K",
    "omega": "1",
    "components": "1",
    "largest_fraction": "1",
}
"""The descriptors in order, with their units."""

DESCRIPTORS = tuple(UNITS)


def alloy_descriptors(fractions: ArrayLike, elements: Sequence[str], omega_cap: float = OMEGA_CAP) -> Floats:
    r"""The descriptors of compositions, all rows at once.

    With fractions :math:`c_i`, radii :math:`r_i`, electronegativities :math:`\chi_i`, valence electrons
    :math:`\mathrm{VEC}_i`, melting points :math:`T_i` and binary mixing enthalpies :math:`H_{ij}`:

    .. math::

        \Delta S &= -R \sum_i c_i \ln c_i \quad (0 \ln 0 = 0) &
        \Delta H &= \sum_{i<j} 4 H_{ij} c_i c_j \\
        \delta &= 100 \sqrt{\sum_i c_i (1 - r_i/\bar r)^2},\ \bar r = \sum_i c_i r_i &
        \Delta\chi &= \sqrt{\sum_i c_i (\chi_i - \bar\chi)^2} \\
        \mathrm{VEC} &= \sum_i c_i \mathrm{VEC}_i &
        T_m &= \sum_i c_i T_i \\
        \Omega &= \min(T_m \Delta S / |\Delta H|, \mathrm{cap}) &
        n &= |\{i : c_i > 0.005\}|,\ \max_i c_i

    Ω is the cap where :math:`|\Delta H|` is below 1e-3 kJ/mol: of a pure element, and where enthalpies cancel.

    Args:
        fractions: ``(rows, elements)``, not negative, with a positive sum; rows are divided by their sum.
        elements: The symbols of the columns.
        omega_cap: The greatest Ω; the textbooks have none. 100 is far beyond where Ω decides anything (1.1).

    Returns:
        ``(rows, 9)`` in the order of `DESCRIPTORS`.

    Raises:
        KANError: For an unknown element, another number of columns, or a row without a positive sum.
    """
    c = np.asarray(fractions, dtype=np.float64)
    if c.ndim != 2 or c.shape[1] != len(elements):
        raise KANError(f"fractions of {len(elements)} elements are (rows, {len(elements)}), got shape {c.shape}")
    sums = c.sum(axis=1, keepdims=True)
    if not (np.isfinite(c).all() and (c >= 0).all() and (sums > 0).all()):
        raise KANError("fractions must be finite, not negative, and not all 0 in a row")
    c = c / sums
    radius = element_values("radius_pm", elements)
    chi = element_values("electronegativity", elements)
    entropy = -GAS_CONSTANT * np.where(c > 0, c * np.log(np.where(c > 0, c, 1.0)), 0.0).sum(axis=1)
    # every pair is in the double sum twice
    enthalpy = 2 * np.einsum("ri,ij,rj->r", c, mixing_enthalpies(elements), c)
    melting = c @ element_values("melting_point_k", elements)
    ratio = radius / (c @ radius)[:, None]
    spread = chi - (c @ chi)[:, None]
    small = np.abs(enthalpy) < NO_ENTHALPY
    omega = np.minimum(melting * entropy / np.where(small, 1.0, 1000 * np.abs(enthalpy)), omega_cap)
    return np.column_stack(
        [
            np.maximum(entropy, 0.0),  # not -0 of a pure element
            enthalpy,
            100 * np.sqrt((c * (1 - ratio) ** 2).sum(axis=1)),
            np.sqrt((c * spread**2).sum(axis=1)),
            c @ element_values("valence_electrons", elements),
            melting,
            np.where(small, omega_cap, omega),
            (c > PRESENT).sum(axis=1),
            c.max(axis=1),
        ]
    )


class AlloyDescriptors(TransformerMixin, BaseEstimator):
    """A scikit-learn transformer from compositions to descriptors, see `alloy_descriptors` for the equations.

    The composition is a column of formulas (`parse_formula`), or columns of fractions or percent named by element
    symbols (`normalise_fractions`). It takes nothing else: a `ColumnTransformer` leads other columns past it. Nothing
    is learned from the rows but which elements there are, so there is nothing to leak.

    Fractions sum to 1, so the effect of one element cannot be told from that of the others together: leave one out, or
    use the descriptors alone, before reading importances per element.

    Args:
        fractions: Also return the atomic fraction of every element of the fitted rows.
        omega_cap: The greatest Ω.

    Attributes:
        elements_: The elements of the fitted rows, in alphabetical order. Rows with other known elements are
            transformed too: their descriptors are exact, and only these elements have no fraction column.
        feature_names_in_: The names of the input columns, where they have any.
        n_features_in_: Their number.
    """

    def __init__(self, *, fractions: bool = False, omega_cap: float = OMEGA_CAP) -> None:
        self.fractions = fractions
        self.omega_cap = omega_cap

    def fit(self, X: Any, y: Any = None) -> AlloyDescriptors:
        """Find the elements.

        Raises:
            KANError: For a formula or columns that are no composition.
        """
        if not self.omega_cap > 0:
            raise KANError(f"omega_cap must be positive, got {self.omega_cap}")
        table = _as_fractions(X)
        self.elements_ = sorted(symbol for symbol in table.columns if (table[symbol] > 0).any())
        self.n_features_in_ = 1 if getattr(X, "ndim", 1) == 1 else X.shape[1]
        if isinstance(X, pd.DataFrame):
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        return self

    def transform(self, X: Any) -> Any:
        """``(rows, features)``, named by `get_feature_names_out` when the output is set to pandas."""
        check_is_fitted(self)
        table = _as_fractions(X)
        values = alloy_descriptors(table.to_numpy(), list(table.columns), self.omega_cap)
        if not self.fractions:
            return values
        return np.column_stack([table.reindex(columns=self.elements_, fill_value=0.0).to_numpy(), values])

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """The elements, when their fractions are returned, then `DESCRIPTORS`."""
        check_is_fitted(self)
        return np.asarray([*(self.elements_ if self.fractions else ()), *DESCRIPTORS], dtype=object)


def _as_fractions(X: Any) -> pd.DataFrame:
    """Fractions by element of a column of formulas, or of columns named by elements."""
    if isinstance(X, pd.DataFrame):
        if X.shape[1] == 1 and not pd.api.types.is_numeric_dtype(X.iloc[:, 0].dtype):
            return parse_formulas(X.iloc[:, 0])
        return normalise_fractions(X)
    formulas = X if isinstance(X, pd.Series) else np.asarray(X, dtype=object)
    if formulas.ndim == 2 and formulas.shape[1] == 1:
        formulas = formulas[:, 0]
    if formulas.ndim != 1:
        raise KANError("give formulas in one column, or a data frame whose columns are named by elements")
    return parse_formulas(formulas)
