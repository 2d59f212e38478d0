"""What the one reader of a value can tell of it: before an activation behind a sum, not all.

    x --+
        +-- Add -- Relu -- y            y - s  =  max(x, -s)
    s --+

However far x lies below -s, y is 0. So the range of y - s is enough for x: clipped to it, x
leads to the same y. In residual networks, whose branches end in such sums, it is up to a third
narrower than that of x. Both sides may be clipped at once: their lower limits are not positive,
and so is the sum where both are reached. For upper bounds of an activation that does not hold,
and so they count for nothing here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.graph import Names, const_tensor, sole_consumer
from onnxlite.ops import spec_of

_SIDES = 2


@dataclass(frozen=True, eq=False)
class EffectiveRange:
    """What gets through of a value.

    Attributes:
        value: whose only reader is a sum, whose only reader is an activation from 0 on.
        other: the sum's other side.
        output: of the activation; None where that has an upper bound.
        one_sided: `other` is never negative, and so `-other` never positive.
    """

    value: ir.Value
    other: ir.Value
    output: ir.Value | None
    one_sided: bool

    def write(self, graph: ir.Graph, taken: Names) -> ir.Value:
        """Append a value of the same shape; `value` may be clipped to its range and 0.

        Args:
            graph: of `value`.
            taken: names that new ones must differ from; new ones are added.
        """
        if self.output is None:
            below = self._append(graph, taken, "Neg", [self.other])
            through = self._append(graph, taken, "Max", [self.value, below])
        else:
            # ONNX Runtime can then go on to compute convolution, sum and activation as one.
            through = self._append(graph, taken, "Sub", [self.output, self.other])
        if self.one_sided:
            return through
        # Where the other side is far below zero nothing of `value` arrives, whatever it is.
        positive = self._append(graph, taken, "Relu", [self.value])
        return self._append(graph, taken, "Min", [through, positive])

    def _append(
        self, graph: ir.Graph, taken: Names, op_type: str, inputs: list[ir.Value]
    ) -> ir.Value:
        name = taken.fresh(f"{self.value.name}_effective")
        node = ir.node(op_type, inputs, name=name)
        output = node.outputs[0]
        output.name, output.type, output.shape = name, self.value.type, self.value.shape
        graph.append(node)
        return output


def effective_range(value: ir.Value) -> EffectiveRange | None:
    """What gets through of `value`, or None where that is all of it.

    To be asked before anything is appended to the graph: a new reader hears everything.
    """
    add = sole_consumer(value)
    two = add is not None and spec_of(add).sums and len(add.inputs) == _SIDES
    if add is None or not two or lower_bound(value) is not None:
        return None
    activation = sole_consumer(add.outputs[0])
    low, high = (None if activation is None else _bounds(activation)) or (-math.inf, math.inf)
    other = add.inputs[1] if add.inputs[0] is value else add.inputs[0]
    if activation is None or low != 0 or other is None or const_tensor(other) is not None:
        return None
    shapes = [None if v.shape is None else list(v.shape) for v in (value, other)]
    if shapes[0] is None or shapes[0] != shapes[1]:
        return None
    floor = lower_bound(other)
    output = None if math.isfinite(high) else activation.outputs[0]
    return EffectiveRange(value, other, output, one_sided=floor is not None and floor >= 0)


def lower_bound(value: ir.Value) -> float | None:
    """The finite lower bound that the producing activation guarantees, if any."""
    producer = value.producer()
    bounds = None if producer is None else _bounds(producer)
    return bounds[0] if bounds is not None and math.isfinite(bounds[0]) else None


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    output_range = spec_of(node).output_range
    return None if output_range is None else output_range(node)
