"""Fluent Speech Commands: requests to a home assistant with three slots."""

from __future__ import annotations

from typing import Any

from kan_audio.data.base import PaddedDataModule
from kan_audio.data.folders import present
from kan_audio.data.splits import check_speakers
from kan_audio.data.tables import labelled
from kan_audio.data.utterances import Splits, UtteranceSplits
from kan_core.training.paths import data_root

PAGE = "https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/"
SLOTS = ("action", "object", "location")


class FluentSpeechCommands(PaddedDataModule):
    """Fluent Speech Commands, unpacked: slots ``action`` (6 values), ``object`` (14) and ``location`` (4).

    Reads ``data/train_data.csv``, ``valid_data.csv`` and ``test_data.csv`` with columns path, speakerId, action, object
    and location. No speaker is in two parts; phrases are, so this split does not test unheard sentences.

    Args:
        folder: Relative to the data root (or absolute).
        **options: Those of `PaddedDataModule`.
    """

    def __init__(self, folder: str = "fluent_speech_commands_dataset", **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def load(self) -> UtteranceSplits:
        """Read the three tables."""
        folder = data_root(self.root) / self.folder
        tables = [present(folder / "data" / f"{part}_data.csv", PAGE) for part in ("train", "valid", "test")]
        splits: UtteranceSplits = Splits(*(labelled(table, folder, SLOTS, "speakerId") for table in tables))
        check_speakers(splits, self.name)
        return splits

    @property
    def name(self) -> str:  # type: ignore[override]
        """``fluent-speech-commands``."""
        return "fluent-speech-commands"
