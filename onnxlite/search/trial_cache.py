"""Cache keys of a search: what each kind of result depends on, and the code that computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.analysis.lineage import Origin
from onnxlite.cache import CacheKey, digest_of
from onnxlite.machine import machine
from onnxlite.recipe import AnyStepReport, Recipe
from onnxlite.samples import Samples
from onnxlite.step import Step


class CachedStep(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one step on one model.

    Attributes:
        digest: hash of the model that it made.
        report: of the step; None if it failed.
        lineage: which layers of the original its layers are.
        failure: the error, where the step raised one.
    """

    digest: str
    report: AnyStepReport | None = None
    lineage: Mapping[str, Origin] = {}
    failure: str | None = None


class CachedStepTime(msgspec.Struct, frozen=True):
    """Seconds of one training step; None if the model cannot be trained."""

    seconds: float | None


def step_key(model: str, step: Step, calibration: str) -> CacheKey:
    """Key of a step's result; arguments but the step are digests."""
    options = Recipe((step,)).to_toml()
    inputs = {"model": model, "step": options, "calibration": calibration}
    return CacheKey("search-step", ("onnxlite.search.executor",), inputs)


def quality_key(model: str, original: str, metric: str, selection: str) -> CacheKey:
    """Key of the quality of a model; `metric` is a built-in one: code has no lasting digest."""
    inputs = {"model": model, "original": original, "metric": metric, "selection": selection}
    return CacheKey("search-quality", ("onnxlite.search.quality_evaluator",), inputs)


def latency_key(model: str, original: str, selection: str, seconds: float) -> CacheKey:
    """Key of the latency of a model, measured for so many seconds on this machine."""
    inputs = {
        "model": model,
        "original": original,
        "selection": selection,
        "seconds": f"{seconds:g}",
        "machine": str(machine()),
    }
    return CacheKey("search-latency", ("onnxlite.evaluate.benchmark",), inputs)


def sensitivity_key(model: str, target: str, calibration: str) -> CacheKey:
    """Key of the sensitivity of a model's layers to INT8."""
    inputs = {"model": model, "target": target, "calibration": calibration}
    return CacheKey("search-sensitivity", ("onnxlite.quantize.mixed.sensitivity",), inputs)


def step_time_key(original: str) -> CacheKey:
    """Key of the time of one training step on this machine."""
    inputs = {"model": original, "machine": str(machine())}
    return CacheKey("search-step-time", ("onnxlite.tune.step_timing",), inputs)


def samples_digest(feeds: Samples, labels: NDArray[Any] | None = None) -> str:
    """Digest of what samples hold: names, types, shapes, values, and the labels."""
    parts = [digest_of(_content(f"{name} ", feed[name])) for feed in feeds for name in sorted(feed)]
    if labels is not None:
        parts.append(digest_of(_content("labels ", labels)))
    return digest_of("\n".join(parts))


def _content(name: str, array: NDArray[Any]) -> bytes:
    # Text has no buffer.
    values = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
    return f"{name}{array.dtype} {np.shape(array)}\n".encode() + values
