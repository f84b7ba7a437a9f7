"""Your own recordings with a table of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from kan_audio.data.base import PaddedDataModule
from kan_audio.data.splits import at_random, by_part, by_speaker, check_speakers
from kan_audio.data.tables import labelled, read_table
from kan_audio.data.utterances import Splits, Utterance, UtteranceSplits, check_unique
from kan_core.errors import KANError
from kan_core.training.paths import data_root


class LabelledSpeech(PaddedDataModule):
    """Recordings that a CSV table names: column ``path``, one column for each slot, and what the split needs.

    Paths are relative to the folder of the table. Splits:

    - ``"speaker"``: by the column ``speaker``; no speaker is in two parts.
    - ``"column"``: the column ``split`` says ``train``, ``val`` or ``test``; where there is a column ``speaker`` too,
      no speaker may be in two parts.
    - ``"random"``: at random, stratified by the first slot. The result says nothing about other speakers.

    Args:
        table: The CSV file, relative to the data root (or absolute).
        slots: The columns that hold labels.
        split: ``"speaker"``, ``"column"`` or ``"random"``.
        val_fraction: Share of the speakers or recordings held out for selection.
        test_fraction: Share of the speakers or recordings held out for the test.
        split_seed: Of the split; the seed of the run does not change it.
        **options: Those of `PaddedDataModule`.
    """

    def __init__(
        self,
        table: str,
        slots: list[str],
        split: Literal["speaker", "column", "random"] = "speaker",
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not slots:
            raise KANError("slots is empty: name the columns that hold labels")
        if split not in ("speaker", "column", "random"):
            raise KANError(f"split must be speaker, column or random, got {split!r}")
        self.table = table
        self.slot_columns = slots
        self.split = split
        self.shares = (val_fraction, test_fraction)
        self.split_seed = split_seed

    def load(self) -> UtteranceSplits:
        """Read the table and split it."""
        table = data_root(self.root) / self.table
        if self.split == "column":
            return self._by_column(table)
        if self.split == "speaker":
            return by_speaker(self._read(table, "speaker"), *self.shares, self.split_seed, self.table)
        first = self.slot_columns[0]
        return at_random(self._read(table), *self.shares, self.split_seed, lambda u: u.labels[first], self.table)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The table's name without suffix."""
        return Path(self.table).stem

    def _read(self, table: Path, speaker: str | None = None) -> list[Utterance]:
        return labelled(table, table.parent, self.slot_columns, speaker)

    def _by_column(self, table: Path) -> UtteranceSplits:
        rows = read_table(table, ["split"])
        speaker = "speaker" if "speaker" in rows[0][1] else None
        for line, row in rows:
            if row["split"] not in Splits._fields:
                raise KANError(f"{table}, line {line}: split is {row['split']!r}: use {', '.join(Splits._fields)}")
        part_of = {row["path"]: row["split"] for _, row in rows}
        utterances = self._read(table, speaker)
        check_unique(utterances, table)
        splits = by_part(utterances, lambda utterance: part_of[utterance.id])
        if speaker:
            check_speakers(splits, self.table)
        return splits
