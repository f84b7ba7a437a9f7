"""The Free Spoken Digit Dataset: ten English digits, six speakers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

from kan_audio.data.base import PaddedDataModule
from kan_audio.data.folders import members
from kan_audio.data.splits import by_part
from kan_audio.data.utterances import Utterance, UtteranceSplits
from kan_core.errors import KANError
from kan_core.training.paths import data_root

PAGE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
DIGITS = tuple("0123456789")
_NAME = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")


class FSDD(PaddedDataModule):
    """Spoken digits of the Free Spoken Digit Dataset: 3,000 recordings at 8 kHz, 6 speakers x 10 digits x 50.

    A file is called ``digit_speaker_index.wav``. Two splits, both without randomness:

    - ``"official"``: recordings 0 to 4 of every speaker and digit are for the test, as the set's page says; 5 to 9 are
      for validation (ours), the others for training. Speakers are the same in all parts.
    - ``"speaker"``: everything of the speaker `held_out` is for the test; of the other speakers, recordings 5 to 9 of
      every digit are for validation and the others for training.

    Args:
        folder: The zip archive, the unpacked folder, or a folder that holds the archive, relative to the data root (or
            absolute).
        protocol: ``"official"`` or ``"speaker"``.
        held_out: The speaker to test on, such as ``"theo"``, with ``protocol="speaker"``.
        **options: Those of `PaddedDataModule`.
    """

    def __init__(
        self,
        folder: str = "fsdd",
        protocol: Literal["official", "speaker"] = "official",
        held_out: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if protocol not in ("official", "speaker"):
            raise KANError(f"protocol must be official or speaker, got {protocol!r}")
        if (protocol == "speaker") != (held_out is not None):
            raise KANError("held_out names the speaker to test on with protocol=speaker, and is left out otherwise")
        self.folder = folder
        self.protocol = protocol
        self.held_out = held_out

    def load(self) -> UtteranceSplits:
        """Find the recordings and check that every speaker says every digit."""
        utterances = fsdd_utterances(self.folder, self.root)
        _check_complete(utterances, self.folder)
        speakers = sorted({str(u.speaker) for u in utterances})
        if self.held_out is not None and self.held_out not in speakers:
            raise KANError(f"held_out: there is no speaker {self.held_out!r} in {self.folder}: {', '.join(speakers)}")
        return by_part(utterances, self._part)

    @property
    def name(self) -> str:  # type: ignore[override]
        """``fsdd``, and the speaker held out."""
        return "fsdd" if self.held_out is None else f"fsdd (speaker {self.held_out} held out)"

    def _part(self, utterance: Utterance) -> str:
        index = int(utterance.id.rpartition("_")[2])
        tested = index < 5 if self.protocol == "official" else utterance.speaker == self.held_out
        return "test" if tested else "val" if 5 <= index < 10 else "train"


def fsdd_utterances(folder: str, root: str | None) -> list[Utterance]:
    """All recordings, with slot ``digit`` and speaker; the id is the file's name without suffix.

    Args:
        folder: As for `FSDD`.
        root: The data root.

    Raises:
        KANError: When the set is missing or holds a recording of another name.
    """
    utterances = []
    for name, source in members(data_root(root) / folder, PAGE).items():
        match = _NAME.fullmatch(PurePosixPath(name).name)
        if match is None:
            raise KANError(f"{source}: recordings of this set are called digit_speaker_index.wav")
        digit, speaker, _ = match.groups()
        utterances.append(Utterance(PurePosixPath(name).stem, source, {"digit": digit}, speaker))
    return utterances


def _check_complete(utterances: Sequence[Utterance], where: str) -> None:
    said = {(u.speaker, u.labels["digit"]) for u in utterances}
    for speaker in sorted({str(u.speaker) for u in utterances}):
        for digit in DIGITS:
            if (speaker, digit) not in said:
                raise KANError(f"{where}: there is no recording of digit {digit} by {speaker}: fetch it from {PAGE}")
