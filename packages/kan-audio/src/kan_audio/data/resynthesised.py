"""Spoofs made from real speech: what runs with no spoofing corpus at hand."""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from kan_audio.data.attacks import ATTACKS, copy_chain, resynthesise, turns
from kan_audio.data.audio import audio_info, read_audio
from kan_audio.data.base import WindowedDataModule
from kan_audio.data.folders import audio_files
from kan_audio.data.fsdd import fsdd_utterances
from kan_audio.data.splits import by_speaker, check_attacks
from kan_audio.data.synthetic import synthetic_speech
from kan_audio.data.utterances import BONAFIDE, NO_ATTACK, SPOOF, Splits, Utterance, UtteranceSplits
from kan_core.errors import KANError
from kan_core.training.paths import data_root

HELD_OUT = ("A08", "A10")
"""The first is of a kind that is in training too (Griffin-Lim from mel bands), the second is not (a vocoder)."""


class ResynthesisedSpoof(WindowedDataModule):
    """Bona fide speech, and spoofs that resynthesise it by the attacks of `kan_audio.data.attacks`.

    No speaker is in two parts. Every recording, bona fide too, goes through the same chain of resampling, rounding and
    scaling, so that only the attack tells them apart; a spoof is as long as its original. In training and validation
    there is one spoof of each utterance, the training attacks taking turns; in the test, one by every attack. Attacks
    work at the recording's own rate (or the module's, where that is lower), so that no band is empty in one class only.
    The set is made once, in memory, within a minute for a few hundred utterances. A result on it is one on synthetic
    attacks, never a claim about ASVspoof.

    Args:
        source: The bona fide speech: ``"synthetic"`` (made here, needs no files), ``"fsdd"``, or a folder with one
            folder per speaker, relative to the data root (or absolute).
        train_attacks: Ids of the attacks to train and validate with; by default all that are not held out.
        held_out_attacks: Ids of attacks that are in the test only.
        max_utterances: Use so many bona fide utterances only, as many of each speaker as of any other; the `name` says
            so.
        val_fraction: Share of the speakers held out for selection.
        test_fraction: Share of the speakers held out for the test.
        split_seed: Of the split and of the attacks; the seed of the run does not change it.
        **options: Those of `WindowedDataModule`.
    """

    def __init__(
        self,
        source: str = "synthetic",
        train_attacks: list[str] | None = None,
        held_out_attacks: Sequence[str] = HELD_OUT,
        max_utterances: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if max_utterances is not None and max_utterances < 3:
            raise KANError(f"max_utterances must be at least 3, one for each part, got {max_utterances}")
        held_out = list(held_out_attacks)
        chosen = [attack for attack in ATTACKS if attack not in held_out] if train_attacks is None else train_attacks
        check_attacks(chosen, ATTACKS, "train_attacks", "kan_audio.data.attacks")
        if held_out:
            check_attacks(held_out, ATTACKS, "held_out_attacks", "kan_audio.data.attacks")
        for attack in held_out:
            if attack in chosen:
                raise KANError(f"held_out_attacks: {attack} is in train_attacks too; leave it out of one of them")
        self.source = source
        self.train_attacks = chosen
        self.held_out_attacks = held_out
        self.max_utterances = max_utterances
        self.shares = (val_fraction, test_fraction)
        self.split_seed = split_seed

    def load(self) -> UtteranceSplits:
        """Find the bona fide speech, split it by speaker and make the spoofs."""
        speech = self._speech()
        if self.max_utterances is not None:
            speech = evenly(speech, self.max_utterances, self.split_seed)
        parts = by_speaker(speech, *self.shares, self.split_seed, self.source)
        every = [*self.train_attacks, *self.held_out_attacks]
        return Splits(self._made(parts.train), self._made(parts.val), self._made(parts.test, every))

    @property
    def name(self) -> str:  # type: ignore[override]
        """The source, how many utterances of it, and the attacks held out."""
        limit = [f"{self.max_utterances} utterances"] if self.max_utterances else []
        held_out = [f"{', '.join(self.held_out_attacks)} held out"] if self.held_out_attacks else []
        return f"{Path(self.source).name} resynthesised ({', '.join([*limit, *held_out])})".removesuffix(" ()")

    def _speech(self) -> list[Utterance]:
        if self.source == "synthetic":
            return synthetic_speech(sample_rate=self.sample_rate)
        if self.source == "fsdd":
            return fsdd_utterances("fsdd", self.root)
        return speakers_in_folders(data_root(self.root) / self.source)

    def _made(self, utterances: Sequence[Utterance], attacks: Sequence[str] | None = None) -> list[Utterance]:
        """Copies of `utterances`, and spoofs by all `attacks`, or by one training attack each, in turns."""
        one = turns(len(utterances), self.train_attacks, 1, self.split_seed)
        made = []
        for utterance, turn in zip(utterances, one, strict=True):
            made += self._versions(utterance, turn if attacks is None else attacks)
        return made

    def _versions(self, utterance: Utterance, attacks: Iterable[str]) -> list[Utterance]:
        rate = min(utterance.sample_rate or audio_info(utterance.source).sample_rate, self.sample_rate)
        wave = read_audio(utterance.source, rate, utterance.sample_rate)
        if not wave.any():
            raise KANError(f"{utterance.id} is silent, so that its spoof would be the same: remove it")
        versions = [(utterance.id, copy_chain(wave, rate), BONAFIDE, NO_ATTACK)]
        for attack in attacks:
            seed = zlib.crc32(f"{self.split_seed} {utterance.id} {attack}".encode())
            versions.append((f"{utterance.id}-{attack}", resynthesise(wave, rate, attack, seed), SPOOF, attack))
        return [
            Utterance(name, sound, {"key": key}, utterance.speaker, attack, sample_rate=rate)
            for name, sound, key, attack in versions
        ]


def speakers_in_folders(folder: Path) -> list[Utterance]:
    """The recordings in ``<folder>/<speaker>/...``, as bona fide speech; ids are their paths in the folder.

    Raises:
        KANError: When there is none, or one that is not in the folder of a speaker.
    """
    utterances = []
    for path in audio_files(folder):
        inside = path.relative_to(folder)
        if len(inside.parts) < 2:
            raise KANError(f"{path} is in no folder of a speaker: {folder} must hold one folder per speaker")
        utterances.append(Utterance(inside.as_posix(), path, {"key": BONAFIDE}, inside.parts[0]))
    return utterances


def evenly(utterances: Sequence[Utterance], count: int, seed: int) -> list[Utterance]:
    """At most `count` of `utterances`, drawn at random, as many of each speaker as of any other; in their order."""
    places: defaultdict[str | None, list[int]] = defaultdict(list)
    for place in random.Random(seed).sample(range(len(utterances)), len(utterances)):
        places[utterances[place].speaker].append(place)
    turns = (place for place in chain.from_iterable(zip_longest(*places.values())) if place is not None)
    return [utterances[place] for place in sorted(list(turns)[:count])]
