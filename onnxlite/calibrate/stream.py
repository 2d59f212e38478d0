"""One pass over the samples: for every feed, a summary of every asked-for value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.taps import tap_summaries
from onnxlite.errors import SamplesError
from onnxlite.graph import describe
from onnxlite.records import Progress, silent
from onnxlite.runtime import Session
from onnxlite.samples import Samples

#: Smallest number, largest number, and a sample of the elements (None if not asked for).
Summary = tuple[float, float, NDArray[Any] | None]


def stream(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    sample: bool,
    threads: int | None,
    progress: Progress,
) -> Iterator[dict[str, Summary]]:
    """Run every feed and yield the summaries of the named values.

    Raises:
        SamplesError: a value is NaN or infinite on some sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    probe, taps = tap_summaries(model, names, sample=sample)
    session = Session(probe, threads=threads)
    total = samples.count() if progress is not silent else 0
    for index, feed in enumerate(samples):
        outputs = session.run(feed)
        summaries: dict[str, Summary] = {}
        for name, tap in taps.items():
            low = float(outputs[tap.low]) if tap.low else tap.known_low
            high = float(outputs[tap.high])
            if not (math.isfinite(low) and math.isfinite(high)):
                raise SamplesError(
                    f"value {name!r} ({_origin(model, name)}) is {high} on a calibration "
                    "sample: check the preprocessing, or the model overflows"
                )
            summaries[name] = low, high, outputs[tap.sample] if tap.sample else None
        yield summaries
        progress("calibrate", index + 1, total)


def _origin(model: ir.Model, name: str) -> str:
    for node in model.graph:
        if any(output.name == name for output in node.outputs):
            return f"output of {describe(node)}"
    return "model input"
