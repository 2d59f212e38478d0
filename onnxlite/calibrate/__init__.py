"""Calibration: statistics of a model's values over unlabelled samples, in one streaming pass."""

from onnxlite.calibrate.ranges import Range, collect_ranges

__all__ = ["Range", "collect_ranges"]
