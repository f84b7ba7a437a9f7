"""The data modules that all sets share: loaders, augmentation, windows and padding, files to predict."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from kan_audio import augment as augmentation
from kan_audio.data.batches import LengthBatches
from kan_audio.data.folders import unlabelled
from kan_audio.data.splits import check_disjoint
from kan_audio.data.utterances import KEYS, Utterance, UtteranceSplits
from kan_audio.data.waves import Change, Item, Items, Waves, collate
from kan_audio.data.windows import random_start, window
from kan_core.errors import KANError

UNKNOWN = -1
"""The label of a file that has none."""


class AudioDataModule(pl.LightningDataModule):
    """Batches of one set of utterances; a subclass says how the set is read (`load`) and called (`name`).

    Batches are `AudioBatch`. A part of a set that decodes to at most 512 MiB is kept in memory, a larger one is decoded
    anew in every epoch. A file that cannot be read ends the run with an error that names it.

    Order, augmentation and windows come from torch's global generator, which the command line seeds anew in every
    epoch: a resumed run sees what an uninterrupted one would. Loader processes are started for each epoch and seeded
    from that generator, so the same holds with them; another `num_workers` gives other augmentation, not another order.

    Args:
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        sample_rate: Samples per second of the batches; files of any rate are resampled to it.
        batch_size: Utterances per batch.
        num_workers: Loader processes; 0 reads in the training process.
        augment: What happens to training utterances, such as ``["noise(snr=(0, 15), p=0.5)"]``: see
            `kan_audio.augment`.
        predict_files: Files and folders that ``predict`` runs on instead of the test utterances. They have no labels
            (``-1`` in batches); the set itself is then not needed.
    """

    min_samples = 1
    """The fewest samples an utterance may have."""

    def __init__(
        self,
        root: str | None = None,
        sample_rate: int = 16_000,
        batch_size: int = 32,
        num_workers: int = 0,
        augment: list[str] | None = None,
        predict_files: list[str] | None = None,
    ) -> None:
        super().__init__()
        for option, value, least in (
            ("sample_rate", sample_rate, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise KANError(f"{option} must be at least {least}, got {value}")
        # not to the logger: it refuses names that the task has too, with other values
        self.save_hyperparameters(logger=False)
        self.root = root
        self.sample_rate = sample_rate
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = [partial(augmentation.get(augment), sample_rate=sample_rate)] if augment else []
        self.predict_files = predict_files
        self._waves: dict[str, Waves] = {}

    @abstractmethod
    def load(self) -> UtteranceSplits:
        """Find the utterances of the set and split them; sound is read later.

        Raises:
            KANError: When a file is missing or cannot be used.
        """

    @property
    @abstractmethod
    def name(self) -> str:  # type: ignore[override]
        """The name of the data for tables and reports; it says when only a part of the set is used."""

    @abstractmethod
    def changes(self, train: bool) -> list[Change]:
        """What gives a (possibly augmented) utterance the length it has in a batch."""

    @cached_property
    def splits(self) -> UtteranceSplits:
        """The training, validation and test utterances, found once; none is in two parts."""
        splits = self.load()
        self.check(splits)
        return splits

    def check(self, splits: UtteranceSplits) -> None:
        """Refuse splits that cannot be trained and tested with.

        Raises:
            KANError: When a part is empty or an id stands twice, in one part or in two.
        """
        check_disjoint(splits, self.name)

    @cached_property
    def slots(self) -> dict[str, list[str]]:
        """The names of the classes of each slot, in label order."""
        return self.find_slots()

    def find_slots(self) -> dict[str, list[str]]:
        """What `slots` are: the values that occur in training, sorted.

        The order of the slots is that of the first training utterance.
        """
        utterances = self.splits.train
        return {slot: sorted({_value(u, slot) for u in utterances}) for slot in utterances[0].labels}

    def labels(self, utterances: Sequence[Utterance]) -> Tensor:
        """Class indices in the order of `slots`, or one column of ``-1`` for files without labels.

        Returns:
            ``(len(utterances), slots)`` int64.

        Raises:
            KANError: When a value is not one of `slots`, or a slot is missing.
        """
        if not any(u.labels for u in utterances):
            return torch.full((len(utterances), 1), UNKNOWN)
        index = {slot: {name: i for i, name in enumerate(names)} for slot, names in self.slots.items()}
        rows = []
        for utterance in utterances:
            for slot in self.slots:
                if _value(utterance, slot) not in index[slot]:
                    raise KANError(
                        f"{self.name}: {slot} is {utterance.labels[slot]!r} for {utterance.id}, which no training "
                        f"utterance has: the values are {', '.join(self.slots[slot])}"
                    )
            rows.append([index[slot][utterance.labels[slot]] for slot in self.slots])
        return torch.tensor(rows)

    @cached_property
    def predict_utterances(self) -> Sequence[Utterance]:
        """What ``predict`` runs on: `predict_files`, else the test utterances."""
        return self.splits.test if self.predict_files is None else unlabelled(self.predict_files)

    def setup(self, stage: str) -> None:
        """Read the set, so that a mistake in it shows before anything is computed.

        With `predict_files`, stage ``"predict"`` reads those and does not touch the set.
        """
        if stage != "predict" or self.predict_files is None:
            for utterances in self.splits:
                self.labels(utterances)
        parts = {"fit": ("train", "val"), "validate": ("val",), "predict": (self._predicted,)}
        for part in parts.get(stage, ("test",)):
            self._sound(part)

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled training batches; the last, smaller one is dropped unless it is the only one."""
        drop_last = len(self.splits.train) >= self.batch_size
        return self._loader("train", self.augment + self.changes(train=True), shuffle=True, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader[Item]:
        """The validation utterances, in order."""
        return self._loader("val", self.changes(train=False))

    def test_dataloader(self) -> DataLoader[Item]:
        """The test utterances, in order."""
        return self._loader("test", self.changes(train=False))

    def predict_dataloader(self) -> DataLoader[Item]:
        """The `predict_utterances`, in order."""
        return self._loader(self._predicted, self.changes(train=False))

    @property
    def _predicted(self) -> str:
        return "test" if self.predict_files is None else "predict"

    def _sound(self, part: str) -> Waves:
        """The sound of one part, read once."""
        if part not in self._waves:
            utterances = self.predict_utterances if part == "predict" else getattr(self.splits, part)
            self._waves[part] = Waves(utterances, self.sample_rate, self.min_samples)
        return self._waves[part]

    def _items(self, part: str, changes: list[Change]) -> Items:
        waves = self._sound(part)
        return Items(waves, self.labels(waves.utterances), changes)

    def _loader(self, part: str, changes: list[Change], **options: Any) -> DataLoader[Item]:
        items = self._items(part, changes)
        return DataLoader(
            items, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=collate, **options
        )


class WindowedDataModule(AudioDataModule):
    """Spoofing detection: every utterance becomes a window of one length, and is bona fide or not.

    Training takes a window with a random start (every possible start equally likely), everything else the first
    window. A shorter utterance is repeated until the window is full: a tail of zeros would tell its length.

    Args:
        num_samples: Samples of a window; 64600 is 4.04 s at 16 kHz.
        **options: Those of `AudioDataModule`.
    """

    def __init__(self, num_samples: int = 64_600, **options: Any) -> None:
        if num_samples < 1:
            raise KANError(f"num_samples must be at least 1, got {num_samples}")
        super().__init__(**options)
        self.num_samples = num_samples

    def find_slots(self) -> dict[str, list[str]]:
        """Always ``{"key": ["spoof", "bonafide"]}``."""
        return {"key": list(KEYS)}

    def check(self, splits: UtteranceSplits) -> None:
        """Refuse splits that cannot be trained and tested with.

        Raises:
            KANError: When an id stands twice, or a part does not hold both classes.
        """
        super().check(splits)
        for part, utterances in splits._asdict().items():
            for key in KEYS:
                if all(u.labels.get("key") != key for u in utterances):
                    raise KANError(f"{self.name}: the {part} part holds no {key} utterance: both classes are needed")

    def changes(self, train: bool) -> list[Change]:
        """A window."""
        return [partial(_random_window if train else window, num_samples=self.num_samples)]


class PaddedDataModule(AudioDataModule):
    """Speech understanding: utterances keep their length, up to a limit, and batches say it.

    Args:
        max_seconds: What follows is cut off, in training and everywhere else.
        vocabulary: The slots and their values, where they are not to be taken from the set: ``predict FILE...`` gets
            those of the checkpoint here, and needs no training data then.
        **options: Those of `AudioDataModule`.
    """

    min_samples = 400  # one analysis frame: what the convolutional encoders need for one output

    def __init__(
        self, max_seconds: float = 10.0, vocabulary: dict[str, list[str]] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.vocabulary = vocabulary
        if max_seconds * self.sample_rate < self.min_samples:
            raise KANError(f"max_seconds must be at least {self.min_samples / self.sample_rate:g}, got {max_seconds:g}")
        self.max_seconds = max_seconds

    @cached_property
    def slots(self) -> dict[str, list[str]]:
        """The names of the classes of each slot, in label order: `vocabulary`, else those of the set."""
        return self.vocabulary or self.find_slots()

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled training batches of similar lengths; the last, smaller one is dropped unless it is the only one."""
        items = self._items("train", self.augment + self.changes(train=True))
        drop_last = len(items) >= self.batch_size
        batches = LengthBatches(RandomSampler(items), self.batch_size, drop_last, self._sound("train").lengths)
        return DataLoader(items, batch_sampler=batches, num_workers=self.num_workers, collate_fn=collate)

    def changes(self, train: bool) -> list[Change]:
        """At most `max_seconds` from the start."""
        return [partial(_capped, num_samples=int(self.max_seconds * self.sample_rate))]


def _value(utterance: Utterance, slot: str) -> str:
    try:
        return utterance.labels[slot]
    except KeyError:
        raise KANError(f"{utterance.id} has no value for {slot}: give every utterance one, such as none") from None


def _random_window(wave: Tensor, num_samples: int) -> Tensor:
    return window(wave, num_samples, random_start(len(wave), num_samples))


def _capped(wave: Tensor, num_samples: int) -> Tensor:
    return wave[:num_samples]
