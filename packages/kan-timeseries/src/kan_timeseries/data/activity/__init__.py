"""Recordings of human activity: readers, one rate, splits by person, windows."""

from kan_timeseries.data.activity.arrays import read_arrays, write_arrays
from kan_timeseries.data.activity.hmp import read_hmp
from kan_timeseries.data.activity.long_table import read_long_table
from kan_timeseries.data.activity.module import ActivityData
from kan_timeseries.data.activity.motion_sense import read_motion_sense
from kan_timeseries.data.activity.pamap2 import read_pamap2
from kan_timeseries.data.activity.prepare import Known, channel_statistics
from kan_timeseries.data.activity.recordings import ActivityBatch, FeatureTable, Readings, Recording
from kan_timeseries.data.activity.resample import on_one_clock, regular, spread_ties
from kan_timeseries.data.activity.sets import SETS, ActivitySet
from kan_timeseries.data.activity.sisfall import read_sisfall
from kan_timeseries.data.activity.splits import People, choose_validation, people_folds, read_folds, write_folds
from kan_timeseries.data.activity.synthetic import synthetic_activity
from kan_timeseries.data.activity.ts_file import TsCases, read_basicmotions, read_ts, read_ts_pair
from kan_timeseries.data.activity.uci_har import read_uci_har, read_uci_har_features
from kan_timeseries.data.activity.umafall import read_umafall
from kan_timeseries.data.activity.windows import WindowRule, cut, window_count
from kan_timeseries.data.activity.wisdm import read_wisdm, read_wisdm_features

__all__ = [
    "SETS",
    "ActivityBatch",
    "ActivityData",
    "ActivitySet",
    "FeatureTable",
    "Known",
    "People",
    "Readings",
    "Recording",
    "TsCases",
    "WindowRule",
    "channel_statistics",
    "choose_validation",
    "cut",
    "on_one_clock",
    "people_folds",
    "read_arrays",
    "read_basicmotions",
    "read_folds",
    "read_hmp",
    "read_long_table",
    "read_motion_sense",
    "read_pamap2",
    "read_sisfall",
    "read_ts",
    "read_ts_pair",
    "read_uci_har",
    "read_uci_har_features",
    "read_umafall",
    "read_wisdm",
    "read_wisdm_features",
    "regular",
    "spread_ties",
    "synthetic_activity",
    "window_count",
    "write_arrays",
    "write_folds",
]
