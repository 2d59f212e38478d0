"""Effective range: the part of a value that its one reader lets through.

    x --+
        +-- Add -- Relu -- y            y - s  =  max(x, -s)
    s --+

However far x lies below -s, y is 0. So the range of y - s is enough for x: clipped to it, x
leads to the same y. In residual networks, whose branches end in such sums, it is up to a third
narrower than that of x. Both sides may be clipped at once: their lower limits are not positive,
and so is the sum where both are reached. For upper bounds of an activation that does not hold,
and so they are not used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.builder import Place
from onnxlite.graph import const_tensor, sole_consumer
from onnxlite.ops import output_bounds, spec_of

_TERMS = 2


@dataclass(frozen=True, eq=False)
class EffectiveRange:
    """A value of which an activation behind a sum lets a part through.

    Attributes:
        value: its only reader is a sum, whose only reader is an activation from 0 on.
        other: the sum's other side.
        output: of the activation; None where that has an upper bound.
        one_sided: `other` is never negative, and so `-other` never positive.
    """

    value: ir.Value
    other: ir.Value
    output: ir.Value | None
    one_sided: bool

    def write(self, place: Place) -> ir.Value:
        """Insert a value of the same shape; `value` may be clipped to its range and 0."""
        if self.output is None:
            below = self._op(place, "Neg", [self.other])
            through = self._op(place, "Max", [self.value, below])
        else:
            # ONNX Runtime can then go on to compute convolution, sum and activation as one.
            through = self._op(place, "Sub", [self.output, self.other])
        if self.one_sided:
            return through
        # Where the other side is far below zero nothing of `value` arrives, whatever it is.
        positive = self._op(place, "Relu", [self.value])
        return self._op(place, "Min", [through, positive])

    def _op(self, place: Place, op_type: str, inputs: Sequence[ir.Value]) -> ir.Value:
        output = place.op(op_type, inputs, name=f"{self.value.name}_effective")
        output.type, output.shape = self.value.type, self.value.shape
        return output


def effective_range(value: ir.Value) -> EffectiveRange | None:
    """Find the part of `value` that its reader lets through, None where that is all of it.

    To be asked before anything is appended to the graph: a new reader needs all of it.
    """
    add = sole_consumer(value)
    two = add is not None and spec_of(add).sums and len(add.inputs) == _TERMS
    if add is None or not two or lower_bound(value) is not None:
        return None
    activation = sole_consumer(add.outputs[0])
    low, high = (None if activation is None else output_bounds(activation)) or (-math.inf, math.inf)
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
    """Return the finite lower bound that the producing activation guarantees, if any."""
    producer = value.producer()
    bounds = None if producer is None else output_bounds(producer)
    return bounds[0] if bounds is not None and math.isfinite(bounds[0]) else None
