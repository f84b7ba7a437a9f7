"""What a data set is before it is sound: its recordings, with their labels, speakers and attacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from kan_core.errors import KANError

BONAFIDE = "bonafide"
SPOOF = "spoof"
KEYS = (SPOOF, BONAFIDE)
"""The two classes of spoofing detection in the order of a network's outputs: 0 = spoof, 1 = bona fide."""

NO_ATTACK = "-"
"""The attack of bona fide speech, as protocol files write it."""


@dataclass(frozen=True)
class AudioBytes:
    """An audio file in memory, such as a member of a zip archive.

    Attributes:
        name: For messages: ``archive.zip/folder/file.wav``.
        data: The file's bytes.
    """

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


AudioSource = Path | AudioBytes | Tensor
"""Where the sound is: a file, a file in memory, or ``(frames,)`` samples in [-1, 1] (with `Utterance.sample_rate`)."""


@dataclass(frozen=True)
class Utterance:
    """One recording and what is known about it.

    Attributes:
        id: Unique in its set.
        source: Where the sound is.
        labels: Slot name -> value; ``{"key": "bonafide"}`` for spoofing detection, ``{"digit": "7"}``.
        speaker: Who speaks, or None where the set does not say.
        attack: The system that made a spoof, ``"-"`` for bona fide speech.
        codec: The codec the recording went through, ``"-"`` for none.
        sample_rate: Samples per second of a `source` that is a tensor; None for files, which say it themselves.
    """

    id: str
    source: AudioSource = field(repr=False, compare=False)
    labels: Mapping[str, str]
    speaker: str | None = None
    attack: str = NO_ATTACK
    codec: str = "-"
    sample_rate: int | None = None

    @property
    def is_bonafide(self) -> bool:
        """Whether ``labels["key"]`` says bona fide."""
        return self.labels["key"] == BONAFIDE


def check_unique(utterances: Iterable[Utterance], where: object) -> None:
    """Refuse a set in which an id stands twice.

    Raises:
        KANError: Naming the first such id.
    """
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise KANError(f"{where}: the id {utterance.id} stands there twice")
        seen.add(utterance.id)


T = TypeVar("T")


class Splits(NamedTuple, Generic[T]):
    """The three parts of a set."""

    train: T
    val: T
    test: T


UtteranceSplits = Splits[Sequence[Utterance]]


class AudioBatch(NamedTuple):
    """What the data modules of this package yield.

    Attributes:
        wave: ``(batch, samples)`` float32 in [-1, 1]; shorter utterances are zero behind their end.
        length: ``(batch,)`` int64, samples of each utterance that are sound.
        label: ``(batch, slots)`` int64 class indices, in the order of the module's slots; -1 where unknown.
        position: ``(batch,)`` int64, which utterance of its split each row is.
    """

    wave: Tensor
    length: Tensor
    label: Tensor
    position: Tensor
