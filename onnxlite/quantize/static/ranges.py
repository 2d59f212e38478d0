"""Ranges of activations, by the observer that was asked for."""

from __future__ import annotations

from onnxlite.calibrate import OBSERVERS, collect_ranges, collect_sharded, collect_statistics
from onnxlite.quantize.accuracy.range_search import RangeChoice, search_ranges
from onnxlite.quantize.core.options import QuantizeStatic
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.scales import integer_levels
from onnxlite.samples import Samples
from onnxlite.step import StepContext
from onnxlite.workers import Workers

#: Shards that the samples are cut into for workers.
_SHARDS = 16


def calibrate_ranges(
    plan: QuantPlan, samples: Samples, options: QuantizeStatic, context: StepContext
) -> RangeChoice:
    """Find the range of every value of the plan, by name, with the observer asked for.

    Raises:
        SamplesError: a value is NaN or infinite on some sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    model, names = plan.model, plan.placement.value_names
    threads, progress = context.threads, context.progress
    if options.observer == "minmax" and context.executor is None:
        # Nothing but two numbers per value and feed is needed.
        return RangeChoice(
            collect_ranges(model, names, samples, threads=threads, progress=progress)
        )
    if context.executor is None:
        seen = collect_statistics(model, names, samples, threads=threads, progress=progress)
    else:
        workers = Workers(context.executor)
        seen = collect_sharded(model, names, samples, workers, shards=_SHARDS, progress=progress)
    if options.observer == "auto":
        return search_ranges(plan, seen, samples, threads=threads)
    observer = OBSERVERS[options.observer]
    # 65,536 steps need no outlier cut off.
    wide = {value.name for value in plan.activation_bits.values}
    return RangeChoice(
        {
            name: one.range
            if name in wide
            else observer(one, integer_levels(plan.target, one.range))
            for name, one in seen.items()
        }
    )
