"""Quantization plan: a float model, its nodes and values on integers, and their types."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.ops import spec_of
from onnxlite.quantize.core.targets import Target
from onnxlite.records import Skipped


@dataclass(frozen=True)
class Placement:
    """Nodes on integers, and the values that therefore have an integer form.

    Attributes:
        nodes: the nodes on integers, in topological order.
        absorbed: Relu and Clip nodes whose work the quantized range of their output does, where
            the target's types can; elsewhere they stay, and nothing is quantized before them.
        values: the values with a scale and zero point, in topological order.
        skipped: layers that stay float, and why.
    """

    nodes: tuple[ir.Node, ...]
    absorbed: tuple[ir.Node, ...]
    values: tuple[ir.Value, ...]
    skipped: tuple[Skipped, ...]

    @property
    def layers(self) -> tuple[ir.Node, ...]:
        """The nodes that multiply by constant weights."""
        return tuple(node for node in self.nodes if weight_port(node) is not None)

    @property
    def value_names(self) -> list[str]:
        """Names of `values`."""
        return [value.name for value in self.values if value.name]

    def on(self, copy: ir.Model) -> Placement:
        """The same placement in a copy of the model, found by names."""
        nodes = {node.name: node for node in copy.graph}
        values = _values_by_name(copy)
        return Placement(
            tuple(nodes[node.name] for node in self.nodes),
            tuple(nodes[node.name] for node in self.absorbed),
            tuple(values[value.name] for value in self.values),
            self.skipped,
        )


NOTHING_PLACED = Placement((), (), (), ())


@dataclass(frozen=True)
class ActivationBits:
    """Nodes that compute on 16-bit activations, and values that have 16 bits; all others have 8."""

    nodes: frozenset[ir.Node] = frozenset()
    values: frozenset[ir.Value] = frozenset()

    def differ(self, value: ir.Value, reader: ir.Node) -> bool:
        """Tell whether `reader` needs `value` in another width than it has."""
        return (value in self.values) != (reader in self.nodes)

    def on(self, copy: ir.Model) -> ActivationBits:
        """The same widths in a copy of the model, found by names."""
        if not self.nodes and not self.values:
            return self
        nodes = {node.name: node for node in copy.graph}
        values = _values_by_name(copy)
        return ActivationBits(
            frozenset(nodes[node.name] for node in self.nodes),
            frozenset(values[value.name] for value in self.values),
        )


@dataclass(frozen=True)
class QuantPlan:
    """A float model and what becomes integers in it.

    Attributes:
        model: float32, prepared (`core/prepare.py`), with shapes.
        placement: its nodes and values on integers.
        target: the integer types.
        activation_bits: which activations have 16 bits.
    """

    model: ir.Model
    placement: Placement
    target: Target
    activation_bits: ActivationBits = ActivationBits()

    @property
    def layers(self) -> tuple[ir.Node, ...]:
        """The nodes on integers that multiply by constant weights."""
        return self.placement.layers

    def on(self, copy: ir.Model) -> QuantPlan:
        """The same plan for a copy of the model, found by names."""
        return QuantPlan(copy, self.placement.on(copy), self.target, self.activation_bits.on(copy))


def weight_port(node: ir.Node) -> int | None:
    """The port of the constant weight that is quantized, None for nodes without one."""
    rule = spec_of(node).quant
    return rule.weight if rule is not None else None


def reads_integers(node: ir.Node, port: int, chosen: Container[ir.Node]) -> bool:
    """Tell whether `node` is among the `chosen` ones and takes an activation at `port`."""
    rule = spec_of(node).quant
    return node in chosen and rule is not None and port in rule.ports(node)


def _values_by_name(model: ir.Model) -> dict[str | None, ir.Value]:
    values = {value.name: value for node in model.graph for value in node.outputs}
    return values | {value.name: value for value in model.graph.inputs}
