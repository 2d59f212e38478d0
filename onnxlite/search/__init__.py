"""Search: from a budget to the best recipe, every trial of it measured."""

from __future__ import annotations

from onnxlite.search.budget import Budget, Check
from onnxlite.search.estimate import Estimate
from onnxlite.search.optimize import optimize
from onnxlite.search.quality_evaluator import Quality
from onnxlite.search.records import OptimizeReport, SearchRecord, Trial

__all__ = [
    "Budget",
    "Check",
    "Estimate",
    "OptimizeReport",
    "Quality",
    "SearchRecord",
    "Trial",
    "optimize",
]
