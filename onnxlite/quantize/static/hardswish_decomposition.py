"""HardSwish decomposition into operators with integer kernels, if the model gets faster.

    x8 -> DQ(s, z) -> HardSwish -> Q      becomes

    x8 -> DQ(s, z) -----------------------------> Mul -> Q
    x8 -> DQ(s/6, z) -> Add(1/2) -> Q(1/255, 0) -> DQ -^

A sixth of x are the same integers with another scale, and the clip to 0..1 is what the integer
type does: HardSwish(x) = x * clip(x/6 + 1/2, 0, 1), of which only the gate's rounding to 1/255
is lost. SiLU needs no rewrite (Sigmoid and Mul have integer kernels), and GELU has no such form.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.builder import GraphBuilder, replace_node
from onnxlite.graph import is_op, sole_consumer
from onnxlite.model import clone
from onnxlite.quantize.core.qtypes import UINT8
from onnxlite.quantize.core.targets import Target
from onnxlite.records import Progress, Skipped
from onnxlite.runtime import Session
from onnxlite.samples import Feed
from onnxlite.timing import current_timer, time_ratios

_WHAT = "hardswish-in-pieces"
#: Largest time over that of the model as it is: smaller gains may be chance.
_MAX_TIME_RATIO = 0.98
_BUDGET_S = 1.5


def decompose_hardswish(
    model: ir.Model, feed: Feed, target: Target, *, progress: Progress
) -> tuple[ir.Model, int, list[Skipped]]:
    """Rewrite every HardSwish between integers, if the model then runs faster here.

    Args:
        model: in QDQ form; it is not changed.
        feed: of the size to time.
        target: what the model is made for; one that this machine is not cannot be timed.
        progress: called while both are timed.

    Returns:
        The model or its rewritten copy, how many were rewritten, and why none was.

    Raises:
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    found = sum(_is_between_integers(node) for node in model.graph)
    if not found or target.activation != UINT8:
        return model, 0, []
    if current_timer() is None or not target.runs_here:
        return model, 0, []
    rewritten = clone(model)
    for node in [node for node in rewritten.graph if _is_between_integers(node)]:
        _rewrite(GraphBuilder(rewritten), node)
    sessions = [Session(model, threads=1), Session(rewritten, threads=1)]
    (ratio,) = time_ratios(sessions, feed, budget_s=_BUDGET_S, progress=progress)
    if ratio > _MAX_TIME_RATIO:
        reason = (
            f"with {found} HardSwish nodes decomposed, the model takes {ratio:.2f} of the "
            "time: no gain"
        )
        return model, 0, [Skipped(_WHAT, "", "no-gain", reason)]
    return rewritten, found, []


def _is_between_integers(node: ir.Node) -> bool:
    """Tell whether a HardSwish reads a DequantizeLinear of one scale and only a Q reads it."""
    if not is_op(node, "HardSwish") or node.inputs[0] is None:
        return False
    before, after = node.inputs[0].producer(), sole_consumer(node.outputs[0])
    if (
        before is None
        or not is_op(before, "DequantizeLinear")
        or not is_op(after, "QuantizeLinear")
    ):
        return False
    scale = before.inputs[1]
    return scale is not None and scale.const_value is not None and scale.const_value.size == 1


def _rewrite(builder: GraphBuilder, node: ir.Node) -> None:
    data = node.inputs[0]
    assert data is not None
    dequantize = data.producer()
    assert dequantize is not None
    integers, scale, *zero = dequantize.inputs
    assert scale is not None
    assert scale.const_value is not None
    at, name = builder.before(node), node.name or node.op_type
    sixth = (scale.const_value.numpy() / 6).astype(np.float32)
    step = at.constant(f"{name}_gate_scale", np.array(1 / 255, np.float32))
    least = at.constant(f"{name}_gate_zero", np.array(0, np.uint8))
    # ONNX Runtime's kernels add integers, so the half is one as well: 255 steps of 1/510.
    half = [
        at.constant(f"{name}_half", np.array(255, np.uint8)),
        at.constant(f"{name}_half_scale", np.array(0.5 / 255, np.float32)),
        least,
    ]
    parts = [integers, at.constant(f"{name}_sixth_scale", sixth), *zero]
    x = at.op("DequantizeLinear", parts, name=f"{name}_sixth")
    y = at.op("DequantizeLinear", half, name=f"{name}_half_real")
    sum_ = at.op("Add", [x, y], name=f"{name}_sum")
    gate = at.op("QuantizeLinear", [sum_, step, least], name=f"{name}_gate")
    real = at.op("DequantizeLinear", [gate, step, least], name=f"{name}_gate_real")
    product = at.op("Mul", [data, real], name=f"{name}_product")
    replace_node(node, [product])
