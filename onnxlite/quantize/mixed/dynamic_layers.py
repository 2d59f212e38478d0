"""Which layers of a model want scales computed at run time, beside static quantization."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.graph import iter_nodes
from onnxlite.inputs import Feed
from onnxlite.quantize.core.prepare import prepare
from onnxlite.quantize.core.targets import target_named
from onnxlite.quantize.dynamic.options import DynamicLayer
from onnxlite.quantize.mixed.layer_times import layer_times
from onnxlite.records import LayerRow, Skipped
from onnxlite.timing.layer_times import LayerTimes


def faster_dynamic(
    model: ir.Model,
    feed: Feed,
    static: Sequence[LayerRow],
    dynamic: Sequence[DynamicLayer],
    target: str,
) -> set[str]:
    """Find the layers that both ways put on integers and that dynamic quantization runs faster.

    Each layer is timed alone. The time of a dynamic kernel has the conversion of its input in
    it; that of a static one has not, because it depends on the neighbours.

    Args:
        model: the float model.
        feed: one sample, for the shapes.
        static: the layers of the static candidate.
        dynamic: those of the dynamic candidate, with their times over float.
        target: name of the target of both.

    Returns:
        Names of nodes.
    """
    on_integers = {row.name for row in static}
    ratios = {
        row.name: row.time_over_float
        for row in dynamic
        if row.name in on_integers and row.time_over_float is not None
    }
    ready, _ = prepare(model)
    if not ratios or isinstance(ready, Skipped):
        return set()
    shape_of, times = concrete_shapes(ready, [feed]), LayerTimes()
    faster = set()
    for node in iter_nodes(ready):
        if (ratio := ratios.get(node.name or "")) is None:
            continue
        in_float, static_s = layer_times(times, ready, node, shape_of, target_named(target))
        if in_float and static_s and ratio * in_float < static_s:
            faster.add(node.name or "")
    times.keep()
    return faster
