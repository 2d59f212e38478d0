"""What a choice of units would save: MACs, parameters or latency, without cutting the model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.branches import Branch
from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.cost import cost, is_parameter
from onnxlite.analysis.pruned_shapes import PrunedShapes
from onnxlite.errors import OptionError
from onnxlite.machine import machine
from onnxlite.ops import Ids, spec_of
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session
from onnxlite.samples import Feed
from onnxlite.timing import time_ratios
from onnxlite.timing.layer_times import LayerTimes


@dataclass(frozen=True)
class CostItem:
    """A part of a model that has a price of its own.

    Attributes:
        values: whose shapes decide the price.
        price: of those shapes, as they are now.
        nodes: that it is the price of; nothing is to be paid once all of them are gone.
    """

    values: tuple[ir.Value, ...]
    price: Callable[[PrunedShapes], float]
    nodes: tuple[ir.Node, ...] = ()


def macs_items(model: ir.Model, *, block: int = 1) -> list[CostItem]:
    """The multiply-accumulates of every node of the main graph.

    Args:
        model: the model.
        block: channels that kernels work on at once: numbers of channels are rounded up.
    """
    return [_node_item(node, block) for node in model.graph if spec_of(node).macs is not None]


def _node_item(node: ir.Node, block: int) -> CostItem:
    values = tuple(value for value in (*node.inputs, *node.outputs) if value is not None)
    return CostItem(values, lambda shapes: padded_macs(node, shapes, block), (node,))


def padded_macs(node: ir.Node, shapes: PrunedShapes, block: int) -> int:
    """MACs of a node, with every axis that may lose units rounded up to whole blocks."""

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
    """The elements of every initializer that counts as parameters."""
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
    """What of the model is priced in MACs or parameters, with what lies beyond the units.

    Raises:
        OptionError: the MACs of some node cannot be told.
    """
    whole = cost(model, feeds=feeds)
    if name == "params":
        items, total = parameter_items(model), float(whole.parameters)
    else:
        if whole.macs is None:
            raise OptionError(
                f"the MACs of this model cannot be told ({'; '.join(whole.notes)}): "
                "give params, latency or remove"
            )
        items, total = macs_items(model), float(whole.macs)
    # Subgraphs and what has no rule: a part of the price that never changes.
    return [*items, _rest(items, total, channels)]


def _rest(items: Sequence[CostItem], total: float, channels: ChannelMap) -> CostItem:
    now = PrunedShapes(channels, [group.units[:0] for group in channels.groups])
    rest = max(total - sum(item.price(now) for item in items), 0.0)
    return CostItem((), lambda _shapes: rest)


class CostModel:
    """The price of a model while units go, group by group, in a fixed order.

    Args:
        channels: the units.
        orders: of every group the units in the order in which they go.
        items: what has a price.
        branches: that end, and cost nothing, where all units of a group are gone.

    Attributes:
        total: the present price of all items.
    """

    def __init__(
        self,
        channels: ChannelMap,
        orders: Sequence[Ids],
        items: Iterable[CostItem],
        branches: Iterable[Branch] = (),
    ) -> None:
        self._shapes = PrunedShapes(channels, orders)
        self._touched: list[list[int]] = [[] for _ in orders]
        self._items = list(items)
        self._whole = [len(order) for order in orders]
        branches = tuple(branches)
        # Of every item, for each of its nodes, the groups with which that ends.
        self._enders = [
            [{branch.group for branch in branches if node in branch.nodes} for node in item.nodes]
            for item in self._items
        ]
        for index in range(len(self._items)):
            for group in self._groups_of(index):
                self._touched[group].append(index)
        self._prices = [self._price(index) for index in range(len(self._items))]
        self._kept_savings: dict[tuple[int, int], float] = {}
        self.total = sum(self._prices)

    def _groups_of(self, index: int) -> set[int]:
        groups = set().union(*map(self._shapes.groups_of, self._items[index].values))
        return groups.union(*self._enders[index])

    def _price(self, index: int) -> float:
        enders, gone = self._enders[index], self._shapes.removed
        if enders and all(any(gone[g] == self._whole[g] for g in some) for some in enders):
            return 0.0
        return self._items[index].price(self._shapes)

    @property
    def removed(self) -> tuple[int, ...]:
        """How many units of every group are gone."""
        return tuple(self._shapes.removed)

    def saving(self, group: int, removed: int) -> float:
        """What the total falls by if `removed` units of a group are gone instead of now."""
        key = (group, removed)
        if key not in self._kept_savings:
            old = self._shapes.removed[group]
            self._shapes.removed[group] = removed
            self._kept_savings[key] = sum(
                self._prices[i] - self._price(i) for i in self._touched[group]
            )
            self._shapes.removed[group] = old
        return self._kept_savings[key]

    def remove(self, group: int, removed: int) -> None:
        """Set how many units of a group are gone."""
        self._shapes.removed[group] = removed
        changed = self._touched[group]
        for index in changed:
            self._prices[index] = self._price(index)
        self.total = sum(self._prices)
        # A layer's price depends on both of its sides: what neighbours save has changed, too.
        near = set().union(*map(self._groups_of, changed))
        for key in [key for key in self._kept_savings if key[0] in near]:
            del self._kept_savings[key]


#: Shares of its units at which a layer is measured.
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
_RUNS = 9


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
    """The time of every layer, and of all other nodes by the size of what they make.

    Args:
        model: the model.
        channels: its units.
        orders: of every group the units in the order in which they go.
        counts: of every group the numbers of units it may keep.
        feed: to time the whole model on.
        threads: of ONNX Runtime.
        progress: called as layers are done.
    """
    times = LayerTimes(threads=threads)
    shapes = PrunedShapes(channels, orders)
    layers = [node for node in model.graph if spec_of(node).macs is not None]
    items, whole = [], 0.0
    try:
        for index, node in enumerate(layers):
            progress("time layers", index, len(layers))
            item = _layer_item(model, node, shapes, counts, times)
            if item is not None:
                items.append(item)
                whole += item.price(shapes)
    finally:
        times.keep()
    progress("time layers", len(layers), len(layers))
    rest = max(_run_seconds(model, feed, threads) - whole, 0.0)
    measured = {value for item in items for value in item.values}
    others = [v for node in model.graph for v in node.outputs if v not in measured]
    total = sum(_size(shapes, value) for value in others)
    return [*items, *(_share_item(value, rest / total) for value in others if total)]


def _layer_item(
    model: ir.Model,
    node: ir.Node,
    shapes: PrunedShapes,
    counts: Sequence[Sequence[int]],
    times: LayerTimes,
) -> CostItem | None:
    values = tuple(value for value in (*node.inputs, *node.outputs) if value is not None)
    groups = set().union(*map(shapes.groups_of, values))
    before = list(shapes.removed)
    block = machine().channel_block
    found: dict[float, float] = {}
    for share in _SHARES if groups else _SHARES[:1]:
        for group in groups:
            total = counts[group][0]
            some = [count for count in counts[group] if count]
            kept = min(some, key=lambda count: abs(count - share * total))
            shapes.removed[group] = total - kept
        attributes = {n: shapes.count(node, n) for n in node.attributes}
        seconds = times.time(
            model, node, shapes.shape, {n: c for n, c in attributes.items() if c is not None}
        )
        if seconds is not None:
            found[padded_macs(node, shapes, block)] = seconds
    shapes.removed[:] = before
    if not found:
        return None
    works = sorted(found)
    # More work never takes less time; where it was measured so, that was noise.
    seconds_of = np.maximum.accumulate([found[work] for work in works])
    return CostItem(
        values,
        lambda now: float(np.interp(padded_macs(node, now, block), works, seconds_of)),
        (node,),
    )


def _share_item(value: ir.Value, seconds: float) -> CostItem:
    producer = value.producer()
    nodes = () if producer is None else (producer,)
    return CostItem((value,), lambda shapes: _size(shapes, value) * seconds, nodes)


def _size(shapes: PrunedShapes, value: ir.Value) -> int:
    return prod(shapes.shape(value) or (0,))


def _run_seconds(model: ir.Model, feed: Feed, threads: int | None) -> float:
    session = Session(model, threads=threads)
    session.run(feed)
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        session.run(feed)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def latency_ratio(
    reference: ir.Model, candidate: ir.Model, feed: Feed, *, threads: int | None, budget_s: float
) -> float:
    """Median of candidate time over reference time, in interleaved runs."""
    sessions = (Session(reference, threads=threads), Session(candidate, threads=threads))
    (ratio,) = time_ratios(sessions, feed, budget_s=budget_s)
    return ratio
