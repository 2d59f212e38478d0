"""ONNX graphs run in torch, with gradients for the constants that are tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.errors import UnsupportedError
from onnxlite.graph import describe, iter_nodes
from onnxlite.inputs import Feed
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.ops import spec_of
from onnxlite.opset import opset_version
from onnxlite.tune.operators import Call, function_of, fuse_pairs
from onnxlite.tune.operators.call import DTYPES, from_array, to_torch

_Values = dict[ir.Value, Tensor]


class TorchGraph:
    """A model that torch can run.

    What depends on constants alone, and on none that is tuned, is computed once.

    Args:
        model: it is not changed; the graph runs on a private copy.
        tuned: names of values, also in graphs of control flow, whose tensors each run is given.

    Attributes:
        model: the private copy, normalised; names of values and nodes stay.
        values: its values by name, also those of graphs inside of nodes.

    Raises:
        UnsupportedError: an operator or a type that torch cannot compute; names the node.
    """

    def __init__(self, model: ir.Model, *, tuned: Collection[str] = ()) -> None:
        self.model = clone(model)
        normalize(self.model)
        check_operators(self.model)
        fuse_pairs(self.model.graph)
        self._opset = opset_version(self.model)
        graph = self.model.graph
        self.values: dict[str, ir.Value] = {
            value.name: value
            for g in self.model.graphs()
            for group in (g.inputs, g.initializers.values(), *(n.outputs for n in g))
            for value in group
            if value.name
        }
        fixed: _Values = {}
        for inner in self.model.graphs():
            for name, value in inner.initializers.items():
                if name not in tuned and value.const_value is not None:
                    fixed[value] = to_torch(value.const_value)
        self._nodes: list[ir.Node] = []
        for node in graph:
            if any(out.name in tuned for out in node.outputs):
                continue
            known = all(value is None or value in fixed for value in node.inputs)
            if known and node.op_type != "If":
                with torch.no_grad():
                    self._compute(node, fixed)
            else:
                self._nodes.append(node)
        self._fixed = fixed
        self._readers = Counter(v for node in self._nodes for v in _read_by(node))

    def __call__(
        self,
        feed: Mapping[str, Tensor],
        *,
        tuned: Mapping[str, Tensor] | None = None,
        taps: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """Run one feed.

        Args:
            feed: the inputs by name.
            tuned: a tensor for each value named `tuned` before.
            taps: names of values of the main graph to give back besides the outputs.
        """
        values = dict(self._fixed)
        values.update((self.values[name], tensor) for name, tensor in (tuned or {}).items())
        values.update((value, feed[value.name or ""]) for value in self.model.graph.inputs)
        asked = [*self.model.graph.outputs, *(self.values[name] for name in taps)]
        left = self._readers.copy()
        left.update(asked)
        for node in self._nodes:
            self._compute(node, values)
            for value in _read_by(node):
                left[value] -= 1
                if not left[value] and value in values:
                    del values[value]
        return {value.name or "": _as_declared(value, values[value]) for value in asked}

    def part(self, known: Collection[str], wanted: Collection[str]) -> list[ir.Node]:
        """List the nodes that compute the values named `wanted` from those named `known`."""
        ends = {self.values[name] for name in known} | set(self._fixed)
        needed = {self.values[name] for name in wanted}
        chosen = []
        for node in reversed(self._nodes):
            if any(out in needed and out not in ends for out in node.outputs):
                chosen.append(node)
                needed.update(_read_by(node))
        return chosen[::-1]

    def between(
        self,
        given: Mapping[str, Tensor],
        wanted: Collection[str],
        *,
        tuned: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute values by name from others; see `part`."""
        values = dict(self._fixed)
        for source in (tuned or {}, given):
            values.update((self.values[name], tensor) for name, tensor in source.items())
        for node in self.part(given, wanted):
            self._compute(node, values)
        return {name: values[self.values[name]] for name in wanted}

    def _compute(self, node: ir.Node, values: _Values) -> None:
        function = function_of(node)
        assert function is not None
        inputs = [None if value is None else values[value] for value in node.inputs]

        def run_graph(graph: ir.Graph) -> tuple[Tensor, ...]:
            scope = dict(values)
            for inner in graph:
                if not all(out in scope for out in inner.outputs):
                    self._compute(inner, scope)
            return tuple(scope[value] for value in graph.outputs)

        result = function(Call(node, inputs, self._opset, run_graph))
        results = result if isinstance(result, tuple) else (result,)
        values.update(zip(node.outputs, results, strict=False))


def read_by(node: ir.Node) -> list[str]:
    """List the names of the values that a node, or a graph inside of it, reads."""
    return [value.name for value in _read_by(node) if value.name]


def compute_behind(value: ir.Value, given: Mapping[ir.Value, Tensor], opset: int) -> Tensor:
    """Compute a value of constants, with other tensors in the place of some of them."""
    if value in given:
        return given[value]
    node = value.producer()
    if node is None:
        assert value.const_value is not None
        return to_torch(value.const_value)
    function = function_of(node)
    assert function is not None
    inputs = [None if v is None else compute_behind(v, given, opset) for v in node.inputs]

    def no_graph(_graph: ir.Graph) -> tuple[Tensor, ...]:
        raise UnsupportedError(f"{describe(node)}: a graph inside of a constant")

    result = function(Call(node, inputs, opset, no_graph))
    return result[value.index() or 0] if isinstance(result, tuple) else result


def _read_by(node: ir.Node) -> list[ir.Value]:
    """List the values of the outer graph that a node or a graph inside of it reads."""
    found = [value for value in node.inputs if value is not None]
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            for inner in attr.as_graph():
                found += _read_by(inner)
            found += list(attr.as_graph().outputs)
    return found


def _as_declared(value: ir.Value, tensor: Tensor) -> Tensor:
    """Return an output in its declared type: integers of Q nodes are held in float."""
    dtype = None if value.dtype is None else DTYPES.get(value.dtype)
    return tensor if dtype is None or dtype.is_floating_point else tensor.to(dtype)


def check_operators(model: ir.Model) -> None:
    """Raise `UnsupportedError` for the first node that torch cannot compute."""
    for node in iter_nodes(model):
        if function_of(node) is None:
            if spec_of(node).quantized:
                raise UnsupportedError(
                    f"{describe(node)}: an integer kernel has no gradients: tune the model in the "
                    "QDQ form or before quantization"
                )
            where = f" of domain {node.domain!r}" if node.domain else ""
            raise UnsupportedError(
                f"{describe(node)}: the operator {node.op_type}{where} is not among those that "
                "can be computed in torch, so this model cannot be tuned; repair needs no torch "
                "and knows every operator"
            )


def torch_feed(feed: Feed) -> dict[str, Tensor]:
    """Copy a feed into torch tensors."""
    return {name: from_array(array) for name, array in feed.items()}
