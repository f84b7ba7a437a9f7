"""Tables of alloys: a reader for any, and the MPEA data set of mechanical properties (Borg et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_tabular.alloys.composition import chemical_system, normalise_fractions, parse_formulas, reduced_formula
from kan_tabular.alloys.descriptors import DESCRIPTORS, UNITS, alloy_descriptors
from kan_tabular.data.files import read_file
from kan_tabular.data.tables import Table, TaskKind, need_column

PAGE = "https://github.com/CitrineInformatics/MPEA_dataset"
FILE = "MPEA_dataset.csv"

MPEATarget = Literal["yield_strength", "hardness", "uts", "elongation", "phase"]
Group = Literal["formula", "system"]

PROCESSING = "PROPERTY: Processing method"
PHASE = "PROPERTY: BCC/FCC/other"
TEMPERATURE = r"PROPERTY: Test temperature ($^\circ$C)"
TEST = "PROPERTY: Type of test"
_NAMES = {PROCESSING: "processing", PHASE: "phase", TEST: "test_type", TEMPERATURE: "test_temperature"}


class AlloyTable(NamedTuple):
    """Rows of alloys with a known target.

    Attributes:
        X: Fractions by element, descriptors, then process columns; ``X.attrs["units"]`` has the unit of every column
            that has one.
        y: The target; ``y.attrs["unit"]`` has its unit where that is known.
        groups: Columns ``formula`` and ``system``: rows of equal value must not be on both sides of a split.
    """

    X: pd.DataFrame
    y: pd.Series
    groups: pd.DataFrame


class _Target(NamedTuple):
    column: str
    unit: str
    process: tuple[str, ...]


_TESTED = (PROCESSING, PHASE, TEST, TEMPERATURE)
TARGETS: dict[str, _Target] = {
    "yield_strength": _Target("PROPERTY: YS (MPa)", "MPa", _TESTED),
    "uts": _Target("PROPERTY: UTS (MPa)", "MPa", _TESTED),
    "elongation": _Target("PROPERTY: Elongation (%)", "%", _TESTED),
    # hardness and phase are found at room temperature, whatever mechanical test the record also has
    "hardness": _Target("PROPERTY: HV", "HV", (PROCESSING, PHASE)),
    "phase": _Target(PHASE, "", (PROCESSING,)),
}


def load_alloy_table(
    path: str | Path,
    composition: str | Sequence[str],
    target: str,
    process: Sequence[str] = (),
    *,
    units: Mapping[str, str] | None = None,
    descriptors: bool = True,
) -> AlloyTable:
    """Read a file of alloys, as `read_file` reads it: composition, process conditions, one target.

    Rows without the target are left out. A missing process value stays missing, and nothing is converted: `units` only
    says what the numbers are.

    Args:
        path: The file.
        composition: The column of formulas (`parse_formula`), or the columns of atomic fractions or percent, named by
            element symbols (`normalise_fractions`).
        target: The column to predict.
        process: Further columns to predict from, such as annealing time, as they are.
        units: Unit by column, of process columns and the target, such as ``{"anneal": "h", "cold_rolling": "%"}``.
        descriptors: Whether the nine descriptors stand beside the fractions.

    Returns:
        The table; its fraction columns are the elements that occur in its rows.

    Raises:
        KANError: For a file or column that is not there, no row with the target, or a composition that cannot be read.
    """
    return _alloy_table(read_file(Path(path)), Path(path).name, composition, target, process, units or {}, descriptors)


def load_mpea(
    path: str | Path | None = None, target: MPEATarget = "yield_strength", *, descriptors: bool = True
) -> AlloyTable:
    """The MPEA data set: 1,545 records of 630 formulas from 265 papers (Borg et al., Sci. Data 7:430, 2020; CC BY 4.0).

    Features are fractions, descriptors and how the alloy was made (``processing``); for targets other than ``"phase"``
    also its phase; for strength and elongation also ``test_type`` (C compression, T tension) and ``test_temperature``
    in °C, which stays missing where the record lacks it: it is not always room temperature.

    Args:
        path: The file, its folder, or the data root that holds the folder ``mpea``; None: the data root of `data_root`.
        target: ``"yield_strength"`` and ``"uts"`` in MPa, ``"hardness"`` in HV, ``"elongation"`` in %, or ``"phase"``:
            BCC, FCC or other.
        descriptors: Whether the nine descriptors stand beside the fractions.

    Raises:
        KANError: When the file is not there or the target is unknown.
    """
    if target not in TARGETS:
        raise KANError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    file = _mpea_file(data_root() if path is None else Path(path))
    chosen = TARGETS[target]
    units = {TEMPERATURE: "°C"} | ({chosen.column: chosen.unit} if chosen.unit else {})
    table = _alloy_table(
        read_file(file, separator=","), file.name, "FORMULA", chosen.column, chosen.process, units, descriptors
    )
    X = table.X.rename(columns=_NAMES)
    X.attrs["units"] = {_NAMES.get(name, name): unit for name, unit in table.X.attrs["units"].items()}
    return table._replace(X=X, y=table.y.rename(target))


def mpea(root: str | None = None, target: MPEATarget = "yield_strength", group: Group = "formula") -> Table:
    """The MPEA data set as a `Table` of the data module, whose splits keep groups whole.

    Args:
        root: As for `data_root`.
        target: As for `load_mpea`.
        group: ``"formula"``: no alloy is in two parts; ``"system"``: no set of elements is.

    Raises:
        KANError: As `load_mpea`, and for an unknown group.
    """
    X, y, groups = load_mpea(data_root(root), target)
    if group not in groups:
        raise KANError(f"group must be formula or system, got {group!r}")
    task: TaskKind = "multiclass" if target == "phase" else "regression"
    return Table(X, y, f"mpea ({target})", task=task, groups=groups[group])


MPEA_SETS: dict[str, Callable[[str | None], Table]] = {
    "mpea-yield-strength": partial(mpea, target="yield_strength"),
    "mpea-uts": partial(mpea, target="uts"),
    "mpea-elongation": partial(mpea, target="elongation"),
    "mpea-hardness": partial(mpea, target="hardness"),
    "mpea-phase": partial(mpea, target="phase"),
}
"""For `kan_tabular.data.sets.SETS`; splits keep formulas whole."""


def _alloy_table(
    frame: pd.DataFrame,
    name: str,
    composition: str | Sequence[str],
    target: str,
    process: Sequence[str],
    units: Mapping[str, str],
    descriptors: bool,
) -> AlloyTable:
    parts = [composition] if isinstance(composition, str) else list(composition)
    by_formula = isinstance(composition, str)
    for column in (*parts, target, *process, *units):
        need_column(column, frame.columns, name)
    frame = frame[frame[target].notna()].reset_index(drop=True)
    if not len(frame):
        raise KANError(f"{name}: no row has a value of the target {target!r}")
    fractions = parse_formulas(frame[parts[0]]) if by_formula else normalise_fractions(frame[parts])
    fractions = fractions.loc[:, (fractions > 0).any()].sort_index(axis=1)
    groups = pd.concat([reduced_formula(fractions), chemical_system(fractions)], axis=1)
    blocks = [fractions]
    if descriptors:
        values = alloy_descriptors(fractions.to_numpy(), list(fractions.columns))
        blocks.append(pd.DataFrame(values, columns=list(DESCRIPTORS)))
    X = pd.concat([*blocks, frame[list(process)]], axis=1)
    X.attrs["units"] = {
        **dict.fromkeys(fractions.columns, "1"),
        **(UNITS if descriptors else {}),
        **{column: units[column] for column in process if column in units},
    }
    y = frame[target].copy()
    if target in units:
        y.attrs["unit"] = units[target]
    return AlloyTable(X, y, groups)


def _mpea_file(path: Path) -> Path:
    candidates = [path, path / FILE, path / "mpea" / FILE]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise KANError(f"{path}: holds neither {FILE} nor mpea/{FILE}: fetch it from {PAGE}")
