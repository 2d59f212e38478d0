"""What a choice of units would save: MACs, parameters or latency, without cutting the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from onnxlite.analysis.branches import Branch
from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.cost import is_parameter
from onnxlite.analysis.kept_shapes import KeptShapes
from onnxlite.ops import Ids, spec_of


@dataclass(frozen=True)
class Item:
    """A part of a model that has a price of its own.

    Attributes:
        values: whose shapes decide the price.
        price: of those shapes, as they are now.
        nodes: that it is the price of; nothing is to be paid once all of them are gone.
    """

    values: tuple[ir.Value, ...]
    price: Callable[[KeptShapes], float]
    nodes: tuple[ir.Node, ...] = ()


def macs_items(model: ir.Model, *, block: int = 1) -> list[Item]:
    """The multiply-accumulates of every node of the main graph.

    Args:
        model: the model.
        block: channels that kernels work on at once: numbers of channels are rounded up.
    """
    return [_node_item(node, block) for node in model.graph if spec_of(node).macs is not None]


def _node_item(node: ir.Node, block: int) -> Item:
    values = tuple(value for value in (*node.inputs, *node.outputs) if value is not None)
    return Item(values, lambda shapes: padded_macs(node, shapes, block), (node,))


def padded_macs(node: ir.Node, shapes: KeptShapes, block: int) -> int:
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


def parameter_items(model: ir.Model) -> list[Item]:
    """The elements of every initializer that counts as parameters."""
    return [
        _size_item(value)
        for value in model.graph.initializers.values()
        if value.const_value is not None and is_parameter(value.const_value)
    ]


def _size_item(value: ir.Value) -> Item:
    users = tuple(use.node for use in value.uses())
    return Item((value,), lambda shapes: prod(shapes.shape(value) or ()), users)


class Ledger:
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
        items: Iterable[Item],
        branches: Iterable[Branch] = (),
    ) -> None:
        self._shapes = KeptShapes(channels, orders)
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
