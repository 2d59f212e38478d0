"""Scales of activations from their ranges, chosen so that kernels fuse and moves are copies.

- Operators that only move values share the scale of what they move.
- The inputs of a Concat take its output's scale where nobody else reads them: they are
  rounded once instead of twice, and concatenation is a copy.
- A Relu or Clip is absorbed by giving its output exactly its range: the integer type then
  saturates where the activation would clip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import onnx_ir as ir

from onnxlite.calibrate import Levels, Range
from onnxlite.graph import sole_consumer
from onnxlite.ops import output_bounds, spec_of
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.qtypes import QParams, QType, params_for_range
from onnxlite.quantize.core.targets import Target

_ANY = Range(-math.inf, math.inf)


def activation_params(plan: QuantPlan, ranges: Mapping[str, Range]) -> dict[ir.Value, QParams]:
    """Scale and zero point of every value of the plan, from the calibrated ranges by name."""
    placement, target, wide_values = plan.placement, plan.target, plan.activation_bits.values
    seen = {value: _own_range(value, ranges) for value in placement.values}
    absorbed = placement.absorbed if target.absorbs else ()
    bounds = {node.outputs[0]: _clip_bounds(node) for node in absorbed}
    groups = _Groups(seen, {value: bounds.get(value, _ANY) for value in seen})
    for node in placement.nodes:
        rule = spec_of(node).quant
        if rule is None or not rule.shared_scale:
            continue
        for output in node.outputs:
            for port in rule.ports(node):
                value = node.inputs[port]
                wide = output in wide_values, value in wide_values
                if value in seen and output in seen and wide[0] == wide[1]:
                    moved = rule.kind == "layout"
                    groups.tie(value, output, required=moved or sole_consumer(value) is node)
    return {
        value: _wide_params(value, groups.range_of(value), target.wide)
        if target.wide is not None and value in wide_values
        else params_for_activation(groups.range_of(value), target)
        for value in seen
    }


def _wide_params(value: ir.Value, seen: Range, qtype: QType) -> QParams:
    """A range known without data gets steps that are a power of two, as QNN wants them."""
    producer = value.producer()
    rule = None if producer is None else spec_of(producer).quant
    if rule is not None and rule.fixed_range is not None:
        seen = Range(seen.low, seen.high * qtype.qmax / (qtype.qmax + 1))
    return params_for_range(qtype, seen)


def params_for_activation(seen: Range, target: Target) -> QParams:
    """Scale and zero point in the target's type; see `Target.one_sided`."""
    qtype = _type_for(seen, target)
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    return params_for_range(qtype, Range(low, max(high, low + target.smallest_range)))


def integer_levels(target: Target, seen: Range) -> Levels:
    """Levels of the target's integers for a value of this range."""
    qtype = _type_for(seen, target)
    return Levels(qtype.qmin, qtype.qmax, qtype.symmetric)


def _type_for(seen: Range, target: Target) -> QType:
    if target.one_sided and (seen.low >= 0 or seen.high <= 0):
        return dataclasses.replace(target.activation, symmetric=False)
    return target.activation


def _own_range(value: ir.Value, ranges: Mapping[str, Range]) -> Range:
    producer = value.producer()
    rule = None if producer is None else spec_of(producer).quant
    if rule is not None and rule.fixed_range is not None:
        return Range(*rule.fixed_range)
    assert value.name is not None
    seen = ranges[value.name]
    if producer is None or spec_of(producer).output_range is None:
        return seen
    bounds = _clip_bounds(producer)
    return Range(max(seen.low, bounds.low), min(seen.high, bounds.high))


def _clip_bounds(node: ir.Node) -> Range:
    bounds = output_bounds(node)
    return Range(*bounds) if bounds is not None else _ANY


class _Groups:
    """Groups of values that share one scale (union-find), each with the range of all."""

    def __init__(self, seen: Mapping[ir.Value, Range], bounds: Mapping[ir.Value, Range]) -> None:
        self._parent = {value: value for value in seen}
        self._seen = dict(seen)
        self._bounds = dict(bounds)

    def find(self, value: ir.Value) -> ir.Value:
        while self._parent[value] is not value:
            self._parent[value] = self._parent[self._parent[value]]
            value = self._parent[value]
        return value

    def range_of(self, value: ir.Value) -> Range:
        return self._seen[self.find(value)]

    def tie(self, a: ir.Value, b: ir.Value, *, required: bool) -> None:
        """Join two groups, unless the common range would undo an absorbed clip."""
        a, b = self.find(a), self.find(b)
        if a is b or not required:
            return
        both = self._seen[a].merge(self._seen[b])
        clip = Range(
            max(self._bounds[a].low, self._bounds[b].low),
            min(self._bounds[a].high, self._bounds[b].high),
        )
        if min(both.low, 0.0) < clip.low or both.high > clip.high:
            return
        self._parent[b] = a
        self._seen[a], self._bounds[a] = both, clip
