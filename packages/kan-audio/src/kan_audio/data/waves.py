"""The sound of utterances: decoded once where it fits in memory, else each time it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from kan_audio.data.audio import audio_info, read_audio
from kan_audio.data.utterances import AudioBatch, Utterance
from kan_core.errors import KANError

MEMORY = 2**29
"""Bytes of decoded sound that one part of a set may keep: 512 MiB, 2 h 20 min at 16 kHz."""

Change = Callable[[Tensor], Tensor]
Item = tuple[Tensor, Tensor, int]


class Waves:
    """``waves[i]`` is utterance i: ``(frames,)`` float32 samples in [-1, 1], one channel, at the rate asked for.

    When all of them take at most `memory` bytes they are decoded here, so that loader processes share them and a
    damaged file shows at once. Otherwise each is decoded whenever it is asked for.

    Args:
        utterances: What to read.
        sample_rate: Samples per second of the result.
        at_least: The fewest samples an utterance may have.
        memory: In bytes.

    Raises:
        KANError: When a file cannot be used or is too short. It is never skipped and no other one takes its place.
    """

    def __init__(
        self, utterances: Sequence[Utterance], sample_rate: int, at_least: int = 1, memory: int = MEMORY
    ) -> None:
        self.utterances = utterances
        self.sample_rate = sample_rate
        self.at_least = at_least
        self._kept = [self._read(u) for u in utterances] if self._bytes_within(memory) else None

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Tensor:
        return self._read(self.utterances[index]) if self._kept is None else self._kept[index]

    @property
    def in_memory(self) -> bool:
        """Whether everything is decoded already."""
        return self._kept is not None

    @cached_property
    def lengths(self) -> list[int]:
        """Samples of each utterance, to one."""
        if self._kept is None:
            return [self._frames(utterance) for utterance in self.utterances]
        return [len(wave) for wave in self._kept]

    def _read(self, utterance: Utterance) -> Tensor:
        wave = read_audio(utterance.source, self.sample_rate, utterance.sample_rate)
        if len(wave) < self.at_least:
            raise KANError(
                f"{utterance.id}: {len(wave)} samples at {self.sample_rate} Hz are too few, "
                f"at least {self.at_least} are needed: repair or remove it"
            )
        return wave

    def _bytes_within(self, memory: int) -> bool:
        for utterance in self.utterances:
            memory -= 4 * self._frames(utterance)
            if memory < 0:
                return False  # at once: a large set is not looked through to the end
        return True

    def _frames(self, utterance: Utterance) -> int:
        if isinstance(utterance.source, Tensor):
            frames, rate = len(utterance.source), utterance.sample_rate or self.sample_rate
        else:
            info = audio_info(utterance.source)
            frames, rate = info.frames, info.sample_rate
        return frames * self.sample_rate // rate


class Items(Dataset[Item]):
    """Utterance i as a loader takes it: the sound after `changes`, its row of labels, and i.

    Args:
        waves: The sound.
        labels: ``(len(waves), slots)`` int64.
        changes: Applied one after another each time an item is asked for.
    """

    def __init__(self, waves: Waves, labels: Tensor, changes: Sequence[Change]) -> None:
        self.waves = waves
        self.labels = labels
        self.changes = changes

    def __len__(self) -> int:
        return len(self.waves)

    def __getitem__(self, index: int) -> Item:
        wave = self.waves[index]
        for change in self.changes:
            wave = change(wave)
        return wave, self.labels[index], index


def collate(items: Sequence[Item]) -> AudioBatch:
    """One batch; shorter utterances are filled up with zeros behind their end."""
    waves, labels, positions = zip(*items, strict=True)
    length = torch.tensor([len(wave) for wave in waves])
    return AudioBatch(pad_sequence(list(waves), batch_first=True), length, torch.stack(labels), torch.tensor(positions))
