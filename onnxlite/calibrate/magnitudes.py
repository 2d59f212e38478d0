"""The largest magnitude of inner values over all samples, computed inside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxlite.graph import fresh_name, value_names
from onnxlite.model import clone
from onnxlite.records import Progress, silent
from onnxlite.runtime import Session
from onnxlite.samples import Samples


def collect_magnitudes(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Run all samples once and return `max |v|` of each named value; it may be inf or NaN.

    Args:
        model: values are named as in its main graph.
        names: float32 values that nodes of the main graph compute, or inputs.
        samples: some unlabelled inputs.
        threads: intra-operator threads; None takes all cores.
        progress: called after every feed.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model.
    """
    copy = clone(model)
    taken = value_names(copy)
    values = {value.name: value for value in copy.graph.inputs}
    values.update({value.name: value for node in copy.graph for value in node.outputs})
    taps: dict[str, str] = {}
    outputs: list[ir.Value] = []
    # In the order in which ONNX Runtime then measures each value when it is made, see `taps`.
    for name in reversed(list(dict.fromkeys(names))):
        value = values[name]
        for op_type, attributes in (("Abs", {}), ("ReduceMax", {"keepdims": 0})):
            node = ir.node(op_type, [value], attributes, name=f"{name}_{op_type}_tap")
            node.outputs[0].name = fresh_name(taken, node.name or op_type)
            node.outputs[0].type = value.type
            copy.graph.append(node)
            value = node.outputs[0]
        value.shape = ir.Shape(())
        outputs.append(value)
        taps[name] = value.name or ""
    if not outputs:
        return {}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(outputs)
    session = Session(copy, threads=threads)
    found = dict.fromkeys(taps, 0.0)
    total = samples.count() if progress is not silent else 0
    for index, feed in enumerate(samples):
        result = session.run(feed)
        for name, tap in taps.items():
            now = float(result[tap])
            # NaN, once seen, stays: it is greater than nothing and less than nothing.
            found[name] = now if not now <= found[name] else found[name]
        progress("magnitudes", index + 1, total)
    return found
