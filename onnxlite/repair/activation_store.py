"""Running a model piece by piece, with the values in between at hand.

A frontier has run the model up to some point on every feed and holds the values that the
rest still needs. `visit` runs on to the next value that is asked for: every node runs once
per feed in all, however many values are visited. Where what must be held is too large,
it runs on without holding it, and the next visit runs that piece again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import prod
from typing import Any

import onnx_ir as ir

from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.graph import values_read
from onnxlite.runtime import Session
from onnxlite.samples import Feed, Samples, feed_size


class ExecutionPlan:
    """Which nodes lead to each of a sequence of values of one model's main graph.

    Args:
        model: its nodes must be in topological order.
        stops: the values to be visited, in this order.
    """

    def __init__(self, model: ir.Model, stops: Sequence[ir.Value]) -> None:
        self.model = model
        self.stops = tuple(stops)
        self._reads = {node: values_read(node) for node in model.graph}
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node, values in self._reads.items():
            for value in values:
                self._readers.setdefault(value, []).append(node)

    def missing(self, stop: ir.Value, done: set[ir.Node]) -> list[ir.Node]:
        """The nodes that must still run for `stop`."""
        found: set[ir.Node] = set()
        queue = [stop]
        while queue:
            producer = queue.pop().producer()
            if producer is not None and producer not in found and producer not in done:
                found.add(producer)
                queue += self._reads[producer]
        return list(found)

    def inputs(self, nodes: Iterable[ir.Node]) -> list[ir.Value]:
        """What these nodes read and do not compute."""
        nodes = set(nodes)
        read = {value: None for node in nodes for value in self._reads[node]}
        return [value for value in read if value.producer() not in nodes]

    def live(self, index: int, done: set[ir.Node]) -> list[ir.Value]:
        """The values to be held at stop `index`, once the nodes `done` have run."""
        later = Counter(self.stops[index + 1 :])
        values = [*self.model.graph.inputs, *(v for node in done for v in node.outputs)]
        return [
            value
            for value in values
            if later[value] or any(node not in done for node in self._readers.get(value, ()))
        ]

    def held_bytes(self, sizes: Mapping[ir.Value, int]) -> list[int]:
        """Bytes to be held at each stop; `sizes` holds those of one feed's values."""
        done: set[ir.Node] = set()
        result = []
        for index, stop in enumerate(self.stops):
            done.update(self.missing(stop, done))
            result.append(sum(sizes.get(value, 0) for value in self.live(index, done)))
        return result


class ActivationStore:
    """The state of one model, run part of the way on all feeds.

    The weights of nodes that were not run yet may be changed between visits.
    """

    def __init__(self, route: ExecutionPlan, feeds: Sequence[Feed], *, threads: int | None) -> None:
        self._route = route
        self._threads = threads
        self._done: set[ir.Node] = set()
        inputs = {value.name: value for value in route.model.graph.inputs}
        self._held: list[dict[ir.Value, Any]] = [
            {inputs[name]: array for name, array in feed.items()} for feed in feeds
        ]

    def visit(self, index: int, *, hold: bool) -> Iterator[Any]:
        """The value at stop `index` for each feed in turn; all must be taken.

        Args:
            index: of the stop; stops are visited in ascending order, none twice.
            hold: move the frontier here; otherwise it stays where it is.
        """
        stop = self._route.stops[index]
        nodes = self._route.missing(stop, self._done)
        if not nodes:
            yield from [values[stop] for values in self._held]
            return
        done = self._done.union(nodes)
        live = set(self._route.live(index, done)) if hold else set()
        inputs = self._route.inputs(nodes)
        computed = {stop: None, **{v: None for v in live if v.producer() in set(nodes)}}
        piece = _Piece(self._route.model, inputs, list(computed), self._held[0], self._threads)
        for held in self._held:
            outputs = piece.run(held)
            if hold:
                for value in [value for value in held if value not in live]:
                    del held[value]
                held.update((v, array) for v, array in outputs.items() if v in live)
            yield outputs[stop]
        if hold:
            self._done = done


class _Piece:
    """The nodes between some values, in a session of their own."""

    def __init__(
        self,
        model: ir.Model,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        example: Mapping[ir.Value, Any],
        threads: int | None,
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        graph = ir.convenience.extract(model.graph, list(inputs), list(outputs))
        for value, source in zip(graph.inputs, inputs, strict=True):
            if value.type is None:
                dtype = ir.DataType.from_numpy(example[source].dtype)
                value.type = ir.TensorType(dtype)
        piece = ir.Model(
            graph, ir_version=model.ir_version, functions=list(model.functions.values())
        )
        piece.opset_imports.update(model.opset_imports)
        # Rounding is computed as written: a piece may have integer activations and weights that
        # are still float.
        self._session = Session(piece, threads=threads, fuse_qdq=False)

    def run(self, values: Mapping[ir.Value, Any]) -> dict[ir.Value, Any]:
        feed = {value.name or "": values[value] for value in self._inputs}
        outputs = self._session.run(feed)
        return {value: outputs[value.name or ""] for value in self._outputs}


#: More samples than this tell the fits of layers nothing new, however small they are.
_ENOUGH_SAMPLES = 2048
#: Stops in a row that may be run again because their values are too large to be held.
_LONGEST_RERUN = 5
_STRING_BYTES = 64


@dataclass(frozen=True)
class MemoryBudget:
    """The feeds to run on, and for each route which stops are held.

    Attributes:
        feeds: the first ones of the samples.
        hold: of each route, for each stop.
        complete: there are no more samples.
    """

    feeds: tuple[Feed, ...]
    hold: tuple[tuple[bool, ...], ...]
    complete: bool


def plan_memory(
    samples: Samples, routes: Sequence[ExecutionPlan], cache_bytes: int
) -> MemoryBudget:
    """Take as many feeds as can be held and are worth it; at least one.

    A stop at which too much would be held is run through, and what it needs is run again
    for the next. So that this costs no more than a few runs, the feeds must fit into
    memory at one of every few stops; the first feed tells how large its values are.
    """
    first = next(iter(samples))
    needed = [route.held_bytes(_sizes(route.model, first)) for route in routes]
    per_feed = sum(map(_least_held, needed)) + sum(array.nbytes for array in first.values())
    enough = -(-_ENOUGH_SAMPLES // max(feed_size(first, samples.inputs), 1))
    count = min(max(1, cache_bytes // max(per_feed, 1)), enough)
    taken = tuple(islice(samples, count + 1))
    feeds = taken[:count]
    share = cache_bytes // len(routes)
    hold = tuple(
        tuple(size * len(feeds) <= share or size <= _least_held(sizes) for size in sizes)
        for sizes in needed
    )
    return MemoryBudget(feeds, hold, complete=len(taken) <= count)


def _least_held(sizes: Sequence[int]) -> int:
    """The least limit under which one of every few stops in a row is held."""
    windows = range(max(1, len(sizes) - _LONGEST_RERUN + 1))
    return max(min(sizes[start : start + _LONGEST_RERUN]) for start in windows)


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
