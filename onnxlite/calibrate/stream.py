"""One pass over the samples: for every feed, a summary of every asked-for value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.taps import tap_summaries
from onnxlite.errors import SamplesError
from onnxlite.graph import describe
from onnxlite.records import Progress, silent
from onnxlite.runtime import Session
from onnxlite.samples import Samples

Array64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Summary:
    """What one feed shows of all values, in the order of their names.

    Attributes:
        lows: float64[values], the smallest number of each.
        highs: float64[values], the largest.
        samples: some elements of each, float32 of any shape; none where not asked for.
    """

    lows: Array64
    highs: Array64
    samples: list[NDArray[Any]]


def stream(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    sample: bool,
    threads: int | None,
    progress: Progress,
) -> Iterator[Summary]:
    """Run every feed and yield a summary of the named values, which are distinct.

    Raises:
        SamplesError: a value is NaN or infinite on some sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    probe, taps = tap_summaries(model, names, sample=sample)
    session = Session(probe, threads=threads)
    total = samples.count() if progress is not silent else 0
    known = np.array([tap.known_low for tap in taps.values()])
    measured = np.array([tap.low is not None for tap in taps.values()], bool)
    lows_of = [tap.low for tap in taps.values() if tap.low]
    highs_of = [tap.high for tap in taps.values()]
    samples_of = [tap.sample for tap in taps.values() if tap.sample]
    for index, feed in enumerate(samples):
        outputs = session.run(feed)
        lows = known.copy()
        lows[measured] = [outputs[output].item() for output in lows_of]
        highs = np.array([outputs[output].item() for output in highs_of])
        finite = np.isfinite(lows) & np.isfinite(highs)
        if not finite.all():
            name, high = list(taps)[int(np.argmin(finite))], highs[np.argmin(finite)]
            raise SamplesError(
                f"value {name!r} ({_origin(model, name)}) is {high} on a calibration "
                "sample: check the preprocessing, or the model overflows"
            )
        yield Summary(lows, highs, [outputs[output] for output in samples_of])
        progress("calibrate", index + 1, total)


def _origin(model: ir.Model, name: str) -> str:
    for node in model.graph:
        if any(output.name == name for output in node.outputs):
            return f"output of {describe(node)}"
    return "model input"
