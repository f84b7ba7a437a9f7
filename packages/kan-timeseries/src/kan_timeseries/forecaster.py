"""Forecasts of many series in a long table: fit, predict, backtest."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from kan_core.errors import KANError
from kan_timeseries.conformal import ConformalIntervals, window_sizes, windows_needed
from kan_timeseries.data.calendar import with_calendar
from kan_timeseries.data.frames import FrameReader, Gaps
from kan_timeseries.data.panel import Panel
from kan_timeseries.data.parts import first_known, last_rows, seasonal_naive, with_targets, without_covariates
from kan_timeseries.data.scaling import PanelScaler, SeriesScale
from kan_timeseries.data.windows import Windows, every_window
from kan_timeseries.evaluation import quantile_columns
from kan_timeseries.layers.scaling import Scaler
from kan_timeseries.models.network import Skip, takes_covariates
from kan_timeseries.tasks.forecast import ForecastTask, Loss
from kan_timeseries.training import FitOptions, chunks, fit_task, refit_line

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BASELINES = ("SeasonalNaive", "Ridge")

_TASK_KWARGS = ("penalty", "group_penalty", "covariate_layer", "weight_decay", "warmup_epochs")
_PENALTY = 0.02  # of the ridge line, per training window of unit variance: 1000 for the 60,000 windows of ETTh1
_LOG = logging.getLogger(__name__)
_CALIBRATION = 20_000  # windows; more make an interval's ends no better


class KANForecaster(BaseEstimator):
    r"""A KAN that forecasts `h` steps of every series of a long table, with intervals.

    One network serves all series. Each series is scaled by its training rows, each window by its own values; a ridge
    line is fitted in closed form, and the network learns what it leaves. Series that are shorter than `input_size` are
    continued to the left by their first value. Only so many windows as a batch has exist at a time.

    The last `val_size` rows of each series choose the weights and calibrate intervals. Then the line, which is the
    larger part of most forecasts, is fitted once more to all rows, the newest among them, unless learned effects of
    known covariates come before it; the model and the intervals stay.

    Args:
        h: Steps to forecast.
        input_size: L, steps that the network sees; None: two seasons (a week for steps from half an hour to below a
            day), but at least 2 h and at most a third of the median series.
        freq: The step, see `panel_from_frame`; None: found in the table.
        season: Steps in a period; None: the usual one of the frequency.
        model: A registered forecaster (`kan_timeseries.models.FORECASTERS`), or ``"none"``: the ridge line and the
            covariates alone.
        model_kwargs: Its arguments, such as ``{"layer": "chebyshev"}``; ``{"layer": "linear"}`` makes an MLP.
        skip: The ridge line: ``"shared"`` by all series, with a deviation for each (``"series"``: then only series of
            the training table can be forecast, and memory grows with series · L²), or ``"none"``.
        scaler: Of windows, see `WindowScaler`.
        scale: Of series, see `PanelScaler`; ``"seasonal"`` makes the loss ``"mae"`` the mean scaled error, MASE.
        loss: ``"mae"``, ``"mse"``, ``"huber"``, or ``"quantile"``, which learns the ends of the intervals of `levels`
            and forecasts the median; for the others intervals are conformal, see `ConformalIntervals`.
        levels: Of intervals, per cent. The default validation size is long enough for them.
        known: Columns that are known ahead: `predict` needs them in ``futr_df``.
        observed: Columns that are known for the past only; only models with inputs for them can use them.
        calendar: Fields of the time stamp as further known covariates, such as ``["hour", "weekday"]``, see
            `kan_timeseries.data.calendar.FIELDS`.
        gaps: ``"error"``, or ``"fill"`` missing steps and targets, see `panel_from_frame`.
        max_steps: Optimiser steps at most.
        check_every: Steps from one look at the validation rows to the next.
        patience: Looks without improvement after which training ends.
        batch_size: Windows per step.
        lr: The highest learning rate.
        task_kwargs: More arguments of `ForecastTask`: ``penalty``, ``group_penalty`` (by default 0.02 per training
            window, at most 1000), ``covariate_layer``, ``weight_decay``, ``warmup_epochs``.
        random_state: Seed of initial weights, order of windows and dropout.
        accelerator: Lightning's, for training; forecasts are made on the CPU.
        alias: What the column of forecasts is called; None: `model`.
        id_col: Column of the series' names.
        time_col: Column of the time stamps.
        target_col: Column of the values.
        verbose: Show a progress bar.

    Attributes:
        task_: The trained task; ``task_.net`` is the network.
        reader_: How tables are read.
        input_size_: L.
        val_size_: Rows at the end of each series that chose the weights and calibrated intervals.
        scaler_: Of the series and covariates.
        history_: The end of each series in the training table.
        intervals_: The calibration of conformal intervals; None for quantiles, or without validation rows.
        dropped_: Series that were too short to train on.
        fit_history_: Losses while training.
    """

    def __init__(
        self,
        h: int,
        *,
        input_size: int | None = None,
        freq: int | str | None = None,
        season: int | None = None,
        model: str = "kan",
        model_kwargs: Mapping[str, Any] | None = None,
        skip: Skip = "shared",
        scaler: Scaler = "last",
        scale: SeriesScale = "standard",
        loss: Loss = "mae",
        levels: Sequence[float] = (80, 95),
        known: Sequence[str] = (),
        observed: Sequence[str] = (),
        calendar: Sequence[str] = (),
        gaps: Gaps = "error",
        max_steps: int = 1000,
        check_every: int = 50,
        patience: int = 5,
        batch_size: int = 256,
        lr: float = 1e-3,
        task_kwargs: Mapping[str, Any] | None = None,
        random_state: int = 0,
        accelerator: str = "cpu",
        alias: str | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        verbose: bool = False,
    ) -> None:
        self.h = h
        self.input_size = input_size
        self.freq = freq
        self.season = season
        self.model = model
        self.model_kwargs = model_kwargs
        self.skip = skip
        self.scaler = scaler
        self.scale = scale
        self.loss = loss
        self.levels = levels
        self.known = known
        self.observed = observed
        self.calendar = calendar
        self.gaps = gaps
        self.max_steps = max_steps
        self.check_every = check_every
        self.patience = patience
        self.batch_size = batch_size
        self.lr = lr
        self.task_kwargs = task_kwargs
        self.random_state = random_state
        self.accelerator = accelerator
        self.alias = alias
        self.id_col = id_col
        self.time_col = time_col
        self.target_col = target_col
        self.verbose = verbose

    # Fitting --------------------------------------------------------------------------------------------------------

    def fit(self, df: Any, static_df: Any = None, val_size: int | None = None) -> Self:
        """Learn from a long table.

        Args:
            df: One row per series and time, see `panel_from_frame`.
            static_df: Constants of each series.
            val_size: Rows at the end of each series that choose the weights and calibrate intervals; 0: none. None: as
                many as intervals of `levels` need, or `h` where that would leave more than half of the series too short
                to train on, or 0 where `h` would too.

        Raises:
            KANError: For a table that cannot be used, no series long enough to train on, or an argument out of its
                range.
        """
        self._check_parameters()
        reader = self._reader()
        panel = reader.fit(df, static_df)
        return self._fit(reader, panel, panel.lengths, val_size)

    def _reader(self) -> FrameReader:
        return FrameReader(
            id_col=self.id_col,
            time_col=self.time_col,
            target_col=self.target_col,
            freq=self.freq,
            known=self.known,
            observed=self.observed,
            gaps=self.gaps,
            season=self.season,
        )

    def _fit(self, reader: FrameReader, panel: Panel, ends: Ints, val_size: int | None) -> Self:
        """Learn from the first `ends` rows of each series."""
        self.reader_ = reader
        self.input_size_ = self.input_size or default_input_size(reader, self.h, ends)
        self.val_size_ = self._val_size(ends, val_size)
        train_end = np.maximum(ends - self.val_size_, 0)
        # a series too short to train on is scaled by all that is known of it
        scaled_by = np.where(train_end >= self.input_size_ + self.h, train_end, np.maximum(ends, 1))
        self.history_ = last_rows(panel, ends, max(self.input_size_, panel.season))
        complete = with_calendar(panel, self.calendar)
        self.scaler_ = PanelScaler.fit(complete, scaled_by, self.scale)
        scaled = self.scaler_.apply(complete)
        train = with_targets(every_window(scaled, self.input_size_, self.h, 0, train_end))
        if not len(train):
            raise KANError(
                f"no series can be trained on: input_size {self.input_size_}, h {self.h} and val_size {self.val_size_} "
                f"need {self.input_size_ + self.h + self.val_size_} steps, the longest has {int(ends.max())}; lower one"
            )
        self.dropped_ = len(ends) - len(np.unique(train.series))
        if self.dropped_:
            _LOG.warning("%d of %d series are too short to train on", self.dropped_, len(ends))
        val = with_targets(every_window(scaled, self.input_size_, self.h, train_end, ends)) if self.val_size_ else None
        val = val if val is not None and len(val) else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.task_ = self._task(complete, len(train))
        options = FitOptions(
            max_steps=self.max_steps,
            check_every=self.check_every,
            patience=self.patience,
            batch_size=self.batch_size,
            seed=self.random_state,
            accelerator=self.accelerator,
            verbose=self.verbose,
        )
        best = fit_task(self.task_, train, val, options)
        self.fit_history_, self.best_step_ = best.history, best.best_step
        self.intervals_ = None
        if val is not None and self.loss != "quantile":
            self.intervals_ = self._calibrate(complete, val)
        if val is not None and self.task_.forecaster.effect is None:
            refit_line(self.task_, with_targets(every_window(scaled, self.input_size_, self.h, 0, ends)))
        return self

    def _task(self, panel: Panel, windows: int = 1) -> ForecastTask:
        """The untrained task for a panel with so many training windows."""
        penalties = {
            "penalty": min(1e3, _PENALTY * windows),
            "group_penalty": min(1e3, _PENALTY * windows / len(panel.ids)),
        }
        return ForecastTask(
            input_length=self.input_size_,
            horizon=self.h,
            channels=1,
            num_known=panel.known.shape[1],
            num_observed=panel.observed.shape[1],
            num_series=len(panel.ids),
            season=panel.season,
            channel_names=panel.channel_names,
            known_names=panel.known_names,
            model=self.model,
            model_kwargs=dict(self.model_kwargs or {}),
            scaler=self.scaler,
            skip=self.skip,
            loss=self.loss,
            quantiles=self._quantiles if self.loss == "quantile" else None,
            lr=self.lr,
            **{**penalties, **(self.task_kwargs or {})},
        )

    @property
    def _quantiles(self) -> list[float]:
        return list(quantile_columns("", self.levels).values())

    def _val_size(self, ends: Ints, val_size: int | None) -> int:
        if val_size is not None:
            if not _is_whole(val_size, 0) or 0 < val_size < self.h:
                raise KANError(f"val_size must be 0, or at least h = {self.h} rows, got {val_size!r}")
            return int(val_size)
        least = self.input_size_ + self.h
        trainable = max(1, int((ends >= least).sum()))
        needed = 1
        if self.loss != "quantile" and len(self.levels):
            needed = max(windows_needed(level) for level in self.levels)
        wanted = self.h - 1 + math.ceil(needed / trainable)
        return next(size for size in (wanted, self.h, 0) if (ends - size >= least).sum() * 2 >= trainable or size == 0)

    def _calibrate(self, panel: Panel, val: Windows) -> ConformalIntervals:
        chosen = np.unique(np.linspace(0, len(val) - 1, min(len(val), _CALIBRATION)).astype(np.int64))
        series, cutoffs = val.series[chosen], val.cutoffs[chosen]
        answer = self._forecast(panel, series, cutoffs)
        rows = (panel.offsets[series] + cutoffs)[:, None] + np.arange(1, self.h + 1)
        return ConformalIntervals.of(panel.values[rows, 0] - answer.values[..., 0], answer.sizes)

    def _check_parameters(self) -> None:
        for name in ("h", "input_size", "max_steps", "check_every", "patience", "batch_size"):
            value = getattr(self, name)
            if not _is_whole(value, 1) and not (name == "input_size" and value is None):
                raise KANError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not self.lr > 0:
            raise KANError(f"lr must be positive, got {self.lr!r}")
        if self.loss not in get_args(Loss):
            raise KANError(f"loss must be one of {', '.join(get_args(Loss))}, got {self.loss!r}")
        if self.skip == "channel":
            raise KANError("skip must be 'none', 'shared' or 'series': a long table has one channel")
        if self.observed and not takes_covariates(self.model):
            raise KANError(f"model {self.model!r} has no input for observed covariates: leave {self.observed[0]!r} out")
        strange = [name for name in self.task_kwargs or {} if name not in _TASK_KWARGS]
        if strange:
            raise KANError(f"task_kwargs: unknown argument {strange[0]!r}, choose from {', '.join(_TASK_KWARGS)}")
        if self._name in (self.id_col, self.time_col, self.target_col, "cutoff", *BASELINES):
            raise KANError(f"the forecasts cannot be called {self._name!r}, another column is: give another alias")
        quantile_columns(self._name, self.levels)

    @property
    def _name(self) -> str:
        return self.alias or self.model

    # Prediction -----------------------------------------------------------------------------------------------------

    def predict(
        self, df: Any = None, static_df: Any = None, futr_df: Any = None, level: Sequence[float] | None = None
    ) -> pd.DataFrame:
        """Forecast the `h` steps after the end of each series.

        Args:
            df: Newer rows, or other series, as in `fit`; None: the training table. Series that were not in that table
                are scaled by the rows given here.
            static_df: Constants of the series in `df`, when there were some in `fit`.
            futr_df: The known covariates of the `h` steps, one row per series and step.
            level: Intervals, per cent; for ``loss="quantile"`` some of `levels`. None: no intervals.

        Returns:
            ``unique_id, ds, <model>``, and for each level ``<model>-lo-80, <model>-hi-80`` (for quantiles also
            ``<model>-median``), sorted by series and time.

        Raises:
            KANError: For tables that cannot be used, covariates that are missing, levels without calibration.
        """
        check_is_fitted(self)
        if df is None:
            if static_df is not None:
                raise KANError("static_df is given without df: the constants of the training table are known")
            panel = self.history_
        else:
            panel = self.reader_.read(df, static_df)
        cutoffs = panel.lengths - 1
        assert self.reader_.frequency is not None
        times = self.reader_.frequency.after(panel.times[panel.offsets[1:] - 1], self.h)
        if futr_df is not None or panel.known.shape[1] or self.calendar:
            panel = with_calendar(self.reader_.extend(panel, futr_df, self.h), self.calendar)
        series = np.arange(len(panel.ids))
        columns = self._columns(self._forecast(panel, series, cutoffs), level)
        return self._table(panel, series, times, columns)

    def _forecast(self, panel: Panel, series: Ints, cutoffs: Ints) -> _Answer:
        """Forecasts from these windows, in original units, a chunk of windows at a time."""
        place = {name: s for s, name in enumerate(self.history_.ids)}
        index = np.array([place.get(name, -1) for name in panel.ids])
        scaler = self._scaler(panel, index, series, cutoffs)
        windows = Windows(scaler.apply(panel), self.input_size_, self.h, series, cutoffs)
        values, sizes = [], []
        with torch.no_grad():
            for batch in chunks(windows):
                of = batch.series.numpy()
                center, scale = scaler.center[of], scaler.scale[of]
                output = self.task_(batch._replace(series=torch.from_numpy(index[of]))).double().numpy()[:, :, 0]
                values.append(output * scale[..., None] + center[..., None])
                past = batch.past[..., 0].double().numpy() * scale + center
                sizes.append(window_sizes(past, batch.mask[..., 0].numpy(), panel.season))
        return _Answer(np.concatenate(values), np.concatenate(sizes))

    def _scaler(self, panel: Panel, index: Ints, series: Ints, cutoffs: Ints) -> PanelScaler:
        """That of training; series that are new are scaled by their rows up to the first cutoff."""
        new = np.flatnonzero(index < 0)
        if len(new) and self.skip == "series":
            raise KANError(
                f"series {panel.ids[new[0]]!r} was not in the training table, and skip='series' learns a line for "
                "each: fit with skip='shared' to forecast new series"
            )
        center, scale = self.scaler_.center[index], self.scaler_.scale[index]
        if len(new):
            first = np.full(len(panel.ids), np.iinfo(np.int64).max)
            np.minimum.at(first, series, cutoffs)
            until = np.minimum(first + 1, panel.lengths)[new]
            fresh = PanelScaler.fit(panel.take(new.tolist()), until, self.scale)
            center[new], scale[new] = fresh.center, fresh.scale
        return replace(self.scaler_, center=center, scale=scale)

    def _columns(self, answer: _Answer, level: Sequence[float] | None) -> dict[str, Floats]:
        """The model's columns, ``(windows, h)`` each."""
        levels = sorted(set(level or ()))
        wanted = quantile_columns(self._name, levels) if levels else {}
        if self.loss == "quantile":
            learned = self._quantiles
            columns = {self._name: answer.values[..., len(learned) // 2]}
            for name, quantile in wanted.items():
                if quantile not in learned:
                    raise KANError(f"{name} was not learned, but levels {list(self.levels)}: fit with it in levels")
                columns[name] = answer.values[..., learned.index(quantile)]
            return columns
        columns = {self._name: answer.values[..., 0]}
        if levels and self.intervals_ is None:
            raise KANError("intervals are calibrated on validation rows, and there were none: give val_size in fit")
        for one in levels:
            assert self.intervals_ is not None
            low, high = self.intervals_.bounds(one)
            columns[f"{self._name}-lo-{one:g}"] = columns[self._name] + answer.sizes[:, None] * low
            columns[f"{self._name}-hi-{one:g}"] = columns[self._name] + answer.sizes[:, None] * high
        return columns

    def _table(
        self, panel: Panel, series: Ints, times: NDArray[Any], columns: Mapping[str, NDArray[Any]]
    ) -> pd.DataFrame:
        names = self.reader_.names(panel, np.repeat(series, self.h))
        flat = {name: np.broadcast_to(column, times.shape).reshape(-1) for name, column in columns.items()}
        return pd.DataFrame({self.id_col: names, self.time_col: times.reshape(-1), **flat})

    # Backtest -------------------------------------------------------------------------------------------------------

    def cross_validation(
        self,
        df: Any,
        n_windows: int = 1,
        step_size: int = 1,
        *,
        refit: bool | int = False,
        static_df: Any = None,
        val_size: int | None = None,
        level: Sequence[float] | None = None,
        baselines: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Forecast past stretches of each series from what was known before them.

        Forecasts for a cutoff c see values up to and including c, and are for the `h` steps after it. There are
        `n_windows` cutoffs in each series, `step_size` rows apart, the last one `h` rows before its last row. Whatever
        is learned for a cutoff is learned from rows up to it. This forecaster itself stays as it is.

        Args:
            df: As in `fit`; known covariates are taken from it.
            n_windows: Cutoffs per series.
            step_size: Rows from one to the next.
            refit: False: fit once, on the rows up to the first cutoff; True: anew for every cutoff; a number k: for
                every k-th.
            static_df: Constants of each series.
            val_size: See `fit`; of the rows up to the cutoff.
            level: Intervals, see `predict`.
            baselines: Of `BASELINES`: further columns. ``"SeasonalNaive"`` repeats the last season, ``"Ridge"`` is the
                ridge line alone, without network and covariates, fitted to all rows up to the cutoff.

        Returns:
            ``unique_id, ds, cutoff, y, <model>``, intervals, baselines; sorted by series, cutoff and time. A series has
            fewer cutoffs where it has no value before one; that is logged.

        Raises:
            KANError: See `fit`; and when no series is long enough for a cutoff.
        """
        self._check_parameters()
        for name, value in (("n_windows", n_windows), ("step_size", step_size)):
            if not _is_whole(value, 1):
                raise KANError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not isinstance(refit, bool) and not _is_whole(refit, 1):
            raise KANError(f"refit must be False, True or a positive number of windows, got {refit!r}")
        unknown = [name for name in baselines if name not in BASELINES]
        if unknown:
            raise KANError(f"unknown baseline {unknown[0]!r}: choose from {', '.join(BASELINES)}")
        reader = self._reader()
        panel = reader.fit(df, static_df)
        complete = with_calendar(panel, self.calendar)
        every = n_windows if refit is False else int(refit)
        begins = first_known(panel)
        parts: list[pd.DataFrame] = []
        skipped = 0
        for window in range(n_windows):
            cutoffs = panel.lengths - 1 - self.h - (n_windows - 1 - window) * step_size
            series = np.flatnonzero(cutoffs >= begins)
            skipped += len(cutoffs) - len(series)
            if not len(series):
                continue
            if window % every == 0 or not parts:
                fitted = self._fitted_until(reader, panel, np.maximum(cutoffs + 1, 0), val_size, baselines)
            parts.append(self._window(fitted, complete, series, cutoffs[series], level, baselines))
        if not parts:
            raise KANError(f"no series is longer than h = {self.h} steps: there is nothing to forecast from")
        if skipped:
            total = n_windows * len(panel.ids)
            _LOG.warning("%d of %d windows are left out: there is no value before the cutoff", skipped, total)
        table = pd.concat(parts, ignore_index=True)
        order = np.argsort(table.pop("order").to_numpy(), kind="stable")
        return table.iloc[order].reset_index(drop=True)

    def _fitted_until(
        self, reader: FrameReader, panel: Panel, ends: Ints, val_size: int | None, baselines: Sequence[str]
    ) -> dict[str, KANForecaster]:
        """This forecaster and, where asked for, its ridge line, fitted to the first `ends` rows of each series."""
        own = clone(self)._fit(reader, panel, ends, val_size)
        fitted = {self._name: own}
        if "Ridge" in baselines:
            line = clone(self).set_params(model="none", model_kwargs=None, calendar=(), input_size=own.input_size_)
            fitted["Ridge"] = line._fit(reader, without_covariates(panel), ends, 0)
        return fitted

    def _window(
        self,
        fitted: Mapping[str, KANForecaster],
        panel: Panel,
        series: Ints,
        cutoffs: Ints,
        level: Sequence[float] | None,
        baselines: Sequence[str],
    ) -> pd.DataFrame:
        """One cutoff of each series."""
        own = fitted[self._name]
        columns = own._columns(own._forecast(panel, series, cutoffs), level)
        for name in baselines:
            if name == "SeasonalNaive":
                columns[name] = seasonal_naive(panel, series, cutoffs, self.h)
            else:
                answer = fitted[name]._forecast(without_covariates(panel), series, cutoffs)
                columns[name] = answer.values[..., answer.values.shape[-1] // 2]
        first = panel.offsets[series] + cutoffs
        rows = first[:, None] + np.arange(1, self.h + 1)
        extra = {"cutoff": panel.times[first][:, None], self.target_col: panel.values[rows, 0], **columns}
        return own._table(panel, series, panel.times[rows], {**extra, "order": series[:, None]})

    # Storage --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Store the fitted forecaster as safetensors and JSON, see `kan_timeseries.persistence.save`."""
        from kan_timeseries.persistence import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> KANForecaster:
        """A fitted forecaster that `save` stored, see `kan_timeseries.persistence.load`."""
        from kan_timeseries.persistence import load

        return load(path)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


class _Answer(NamedTuple):
    """Forecasts ``(windows, h, outputs)`` in original units, and the size of each window, see `window_sizes`."""

    values: Floats
    sizes: Floats


def default_input_size(reader: FrameReader, h: int, lengths: Ints) -> int:
    """Steps to look back: see `KANForecaster`."""
    assert reader.frequency is not None
    assert reader.season is not None
    step = reader.frequency.duration
    week = pd.Timedelta(days=7)
    if step is not None and pd.Timedelta(minutes=30) <= step < pd.Timedelta(days=1):
        seasons = int(week // step)
    else:
        seasons = 2 * reader.season
    return max(1, min(max(seasons, 2 * h), int(np.median(lengths)) // 3))
