"""Google's Speech Commands: single English words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kan_audio.data.base import PaddedDataModule
from kan_audio.data.folders import audio_files, present
from kan_audio.data.splits import by_part
from kan_audio.data.utterances import Utterance, UtteranceSplits
from kan_core.errors import KANError
from kan_core.training.paths import data_root

PAGE = "https://www.tensorflow.org/datasets/catalog/speech_commands"
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}


class SpeechCommands(PaddedDataModule):
    """Words of Speech Commands (version 2: 35 words of one second at 16 kHz), unpacked.

    A file is ``word/speaker_nohash_number.wav``. ``validation_list.txt`` and ``testing_list.txt`` name what is not for
    training. Folders that begin with an underscore hold noise, not words, and are left out.

    Args:
        folder: Relative to the data root (or absolute).
        words: The words to tell apart; by default all. Recordings of other words are left out.
        **options: Those of `PaddedDataModule`.
    """

    def __init__(self, folder: str = "speech_commands_v0.02", words: list[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.words = words

    def load(self) -> UtteranceSplits:
        """List the recordings."""
        folder = present(data_root(self.root) / self.folder, PAGE)
        part_of = _listed(folder)
        utterances = []
        for word in self._chosen(folder):
            for path in audio_files(folder / word):
                speaker, mark, _ = path.stem.partition("_nohash_")
                if not mark:
                    raise KANError(f"{path}: recordings of this set are called speaker_nohash_number.wav")
                utterances.append(Utterance(f"{word}/{path.name}", path, {"word": word}, speaker))
        found = {utterance.id for utterance in utterances}
        for name, part in part_of.items():
            if name not in found and (self.words is None or name.partition("/")[0] in self.words):
                raise KANError(
                    f"{folder / LISTS[part]} names {name}, which is missing: fetch the set again from {PAGE}"
                )
        return by_part(utterances, lambda utterance: part_of.get(utterance.id, "train"))

    @property
    def name(self) -> str:  # type: ignore[override]
        """``speech-commands``, and how many words when they are chosen."""
        return f"speech-commands ({len(self.words)} words)" if self.words else "speech-commands"

    def _chosen(self, folder: Path) -> list[str]:
        words = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
        for word in self.words or ():
            if word not in words:
                raise KANError(f"words: there is no folder {word} in {folder}: found {', '.join(words) or 'none'}")
        return sorted(set(self.words or words))


def _listed(folder: Path) -> dict[str, str]:
    """The part of each recording that is not for training."""
    part_of: dict[str, str] = {}
    for part, list_name in LISTS.items():
        for name in present(folder / list_name, PAGE).read_text(encoding="utf-8").split():
            if part_of.setdefault(name, part) != part:
                raise KANError(f"{name} is in both lists of {folder}, {' and '.join(LISTS.values())}")
    return part_of
