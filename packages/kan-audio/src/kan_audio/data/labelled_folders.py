"""Bona fide and spoofed recordings, sorted into folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from kan_audio.data.audio import SUFFIXES
from kan_audio.data.base import WindowedDataModule
from kan_audio.data.folders import audio_files
from kan_audio.data.protocols import UNKNOWN_ATTACK
from kan_audio.data.splits import SpoofSplit
from kan_audio.data.utterances import BONAFIDE, NO_ATTACK, SPOOF, Splits, Utterance, UtteranceSplits
from kan_core.errors import KANError
from kan_core.training.paths import data_root


class LabelledFolders(WindowedDataModule):
    """Recordings sorted into folders: ``bonafide/...`` and ``spoof/<attack>/...``, each at any depth.

    Recordings directly in ``spoof`` have the attack ``unknown``. The two folders are in ``train``, ``val`` and
    ``test``, or directly in the folder, which is then split. A folder of any other name, or a recording beside the
    folders, is an error: nothing is labelled by guess.

    Args:
        folder: Relative to the data root (or absolute).
        split: How a folder is split that has no ``train``, ``val`` and ``test``, see `SpoofSplit`.
        held_out: Attacks to test on, with ``split="attack-id"``.
        val_fraction: Share held out for selection.
        test_fraction: Share held out for the test.
        split_seed: Of the split; the seed of the run does not change it.
        **options: Those of `WindowedDataModule`.
    """

    def __init__(
        self,
        folder: str,
        split: Literal["random", "attack-id"] = "random",
        held_out: list[str] | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if split not in ("random", "attack-id"):
            raise KANError(f"split must be random or attack-id (folders name no speakers), got {split!r}")
        self.folder = folder
        self.split = SpoofSplit(split, held_out, val_fraction, test_fraction, split_seed)

    def load(self) -> UtteranceSplits:
        """List the recordings."""
        folder = data_root(self.root) / self.folder
        if _sub_folders(folder) != sorted(Splits._fields):
            return self.split(from_folders(folder), self.name)
        if self.split.held_out:
            raise KANError(f"held_out: {folder} is split into {', '.join(Splits._fields)} already, so leave it out")
        return Splits(*(from_folders(folder / part, f"{part}/") for part in Splits._fields))

    @property
    def name(self) -> str:  # type: ignore[override]
        """The folder's name, and the attacks held out."""
        name, held_out = Path(self.folder).name, self.split.held_out
        return f"{name} ({', '.join(held_out)} held out)" if held_out else name


def from_folders(folder: Path, prefix: str = "") -> list[Utterance]:
    """The recordings in ``bonafide`` and ``spoof``; ids are their paths in `folder`, after `prefix`.

    Raises:
        KANError: When a folder is missing, has another name, or holds no recording.
    """
    found = _sub_folders(folder)
    if found != [BONAFIDE, SPOOF]:
        raise KANError(f"{folder} must hold the folders {BONAFIDE} and {SPOOF} and no other: found {_listed(found)}")
    utterances = []
    for key in (BONAFIDE, SPOOF):
        for path in audio_files(folder / key):
            inside = path.relative_to(folder)
            attack = NO_ATTACK if key == BONAFIDE else inside.parts[1] if len(inside.parts) > 2 else UNKNOWN_ATTACK
            utterances.append(Utterance(prefix + inside.as_posix(), path, {"key": key}, attack=attack))
    return utterances


def _sub_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise KANError(f"{folder}: there is no such folder; name another data root with --data.root or KAN_DATA")
    visible = [path for path in folder.iterdir() if path.name[0] != "."]
    for path in visible:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            raise KANError(f"{path} has no label: put it into the folder {BONAFIDE} or {SPOOF}")
    return sorted(path.name for path in visible if path.is_dir())


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
