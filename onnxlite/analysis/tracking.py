"""Tracking: the record of channel rules, that is ids, ties, pins, bindings and counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.units import Binding, Pin, Recount, Reindex, UnionFind
from onnxlite.graph import attribute, const_array, describe
from onnxlite.ops import Ids, ShapeOf, Sizes, bind_behind, blank, entry_source, tracked_axes

_Use = tuple[ir.Node, int]


class Tracking:
    """`Tracker` of one pass over a model's main graph.

    Args:
        shape_of: concrete shapes; rules run only on nodes whose shapes are all known.
        constants: values that depend on initializers only.
        opset: version of the standard operator set.
    """

    def __init__(self, shape_of: ShapeOf, constants: set[ir.Value], opset: int) -> None:
        self.units = UnionFind()
        self.pins: list[Pin] = []
        self.recounts: list[Recount] = []
        self.reindexes: list[Reindex] = []
        self.bindings: dict[tuple[object, ...], Binding] = {}
        self.values: dict[ir.Value, Ids] = {}
        self._covered: dict[tuple[ir.Value, int], set[_Use]] = {}
        self._sizes: dict[ir.Value, Sizes] = {}
        self._lines: dict[tuple[ir.Value, int], list[Ids]] = {}
        self._shape_of = shape_of
        self._constants = constants
        self._opset = opset
        self._node: ir.Node | None = None

    @contextmanager
    def at(self, node: ir.Node) -> Iterator[None]:
        """Attribute everything recorded in this context to `node`."""
        outer, self._node = self._node, node
        try:
            yield
        finally:
            self._node = outer

    @property
    def opset(self) -> int:
        """See `Tracker`."""
        return self._opset

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """See `Tracker`."""
        shape = self._shape_of(value)
        assert shape is not None, f"shape of {value.name!r} is unknown"
        return shape

    def ids(self, value: ir.Value) -> Ids:
        """See `Tracker`."""
        if value in self.values:
            return self.values[value]
        shape = self._shape_of(value)
        return blank(0 if shape is None else len(shape))

    def is_constant(self, value: ir.Value) -> bool:
        """See `Tracker`."""
        return value in self._constants

    def put(self, value: ir.Value, ids: Ids) -> None:
        """See `Tracker`."""
        if not value.name:
            return
        shape = self.shape(value)
        fits = len(shape) == ids.ndim and all(
            i in (1, n) for i, n in zip(ids.shape, shape, strict=True)
        )
        if not fits:  # shape inference is not always right
            self.pin(ids, f"the shape of {value.name!r}, {list(shape)}, contradicts its inputs")
            return
        if ids.size == 1:
            self.pin(ids, "it is the only one on its axis")
        elif ids.any():
            self.values[value] = ids

    def mint(self, count: int) -> Ids:
        """See `Tracker`."""
        return self.units.mint(count)

    def roots(self, ids: Ids) -> Ids:
        """See `Tracker`."""
        return self.units.roots(ids)

    def tie(self, a: Ids, b: Ids) -> None:
        """See `Tracker`."""
        if a is b:
            return
        a, b = np.broadcast_arrays(a, b)
        lone = (a == 0) != (b == 0)
        if lone.any():
            self.pin(np.where(lone, a + b, 0), "it is tied to positions without units")
        both = (a != 0) & (b != 0)
        self.units.join(a[both], b[both])

    def pin(self, ids: Ids, reason: str) -> None:
        """See `Tracker`."""
        unique = np.unique(ids)
        unique = unique[unique != 0]
        if len(unique):
            where = describe(self._node) if self._node is not None else "the graph"
            self.pins.append(Pin(ids=unique, reason=reason, where=where))

    def pin_whole(self, value: ir.Value, reason: str) -> None:
        """Pin the units of a value, and the units whose count it holds."""
        self.pin(self.ids(value), reason)
        for entry in self._sizes.get(value, ()):
            if entry is not None:
                self.pin(entry[0], reason)

    def bind(self, port: int, axis: int, line: Ids, *, fill: float | None = 0.0) -> None:
        """See `Tracker`."""
        assert self._node is not None
        value = self._node.inputs[port] if port < len(self._node.inputs) else None
        if value is None or not line.any():
            return
        shape = self.shape(value)
        if axis < len(shape) and shape[axis] == 1 and line.shape[-1] > 1:
            return
        if value not in self._constants:
            self.pin(line, f"{value.name!r} is computed")
            return
        if axis >= len(shape) or shape[axis] != line.shape[-1]:
            self.pin(line, f"{value.name!r} {list(shape)} has no {line.shape[-1]} slices")
            return
        self._covered.setdefault((value, axis), set()).add((self._node, port))
        producer = value.producer()
        if producer is not None:
            with self.at(producer):
                bind_behind(producer, self, axis, line, fill)
            self._hold(value, axis, line)
            return
        use = (self._node, port)
        vector = sum(size > 1 for size in shape) <= 1
        key = (value, axis, use) if vector else (value, axis)
        if (bound := self.bindings.get(key)) is None:
            self.bindings[key] = Binding(value=value, uses=(use,), axis=axis, line=line, fill=fill)
        else:
            self.tie(bound.line, line)
            uses = tuple(dict.fromkeys((*bound.uses, use)))
            both = None if fill is None or bound.fill is None else fill
            self.bindings[key] = replace(bound, uses=uses, fill=both)
        if not vector:
            self._hold(value, axis, line)

    def _hold(self, value: ir.Value, axis: int, line: Ids) -> None:
        """Record the line of a constant that all its users share."""
        self._lines.setdefault((value, axis), []).append(line)

    def slices(self) -> dict[tuple[ir.Value, int], Ids]:
        """Return the unit of every slice of each bound constant, by value and axis."""
        bound = {(b.value, b.axis): b.line for b in self.bindings.values()}
        return {**bound, **{key: lines[0] for key, lines in self._lines.items()}}

    def recount(
        self,
        where: int | str,
        ids: Ids,
        axis: int,
        *,
        entry: int | None = None,
        bound: bool = False,
    ) -> None:
        """See `Tracker`."""
        assert self._node is not None
        if isinstance(where, int):
            self._recount_input(self._node, where, entry or 0, ids, axis, bound)
            return
        number = attribute(self._node, where, 1)
        if bound or int(number if entry is None else number[entry]) > 0:
            self._count(self._node, where, entry, ids, axis)

    def _recount_input(
        self, node: ir.Node, port: int, entry: int, ids: Ids, axis: int, bound: bool
    ) -> None:
        """Record the count in a constant entry of an input, or tie it to a computed size."""
        value = node.inputs[port] if port < len(node.inputs) else None
        array = const_array(value)
        if array is not None:
            if bound or int(array.reshape(-1)[entry]) > 0:
                self._count(node, port, entry, ids, axis)
            return
        sizes = None if value is None else self._sizes.get(value)
        if sizes is not None and (counted := sizes[entry]) is not None:
            self._same_count(counted, (ids, axis))
            return
        producer = None if value is None else value.producer()
        source = None if producer is None else entry_source(producer, entry, self._shape_of)
        if producer is not None and source is not None:
            self._recount_input(producer, *source, ids, axis, bound)
            return
        self.pin(ids, f"its size is computed in {value.name if value else '?'!r}")

    def _same_count(self, counted: tuple[Ids, int], needed: tuple[Ids, int]) -> None:
        """Tie two axes that have one size, so that both lose the same positions."""
        (a, a_axis), (b, b_axis) = counted, needed
        left, right = (np.moveaxis(i, x, 0).reshape(i.shape[x], -1) for i, x in (counted, needed))
        if a.shape[a_axis] != b.shape[b_axis]:
            self.pin(a, "its size is used for another axis")
            self.pin(b, "its size is computed from another axis")
        elif left.shape[1] == right.shape[1]:
            self.tie(left, right)
        else:
            self.tie(left, left[:, :1])
            self.tie(right, right[:, :1])
            self.tie(left[:, 0], right[:, 0])

    def _count(
        self, node: ir.Node, where: int | str, entry: int | None, ids: Ids, axis: int
    ) -> None:
        self.recounts.append(Recount(node=node, where=where, entry=entry, ids=ids, axis=axis))

    def reindex(self, port: int, line: Ids) -> None:
        """See `Tracker`."""
        assert self._node is not None
        self.reindexes.append(Reindex(node=self._node, port=port, line=line))

    def sizes(self, value: ir.Value) -> Sizes | None:
        """See `Tracker`."""
        return self._sizes.get(value)

    def put_sizes(self, value: ir.Value, sizes: Sizes) -> None:
        """See `Tracker`."""
        self._sizes[value] = sizes

    def finish(self) -> None:
        """Pin constants that other nodes read, and reduce units to whole slices."""
        for (value, axis), lines in self._lines.items():
            covered = self._covered.get((value, axis), set())
            for use in value.uses():
                if (use.node, use.idx) not in covered:
                    with self.at(use.node):
                        for line in lines:
                            self.pin(line, f"it needs all of {value.name!r}")
            if value.is_graph_output():
                for line in lines:
                    self.pin(line, f"{value.name!r} is an output of the model")
        self._separate()

    def _separate(self) -> None:
        """Tie values with units on several axes along all of them but one.

        Removal then always takes whole slices. The axis left is the longest of those that
        other rules did not tie.
        """
        grids = [ids for ids in self.values.values() if len(tracked_axes(ids)) > 1]
        changed = True
        while changed:
            changed = False
            for ids in grids:
                roots = self.units.roots(ids)
                varying = [
                    axis for axis in tracked_axes(roots) if (roots != roots.take([0], axis)).any()
                ]
                if len(varying) > 1:
                    keep = max(varying, key=lambda axis: roots.shape[axis])
                    for axis in (a for a in varying if a != keep):
                        self.tie(ids, ids.take([0], axis))
                    changed |= bool((self.units.roots(ids) != roots).any())
