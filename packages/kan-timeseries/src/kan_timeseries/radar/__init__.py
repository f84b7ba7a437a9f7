"""Large targets in range-Doppler maps: simulator, histogram features, a KAN detector, and CFAR baselines."""

from __future__ import annotations

from kan_timeseries.radar.boxes import Box, BoxScores, box_scores, iou, merge, slide
from kan_timeseries.radar.cfar import CFAR
from kan_timeseries.radar.detector import RadarDetector
from kan_timeseries.radar.features import SegmentFeatures
from kan_timeseries.radar.metrics import Calibration, calibrate, clopper_pearson, roc
from kan_timeseries.radar.simulator import Scene, SimulatedMap, Target, fmcw_map

__all__ = [
    "CFAR",
    "Box",
    "BoxScores",
    "Calibration",
    "RadarDetector",
    "Scene",
    "SegmentFeatures",
    "SimulatedMap",
    "Target",
    "box_scores",
    "calibrate",
    "clopper_pearson",
    "fmcw_map",
    "iou",
    "merge",
    "roc",
    "slide",
]
