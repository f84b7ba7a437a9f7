"""From formulas and columns of amounts to atomic fractions, and back to names that are equal for equal alloys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_tabular.alloys.elements import check_elements

Floats = NDArray[np.float64]

TOLERANCE = 0.01
"""How far fractions may be from 1, or percent from 100, relative."""

DECIMALS = 3
"""Of fractions in `reduced_formula`."""

_PART = re.compile(r"([A-Z][a-z]?)\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|)\s*(%|at\.?\s?%|)[\s,_-]*")


def parse_formula(formula: str) -> dict[str, float]:
    """Atomic fractions of a formula such as ``"Al0.25 Co1 Fe1 Ni1"``, ``"CoCrFeNi"`` or ``"Al 20% Ni 80%"``.

    Numbers are relative amounts and need not sum to anything; an element without one counts 1. With percent signs, all
    parts have one and they sum to 100 within 1 %. An element may come twice; amounts of 0 are left out.

    Args:
        formula: Without brackets, which are read differently in chemistry and in metallurgy.

    Returns:
        Fractions that sum to 1, by element in alphabetical order.

    Raises:
        KANError: For a formula that cannot be read, an unknown element, or percentages that do not sum to 100.
    """
    where = f"formula {formula!r}"
    if not isinstance(formula, str) or not formula.strip():
        raise KANError(f"{where}: a formula is text such as 'Al0.3CoCrFeNi'")
    amounts: dict[str, float] = {}
    signs = []
    text = formula.strip()
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise KANError(
                f"{where}: cannot read {text[position:]!r}: write elements with relative amounts and no brackets, "
                "such as 'Al0.3CoCrFeNi'"
            )
        symbol, number, sign = part.groups()
        check_elements([symbol], where)
        amounts[symbol] = amounts.get(symbol, 0.0) + (float(number) if number else 1.0)
        signs.append(bool(sign))
        position = part.end()
    if any(signs) and not all(signs):
        raise KANError(f"{where}: some amounts are percent and some are not: write all of them one way")
    total = sum(amounts.values())
    if all(signs) and abs(total / 100 - 1) > TOLERANCE:
        raise KANError(f"{where}: the percentages sum to {total:g}, not to 100")
    if not (total > 0 and np.isfinite(total)):
        raise KANError(f"{where}: the amounts sum to {total:g}: give at least one positive, finite amount")
    return {symbol: amounts[symbol] / total for symbol in sorted(amounts) if amounts[symbol]}


def parse_formulas(formulas: Iterable[str], elements: Sequence[str] | None = None) -> pd.DataFrame:
    """Atomic fractions of formulas, one row each.

    Args:
        formulas: As for `parse_formula`. The index of a series is kept.
        elements: The columns; elements outside are left out. None: all that occur, in alphabetical order.

    Raises:
        KANError: As `parse_formula`.
    """
    parsed: dict[str, dict[str, float]] = {}
    listed = list(formulas)
    for formula in listed:
        if not isinstance(formula, str) or formula not in parsed:  # what is no text, the parser refuses
            parsed[formula] = parse_formula(formula)
    columns = sorted({symbol for row in parsed.values() for symbol in row}) if elements is None else list(elements)
    values = np.array([[parsed[formula].get(symbol, 0.0) for symbol in columns] for formula in listed])
    index = formulas.index if isinstance(formulas, pd.Series) else None
    return pd.DataFrame(values.reshape(len(listed), len(columns)), index=index, columns=columns)


def normalise_fractions(fractions: pd.DataFrame) -> pd.DataFrame:
    """Columns of atomic fractions or of percent, made to sum to exactly 1 in every row.

    Args:
        fractions: One column per element, named by its symbol. Every row sums to 1, or every row to 100, within 1 %.

    Raises:
        KANError: For an unknown element, a negative or missing amount, or a row with another sum.
    """
    check_elements(fractions.columns, "columns of the composition")
    try:
        values = fractions.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise KANError(f"columns of the composition must be numbers: {error}") from None
    _refuse_rows(fractions, ~np.isfinite(values).all(axis=1), "has a missing or infinite amount: write 0 for none")
    _refuse_rows(fractions, (values < 0).any(axis=1), "has a negative amount")
    sums = values.sum(axis=1)
    whole = 100.0 if len(sums) and np.median(sums) > 50 else 1.0
    off = np.abs(sums / whole - 1) > TOLERANCE
    if off.any():
        at = int(off.argmax())
        _refuse_rows(
            fractions,
            off,
            f"sums to {sums[at]:g}, not to {whole:g}: give fractions or percent of all elements",
        )
    return pd.DataFrame(values / sums[:, None], index=fractions.index, columns=fractions.columns)


def reduced_formula(fractions: pd.DataFrame) -> pd.Series:
    """A name per row that is equal for equal alloys, such as ``"Al0.2Co0.4Ni0.4"``.

    Elements are in alphabetical order and fractions rounded to three decimals, so that 0.667 and 2/3 are equal; what is
    rounded to 0 is left out.

    Args:
        fractions: Rows that sum to 1, one column per element.
    """
    rounded = fractions.round(DECIMALS)[sorted(fractions.columns)]
    return _names(rounded, lambda symbol, value: f"{symbol}{value:g}", "").rename("formula")


def chemical_system(fractions: pd.DataFrame) -> pd.Series:
    """The elements of each row, such as ``"Al-Co-Ni"``: a coarser name than `reduced_formula`."""
    ordered = fractions[sorted(fractions.columns)]
    return _names(ordered, lambda symbol, _: symbol, "-").rename("system")


def _names(table: pd.DataFrame, part: Callable[[str, float], str], separator: str) -> pd.Series:
    symbols = list(table.columns)
    names = [
        separator.join(part(symbol, value) for symbol, value in zip(symbols, row, strict=True) if value > 0)
        for row in table.to_numpy()
    ]
    return pd.Series(names, index=table.index, dtype="str")


def _refuse_rows(table: pd.DataFrame, bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        raise KANError(f"composition: row {table.index[int(bad.argmax())]!r} {why}")
