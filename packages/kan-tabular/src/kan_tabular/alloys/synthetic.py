"""Alloys whose laws are known: a generator for tests and examples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_core.errors import KANError
from kan_tabular.alloys.composition import chemical_system, reduced_formula
from kan_tabular.alloys.descriptors import DESCRIPTORS, UNITS, alloy_descriptors
from kan_tabular.alloys.elements import element_values

ELEMENTS = ("Al", "Co", "Cr", "Cu", "Fe", "Hf", "Mn", "Mo", "Nb", "Ni", "Ta", "Ti", "V", "W", "Zr")

LABEL_NOISE = 0.05
STRENGTH_NOISE = 20.0
MODULUS_NOISE = 3.0
BOWING = -40.0


class SyntheticAlloys(NamedTuple):
    """What `synthetic_alloys` draws; all parts have the same rows.

    Attributes:
        fractions: One column per element of the generator.
        X: The descriptors, then ``cold_rolling`` in % and ``anneal_time`` in h; units in ``X.attrs["units"]``.
        single_phase: Whether the alloy is labelled as one phase, noise included.
        yield_strength: In MPa.
        bulk_modulus: In GPa.
        groups: Columns ``formula`` and ``system``.
    """

    fractions: pd.DataFrame
    X: pd.DataFrame
    single_phase: pd.Series
    yield_strength: pd.Series
    bulk_modulus: pd.Series
    groups: pd.DataFrame


def synthetic_alloys(
    rows: int = 500, *, seed: int = 0, concentration: float = 2.0, noise: float = 1.0
) -> SyntheticAlloys:
    r"""Draw alloys of 1 to 6 elements, and give them properties by rules of thumb.

    - single phase: δ < 6.6 and -15 < ΔH < 5, flipped in 5 % of the rows;
    - yield strength: 200 + 60 δ + 8 \|ΔH\| + 3 cold_rolling - 0.2 anneal_time + ε, ε of deviation 20 MPa;
    - bulk modulus: Σ c_i B_i - 40 Σ_{i<j} c_i c_j + ε, ε of deviation 3 GPa.

    Given the descriptors, the strength is thus linear in δ, cold rolling and annealing, and a V in ΔH.

    Args:
        rows: How many alloys.
        seed: Of the draw; the same seed gives the same alloys, and no other random state is touched.
        concentration: Of the symmetric Dirichlet distribution of fractions; the larger, the nearer to equiatomic.
        noise: Factor on the deviations and on the share of flipped labels; 0 for the rules themselves.

    Raises:
        KANError: For arguments out of range.
    """
    if rows < 1 or not concentration > 0 or not 0 <= noise <= 1 / LABEL_NOISE:
        raise KANError(f"rows and concentration must be positive, noise in 0..20, got {rows}, {concentration}, {noise}")
    rng = np.random.default_rng(seed)
    fractions = _draw_fractions(rng, rows, concentration)
    values = alloy_descriptors(fractions, ELEMENTS)
    X = pd.DataFrame(values, columns=list(DESCRIPTORS))
    X["cold_rolling"] = rng.uniform(0, 80, rows)
    X["anneal_time"] = rng.uniform(0, 100, rows)
    X.attrs["units"] = {**UNITS, "cold_rolling": "%", "anneal_time": "h"}
    delta, enthalpy = X["size_mismatch"].to_numpy(), X["mixing_enthalpy"].to_numpy()
    single = (delta < 6.6) & (enthalpy > -15) & (enthalpy < 5)
    flipped = rng.uniform(size=rows) < LABEL_NOISE * noise
    strength = 200 + 60 * delta + 8 * np.abs(enthalpy) + 3 * X["cold_rolling"] - 0.2 * X["anneal_time"]
    pairs = (1 - (fractions**2).sum(axis=1)) / 2  # Σ_{i<j} c_i c_j of fractions that sum to 1
    modulus = fractions @ element_values("bulk_modulus_gpa", ELEMENTS) + BOWING * pairs
    table = pd.DataFrame(fractions, columns=list(ELEMENTS))
    return SyntheticAlloys(
        table,
        X,
        pd.Series(single ^ flipped, name="single_phase"),
        pd.Series(strength + noise * rng.normal(0, STRENGTH_NOISE, rows), name="yield_strength"),
        pd.Series(modulus + noise * rng.normal(0, MODULUS_NOISE, rows), name="bulk_modulus"),
        pd.concat([reduced_formula(table), chemical_system(table)], axis=1),
    )


def _draw_fractions(rng: np.random.Generator, rows: int, concentration: float) -> NDArray[np.float64]:
    fractions = np.zeros((rows, len(ELEMENTS)))
    for row in fractions:
        chosen = rng.choice(len(ELEMENTS), size=rng.integers(1, 7), replace=False)
        row[chosen] = rng.dirichlet(np.full(len(chosen), concentration))
    return fractions
