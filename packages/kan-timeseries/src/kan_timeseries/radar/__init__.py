"""Large targets in range-Doppler maps: simulator, histogram features, a KAN detector, and CFAR baselines."""

from __future__ import annotations

from kan_timeseries.radar.boxes import Box, BoxScores, box_scores, iou, merge, slide
from kan_timeseries.radar.cfar import CFAR
from kan_timeseries.radar.detector import RadarDetector
from kan_timeseries.radar.expression import Agreement, Expression, agreement, to_expression
from kan_timeseries.radar.features import SegmentFeatures
from kan_timeseries.radar.field import Labelled, Recording, cut, read_recording
from kan_timeseries.radar.metrics import Calibration, calibrate, clopper_pearson, roc
from kan_timeseries.radar.persistence import load_detector, save_detector
from kan_timeseries.radar.simulator import Scene, SimulatedMap, Target, fmcw_map

__all__ = [
    "CFAR",
    "Agreement",
    "Box",
    "BoxScores",
    "Calibration",
    "Expression",
    "Labelled",
    "RadarDetector",
    "Recording",
    "Scene",
    "SegmentFeatures",
    "SimulatedMap",
    "Target",
    "agreement",
    "box_scores",
    "calibrate",
    "clopper_pearson",
    "cut",
    "fmcw_map",
    "iou",
    "load_detector",
    "merge",
    "read_recording",
    "roc",
    "save_detector",
    "slide",
    "to_expression",
]
