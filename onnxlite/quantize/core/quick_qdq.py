"""Quantized models made only to be timed: any placement, with the scales of the final one.

Weights are rounded to the nearest integers, whatever the final ones will be: their values do
not change how long a kernel takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from onnxlite.model import clone
from onnxlite.ops import spec_of
from onnxlite.quantize.core.activation_bits import ActivationBits
from onnxlite.quantize.core.emit_qdq import QDQEmitter
from onnxlite.quantize.core.ort_workarounds import guard_float_layers
from onnxlite.quantize.core.qtypes import QParams
from onnxlite.quantize.core.selection import Placement
from onnxlite.quantize.core.targets import Target


def quick_qdq(
    model: ir.Model, placement: Placement, params: Mapping[ir.Value, QParams], target: Target
) -> ir.Model:
    """A quantized copy of `model`.

    Args:
        model: the prepared float model; it is not changed.
        placement: of its nodes.
        params: of at least the placement's values.
        target: decides the weights' type.
    """
    copy = clone(model)
    twin = placement.on(copy)
    by_name = {value.name: params[value] for value in placement.values}
    # Bounding pairs of weights takes long and saves no time at run time.
    simple = dataclasses.replace(target, avoid_saturation=False)
    emitter = QDQEmitter(copy, twin, simple, ActivationBits())
    for value in twin.values:
        emitter.activation(value, by_name[value.name])
    for node in twin.nodes:
        rule = spec_of(node).quant
        if rule is not None and rule.weight is not None:
            emitter.layer(node, simple)
    guard_float_layers(copy)
    return copy
