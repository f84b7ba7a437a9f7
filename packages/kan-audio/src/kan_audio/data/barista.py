"""Picovoice's barista commands: spoken coffee orders with six slots."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from kan_audio.data.base import PaddedDataModule
from kan_audio.data.folders import members, present
from kan_audio.data.splits import fold
from kan_audio.data.utterances import Utterance, UtteranceSplits
from kan_core.errors import KANError
from kan_core.training.paths import data_root

PAGE = "https://github.com/Picovoice/speech-to-intent-benchmark"
SLOTS = ("coffeeDrink", "roast", "size", "numberOfShots", "milkAmount", "sugarAmount")
NOT_SAID = "none"


class Barista(PaddedDataModule):
    """Coffee orders of Picovoice's speech-to-intent benchmark, all of one intent, in a seeded k-fold.

    Reads ``label.json`` and the recordings, ``<uuid>.wav``, in a zip archive beside it or unpacked. Six slots; one that
    an order does not mention has the value ``none``; blanks around a value do not count. Speakers are not named, so
    one may be in several folds.

    The classes of a slot are its values in the whole of ``label.json`` (625 orders), with or without a recording here:
    the vocabulary of the benchmark, known before any split. Some values are in no training fold; the network has an
    output for them that it never learns to use, and an order with such a value counts as wrong.

    Args:
        folder: Where ``label.json`` is, relative to the data root (or absolute).
        fold: Which fold is for the test; the next one is for validation.
        folds: How many.
        split_seed: Of the folds; the seed of the run does not change them.
        max_seconds: What follows is cut off; 15 s keeps every order whole.
        **options: Those of `PaddedDataModule`.
    """

    def __init__(
        self,
        folder: str = "barista",
        fold: int = 0,
        folds: int = 5,
        split_seed: int = 0,
        max_seconds: float = 15.0,
        **options: Any,
    ) -> None:
        super().__init__(max_seconds, **options)
        self.folder = folder
        self.fold = fold
        self.folds = folds
        self.split_seed = split_seed

    def find_slots(self) -> dict[str, list[str]]:
        """Each slot with the sorted values that it has anywhere in ``label.json``."""
        return {slot: sorted({labels[slot] for labels in self._labels.values()}) for slot in SLOTS}

    def load(self) -> UtteranceSplits:
        """Join recordings and labels."""
        utterances = []
        for name, source in members(data_root(self.root) / self.folder, PAGE).items():
            file = PurePosixPath(name)
            if file.name not in self._labels:
                raise KANError(f"{source}: label.json in {self.folder} has no entry {file.name}")
            utterances.append(Utterance(file.stem, source, self._labels[file.name]))
        return fold(utterances, self.fold, self.folds, self.split_seed, self.folder)

    @property
    def name(self) -> str:  # type: ignore[override]
        """``barista`` and the fold."""
        return f"barista (fold {self.fold} of {self.folds})"

    @cached_property
    def _labels(self) -> dict[str, dict[str, str]]:
        path = present(data_root(self.root) / self.folder / "label.json", PAGE)
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            return {name: _slot_values(entry["slots"], f"{path}: {name}") for name, entry in entries.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, KANError):
                raise
            raise KANError(f'{path} must map each file to {{"intent": ..., "slots": {{...}}}}: {error}') from None


def _slot_values(said: dict[str, str], where: str) -> dict[str, str]:
    for slot in said:
        if slot not in SLOTS:
            raise KANError(f"{where} has the slot {slot!r}: the slots are {', '.join(SLOTS)}")
    return {slot: said.get(slot, NOT_SAID).strip() for slot in SLOTS}
