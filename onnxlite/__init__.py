"""Make an exported ONNX model smaller and faster on CPU, and prove it.

    import onnxlite as ol

    model, report = ol.run("model.onnx", [ol.Simplify(), ol.QuantizeStatic()], samples=x)
    ol.quantize_static(ol.simplify("model.onnx"), x).save("small.onnx")

Every function takes a path, an `onnx.ModelProto`, an `onnx_ir.Model` or the `Result` of
another function, and changes none of them. A `ModelProto` in gives a `ModelProto` out,
anything else an `ir.Model`.

Modules load when a name is first used. What type checkers see is in `__init__.pyi`, which
`python -m tests.public_stub` writes.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

#: The module of every public name.
_MODULES = {
    "onnxlite.analysis.summary": ("Summary", "inspect"),
    "onnxlite.errors": (
        "ExecutionError",
        "InvalidModelError",
        "LoadError",
        "MissingPackageError",
        "ModelError",
        "OnnxliteError",
        "OptionError",
        "SamplesError",
        "SaveError",
        "UnsupportedError",
        "VerificationError",
    ),
    "onnxlite.evaluate": ("Fidelity", "Latency", "LayerFidelity", "benchmark", "compare"),
    "onnxlite.model": ("ModelLike", "load"),
    "onnxlite.prune": (
        "ChannelReport",
        "explain_channels",
        "prune_channels",
        "prune_weights",
        "sparse_storage",
    ),
    "onnxlite.quantize": (
        "quantize_auto",
        "quantize_dynamic",
        "quantize_static",
        "quantize_weights",
        "to_float16",
    ),
    "onnxlite.prune.options": ("PruneChannelsReport", "PruneWeightsReport", "SparseStorageReport"),
    "onnxlite.quantize.core.options": ("QuantizeStaticReport",),
    "onnxlite.quantize.dynamic.options": ("QuantizeDynamicReport",),
    "onnxlite.quantize.float16.options": ("ToFloat16Report",),
    "onnxlite.quantize.mixed.options": ("QuantizeAutoReport",),
    "onnxlite.quantize.weight_only.options": ("QuantizeWeightsReport",),
    "onnxlite.repair.options": ("RepairReport",),
    "onnxlite.simplify.options": ("SimplifyReport",),
    "onnxlite.tune.options": ("TuneReport",),
    "onnxlite.quantize.mixed.sensitivity": ("LayerSensitivity", "Sensitivity", "sensitivity"),
    "onnxlite.recipe": (
        "PruneChannels",
        "PruneWeights",
        "QuantizeAuto",
        "QuantizeDynamic",
        "QuantizeStatic",
        "QuantizeWeights",
        "Recipe",
        "Repair",
        "RunReport",
        "Simplify",
        "SparseStorage",
        "ToFloat16",
        "Tune",
        "load_recipe",
        "run",
    ),
    "onnxlite.records": ("Skipped", "LayerRow", "StepReport", "Usability"),
    "onnxlite.repair": ("repair",),
    "onnxlite.report": ("load_report", "save_report"),
    "onnxlite.samples": ("Samples", "SamplesLike"),
    "onnxlite.save": ("save",),
    "onnxlite.search": (
        "Budget",
        "Check",
        "OptimizeReport",
        "Quality",
        "SearchRecord",
        "Trial",
        "optimize",
    ),
    "onnxlite.simplify": ("simplify",),
    "onnxlite.step": ("Result", "Step"),
    "onnxlite.tune": ("tune",),
}
#: Names of version 0.1, with those that took their place; for one release.
_FORMER = {"Declined": "Skipped", "OptimizeOutcome": "Result", "Outcome": "Result"}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted((*_MODULE_OF, "__version__"))


class _Package(ModuleType):
    """Keeps the name of a public function that is also the name of a module.

    The import system sets `onnxlite.simplify` to the package when that is loaded; here the
    name stays the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Load what is first asked for."""
    if name == "__version__":
        value: Any = _version()
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif name in _FORMER:
        warnings.warn(
            f"onnxlite.{name} is now onnxlite.{_FORMER[name]}", DeprecationWarning, stacklevel=2
        )
        return __getattr__(_FORMER[name])
    else:
        raise AttributeError(f"module 'onnxlite' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("onnxlite")
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"
