"""Quick quantizer: a QDQ model with weights rounded to the nearest integers.

For timing and for comparing placements or ranges. The values of the weights do not change how
long a kernel takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from onnxlite.model import clone
from onnxlite.quantize.core.emit_qdq import QDQEmitter
from onnxlite.quantize.core.ort_workarounds import guard_float_layers
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.qtypes import QParams


def quick_qdq(
    plan: QuantPlan, params: Mapping[ir.Value, QParams], *, bound_pairs: bool = False
) -> ir.Model:
    """Quantize a copy of the plan's model.

    Args:
        plan: what is quantized; its model is not changed.
        params: of at least the plan's values.
        bound_pairs: bound pairs of weights for kernels that saturate, where the target has
            such; it takes long, and saves no time at run time.
    """
    copied = plan.on(clone(plan.model))
    if not bound_pairs:
        target = dataclasses.replace(plan.target, avoid_saturation=False)
        copied = dataclasses.replace(copied, target=target)
    by_name = {value.name: params[value] for value in plan.placement.values}
    emitter = QDQEmitter(copied)
    emitter.activations({value: by_name[value.name] for value in copied.placement.values})
    for node in copied.placement.layers:
        emitter.layer(node)
    guard_float_layers(copied.model)
    return copied.model
