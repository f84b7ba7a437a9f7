r"""Facts about elements: radii, electronegativities, valence electrons, melting points, bulk moduli, mixing enthalpies.

There are 30 elements: those of the MPEA data set (Borg et al. 2020), which contain those of the synthetic generator.
The numbers lie beside this file in ``elements.csv`` and ``mixing_enthalpy.csv``. Where they come from:

- radius: metallic radii in pm as tabulated for high-entropy alloys by Guo and Liu, Prog. Nat. Sci. 21 (2011) 433. Nd
  alone differs: that table's 164 pm lies outside its neighbours (La 187.9, Ce 182.5, Sm 181), so the metallic radius
  181.4 pm, half the nearest distance in the metal, takes its place.
- electronegativity: the Pauling scale.
- valence electrons: with d electrons, as usual for these alloys (Guo and Liu): the group number, for the p block less
  ten, and 3 for Nd.
- melting point: in K at normal pressure; of C the sublimation point.
- bulk modulus: in GPa at room temperature (Gschneidner 1964, as in Kittel's textbook), for the generator's 15 elements
  only; NaN for the others.
- mixing enthalpy: :math:`H_{ij}` in kJ/mol of the equiatomic binary liquid by Miedema's model, whole numbers as
  tabulated by Takeuchi and Inoue, Mater. Trans. 46 (2005) 2817. All 435 pairs are there. The 153 pairs of transition
  and rare-earth metals were computed anew from Miedema's equation and agree within 0.8 kJ/mol. Those with B, C and Si
  are as tabulated, which is not what the equation gives when the transformation of these elements to a metal is added.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError

Floats = NDArray[np.float64]


def element_table() -> pd.DataFrame:
    """The properties of all elements.

    Returns:
        Index: the symbols in alphabetical order. Columns: ``radius_pm``, ``electronegativity``, ``valence_electrons``,
        ``melting_point_k``, ``bulk_modulus_gpa`` (NaN outside the synthetic generator's elements).
    """
    return _read("elements.csv").copy()


def mixing_enthalpy_table() -> pd.DataFrame:
    """Binary mixing enthalpies in kJ/mol, symmetric, with zeros on the diagonal; index and columns: the symbols."""
    return _read("mixing_enthalpy.csv").copy()


def element_symbols() -> tuple[str, ...]:
    """The elements there are facts about, in alphabetical order."""
    return tuple(_read("elements.csv").index)


def element_values(name: str, elements: Iterable[str]) -> Floats:
    """One property of the given elements, ``(elements,)``.

    Args:
        name: A column of `element_table`.
        elements: Symbols.

    Raises:
        KANError: For an unknown element.
    """
    chosen = list(elements)
    check_elements(chosen, "elements")
    return np.asarray(_read("elements.csv").loc[chosen, name], dtype=np.float64)


def mixing_enthalpies(elements: Iterable[str]) -> Floats:
    """Binary mixing enthalpies of the given elements in kJ/mol, ``(elements, elements)``.

    Raises:
        KANError: For an unknown element.
    """
    chosen = list(elements)
    check_elements(chosen, "elements")
    return np.asarray(_read("mixing_enthalpy.csv").loc[chosen, chosen], dtype=np.float64)


def check_elements(symbols: Iterable[str], where: str) -> None:
    """Refuse elements without facts.

    Args:
        symbols: What is taken for elements.
        where: For the message: the formula, file or argument they are from.

    Raises:
        KANError: Naming the first unknown one and all that are known.
    """
    known = element_symbols()
    for symbol in symbols:
        if symbol not in known:
            raise KANError(f"{where}: unknown element {symbol!r}: there are facts about {', '.join(known)}")


@cache
def _read(name: str) -> pd.DataFrame:
    with (files("kan_tabular.alloys") / name).open("r", encoding="utf-8") as file:
        return pd.read_csv(file, index_col="symbol")
