"""Activations of a model, computed piece by piece and kept between layers.

An `ActivationStore` has run the model up to some point on every feed and keeps the values that
the rest still needs. `visit` runs on to the next value that is asked for: every node runs once
per feed, however many values are visited. Where the values would need too much memory it runs
on without keeping them, and the next visit runs that piece again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import prod
from typing import Any

import onnx_ir as ir

from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.graph import const_tensor, inputs_and_captures, values_read
from onnxlite.inputs import Feed, feed_size
from onnxlite.runtime import Session
from onnxlite.samples import Samples

#: More samples than this do not improve the fits of layers, however small they are.
_MAX_SAMPLES = 2048
#: Stops in a row that may be run again because their values are too large to be kept.
_MAX_RERUN = 5
_STRING_BYTES = 64


class ExecutionPlan:
    """Nodes that lead to each of a sequence of values of one model's main graph.

    Args:
        model: its nodes must be in topological order.
        stops: the values to be visited, in this order.
    """

    def __init__(self, model: ir.Model, stops: Sequence[ir.Value]) -> None:
        self.model = model
        self.stops = tuple(stops)
        self._position = {node: index for index, node in enumerate(model.graph)}
        self._reads = {node: values_read(node) for node in model.graph}
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node, values in self._reads.items():
            for value in values:
                self._readers.setdefault(value, []).append(node)
        self._last_visit = {stop: index for index, stop in enumerate(self.stops)}

    def missing(self, stop: ir.Value, done: set[ir.Node]) -> list[ir.Node]:
        """List the nodes that must still run for `stop`, in topological order."""
        found: set[ir.Node] = set()
        queue = [stop]
        while queue:
            producer = queue.pop().producer()
            if producer is not None and producer not in found and producer not in done:
                found.add(producer)
                queue += self._reads[producer]
        return sorted(found, key=self._position.__getitem__)

    def inputs(self, nodes: Sequence[ir.Node]) -> list[ir.Value]:
        """List what these nodes read and do not compute."""
        own = set(nodes)
        read = {value: None for node in nodes for value in self._reads[node]}
        return [value for value in read if value.producer() not in own]

    def needed(self, values: Iterable[ir.Value], index: int, done: set[ir.Node]) -> list[ir.Value]:
        """List the values that are needed after stop `index`, once `done` have run."""
        return [
            value
            for value in values
            if self._last_visit.get(value, -1) > index
            or any(node not in done for node in self._readers.get(value, ()))
        ]

    def kept_bytes(self, sizes: Mapping[ir.Value, int]) -> list[int]:
        """List bytes to be kept at each stop; `sizes` has those of one feed's values."""
        done: set[ir.Node] = set()
        kept: list[ir.Value] = list(self.model.graph.inputs)
        result = []
        for index, stop in enumerate(self.stops):
            nodes = self.missing(stop, done)
            done.update(nodes)
            made = (value for node in nodes for value in node.outputs)
            kept = self.needed(chain(kept, made), index, done)
            result.append(sum(sizes.get(value, 0) for value in kept))
        return result


class ActivationStore:
    """State of one model, run part of the way on all feeds.

    The weights of nodes that were not run yet may be changed between visits.

    Args:
        plan: the values to be visited.
        feeds: inputs of the model.
        keep: for every stop, whether the store moves there; see `plan_memory`.
        threads: of ONNX Runtime; None takes all cores.

    Attributes:
        kept: for each feed the values that are kept.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        feeds: Sequence[Feed],
        keep: Sequence[bool],
        *,
        threads: int | None,
    ) -> None:
        self._plan, self._keep, self._threads = plan, keep, threads
        self._done: set[ir.Node] = set()
        inputs = {value.name: value for value in plan.model.graph.inputs}
        self.kept: list[dict[ir.Value, Any]] = [
            {inputs[name]: array for name, array in feed.items()} for feed in feeds
        ]

    def visit(self, index: int) -> Iterator[Any]:
        """Yield the value at stop `index` for each feed in turn; all must be taken.

        Args:
            index: of the stop; stops are visited in ascending order, none twice.
        """
        stop, keep = self._plan.stops[index], self._keep[index]
        nodes = self._plan.missing(stop, self._done)
        if not nodes:
            yield from [values[stop] for values in self.kept]
            return
        computed = {stop: None}
        if keep:
            self._done.update(nodes)
            made = [value for node in nodes for value in node.outputs]
            computed |= dict.fromkeys(self._plan.needed(made, index, self._done))
        inputs = self._plan.inputs(nodes)
        piece = _Piece(self._plan.model, nodes, inputs, list(computed))
        session = Session(piece.model(self.kept[0]), threads=self._threads, qdq="float")
        for position, kept in enumerate(self.kept):
            outputs = piece.run(session, kept)
            if keep:
                candidates = kept | outputs
                needed = self._plan.needed(candidates, index, self._done)
                self.kept[position] = {value: candidates[value] for value in needed}
            yield outputs[stop]


@dataclass(frozen=True)
class _Piece:
    """The nodes between some values of a model.

    Rounding is computed as written (`qdq="float"`): a piece may have integer activations
    and weights that are still float.
    """

    source: ir.Model
    nodes: Sequence[ir.Node]
    inputs: Sequence[ir.Value]
    outputs: Sequence[ir.Value]

    def model(self, example: Mapping[ir.Value, Any]) -> ir.Model:
        """Make a model of the nodes; `example` has arrays of the inputs."""
        nodes, constants = _with_constants(self.nodes)
        view = ir.GraphView(
            self.inputs,
            self.outputs,
            nodes=nodes,
            initializers=constants,
            opset_imports=self.source.graph.opset_imports,
            name=self.source.graph.name,
        )
        graph = view.clone()
        for value, source in zip(graph.inputs, self.inputs, strict=True):
            if value.type is None:
                dtype = ir.DataType.from_numpy(example[source].dtype)
                value.type = ir.TensorType(dtype)
        piece = ir.Model(
            graph,
            ir_version=self.source.ir_version,
            functions=list(self.source.functions.values()),
        )
        piece.opset_imports.update(self.source.opset_imports)
        return piece

    def run(self, session: Session, values: Mapping[ir.Value, Any]) -> dict[ir.Value, Any]:
        outputs = session.run({value.name or "": values[value] for value in self.inputs})
        return {value: outputs[value.name or ""] for value in self.outputs}


def _with_constants(nodes: Sequence[ir.Node]) -> tuple[list[ir.Node], list[ir.Value]]:
    """Add the Constant nodes that nodes read, and list the initializers."""
    initializers: dict[ir.Value, None] = {}
    result: dict[ir.Node, None] = {}
    for node in nodes:
        for value in inputs_and_captures(node):
            producer = value.producer()
            if producer is not None and const_tensor(value) is not None:
                result[producer] = None
            elif value.is_initializer():
                initializers[value] = None
        result[node] = None
    return list(result), list(initializers)


@dataclass(frozen=True)
class MemoryPlan:
    """Feeds to run on, and for each execution plan the stops whose values are kept.

    Attributes:
        feeds: the first ones of the samples.
        keep: of each plan, for each stop.
        complete: there are no more samples.
    """

    feeds: tuple[Feed, ...]
    keep: tuple[tuple[bool, ...], ...]
    complete: bool


def plan_memory(samples: Samples, plans: Sequence[ExecutionPlan], cache_bytes: int) -> MemoryPlan:
    """Take as many feeds as fit into memory and are useful; at least one.

    A stop at which too much would be kept is run through, and what it needs is run again for
    the next. So that this costs no more than a few runs, the feeds must fit into memory at one
    of every few stops; the first feed shows how large its values are.
    """
    first = next(iter(samples))
    needed = [plan.kept_bytes(_sizes(plan.model, first)) for plan in plans]
    per_feed = sum(map(_least_kept, needed)) + sum(array.nbytes for array in first.values())
    enough = -(-_MAX_SAMPLES // max(feed_size(first, samples.inputs), 1))
    count = min(max(1, cache_bytes // max(per_feed, 1)), enough)
    taken = tuple(islice(samples, count + 1))
    feeds = taken[:count]
    per_plan = cache_bytes // len(plans)
    limits = [max(per_plan // len(feeds), _least_kept(sizes)) for sizes in needed]
    keep = tuple(
        tuple(size <= limit for size in sizes) for sizes, limit in zip(needed, limits, strict=True)
    )
    return MemoryPlan(feeds, keep, complete=len(taken) <= count)


def _least_kept(sizes: Sequence[int]) -> int:
    """Least limit under which the values of one of every few stops in a row are kept."""
    windows = range(max(1, len(sizes) - _MAX_RERUN + 1))
    return max(min(sizes[start : start + _MAX_RERUN]) for start in windows)


def _sizes(model: ir.Model, feed: Feed) -> dict[ir.Value, int]:
    """Bytes of every value of the main graph on one feed, where its shape is known."""
    shape_of = concrete_shapes(model, [feed])
    sizes = {}
    for value in chain(model.graph.inputs, *(node.outputs for node in model.graph)):
        shape = shape_of(value)
        if shape is not None:
            sizes[value] = int(prod(shape) * _itemsize(value.dtype))
    return sizes


def _itemsize(dtype: ir.DataType | None) -> float:
    """Bytes of an element; of a string, those of the pointer and a short text."""
    if dtype is None:
        return ir.DataType.FLOAT.itemsize
    return _STRING_BYTES if dtype.is_string() else dtype.itemsize
