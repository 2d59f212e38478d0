"""Calibration: statistics of a model's values over unlabelled samples, in one streaming pass."""

from onnxlite.calibrate.average import AverageRange
from onnxlite.calibrate.collect import collect_statistics
from onnxlite.calibrate.histogram import Histogram
from onnxlite.calibrate.levels import Levels
from onnxlite.calibrate.observers import OBSERVERS, Observer, ObserverName
from onnxlite.calibrate.ranges import Range, collect_ranges
from onnxlite.calibrate.shards import collect_sharded
from onnxlite.calibrate.statistics import ValueStatistics, merge_statistics

__all__ = [
    "OBSERVERS",
    "AverageRange",
    "Histogram",
    "Levels",
    "Observer",
    "ObserverName",
    "Range",
    "ValueStatistics",
    "collect_ranges",
    "collect_sharded",
    "collect_statistics",
    "merge_statistics",
]
