"""Cost model: MACs, parameters or latency of a model without some of its units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.branches import Branch
from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.cost import cost, is_parameter
from onnxlite.analysis.pruned_shapes import PrunedShapes
from onnxlite.errors import OptionError
from onnxlite.inputs import Feed
from onnxlite.machine import machine
from onnxlite.ops import Ids, spec_of
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session
from onnxlite.timing import run_seconds, time_ratios
from onnxlite.timing.layer_times import LayerTimes


@dataclass(frozen=True)
class CostItem:
    """A part of a model with a cost.

    Attributes:
        values: values whose shapes determine the cost.
        cost: function from the present shapes to the cost, an integer: MACs, parameters, or
            picoseconds.
        nodes: nodes that have this cost; it is 0 once all of them are removed.
    """

    values: tuple[ir.Value, ...]
    cost: Callable[[PrunedShapes], int]
    nodes: tuple[ir.Node, ...] = ()


def macs_items(model: ir.Model, *, block: int = 1) -> list[CostItem]:
    """Make an item for the MACs of every node of the main graph.

    Args:
        model: the model.
        block: channels per block of the kernels; numbers of channels are rounded up to it.
    """
    return [_node_item(node, block) for node in model.graph if spec_of(node).macs is not None]


def _node_item(node: ir.Node, block: int) -> CostItem:
    values = tuple(value for value in (*node.inputs, *node.outputs) if value is not None)
    return CostItem(values, lambda shapes: padded_macs(node, shapes, block), (node,))


def padded_macs(node: ir.Node, shapes: PrunedShapes, block: int) -> int:
    """Compute a node's MACs, with axes of units rounded up to whole blocks."""

    def padded(value: ir.Value | None) -> tuple[int, ...] | None:
        shape = shapes.shape(value)
        if shape is None or value is None:
            return shape
        varying = shapes.varying(value)
        return tuple(-(-n // block) * block if i in varying else n for i, n in enumerate(shape))

    macs = spec_of(node).macs
    assert macs is not None
    return macs(node, padded) or 0


def parameter_items(model: ir.Model) -> list[CostItem]:
    """Make an item for the number of elements of every parameter."""
    return [
        _size_item(value)
        for value in model.graph.initializers.values()
        if value.const_value is not None and is_parameter(value.const_value)
    ]


def _size_item(value: ir.Value) -> CostItem:
    users = tuple(use.node for use in value.uses())
    return CostItem((value,), lambda shapes: prod(shapes.shape(value) or ()), users)


def static_items(
    model: ir.Model, channels: ChannelMap, name: str, feeds: Sequence[Feed] | None
) -> list[CostItem]:
    """Make items for the MACs or parameters of a model, with one for the constant rest.

    Raises:
        OptionError: the MACs of a node are unknown.
    """
    whole = cost(model, feeds=feeds)
    if name == "params":
        items, total = parameter_items(model), whole.parameters
    else:
        if whole.macs is None:
            raise OptionError(
                f"the MACs of this model are unknown ({'; '.join(whole.notes)}): "
                "give params, latency or remove instead"
            )
        items, total = macs_items(model), whole.macs
    # Subgraphs and nodes without a MAC rule: their cost is constant.
    return [*items, _rest(items, total, channels)]


def _rest(items: Sequence[CostItem], total: int, channels: ChannelMap) -> CostItem:
    now = PrunedShapes(channels, [group.units[:0] for group in channels.groups])
    rest = max(total - sum(item.cost(now) for item in items), 0)
    return CostItem((), lambda _shapes: rest)


class CostModel:
    """Cost of a model while units are removed, group by group, in a fixed order.

    Savings are updated incrementally: a removal changes only the savings of groups that have
    an item in common. Costs are integers, so sums do not depend on their order.

    Args:
        channels: units of the model.
        orders: for every group its units in order of removal.
        items: parts of the model that have a cost.
        branches: branches, whose nodes cost nothing once all units of their group are removed.

    Attributes:
        total: present cost of all items.
    """

    def __init__(
        self,
        channels: ChannelMap,
        orders: Sequence[Ids],
        items: Iterable[CostItem],
        branches: Iterable[Branch] = (),
    ) -> None:
        self._shapes = PrunedShapes(channels, orders)
        self._items = list(items)
        self._sizes = [len(order) for order in orders]
        removers: dict[ir.Node, set[int]] = {}
        for branch in branches:
            for node in branch.nodes:
                removers.setdefault(node, set()).add(branch.group)
        # For each node of an item, the groups that remove it; then all groups of the item.
        self._removers = [[removers.get(n, set()) for n in item.nodes] for item in self._items]
        self._groups = [
            tuple(sorted(set().union(*map(self._shapes.groups_of, item.values), *removing)))
            for item, removing in zip(self._items, self._removers, strict=True)
        ]
        self._items_of: list[list[int]] = [[] for _ in orders]
        for index, groups in enumerate(self._groups):
            for group in groups:
                self._items_of[group].append(index)
        self._known: list[dict[tuple[int, ...], int]] = [{} for _ in self._items]
        self._savings: list[dict[int, int]] = [{} for _ in orders]
        self._costs = [self._cost(index) for index in range(len(self._items))]
        self.total = sum(self._costs)

    @property
    def removed(self) -> tuple[int, ...]:
        """Number of removed units of every group."""
        return tuple(self._shapes.removed)

    def neighbours(self, group: int) -> list[int]:
        """Return the groups that have an item in common with a group, ascending."""
        found = set().union(*(self._groups[index] for index in self._items_of[group]))
        return sorted(found - {group})

    def saving(self, group: int, removed: int) -> int:
        """Reduction of the total if `removed` units of a group are removed."""
        savings = self._savings[group]
        if removed not in savings:
            savings[removed] = sum(
                self._item_saving(index, group, removed) for index in self._items_of[group]
            )
        return savings[removed]

    def saving_after(self, other: int, other_removed: int, group: int, removed: int) -> int:
        """Saving of a group after the removal of `other_removed` units of another."""
        saving = self.saving(group, removed)
        for index in min(self._items_of[group], self._items_of[other], key=len):
            if group in self._groups[index] and other in self._groups[index]:
                saving -= self._item_saving(index, group, removed)
                saving += self._cost(index, {other: other_removed})
                saving -= self._cost(index, {other: other_removed, group: removed})
        return saving

    def remove(self, group: int, removed: int) -> None:
        """Set the number of removed units of a group."""
        self._update_neighbours(group, -1)
        self._shapes.removed[group] = removed
        for index in self._items_of[group]:
            self.total -= self._costs[index]
            self._costs[index] = self._cost(index)
            self.total += self._costs[index]
        self._update_neighbours(group, 1)
        self._savings[group].clear()

    def _update_neighbours(self, group: int, sign: int) -> None:
        """Add or subtract the savings of common items in those of other groups."""
        for index in self._items_of[group]:
            for other in self._groups[index]:
                if other != group:
                    savings = self._savings[other]
                    for removed in savings:
                        savings[removed] += sign * self._item_saving(index, other, removed)

    def _item_saving(self, index: int, group: int, removed: int) -> int:
        return self._costs[index] - self._cost(index, {group: removed})

    def _cost(self, index: int, instead: Mapping[int, int] = MappingProxyType({})) -> int:
        """Cost of an item, with other numbers of removed units for some groups."""
        counts = self._shapes.removed
        key = tuple(instead.get(group, counts[group]) for group in self._groups[index])
        known = self._known[index]
        if key not in known:
            previous = {group: counts[group] for group in instead}
            for group, removed in instead.items():
                counts[group] = removed
            known[key] = 0 if self._is_removed(index) else self._items[index].cost(self._shapes)
            for group, removed in previous.items():
                counts[group] = removed
        return known[key]

    def _is_removed(self, index: int) -> bool:
        """Return True if all nodes of an item are in branches that are removed."""
        removers, counts = self._removers[index], self._shapes.removed
        return bool(removers) and all(
            any(counts[group] == self._sizes[group] for group in groups) for groups in removers
        )


#: Fractions of its units at which a layer is timed.
_FRACTIONS = (1.0, 0.75, 0.5, 0.25, 0.1)
_PICOSECONDS = 1e12


def latency_items(
    model: ir.Model,
    channels: ChannelMap,
    orders: Sequence[Ids],
    counts: Sequence[Sequence[int]],
    feed: Feed,
    *,
    threads: int | None,
    progress: Progress = no_progress,
) -> list[CostItem]:
    """Make items for the time of every layer, and of other nodes by output size.

    Args:
        model: the model.
        channels: units of the model.
        orders: for every group its units in order of removal.
        counts: for every group the numbers of units it may keep.
        feed: input to time the whole model on.
        threads: threads of ONNX Runtime.
        progress: called as layers are done.
    """
    times = LayerTimes(threads=threads)
    shapes = PrunedShapes(channels, orders)
    layers = [node for node in model.graph if spec_of(node).macs is not None]
    items, whole = [], 0
    try:
        for index, node in enumerate(layers):
            progress("time layers", index, len(layers))
            item = _layer_item(model, node, shapes, counts, times)
            if item is not None:
                items.append(item)
                whole += item.cost(shapes)
    finally:
        times.keep()
    progress("time layers", len(layers), len(layers))
    seconds = run_seconds(Session(model, threads=threads, random="drawn"), feed)
    rest = max(seconds * _PICOSECONDS - whole, 0.0)
    measured = {value for item in items for value in item.values}
    others = [v for node in model.graph for v in node.outputs if v not in measured]
    total = sum(_size(shapes, value) for value in others)
    return [*items, *(_output_item(value, rest / total) for value in others if total)]


def _layer_item(
    model: ir.Model,
    node: ir.Node,
    shapes: PrunedShapes,
    counts: Sequence[Sequence[int]],
    times: LayerTimes,
) -> CostItem | None:
    values = tuple(value for value in (*node.inputs, *node.outputs) if value is not None)
    groups = set().union(*map(shapes.groups_of, values))
    previous = list(shapes.removed)
    block = machine().channel_block
    found: dict[float, float] = {}
    for fraction in _FRACTIONS if groups else _FRACTIONS[:1]:
        for group in groups:
            total = counts[group][0]
            some = [count for count in counts[group] if count]
            kept = min(some, key=lambda count: abs(count - fraction * total))
            shapes.removed[group] = total - kept
        attributes = {n: shapes.count(node, n) for n in node.attributes}
        seconds = times.time(
            model, node, shapes.shape, {n: c for n, c in attributes.items() if c is not None}
        )
        if seconds is not None:
            found[padded_macs(node, shapes, block)] = seconds
    shapes.removed[:] = previous
    if not found:
        return None
    works = sorted(found)
    # More MACs never take less time; a measurement that says so is noise.
    seconds_of = np.maximum.accumulate([found[work] for work in works])
    return CostItem(
        values,
        lambda now: round(
            float(np.interp(padded_macs(node, now, block), works, seconds_of)) * _PICOSECONDS
        ),
        (node,),
    )


def _output_item(value: ir.Value, per_element: float) -> CostItem:
    producer = value.producer()
    nodes = () if producer is None else (producer,)
    return CostItem((value,), lambda shapes: round(_size(shapes, value) * per_element), nodes)


def _size(shapes: PrunedShapes, value: ir.Value) -> int:
    return prod(shapes.shape(value) or (0,))


def latency_ratio(
    reference: ir.Model, candidate: ir.Model, feed: Feed, *, threads: int | None, budget_s: float
) -> float:
    """Measure the median of candidate over reference time, in interleaved runs."""
    sessions = [Session(each, threads=threads, random="drawn") for each in (reference, candidate)]
    (ratio,) = time_ratios(sessions, feed, budget_s=budget_s)
    return ratio
