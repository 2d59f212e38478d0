"""Fake quantization: integer activations, float weights, and scales that are inputs.

One session then tries any number of ranges: to load a model takes longer than to run it on
the few samples that decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate import Range
from onnxlite.graph import value_names
from onnxlite.inputs import Feed
from onnxlite.model import clone
from onnxlite.quantize.core.emit_qdq import QDQEmitter
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.qtypes import QParams, params_for_range
from onnxlite.quantize.core.scales import activation_params


def fake_quantized(
    plan: QuantPlan, choices: Sequence[Mapping[str, Range]]
) -> tuple[ir.Model, list[Feed]]:
    """Make a copy with Q and DQ nodes whose scales and zero points are inputs.

    Args:
        plan: of the float model, which is not changed.
        choices: a range for every value of the plan, by name; at least one choice.

    Returns:
        The copy, and for each choice what to feed besides samples.
    """
    copied = plan.on(clone(plan.model))
    params = [activation_params(copied, ranges) for ranges in choices]
    inputs = _ParameterInputs(copied.model, [{} for _ in choices])
    emitter = QDQEmitter(copied, inputs.parameters)
    for value in params[0]:
        inputs.choices = [chosen[value] for chosen in params]
        emitter.activation(value, inputs.choices[0])
    return copied.model, inputs.feeds


class _ParameterInputs:
    """Makes scales and zero points inputs of a model, and collects what to feed them.

    Attributes:
        choices: parameters of the value that is quantized now, one for each of `feeds`.
    """

    def __init__(self, model: ir.Model, feeds: list[Feed]) -> None:
        self.feeds = feeds
        self.choices: Sequence[QParams] = ()
        self._graph = model.graph
        self._names = value_names(model)

    def parameters(self, params: QParams) -> tuple[ir.Value, ir.Value]:
        choices = self.choices
        if params is not choices[0]:
            # Integers of another width for some readers, derived from those of the value.
            choices = [params_for_range(params.qtype, one.represented) for one in choices]
        scale, zero = self._input("scale", params.scale), self._input("zero", params.zero_point)
        for feed, one in zip(self.feeds, choices, strict=True):
            feed |= {scale.name or "": one.scale, zero.name or "": one.zero_point}
        return scale, zero

    def _input(self, name: str, like: NDArray[Any]) -> ir.Value:
        kind = ir.TensorType(ir.DataType.from_numpy(like.dtype))
        fresh = self._names.fresh(f"parameter_{name}")
        value = ir.Value(name=fresh, shape=ir.Shape(like.shape), type=kind)
        self._graph.inputs.append(value)
        return value
