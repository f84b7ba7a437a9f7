"""Tables as Lightning data: a file or a public set, split once, encoded by its training rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pandas.api import types
from torch import Tensor
from torch.utils.data import DataLoader

from kan_core.errors import KANError
from kan_core.training.checkpoints import read_checkpoint
from kan_core.training.run_folder import is_rank_zero
from kan_tabular.batches import TableBatch, batch_size_for, loader
from kan_tabular.data.agreement import check_same_columns, check_same_kinds
from kan_tabular.data.files import read_file
from kan_tabular.data.sets import load_set
from kan_tabular.data.splits import How, Rows, Split, split_rows
from kan_tabular.data.tables import Table, TaskKind, infer_task, make_table, task_reason
from kan_tabular.data.targets import Target
from kan_tabular.encoding import TableEncoder

_PIECE = 1 << 16
"""Rows that are encoded at once, which bounds what is in memory as float64 beside the table."""


@dataclass(frozen=True)
class Known:
    """What training rows teach about a table; it is stored in checkpoints.

    Attributes:
        name: Of the table.
        encoder: Of the features.
        target: Of the targets.
        num_rows: How many rows it was learned from.
        ignored: Columns that are no features: targets, weights, groups, what was dropped.
    """

    name: str
    encoder: TableEncoder
    target: Target
    num_rows: int
    ignored: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "encoder": self.encoder.to_dict(),
            "target": asdict(self.target),
            "num_rows": self.num_rows,
            "ignored": self.ignored,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Known:
        """What `to_dict` returned."""
        coded = {"encoder": TableEncoder.from_dict(stored["encoder"]), "target": Target(**stored["target"])}
        return cls(**{**stored, **coded})


class TableData(pl.LightningDataModule):
    """Batches of a table from a file, or of a public set (`kan_tabular.data.SETS`); without both, breast_cancer.

    The split depends on the table and on `split_seed`, not on the run. Medians, quartiles, categories, classes, means
    and deviations are learned from the training rows alone; validation and test rows are encoded with them, and none is
    left out. Batches are `TableBatch`; training batches are shuffled by torch's global generator, which the command
    line seeds anew in every epoch: a resumed run sees what an uninterrupted one would.

    Args:
        file: CSV, TSV, other delimited text (also ``.gz``, ``.zip``) or Parquet, with a header. The other columns than
            those named below are the features: numbers, booleans (0 and 1) or text (categories).
        target: The column of `file` to predict, or a list of columns of numbers.
        dataset: A public set instead of a file.
        root: The data root of public sets; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        test_file: More rows, with the same columns as `file`: the test.
        test_fraction: Share of the rows to test on, 0.2 by default; not with `test_file` or an official test.
        val_fraction: Share of the other rows to choose the epoch on.
        split: ``"random"``: stratified by class, or by whole groups; ``"time"``: the last rows are the test, and those
            before them validate.
        group: The column whose rows of equal value stay in one part, such as a patient; no feature.
        categorical_features: Columns of numbers that are categories, such as a postcode.
        drop: Columns to leave out, such as identifiers.
        weights: The column of `file` that says how much a row counts.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``; ``"auto"``: as the set says, else `infer_task`.
        positive: The positive one of two classes; by default as the set says, else the last in sorted order.
        separator: Between the values of a line; by default found in the first lines.
        na_values: All words that mean missing beside the empty one; by default `kan_tabular.data.NA_VALUES`.
        decimal: The decimal point in `file`; ``.`` by default.
        batch_size: Rows per batch at most; ``"auto"``: see `kan_tabular.batches.batch_size_for`.
        split_seed: Of the random split.
        predict_file: A file with the same features that ``predict`` runs on instead of the test rows.
        checkpoint: With `predict_file`: take columns and classes from this checkpoint, and read no training rows.

    Raises:
        KANError: For options that contradict each other or are out of range; later, for a table that cannot be used.
    """

    def __init__(
        self,
        file: str | None = None,
        target: str | list[str] | None = None,
        dataset: str | None = None,
        root: str | None = None,
        test_file: str | None = None,
        test_fraction: float | None = None,
        val_fraction: float = 0.2,
        split: How = "random",
        group: str | None = None,
        categorical_features: list[str] | None = None,
        drop: list[str] | None = None,
        weights: str | None = None,
        task: Literal["auto", "binary", "multiclass", "regression"] = "auto",
        positive: str | None = None,
        separator: str | None = None,
        na_values: list[str] | None = None,
        decimal: str | None = None,
        batch_size: int | Literal["auto"] = "auto",
        split_seed: int = 0,
        predict_file: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        # not to the logger: it refuses names that the task has too, with other values
        self.save_hyperparameters(logger=False)
        self.options = dict(self.hparams)
        self._check_options()
        self._said = False

    def _check_options(self) -> None:
        given = self.options
        if given["file"] is None:
            if given["dataset"] is None and given["target"] is not None:
                raise KANError("target needs a file: give the table with --data.file")
            reading = [] if given["predict_file"] else ["separator", "na_values", "decimal"]
            own = ["test_file", "target", "weights", *reading]
            _refuse_both("dataset", given["dataset"] or "breast_cancer", own, given)
        else:
            _refuse_both("file", given["file"], ["dataset"], given)
            if given["target"] in (None, [], ""):
                raise KANError(f"{given['file']}: which column is to be predicted? Name it with --data.target")
        if given["test_file"] is not None:
            _refuse_both("test_file", given["test_file"], ["test_fraction"], given)
        if given["checkpoint"] is not None and given["predict_file"] is None:
            raise KANError("checkpoint is for predict_file: name the file to predict with --data.predict_file")
        for option in ("test_fraction", "val_fraction"):
            if given[option] is not None and not 0 < given[option] < 1:
                raise KANError(f"{option} must be between 0 and 1, got {given[option]}")
        if given["batch_size"] != "auto" and given["batch_size"] < 1:
            raise KANError(f"batch_size must be auto or at least 1, got {given['batch_size']}")
        if given["decimal"] is not None and len(given["decimal"]) != 1:
            raise KANError(f"decimal must be one character, got {given['decimal']!r}")

    # The table -----------------------------------------------------------------------------------------------------

    def load(self) -> Table:
        """Read the table.

        Raises:
            KANError: When it is missing or cannot be used.
        """
        given = self.options
        if given["file"] is not None:
            return self._from_file(Path(given["file"]).expanduser())
        table = load_set(given["dataset"] or "breast_cancer", given["root"])
        if table.test is not None:
            _refuse_both(f"the official test of {table.name}", "", ["test_fraction"], given)
        (target,) = table.targets.columns
        own = make_table(
            table.X.assign(**{target: table.y}),
            table.name,
            [target],
            group=given["group"],
            drop=given["drop"] or (),
            categorical=given["categorical_features"] or (),
        )
        return replace(table, X=own.X, groups=table.groups if own.groups is None else own.groups)

    def _from_file(self, path: Path) -> Table:
        given = self.options
        drop, categorical = given["drop"] or [], given["categorical_features"] or []
        frame, test = self._read(path, categorical), None
        if given["test_file"] is not None:
            frame, test = self._with_test_file(frame, Path(given["test_file"]).expanduser(), drop, categorical)
        return make_table(
            frame,
            path.name,
            [given["target"]] if isinstance(given["target"], str) else given["target"],
            weights=given["weights"],
            group=given["group"],
            drop=drop,
            categorical=categorical,
            test=test,
        )

    def _with_test_file(
        self, frame: pd.DataFrame, path: Path, drop: Sequence[str], categorical: Sequence[str]
    ) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
        text = [name for name in frame.columns if types.is_string_dtype(frame[name].dtype)]
        more = self._read(path, [*text, *categorical])
        kept = [name for name in frame.columns if name not in drop]
        more = more.drop(columns=[name for name in drop if name in more.columns])
        check_same_columns(more, kept, path)
        numeric = {name: types.is_numeric_dtype(frame[name].dtype) and frame[name].notna().any() for name in kept}
        check_same_kinds(more, numeric, path)
        joined = pd.concat([frame, more], ignore_index=True)
        return joined, np.arange(len(joined)) >= len(frame)

    def _read(self, path: Path, text: Sequence[str]) -> pd.DataFrame:
        given = self.options
        return read_file(
            path,
            separator=given["separator"],
            na_values=given["na_values"],
            decimal=given["decimal"] or ".",
            text=text,
        )

    # What is learned from it ---------------------------------------------------------------------------------------

    @cached_property
    def known(self) -> Known:
        """What the training rows say about columns and targets, or the checkpoint that is predicted with."""
        if self.options["checkpoint"] is None:
            return self._prepared[0]
        path = Path(self.options["checkpoint"])
        stored = read_checkpoint(path).get(type(self).__qualname__)
        if stored is None:
            raise KANError(f"{path}: the checkpoint does not say how its table is encoded: it is none of this app")
        return Known.from_dict(stored)

    @cached_property
    def _prepared(self) -> tuple[Known, dict[str, TableBatch], str]:
        """What is learned, the encoded parts, and what to tell the user; the table itself is not kept."""
        given = self.options
        table = self.load()
        task, reason = self._task(table)
        split = split_rows(
            table,
            task,
            how=given["split"],
            test_fraction=0.2 if given["test_fraction"] is None else given["test_fraction"],
            val_fraction=given["val_fraction"],
            seed=given["split_seed"],
        )
        weight = np.ones(len(table.X)) if table.weight is None else table.weight.to_numpy(dtype=np.float64)
        mean = weight[split.train].mean()
        if not mean:
            raise KANError(f"{table.name}: every training row has weight 0")
        weight = weight / mean
        known, notes = self._learn(table, task, split.train, weight[split.train])
        parts = {name: _encode(known, table, rows, weight[rows]) for name, rows in split._asdict().items()}
        return known, parts, _description(table, known, task, reason, split) + "".join(f"\nnote: {n}" for n in notes)

    def _task(self, table: Table) -> tuple[TaskKind, str]:
        if self.options["task"] != "auto":
            return cast(TaskKind, self.options["task"]), "as --data.task says"
        if table.task is not None:
            return table.task, "as the set says"
        return infer_task(table.y), task_reason(table.y)

    def _learn(
        self, table: Table, task: TaskKind, rows: Rows, weight: NDArray[np.float64]
    ) -> tuple[Known, dict[str, None]]:
        positive = self.options["positive"] or (table.positive if task == "binary" else None)
        target = Target.fit(table.targets.iloc[rows], weight, task, positive, table.name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            encoder = TableEncoder().fit(table.X.iloc[rows], weight)
        ignored = [*table.targets.columns, *(self.options["drop"] or [])]
        ignored += [name for name in (self.options["weights"], self.options["group"]) if name]
        notes = dict.fromkeys(str(warning.message) for warning in caught)
        return Known(table.name, encoder, target, len(rows), ignored), notes

    @property
    def parts(self) -> dict[str, TableBatch]:
        """The encoded rows of ``"train"``, ``"val"`` and ``"test"``."""
        return self._prepared[1]

    # What a task needs to know -------------------------------------------------------------------------------------

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the set, or of the file without its suffixes."""
        name = self.known.name
        return name if self.options["file"] is None else name.partition(".")[0] or name

    @property
    def task(self) -> TaskKind:
        """The kind of task."""
        return self.known.target.task

    @property
    def cardinalities(self) -> list[int]:
        """Per column 0 when it is numeric, else the number of its codes."""
        return self.known.encoder.cardinalities

    @property
    def num_outputs(self) -> int:
        """1 for two classes, else classes or targets."""
        return self.known.target.num_outputs

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return self.known.num_rows

    @property
    def classes(self) -> list[str]:
        """The classes by index, the positive one last of two; empty for regression."""
        return self.known.target.classes

    @property
    def target_center(self) -> list[float]:
        """Means of regression targets."""
        return self.known.target.center

    @property
    def target_scale(self) -> list[float]:
        """Standard deviations of regression targets."""
        return self.known.target.scale

    @property
    def columns(self) -> dict[str, Any]:
        """The fitted encoder as plain values."""
        return self.known.encoder.to_dict()

    # Lightning -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read and encode the table, and say what was found.

        With `predict_file`, stage ``"predict"`` reads that.
        """
        if stage == "predict" and self.options["predict_file"] is not None:
            _ = self._predicted
            return
        if not self._said and is_rank_zero():
            print(self._prepared[2])
            self._said = True

    def train_dataloader(self) -> DataLoader[TableBatch]:
        """Shuffled training batches of equal size."""
        return self._loader(self.parts["train"], shuffle=True)

    def val_dataloader(self) -> DataLoader[TableBatch]:
        """The validation rows, in order."""
        return self._loader(self.parts["val"])

    def test_dataloader(self) -> DataLoader[TableBatch]:
        """The test rows, in order."""
        return self._loader(self.parts["test"])

    def predict_dataloader(self) -> DataLoader[TableBatch]:
        """The rows of `predict_file`, whose targets are unknown (-1 or NaN); without it the test rows."""
        return self._loader(self._predicted if self.options["predict_file"] else self.parts["test"])

    def _loader(self, rows: TableBatch, shuffle: bool = False) -> DataLoader[TableBatch]:
        size = self.options["batch_size"]
        return loader(rows, batch_size_for(self.num_rows) if size == "auto" else size, shuffle=shuffle)

    @cached_property
    def _predicted(self) -> TableBatch:
        known, path = self.known, Path(self.options["predict_file"]).expanduser()
        numeric = {column.name: column.kind == "numeric" for column in known.encoder.columns}
        frame = self._read(path, [name for name, is_number in numeric.items() if not is_number])
        frame = frame.drop(columns=[name for name in known.ignored if name in frame.columns and name not in numeric])
        check_same_columns(frame, list(numeric), path)
        check_same_kinds(frame, numeric, path)
        try:
            x = _encode_rows(known.encoder, frame, np.arange(len(frame)))
        except KANError as error:
            raise KANError(f"{path}: {error}") from None
        return TableBatch(x, known.target.unknown(len(frame)), torch.ones(len(frame)))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: what the training rows said."""
        return self.known.to_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with another table.

        Raises:
            KANError: When the training rows say something else than those that the checkpoint was trained with.
        """
        if state_dict != self.known.to_dict():
            raise KANError(f"{self.name}: the table or its split is not the one that the checkpoint was trained with")


def _encode(known: Known, table: Table, rows: Rows, weight: NDArray[np.float64]) -> TableBatch:
    return TableBatch(
        _encode_rows(known.encoder, table.X, rows),
        known.target.encode(table.targets.iloc[rows], table.name),
        torch.from_numpy(weight).float(),
    )


def _encode_rows(encoder: TableEncoder, frame: pd.DataFrame, rows: Rows) -> Tensor:
    x = torch.empty(len(rows), frame.shape[1])
    for start in range(0, len(rows), _PIECE):
        piece = slice(start, start + _PIECE)
        x[piece] = torch.from_numpy(encoder.transform(frame.iloc[rows[piece]]))
    return x


def _description(table: Table, known: Known, task: TaskKind, reason: str, split: Split) -> str:
    numeric = known.encoder.cardinalities.count(0)
    targets = ", ".join(map(repr, table.targets.columns))
    train, val, test = (f"{len(rows):,}" for rows in split)
    return (
        f"{table.name}: {len(table.X):,} rows ({train} train, {val} validate, {test} test); {numeric} numeric and "
        f"{table.X.shape[1] - numeric} categorical columns\ntarget {targets}: {task} ({reason})"
    )


def _refuse_both(what: str, value: str, others: Sequence[str], given: dict[str, Any]) -> None:
    for other in others:
        if given[other] is not None:
            raise KANError(
                f"{other}={given[other]} does not go with {what}{f'={value}' if value else ''}: give one of them only"
            )
