"""Series as Lightning data: a long table or a public set, split in time, cut into windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from kan_core.errors import KANError
from kan_core.training.run_folder import is_rank_zero
from kan_timeseries.data.calendar import with_calendar
from kan_timeseries.data.frames import Gaps, panel_from_frame
from kan_timeseries.data.panel import Panel
from kan_timeseries.data.scaling import PanelScaler, SeriesScale
from kan_timeseries.data.sets import SeriesSet, load_set, split_at
from kan_timeseries.data.windows import Windows, every_window


class ForecastData(pl.LightningDataModule):
    """Windows of a long table from a file, or of a public set (`kan_timeseries.data.SETS`); without both, ``co2``.

    Every series is cut in time: the first rows train, then come validation and test. The past of a validation or test
    window may reach back into the rows before its part; its horizon may not. Every window counts, and no batch is
    dropped. Scales are learned from training rows alone. Batches are `ForecastBatch`; training batches are shuffled by
    torch's global generator, which the command line seeds anew in every epoch.

    Args:
        file: CSV or Parquet: one row per series and time.
        dataset: A public set instead of a file.
        root: The data root of public sets; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        id_col: Column of `file` with the series' names.
        time_col: Column of `file` with the time stamps.
        target_col: Column of `file` with the values to be forecast.
        freq: Of `file`: the step, a pandas alias or a whole number; by default what the longest series shows.
        known: Columns of `file` that are known ahead.
        observed: Columns of `file` that are known for the past only.
        static_file: One row per series: its constants.
        gaps: What to do where steps or targets of `file` are missing: ``"error"``, or ``"fill"``, see
            `panel_from_frame`.
        calendar: Fields of the time stamp that become known covariates, see `kan_timeseries.data.calendar.FIELDS`.
        season: Steps in a period; by default the set's or the frequency's.
        input_length: L, steps of the past.
        horizon: H, steps to forecast.
        val_fraction: Share of each series of `file` that validates, before the test.
        test_fraction: Share of each series of `file` at its end that tests.
        scale: See `PanelScaler`: every series and channel by its own training rows.
        batch_size: Windows per batch.
        stride: Steps from one training window to the next; validation and test use every window.

    Attributes:
        panel: After setup: the scaled series.
        scaler: After setup: how they were scaled.
        parts: After setup: the windows of ``"train"``, ``"val"`` and ``"test"``.
        dropped: After setup: series too short for a training window.

    Raises:
        KANError: For options that contradict each other or are out of range; later, for series that cannot be used.
    """

    def __init__(
        self,
        file: str | None = None,
        dataset: str | None = None,
        root: str | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        freq: int | str | None = None,
        known: list[str] | None = None,
        observed: list[str] | None = None,
        static_file: str | None = None,
        gaps: Gaps = "error",
        calendar: list[str] | None = None,
        season: int | None = None,
        input_length: int = 96,
        horizon: int = 24,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        scale: SeriesScale = "standard",
        batch_size: int = 64,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if file and dataset:
            raise KANError("give --data.file or --data.dataset, not both")
        if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
            raise KANError(
                f"val_fraction and test_fraction must be above 0, and below 1 together, got {val_fraction} and "
                f"{test_fraction}"
            )
        for name, value in (("batch_size", batch_size), ("stride", stride)):
            if value < 1:
                raise KANError(f"{name} must be at least 1, got {value}")
        self.save_hyperparameters(logger=False)
        self.options = dict(self.hparams)
        self.input_length, self.horizon = input_length, horizon
        self.parts: dict[str, Windows] = {}
        self.dropped = 0
        self._loaded: SeriesSet | None = None

    # What the model must know -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:  # type: ignore[override]  # Lightning's own is a plain attribute, None
        """The data set's name in reports."""
        return self.source.name

    @property
    def channels(self) -> int:
        """C."""
        return self.source.panel.channels

    @property
    def num_known(self) -> int:
        """K."""
        return len(self.known_names)

    @property
    def num_observed(self) -> int:
        """P."""
        return len(self.source.panel.observed_names)

    @property
    def num_series(self) -> int:
        """S."""
        return len(self.source.panel.ids)

    @property
    def season(self) -> int:
        """Steps in a period."""
        return self.source.panel.season

    @property
    def channel_names(self) -> list[str]:
        """Of the C channels."""
        return self.source.panel.channel_names

    @property
    def known_names(self) -> list[str]:
        """Of the K covariates."""
        return self.source.panel.known_names

    # Loading ----------------------------------------------------------------------------------------------------------

    @property
    def source(self) -> SeriesSet:
        """The series in original units, read once."""
        if self._loaded is None:
            options = self.options
            name, root = options["dataset"] or "co2", options["root"]
            loaded = self._from_file() if options["file"] else load_set(name, root)
            panel = with_calendar(loaded.panel, options["calendar"] or ())
            if options["season"]:
                panel = Panel(**{**vars(panel), "season": options["season"]})
            self._loaded = SeriesSet(loaded.name, panel, loaded.train_end, loaded.val_end, loaded.test_end)
        return self._loaded

    def _from_file(self) -> SeriesSet:
        options = self.options
        names = {key: options[key] for key in ("id_col", "time_col", "target_col", "freq", "gaps", "season")}
        static = read_table(options["static_file"]) if options["static_file"] else None
        panel = panel_from_frame(
            read_table(options["file"]),
            known=options["known"] or (),
            observed=options["observed"] or (),
            static_df=static,
            **names,
        )
        train = 1 - options["val_fraction"] - options["test_fraction"]
        return split_at(options["file"], panel, train, options["test_fraction"])

    def setup(self, stage: str) -> None:
        """Scale and cut.

        Raises:
            KANError: When no series is long enough for a window of each part.
        """
        if self.parts:
            return
        source, length, horizon = self.source, self.input_length, self.horizon
        self.scaler = PanelScaler.fit(source.panel, source.train_end, self.options["scale"])
        self.panel = self.scaler.apply(source.panel)
        ends: dict[str, tuple[NDArray[np.int64] | int, NDArray[np.int64]]] = {
            "train": (0, source.train_end),
            "val": (source.train_end, source.val_end),
            "test": (source.val_end, source.test_end),
        }
        for part, (begin, end) in ends.items():
            step = self.options["stride"] if part == "train" else 1
            windows = every_window(self.panel, length, horizon, begin, end, step)
            if not len(windows):
                longest = int((np.asarray(end) - begin).max()) if len(source.panel.ids) else 0
                raise KANError(
                    f"{source.name}: no window of {length} + {horizon} steps fits into the {part} part, whose longest "
                    f"series has {longest} rows; choose a smaller --data.horizon or --data.input_length"
                )
            self.parts[part] = windows
        self.dropped = self.num_series - len(np.unique(self.parts["train"].series))
        if self.dropped and is_rank_zero():
            print(f"{self.name}: {self.dropped} of {self.num_series} series are too short to train on")

    def train_dataloader(self) -> DataLoader[Any]:
        """Every training window once, in a new order."""
        return self.parts["train"].loader(self.options["batch_size"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every validation window."""
        return self.parts["val"].loader(self.options["batch_size"])

    def test_dataloader(self) -> DataLoader[Any]:
        """Every test window."""
        return self.parts["test"].loader(self.options["batch_size"])

    def predict_dataloader(self) -> DataLoader[Any]:
        """The last window of every series: what comes after the end of the data, or ends there with covariates."""
        panel = self.panel
        beyond = self.horizon if panel.known.shape[1] else 0
        cutoffs = panel.lengths - 1 - beyond
        series = np.flatnonzero(cutoffs >= 0)
        windows = Windows(panel, self.input_length, self.horizon, series, cutoffs[series])
        return windows.loader(self.options["batch_size"])


def read_table(path: str) -> pd.DataFrame:
    """A CSV (also compressed) or Parquet file.

    Raises:
        KANError: When it is missing or cannot be read.
    """
    readers: dict[bool, Callable[[str], pd.DataFrame]] = {True: pd.read_parquet, False: pd.read_csv}
    try:
        return readers[path.endswith((".parquet", ".pq"))](path)
    except FileNotFoundError:
        raise KANError(f"no file {path}") from None
    except (OSError, ValueError, ImportError) as error:
        raise KANError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from None
