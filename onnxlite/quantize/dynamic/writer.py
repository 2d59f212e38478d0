"""Replace nodes by others, in any graph of a model: names, constants and order in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import add_initializer, node_names, value_names

#: Operators that ONNX Runtime has beside the standard ones.
MICROSOFT = "com.microsoft"


class Writer:
    """Writes into one model; equal constants and equal conversions of a graph are shared.

    Nodes must be replaced in the order in which they run.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._values = value_names(model)
        self._nodes = node_names(model)
        self._constants: dict[tuple[int, str, tuple[int, ...], bytes], ir.Value] = {}
        self._converted: dict[tuple[int, ir.Value], tuple[ir.Value, ...]] = {}

    def constant(self, beside: ir.Node, name: str, array: NDArray[Any]) -> ir.Value:
        """A constant in the graph of `beside`; one of equal value is used again."""
        graph = _graph_of(beside)
        array = np.ascontiguousarray(array).reshape(array.shape)
        digest = hashlib.sha256(array.tobytes()).digest()
        key = (id(graph), array.dtype.str, array.shape, digest)
        if key not in self._constants:
            fresh = self._values.fresh(name)
            self._constants[key] = add_initializer(graph, fresh, array)
        return self._constants[key]

    def node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> tuple[ir.Value, ...]:
        """Insert a node in front of `before`; returns its outputs."""
        made = ir.node(
            op_type,
            inputs,
            attributes or {},
            domain=domain,
            num_outputs=outputs,
            name=self._nodes.fresh(name),
        )
        for index, output in enumerate(made.outputs):
            suffix = "" if outputs == 1 else f"_{index}"
            output.name = self._values.fresh(f"{name}{suffix}")
        _graph_of(before).insert_before(before, made)
        if domain:
            self._model.graph.opset_imports.setdefault(domain, 1)
        return tuple(made.outputs)

    def quantized(self, before: ir.Node, data: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Integers, scale and zero point of `data`, found anew in each run; made once a graph.

        Returns:
            `uint8` like `data`, `float32[]`, `uint8[]`.
        """
        key = (id(_graph_of(before)), data)
        if key not in self._converted:
            self._converted[key] = self.node(
                before, "DynamicQuantizeLinear", [data], f"{data.name}_dynamic", outputs=3
            )
        integers, scale, zero = self._converted[key]
        return integers, scale, zero

    def replace(self, node: ir.Node, outputs: Sequence[ir.Value]) -> None:
        """Take `node` out; `outputs` take the names, types and readers of its own."""
        for old, new in zip(node.outputs, outputs, strict=True):
            new.type, new.shape = old.type, old.shape
            if old.name:
                new.name, old.name = old.name, None
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        weights = [value for value in node.inputs if value is not None]
        _graph_of(node).remove(node, safe=True)
        for value in weights:
            if value.is_initializer() and not value.uses() and not value.is_graph_output():
                assert value.graph is not None
                assert value.name is not None
                del value.graph.initializers[value.name]


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def weight_sqnr_db(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float | None:
    """Signal to noise of a layer's weights, each with what its integers stand for, in dB.

    Returns:
        None where there is no noise or no signal.
    """
    signal = sum(float((weight.astype(np.float64) ** 2).sum()) for weight, _ in pairs)
    noise = sum(float(((weight - back).astype(np.float64) ** 2).sum()) for weight, back in pairs)
    return round(10 * float(np.log10(signal / noise)), 2) if signal and noise else None
