"""Constants of series, such as a shop's size and kind, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import pandas as pd

from kan_core.errors import KANError
from kan_timeseries.data.columns import Floats, check_columns, labels_of, numbers_of, series_codes


class StaticColumns:
    """Constants of series as numbers: categories become columns of 0 and 1.

    Args:
        categories: For each column its categories in order, or None for a number.
    """

    def __init__(self, categories: Mapping[str, list[str] | None]) -> None:
        self.categories = dict(categories)

    @classmethod
    def of(cls, table: pd.DataFrame, id_col: str) -> Self:
        """What a table has: numbers are numbers, everything else are categories.

        Raises:
            KANError: Without a column besides `id_col`, or with missing values.
        """
        check_columns(table, "static_df", [id_col, *(str(name) for name in table.columns if name != id_col)])
        categories: dict[str, list[str] | None] = {}
        for name in table.columns:
            if name != id_col:
                column = table[name]
                is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
                categories[name] = None if is_number else sorted(set(labels_of(column)))
        if not categories:
            raise KANError(f"static_df has no column besides {id_col!r}: add one, or leave static_df out")
        return cls(categories)

    @property
    def names(self) -> list[str]:
        """Of the columns that are made: ``size``, ``kind=a``, ``kind=b``."""
        return [
            name if labels is None else f"{name}={label}"
            for name, labels in self.categories.items()
            for label in (labels if labels is not None else [""])
        ]

    def transform(self, table: pd.DataFrame, id_col: str, ids: list[str]) -> Floats:
        """``(series, columns)`` for these series; rows of others are not used.

        Raises:
            KANError: For a series without a row or with two, unseen categories, or missing values.
        """
        check_columns(table, "static_df", [id_col, *self.categories])
        names, codes, _ = series_codes(table[id_col], "static_df")
        if len(names) < len(codes):
            raise KANError(f"static_df: series {names[int(np.bincount(codes).argmax())]!r} has two rows: keep one")
        place = {name: row for row, name in enumerate(names)}
        absent = [name for name in ids if name not in place]
        if absent:
            raise KANError(f"static_df has no row for series {absent[0]!r}: add it")
        rows = [place[name] for name in ids]
        parts = []
        for name, labels in self.categories.items():
            if labels is None:
                numbers = numbers_of(table[name], "static_df")[rows]
                bad = np.flatnonzero(~np.isfinite(numbers))
                if len(bad):
                    raise KANError(f"static_df: {name} of series {ids[bad[0]]!r} is {numbers[bad[0]]}: give a number")
                parts.append(numbers[:, None])
                continue
            own = np.asarray(labels_of(table[name]), dtype=object)[rows]
            strange = [s for s, label in enumerate(own) if label not in labels]
            if strange:
                raise KANError(
                    f"static_df: {name} of series {ids[strange[0]]!r} is {own[strange[0]]!r}, unknown in training: "
                    f"use one of {', '.join(labels)}"
                )
            parts.append((own[:, None] == np.asarray(labels, dtype=object)).astype(np.float64))
        return np.concatenate(parts, axis=1)
