"""Times of single layers on this machine, measured once and cached.

A layer is run alone, with the shapes that it would have, and the time of its kernel is read
from ONNX Runtime's profile: conversions of the memory layout that a model would not have
are left out. Kernels work on blocks of channels, so that time follows the channels rounded
up, not the MACs.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxlite.cache import Cache, CacheKey, NumberTable
from onnxlite.errors import ExecutionError
from onnxlite.graph import const_tensor
from onnxlite.machine import machine
from onnxlite.ops import ShapeOf
from onnxlite.runtime import Session

logger = logging.getLogger(__name__)


#: A measurement takes so many runs, or as many as fit into the time.
_RUNS, _SECONDS = 200, 0.02
_LEAST_RUNS = 5


class LayerTimes:
    """Kernel times of layers, from the cache or measured.

    Args:
        threads: of ONNX Runtime.
        cache: where times are kept between processes; None takes the user's.
    """

    def __init__(self, *, threads: int | None = 1, cache: Cache | None = None) -> None:
        self._threads = threads
        inputs = {"machine": str(machine()), "threads": str(threads)}
        key = CacheKey("layer-times", (__name__,), inputs)
        self._times = NumberTable(cache or Cache(), key)

    def time(
        self, model: ir.Model, node: ir.Node, shape_of: ShapeOf, counts: Mapping[str, int]
    ) -> float | None:
        """Seconds of one run of a node; None if it cannot be run alone.

        Args:
            model: whose versions of the operator sets hold.
            node: any node without a body.
            shape_of: the shapes of its inputs, as they are to be.
            counts: attributes that are to have other values.
        """
        shapes = [shape_of(value) for value in node.inputs]
        if any(s is None and v is not None for s, v in zip(shapes, node.inputs, strict=True)):
            return None
        attributes = {name: str(attr.value) for name, attr in node.attributes.items()}
        key = f"{node.op_type} {sorted({**attributes, **counts}.items())} {shapes}"
        return self.time_of(key, lambda: one_layer(model, node, shape_of, counts), node.op_type)

    def time_of(self, key: str, build: Callable[[], ir.Model], op_type: str) -> float | None:
        """Seconds of one run of the kernels in whose names an operator's occurs.

        Args:
            key: under which the time is kept.
            build: makes the model; called where there is no time yet. Float inputs are random.
            op_type: of the kernels; those beside it, such as conversions, do not count.
        """
        if key not in self._times:
            try:
                self._times[key] = self._measure(build(), op_type)
            except ExecutionError as error:
                logger.info("%s cannot be measured alone: %s", key, error)
                return None
        return self._times[key]

    def keep(self) -> None:
        """Write what was measured to the cache."""
        self._times.flush()

    def _measure(self, model: ir.Model, op_type: str) -> float:
        rng = np.random.default_rng(0)
        feed = {
            value.name or "": rng.standard_normal(value.shape.numpy()).astype(np.float32)
            for value in model.graph.inputs
            if value.shape is not None
        }
        with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
            prefix = Path(directory) / "profile"
            session = Session(model, threads=self._threads, profile=prefix)
            spent, runs = 0.0, 0
            while runs < _LEAST_RUNS or (spent < _SECONDS and runs < _RUNS):
                start = time.perf_counter()
                session.run(feed)
                spent, runs = spent + time.perf_counter() - start, runs + 1
            events = json.loads(session.end_profiling().read_text())
        # Fused and reordered kernels keep the operator's name somewhere in theirs.
        kernels = [
            float(event["dur"]) * 1e-6
            for event in events
            if event.get("cat") == "Node"
            and event["name"].endswith("_kernel_time")
            and op_type in event["args"].get("op_name", "")
        ]
        return statistics.median(kernels) if kernels else spent / runs


def one_layer(
    model: ir.Model, node: ir.Node, shape_of: ShapeOf, counts: Mapping[str, int]
) -> ir.Model:
    """A model of one node: float inputs stay inputs, constants get new shapes.

    Args:
        model: whose versions of the operator sets hold.
        node: any node without a body.
        shape_of: the shapes of its inputs, as they are to be.
        counts: attributes that are to have other values.

    Raises:
        ExecutionError: an input is neither a constant nor float32.
    """
    rng = np.random.default_rng(0)
    values: list[ir.Value | None] = []
    inputs, initializers = [], []
    for index, value in enumerate(node.inputs):
        if value is None:
            values.append(None)
            continue
        shape = shape_of(value) or ()
        tensor = const_tensor(value)
        if tensor is None and value.dtype != ir.DataType.FLOAT:
            raise ExecutionError(f"input {index} is {value.dtype}, not float32")
        new = ir.Value(
            name=f"x{index}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)
        )
        if tensor is None:
            inputs.append(new)
        else:
            array = tensor.numpy()
            if array.dtype.kind == "f":
                # Small numbers of both signs: nothing overflows or is denormal.
                array = rng.standard_normal(shape).astype(array.dtype) * 0.1
            new.const_value = ir.tensor(array, name=new.name)
            new.type, new.shape = ir.TensorType(new.const_value.dtype), ir.Shape(array.shape)
            initializers.append(new)
        values.append(new)
    attributes = {
        name: ir.AttrInt64(name, counts[name]) if name in counts else attr
        for name, attr in node.attributes.items()
    }
    copy = ir.Node(
        node.domain, node.op_type, values, list(attributes.values()), num_outputs=len(node.outputs)
    )
    for index, (made, old) in enumerate(zip(copy.outputs, node.outputs, strict=True)):
        made.name = f"y{index}" if old.name else ""
        made.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        inputs,
        [value for value in copy.outputs if value.name],
        nodes=[copy],
        initializers=initializers,
        opset_imports=dict(model.opset_imports),
        name="layer",
    )
    return ir.Model(graph, ir_version=model.ir_version)
