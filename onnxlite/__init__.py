"""Make an exported ONNX model smaller and faster on CPU, and prove it.

    import onnxlite as ol

    outcome = ol.run(
        "model.onnx",
        samples,
        ol.Recipe((ol.Simplify(), ol.QuantizeStatic())),
        output="small.onnx",
    )

Every function takes a path, an `onnx.ModelProto` or an `onnx_ir.Model`, and changes none
of them. A `ModelProto` in gives a `ModelProto` out, anything else an `ir.Model`.
"""

from __future__ import annotations

import importlib.metadata

from onnxlite.analysis.summary import Summary, inspect
from onnxlite.errors import (
    ExecutionError,
    InvalidModelError,
    LoadError,
    MissingPackageError,
    ModelError,
    OnnxliteError,
    OptionError,
    SamplesError,
    SaveError,
    UnsupportedError,
    VerificationError,
)
from onnxlite.evaluate import Fidelity, Latency, LayerFidelity, benchmark, compare
from onnxlite.model import ModelLike, load
from onnxlite.prune import ChannelReport, explain_channels, prune_channels, prune_weights
from onnxlite.prune.sparse_storage import sparse_storage
from onnxlite.quantize import quantize_static
from onnxlite.quantize.dynamic.step import quantize_dynamic
from onnxlite.quantize.float16.step import to_float16
from onnxlite.quantize.mixed.auto import quantize_auto
from onnxlite.quantize.mixed.sensitivity import LayerSensitivity, Sensitivity, sensitivity
from onnxlite.quantize.weight_only import quantize_weights
from onnxlite.recipe import (
    Outcome,
    PruneChannels,
    PruneWeights,
    QuantizeAuto,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    Recipe,
    RunReport,
    Simplify,
    SparseStorage,
    Step,
    ToFloat16,
    Tune,
    load_recipe,
    run,
)
from onnxlite.records import LayerRow, Skipped, StepReport
from onnxlite.repair import repair
from onnxlite.report import load_report, save_report
from onnxlite.samples import Samples, SamplesLike
from onnxlite.save import save
from onnxlite.search import (
    Budget,
    Check,
    OptimizeOutcome,
    OptimizeReport,
    Quality,
    SearchRecord,
    Trial,
    optimize,
)
from onnxlite.simplify import simplify
from onnxlite.tune import tune

try:
    __version__ = importlib.metadata.version("onnxlite")
except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Budget",
    "ChannelReport",
    "Check",
    "ExecutionError",
    "Fidelity",
    "InvalidModelError",
    "Latency",
    "LayerFidelity",
    "LayerRow",
    "LayerSensitivity",
    "LoadError",
    "MissingPackageError",
    "ModelError",
    "ModelLike",
    "OnnxliteError",
    "OptimizeOutcome",
    "OptimizeReport",
    "OptionError",
    "Outcome",
    "PruneChannels",
    "PruneWeights",
    "Quality",
    "QuantizeAuto",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuantizeWeights",
    "Recipe",
    "RunReport",
    "Samples",
    "SamplesError",
    "SamplesLike",
    "SaveError",
    "SearchRecord",
    "Sensitivity",
    "Simplify",
    "Skipped",
    "SparseStorage",
    "Step",
    "StepReport",
    "Summary",
    "ToFloat16",
    "Trial",
    "Tune",
    "UnsupportedError",
    "VerificationError",
    "__version__",
    "benchmark",
    "compare",
    "explain_channels",
    "inspect",
    "load",
    "load_recipe",
    "load_report",
    "optimize",
    "prune_channels",
    "prune_weights",
    "quantize_auto",
    "quantize_dynamic",
    "quantize_static",
    "quantize_weights",
    "repair",
    "run",
    "save",
    "save_report",
    "sensitivity",
    "simplify",
    "sparse_storage",
    "to_float16",
    "tune",
]
