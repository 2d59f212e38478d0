"""Measuring a result: fidelity to the original, and latency and memory against it."""

from __future__ import annotations

from onnxlite.evaluate.benchmark import Latency, Ratio, Timing, benchmark
from onnxlite.evaluate.compare import Fidelity, compare
from onnxlite.evaluate.layers import LayerFidelity
from onnxlite.evaluate.metrics import Meter, OutputFidelity
from onnxlite.evaluate.peak_memory import PeakMemory, peak_memory
from onnxlite.machine import Machine, machine
from onnxlite.task_metrics import MetricPair

__all__ = [
    "Fidelity",
    "Latency",
    "LayerFidelity",
    "Machine",
    "Meter",
    "MetricPair",
    "OutputFidelity",
    "PeakMemory",
    "Ratio",
    "Timing",
    "benchmark",
    "compare",
    "machine",
    "peak_memory",
]
