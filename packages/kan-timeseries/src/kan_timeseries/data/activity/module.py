"""Recordings of people as Lightning data: split by person first, cut into windows then."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

from kan_core.errors import KANError
from kan_core.training.checkpoints import read_checkpoint
from kan_core.training.run_folder import is_rank_zero
from kan_timeseries.data.activity.long_table import read_long_table
from kan_timeseries.data.activity.prepare import Known, Prepared, at_one_rate, prepare, said_counts
from kan_timeseries.data.activity.recordings import ActivityBatch, Recording
from kan_timeseries.data.activity.sets import SETS
from kan_timeseries.data.activity.splits import People, write_folds
from kan_timeseries.data.activity.windows import UNKNOWN, WindowRule, cut


class ActivityData(pl.LightningDataModule):
    """Windows of sensor recordings, for models that tell what a person does. No person is in two parts.

    Recordings are brought to one rate, people are split, and only then windows are cut; means and deviations are those
    of the training people's samples. What is left out or repaired is counted and printed. Batches are `ActivityBatch`;
    no window is dropped to fill a batch; training batches are shuffled by torch's global generator, which the command
    line seeds anew in every epoch.

    Args:
        dataset: One of `kan_timeseries.data.activity.SETS`; ``"table"``, ``"arrays"`` or ``"ts"`` for a `file` of your
            own; ``"synthetic"`` for people who are made up, on whom figures mean nothing.
        root: The data root of public sets; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        file: With ``table``, a CSV file with the columns subject, trial, t (seconds), label and one per channel; with
            ``arrays``, an npz file with a JSON file beside it; with ``ts``, ``<name>_TRAIN.ts`` with ``<name>_TEST.ts``
            beside it (`read_long_table`, `read_arrays`, `read_ts_pair`).
        classes: Labels to keep, or the name of a grouping of the set, such as ``hmp7``; recordings of others are left
            out and counted.
        sensors: Which sensors, where the set has several, such as ``["wrist_acc", "wrist_gyro"]`` of UMAFall.
        rate: Samples per second to resample to; by default the set's.
        window: Seconds; ``"trial"``: each recording is one window, and T is the longest one's length. By default as the
            set has it.
        step: Seconds from one window to the next; by default half a window.
        short: Recordings shorter than a window: ``"pad"`` keeps them, with a mask; ``"drop"`` leaves them out.
        label_rule: How a window is labelled within which the label changes: ``"majority"`` or ``"last"`` sample.
        min_share: Of the majority; windows with less are left out.
        max_gap: Seconds; longer gaps split a trial, shorter ones are interpolated.
        folds: Parts for cross-validation over people (a seeded shuffle); ``"lopo"``: leave one person out;
            ``"official"``: the set's own test people; ``"literal"``: the same, and the validation is the test, as in
            the paper that the split is from (its figures are chosen on the test); or a file of `write_folds`. By
            default ``"official"`` where that was published with the set, else 5.
        fold: Which part is the test, from 0.
        val_people: People to validate on, taken from those not tested: how many, their share, or their names.
        split_seed: Of the folds and of the choice of validation people.
        batch_size: Windows per batch at most; all batches of a part are of about the same size.
        predict_file: A CSV file like that of ``table``, label not needed, that ``predict`` runs on instead of the test.
        checkpoint: With `predict_file`: take classes, channels and windows from this checkpoint, and read no set.

    Raises:
        KANError: For options that contradict each other or are out of range; later, for data that cannot be used.
    """

    def __init__(
        self,
        dataset: str = "hmp",
        root: str | None = None,
        file: str | None = None,
        classes: list[str] | str | None = None,
        sensors: list[str] | None = None,
        rate: float | None = None,
        window: float | Literal["trial"] | None = None,
        step: float | None = None,
        short: Literal["pad", "drop"] = "pad",
        label_rule: Literal["majority", "last"] = "majority",
        min_share: float = 0.8,
        max_gap: float = 1.0,
        folds: int | str | None = None,
        fold: int = 0,
        val_people: int | float | list[str] = 0.2,
        split_seed: int = 0,
        batch_size: int = 128,
        predict_file: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        # not to the logger: it refuses names that the task has too, with other values
        self.save_hyperparameters(logger=False)
        self.options = dict(self.hparams)
        self._check_options()
        self._said = False

    def _check_options(self) -> None:
        given = self.options
        dataset = given["dataset"]
        if dataset not in SETS:
            near = difflib.get_close_matches(dataset, SETS, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise KANError(f"unknown data set {dataset!r}: {hint}choose one of {', '.join(SETS)}")
        if given["checkpoint"] is not None and given["predict_file"] is None:
            raise KANError("checkpoint is for predict_file: name the file to predict with --data.predict_file")
        for option in ("rate", "step", "max_gap", *(() if given["window"] == "trial" else ("window",))):
            value = given[option]
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise KANError(f"{option} must be above 0, got {value}")
        if given["batch_size"] < 1:
            raise KANError(f"batch_size must be at least 1, got {given['batch_size']}")

    @cached_property
    def _prepared(self) -> Prepared:
        given, own = self.options, SETS[self.options["dataset"]]
        return prepare(own.readings(given["root"], given["file"], given["sensors"]), own, self.name, given)

    # What is known ---------------------------------------------------------------------------------------------------

    @cached_property
    def known(self) -> Known:
        """What the training people say, or the checkpoint that is predicted with."""
        if self.options["checkpoint"] is None:
            return self._prepared.known
        path = Path(self.options["checkpoint"])
        stored = read_checkpoint(path).get(type(self).__qualname__)
        if stored is None:
            raise KANError(f"{path}: the checkpoint does not say how windows are cut: it is none of this app")
        return Known(**stored)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The set, and the grouping of its classes where that has a name; of a file its stem."""
        given = self.options
        base = given["dataset"] if given["file"] is None else Path(given["file"]).stem
        return f"{base} ({given['classes']})" if isinstance(given["classes"], str) else str(base)

    @property
    def parts(self) -> dict[str, ActivityBatch]:
        """All windows of ``"train"``, ``"val"`` and ``"test"``."""
        return self._prepared.parts

    @property
    def recordings(self) -> list[Recording]:
        """All recordings at one rate, before windows are cut; `people` says who is in which part."""
        return self._prepared.recordings

    @property
    def people(self) -> People:
        """Who is in which part."""
        return People(**self.known.people)

    @property
    def subjects(self) -> list[str]:
        """People by the index that batches have."""
        return self._prepared.subjects

    @property
    def trials(self) -> list[tuple[str, str]]:
        """Person and trial by the index that batches have."""
        return self._prepared.trials

    @property
    def counts(self) -> dict[str, int]:
        """What was left out or repaired, in words, and how often."""
        return self._prepared.counts

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.known.rate

    @property
    def num_samples(self) -> int:
        """T, the samples of a window."""
        return self.known.num_samples

    @property
    def step(self) -> int:
        """Samples from one window to the next."""
        return self.known.step

    @property
    def channels(self) -> list[str]:
        """Names of the channels."""
        return self.known.channels

    @property
    def units(self) -> list[str]:
        """Units of the channels."""
        return self.known.units

    @property
    def classes(self) -> list[str]:
        """Names by index."""
        return self.known.classes

    @property
    def channel_mean(self) -> list[float]:
        """Per channel, over the samples of the training people."""
        return self.known.channel_mean

    @property
    def channel_std(self) -> list[float]:
        """Per channel, over the samples of the training people; 1 for a channel that does not change."""
        return self.known.channel_std

    # Lightning -------------------------------------------------------------------------------------------------------

    def save_folds(self, path: Path | str) -> str:
        """Write the test people of all folds to a JSON file, which `folds` reads.

        Returns:
            Their hash.
        """
        return write_folds(path, self.options["dataset"], self._prepared.folds)

    def setup(self, stage: str) -> None:
        """Read, split and cut, and say what was found; with `predict_file`, stage ``"predict"`` reads that."""
        if stage == "predict" and self.options["predict_file"] is not None:
            _ = self.predicted
            return
        if not self._said and is_rank_zero():
            print(self._prepared.message)
            self._said = True

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training windows."""
        return self._loader(self.parts["train"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation windows, in order."""
        return self._loader(self.parts["val"])

    def test_dataloader(self) -> DataLoader[Any]:
        """The test windows, in order."""
        return self._loader(self.parts["test"])

    def predict_dataloader(self) -> DataLoader[Any]:
        """The windows of `predict_file`, whose classes may be unknown (-1); without it those of the test."""
        return self._loader(self.predicted if self.options["predict_file"] else self.parts["test"])

    @property
    def predicted(self) -> ActivityBatch:
        """The windows of `predict_file`."""
        return self._predicted[0]

    @property
    def predicted_subjects(self) -> list[str]:
        """The people of what is predicted, by the index that its batches have."""
        return self._predicted[1] if self.options["predict_file"] else self.subjects

    @property
    def predicted_trials(self) -> list[tuple[str, str]]:
        """Person and trial of what is predicted, by the index that its batches have."""
        return self._predicted[2] if self.options["predict_file"] else self.trials

    @cached_property
    def _predicted(self) -> tuple[ActivityBatch, list[str], list[tuple[str, str]]]:
        known, path = self.known, Path(self.options["predict_file"]).expanduser()
        readings = read_long_table(path, channels=known.channels)
        counts, kept = readings.counts, [replace(recording, labels=None) for recording in readings.recordings]
        recordings, subjects, trials = at_one_rate(kept, known.rate, known.max_gap, counts)
        rule = WindowRule(known.num_samples, known.step, known.short)
        batch = cut(recordings, rule, [], subjects, trials, counts)
        if not len(batch.x):
            raise KANError(f"{path}: no trial is as long as a window of {known.num_samples} samples")
        index = {name: i for i, name in enumerate(known.classes)}
        label = {(recording.subject, recording.trial): recording.label for recording in recordings}
        y = torch.tensor([index.get(label[trials[i]], UNKNOWN) for i in batch.trial.tolist()])
        if is_rank_zero():
            print(f"{path}: {len(batch.x):,} windows of {len(trials)} trials{said_counts(counts)}")
        return batch._replace(y=y), subjects, trials

    def _loader(self, windows: ActivityBatch, shuffle: bool = False) -> DataLoader[Any]:
        data, size = _Windows(windows), self.options["batch_size"]
        # as many batches as it takes, evenly filled: no rest is small, and no window is left out
        size = math.ceil(len(data) / math.ceil(len(data) / size))
        return DataLoader(data, batch_size=size, shuffle=shuffle, collate_fn=data.take)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self.known)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other people or windows.

        Raises:
            KANError: When they are not those that the checkpoint was trained with.
        """
        if state_dict != asdict(self.known):
            raise KANError(f"{self.name}: set, split or windows are not those that the checkpoint was trained with")


class _Windows(Dataset[int]):
    """Items are numbers of windows; `take` makes a batch of them."""

    def __init__(self, windows: ActivityBatch) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows.x)

    def __getitem__(self, number: int) -> int:
        return number

    def take(self, numbers: Sequence[int]) -> ActivityBatch:
        return ActivityBatch(*(tensor[numbers] for tensor in self.windows))
