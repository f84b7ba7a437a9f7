"""Spoofing sets that come with protocol files: ASVspoof and any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kan_audio.data.base import WindowedDataModule
from kan_audio.data.folders import AudioFolder, present
from kan_audio.data.protocols import read_protocol
from kan_audio.data.splits import SplitRule, SpoofSplit, check_speakers
from kan_audio.data.utterances import Splits, Utterance, UtteranceSplits
from kan_core.errors import KANError
from kan_core.training.paths import data_root

ASVSPOOF_PAGE = "https://www.asvspoof.org"


class ASVspoof2019LA(WindowedDataModule):
    """ASVspoof 2019, logical access, with its parts train, dev and eval.

    Attacks A01 to A06 are in the first two, A07 to A19 in the last. No speaker is in two parts. Reads, with ids as the
    protocols name them, ``ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{train.trn,dev.trl,eval.trl}.txt`` and
    ``ASVspoof2019_LA_{train,dev,eval}/flac``.

    Args:
        folder: The folder ``LA``, relative to the data root (or absolute).
        **options: Those of `WindowedDataModule`.
    """

    def __init__(self, folder: str = "LA", **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def load(self) -> UtteranceSplits:
        """Read the three protocols and find their files."""
        folder = data_root(self.root) / self.folder
        parts = []
        for part, suffix in (("train", "trn"), ("dev", "trl"), ("eval", "trl")):
            protocol = folder / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{part}.{suffix}.txt"
            audio = folder / f"ASVspoof2019_LA_{part}" / "flac"
            parts.append(from_protocol(present(protocol, ASVSPOOF_PAGE), present(audio, ASVSPOOF_PAGE)))
        splits: UtteranceSplits = Splits(*parts)
        check_speakers(splits, self.name)
        return splits

    @property
    def name(self) -> str:  # type: ignore[override]
        """``asvspoof-2019-la``."""
        return "asvspoof-2019-la"


class ProtocolSpoof(WindowedDataModule):
    """Any set with protocol files of a format that `kan_audio.data.protocols` reads.

    Three protocols are the training, validation and test part; one protocol is split.

    Args:
        folder: Of the set, relative to the data root (or absolute).
        protocols: One file or three, relative to `folder`.
        audio: The folder, relative to `folder`, that the names in the protocols are relative to: one for all protocols
            or one for each; by default `folder` itself. A name without a suffix finds the audio file of any type.
        split: How one protocol is split, see `SpoofSplit`.
        held_out: Attacks to test on, with ``split="attack"`` or ``"attack-id"``.
        test_subset: Test only on this subset of the last of three protocols: official numbers of ASVspoof 2021 use
            ``eval``.
        val_fraction: Share of one protocol held out for selection.
        test_fraction: Share of one protocol held out for the test.
        split_seed: Of the split; the seed of the run does not change it.
        **options: Those of `WindowedDataModule`.
    """

    def __init__(
        self,
        folder: str,
        protocols: list[str],
        audio: list[str] | None = None,
        split: SplitRule = "speaker",
        held_out: list[str] | None = None,
        test_subset: str | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        audio = audio or ["."]
        if len(protocols) not in (1, 3):
            raise KANError(f"protocols: name one file, or three (training, validation, test); got {len(protocols)}")
        if len(audio) not in (1, len(protocols)):
            raise KANError(f"audio: name one folder or {len(protocols)}, one for each protocol; got {len(audio)}")
        if len(protocols) == 3 and held_out:
            raise KANError("held_out needs one protocol to split: three say themselves what the test is")
        if len(protocols) == 1 and test_subset is not None:
            raise KANError("test_subset needs three protocols: one is split by the option split")
        self.folder = folder
        self.files = list(zip(protocols, audio if len(audio) == len(protocols) else audio * 3, strict=False))
        self.split = SpoofSplit(split, held_out, val_fraction, test_fraction, split_seed)
        self.test_subset = test_subset

    def load(self) -> UtteranceSplits:
        """Read the protocols and find their files."""
        folder = data_root(self.root) / self.folder
        *others, last = [(folder / protocol, folder / audio) for protocol, audio in self.files]
        parts = [*(from_protocol(*files) for files in others), from_protocol(*last, self.test_subset)]
        return Splits(*parts) if others else self.split(parts[0], self.name)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The folder's name, and what is held out or selected."""
        held_out = f"{', '.join(self.split.held_out)} held out" if self.split.held_out else None
        detail = held_out or (f"subset {self.test_subset}" if self.test_subset else None)
        return f"{Path(self.folder).name} ({detail})" if detail else Path(self.folder).name


def from_protocol(protocol: Path, folder: Path, subset: str | None = None) -> list[Utterance]:
    """The utterances of a protocol.

    Args:
        protocol: A file that `read_protocol` reads.
        folder: What its names are relative to.
        subset: Only the rows of this subset.

    Raises:
        KANError: As `read_protocol`; when a file is missing, with the line that names it; when the subset is empty.
    """
    rows = read_protocol(protocol)
    chosen = [row for row in rows if subset is None or row.subset == subset]
    if not chosen:
        raise KANError(
            f"{protocol} has no row of subset {subset!r}: found {', '.join(sorted({row.subset for row in rows}))}"
        )
    audio = AudioFolder(folder)
    return [
        Utterance(
            id=row.id,
            source=audio.find(row.path, f"{protocol}, line {row.line}"),
            labels={"key": row.key},
            speaker=row.speaker,
            attack=row.attack,
            codec=row.codec,
        )
        for row in chosen
    ]
