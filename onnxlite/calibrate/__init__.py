"""Calibration: statistics of a model's values over unlabelled samples, in one streaming pass."""

from onnxlite.calibrate.collect import collect_ranges, collect_statistics
from onnxlite.calibrate.histogram import Histogram
from onnxlite.calibrate.limits import Range, SampleLimits
from onnxlite.calibrate.observers import OBSERVERS, Levels, Observer, ObserverName
from onnxlite.calibrate.sharded import collect_sharded
from onnxlite.calibrate.statistics import AverageRange, ValueStatistics, merge_statistics

__all__ = [
    "OBSERVERS",
    "AverageRange",
    "Histogram",
    "Levels",
    "Observer",
    "ObserverName",
    "Range",
    "SampleLimits",
    "ValueStatistics",
    "collect_ranges",
    "collect_sharded",
    "collect_statistics",
    "merge_statistics",
]
