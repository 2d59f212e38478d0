"""Storage of the weights that layers read as float, in 8 bits that are decoded at load."""

from __future__ import annotations

from collections.abc import Callable
from glob import escape

import onnx_ir as ir

from onnxlite.quantize.weight_only.options import PackedWeight, QuantizeWeights
from onnxlite.quantize.weight_only.selection import select
from onnxlite.quantize.weight_only.step import quantize_weights_ir
from onnxlite.step import StepContext


def store_in_8_bits(
    model: ir.Model, kept: Callable[[ir.Node], bool], context: StepContext
) -> tuple[ir.Model, tuple[PackedWeight, ...]]:
    """Store the float weights of a model in 8 bits with a scale per output channel.

    Args:
        model: may have integer operators; it is not changed.
        kept: returns whether the weights that a node reads stay as they are.
        context: threads and progress.

    Returns:
        The new model, or `model` if no weight becomes smaller, and a row per stored weight.
    """
    weights, _ = select(model, QuantizeWeights(bits=8))
    names = [w.value.name or "" for w in weights if any(kept(node) for node, _ in w.uses)]
    if len(names) == len(weights):
        return model, ()
    packing = QuantizeWeights(bits=8, method="rtn", exclude=tuple(map(escape, names)))
    stored, report = quantize_weights_ir(model, None, packing, context)
    return (stored, report.layers) if report.changed else (model, ())
