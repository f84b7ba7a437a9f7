"""LJSpeech and its copies by neural vocoders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from kan_audio.data.audio import read_audio
from kan_audio.data.base import WindowedDataModule
from kan_audio.data.folders import members, present
from kan_audio.data.protocols import read_protocol
from kan_audio.data.splits import by_part, check_attacks
from kan_audio.data.utterances import NO_ATTACK, Utterance, UtteranceSplits
from kan_core.errors import KANError
from kan_core.training.paths import data_root

PAGE = "https://github.com/kan-bayashi/ParallelWaveGAN"
LEVEL = 0.05
"""Root mean square of every recording, -26 dB."""

_NAME = re.compile(r".*(LJ001|LJ050)-(\d{4})\.wav")
# of each chapter, the last sentence to train with and the last one to validate with
_LAST = {"LJ001": (12, 16), "LJ050": (30, 31)}


class LJSpeechVocoded(WindowedDataModule):
    """One speaker of LJSpeech against neural vocoders' copies of her, one vocoder held out: a check of the pipeline.

    60 recordings: 25 bona fide (LJ001-0001 to -0020, LJ050-0029 to -0033), and the five sentences of LJ050 copied by
    seven vocoders. With so few, error rates move in large steps; they say nothing about quality. The split, without
    randomness:

    | part | bona fide | spoofed |
    |---|---|---|
    | train | LJ001-0001..0012, LJ050-0029..0030 | LJ050-0029..0030 by the six others |
    | val | LJ001-0013..0016, LJ050-0031 | LJ050-0031 by the six others |
    | test | LJ001-0017..0020, LJ050-0032..0033 | LJ050-0029..0033 by `held_out` |

    No bona fide recording of the test, nor a copy of it, is in training; of the spoofs of the test, three sentences
    are, by other vocoders. Three cues that are not about spoofing are taken away: every recording has the same level
    (one vocoder is 3 dB quieter), the window is shorter than the shortest recording (copies have multiples of 256
    samples), and all pass the same resampling.

    Args:
        folder: With ``protocol.txt`` and the recordings, in a zip archive or unpacked, relative to the data root (or
            absolute).
        held_out: The vocoder to test on.
        num_samples: Samples of a window; 28000 is 1.75 s at 16 kHz, the shortest recording has 1.78 s.
        **options: Those of `WindowedDataModule`.
    """

    def __init__(
        self,
        folder: str = "ljspeech-vocoded",
        held_out: str = "kan-bayashi_hifigan",
        num_samples: int = 28_000,
        **options: Any,
    ) -> None:
        super().__init__(num_samples, **options)
        self.folder = folder
        self.held_out = held_out

    def load(self) -> UtteranceSplits:
        """Read, resample and level all recordings."""
        folder = data_root(self.root) / self.folder
        protocol = present(folder / "protocol.txt", PAGE)
        rows, recordings = read_protocol(protocol), members(folder, PAGE)
        check_attacks([self.held_out], {row.attack for row in rows} - {NO_ATTACK}, "held_out", self.folder)
        utterances = []
        for row in rows:
            if row.path not in recordings:
                raise KANError(f"{protocol}, line {row.line}: the audio of {row.id} is missing")
            if _NAME.fullmatch(row.id) is None:
                raise KANError(f"{protocol}, line {row.line}: {row.id} is not of chapter LJ001 or LJ050")
            wave = levelled(read_audio(recordings[row.path], self.sample_rate))
            labels = {"key": row.key}
            utterances.append(Utterance(row.id, wave, labels, row.speaker, row.attack, sample_rate=self.sample_rate))
        return by_part([u for u in utterances if _part(u, self.held_out)], lambda u: _part(u, self.held_out))

    @property
    def name(self) -> str:  # type: ignore[override]
        """``ljspeech-vocoded`` and the vocoder held out."""
        return f"{Path(self.folder).name} ({self.held_out} held out)"


def levelled(wave: Tensor) -> Tensor:
    """`wave` with a root mean square of `LEVEL`; silence stays silence."""
    return wave * (LEVEL / wave.square().mean().sqrt().clamp_min(1e-5))


def _part(utterance: Utterance, held_out: str) -> str:
    """The part of the table above, or nothing: a copy of a test sentence by a vocoder that is in training."""
    if utterance.attack == held_out:
        return "test"
    match = _NAME.fullmatch(utterance.id)
    assert match is not None
    train, val = _LAST[match[1]]
    sentence = int(match[2])
    if sentence > val:
        return "test" if utterance.is_bonafide else ""
    return "train" if sentence <= train else "val"
