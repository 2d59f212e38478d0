"""What a choice of units would save: MACs, parameters or latency, without cutting the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

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
    """

    values: tuple[ir.Value, ...]
    price: Callable[[KeptShapes], float]


def macs_items(model: ir.Model, *, block: int = 1) -> list[Item]:
    """The multiply-accumulates of every node of the main graph.

    Args:
        model: the model.
        block: channels that kernels work on at once: numbers of channels are rounded up.
    """
    return [_node_item(node, block) for node in model.graph if spec_of(node).macs is not None]


def _node_item(node: ir.Node, block: int) -> Item:
    values = tuple(value for value in (*node.inputs, *node.outputs) if value is not None)
    return Item(values, lambda shapes: padded_macs(node, shapes, block))


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
    return Item((value,), lambda shapes: prod(shapes.shape(value) or ()))


class Ledger:
    """The price of a model while units go, group by group, in a fixed order.

    Args:
        channels: the units.
        orders: of every group the units in the order in which they go.
        items: what has a price.

    Attributes:
        total: the present price of all items.
    """

    def __init__(self, channels: ChannelMap, orders: Sequence[Ids], items: Iterable[Item]) -> None:
        self._shapes = KeptShapes(channels, orders)
        self._touched: list[list[int]] = [[] for _ in orders]
        self._items = list(items)
        for index, item in enumerate(self._items):
            for group in set().union(*map(self._shapes.groups_of, item.values)):
                self._touched[group].append(index)
        self._prices = [item.price(self._shapes) for item in self._items]
        self._kept_savings: dict[tuple[int, int], float] = {}
        self.total = sum(self._prices)

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
                self._prices[i] - self._items[i].price(self._shapes) for i in self._touched[group]
            )
            self._shapes.removed[group] = old
        return self._kept_savings[key]

    def remove(self, group: int, removed: int) -> None:
        """Set how many units of a group are gone."""
        self._shapes.removed[group] = removed
        changed = self._touched[group]
        for index in changed:
            self._prices[index] = self._items[index].price(self._shapes)
        self.total = sum(self._prices)
        # A layer's price depends on both of its sides: what neighbours save has changed, too.
        near = set().union(
            *(self._shapes.groups_of(v) for i in changed for v in self._items[i].values)
        )
        for key in [key for key in self._kept_savings if key[0] in near]:
            del self._kept_savings[key]
