"""Bias correction for rounded weights: restore each layer's mean output.

Rounding a weight to 11 bits is noise of -70 dB of it, but where a layer adds up values of one
sign, most of that is the same at every position. On samples the layers get, one after the other,
the biases with which their means are the float32 model's (Nagel et al. 2019, sec. 4.2); they stay
float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.errors import VerificationError
from onnxlite.graph import add_initializer, const_array, value_names
from onnxlite.model import clone
from onnxlite.quantize.float16.convert import Prepared, convert
from onnxlite.quantize.float16.fallback import TARGET_DB
from onnxlite.quantize.float16.plan import HalfPlan
from onnxlite.quantize.float16.verify import Float16Reference
from onnxlite.repair.engine import FitOptions
from onnxlite.repair.step import repair_ir
from onnxlite.samples import Samples
from onnxlite.step import StepContext

#: Samples beyond so many tell no more about means.
_SAMPLES = 64


def correct_biases(
    prepared: Prepared,
    plan: HalfPlan,
    samples: Samples,
    check: Float16Reference,
    context: StepContext,
) -> bool:
    """Give a model new biases where its outputs are too far from float32 and that helps.

    Args:
        prepared: biases of its model are changed in place, and are then no constants that are
            stored in 16 bits.
        plan: what is stored and computed in 16 bits.
        samples: real inputs.
        check: tells how far the outputs are.
        context: threads and progress.

    Returns:
        Whether any bias is new.
    """
    before = _sqnr_db(prepared, plan, check, context.threads)
    if before >= TARGET_DB:
        return False
    rounded = _rounded(prepared, plan)
    repaired, report = repair_ir(
        prepared.model,
        clone(rounded),
        samples,
        FitOptions(method="bias", limit=_SAMPLES, threads=context.threads),
        progress=context.progress,
    )
    if not report.changed:
        return False
    taken = _take_biases(prepared.model, rounded, repaired)
    if _sqnr_db(prepared, plan, check, context.threads) > before:
        return True
    for node, port, old in taken:
        new = node.inputs[port]
        node.replace_input_with(port, old)
        if new is not None and new.is_initializer():
            del prepared.model.graph.initializers[new.name or ""]
    return False


def _sqnr_db(
    prepared: Prepared, plan: HalfPlan, check: Float16Reference, threads: int | None
) -> float:
    try:
        return check.sqnr_db(convert(prepared, plan).model, threads=threads)
    except VerificationError:
        return -np.inf


def _rounded(prepared: Prepared, plan: HalfPlan) -> ir.Model:
    """The float32 model with the constants that the plan stores in 16 bits rounded to them."""
    model, stored = clone(prepared.model), convert(prepared, plan).model.graph.initializers
    for name, value in model.graph.initializers.items():
        found = stored.get(name)
        if found is not None and found.dtype == prepared.dtype and found.const_value is not None:
            array = found.const_value.numpy().astype(np.float32)
            value.const_value = ir.Tensor(array, name=name)
    return model


def _take_biases(
    model: ir.Model, rounded: ir.Model, repaired: ir.Model
) -> list[tuple[ir.Node, int, ir.Value | None]]:
    """Give the layers of `model` the repaired biases; returns what their nodes read before."""
    names = value_names(model)
    taken: list[tuple[ir.Node, int, ir.Value | None]] = []
    for node, before, after in zip(model.graph, rounded.graph, repaired.graph, strict=True):
        for port, value in enumerate(after.inputs):
            array = const_array(value)
            old = node.inputs[port] if port < len(node.inputs) else None
            was = const_array(before.inputs[port]) if port < len(before.inputs) else None
            if array is None or (was is not None and np.array_equal(array, was)):
                continue
            base = f"{node.name}_bias" if old is None or not old.name else old.name
            bias = array.astype(np.float32)
            new = add_initializer(model.graph, names.fresh(base), bias)
            if port >= len(node.inputs):
                node.resize_inputs(port + 1)
            node.replace_input_with(port, new)
            taken.append((node, port, old))
    return taken
