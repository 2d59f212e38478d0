"""A model with integer activations and float weights whose scales are inputs.

One session then tries any number of ranges: to load a model takes longer than to run it on
the few samples that decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate import Range
from onnxlite.model import clone
from onnxlite.quantize.core.emit_qdq import QDQEmitter
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.qtypes import QParams, params_for_range
from onnxlite.quantize.core.scales import activation_params
from onnxlite.samples import Feed


def fake_quantized(
    plan: QuantPlan, choices: Sequence[Mapping[str, Range]]
) -> tuple[ir.Model, list[Feed]]:
    """A copy with Q and DQ nodes, and for each choice of ranges what to feed besides samples.

    Args:
        plan: of the float model, which is not changed.
        choices: a range for every value of the plan, by name; at least one choice.
    """
    copied = plan.on(clone(plan.model))
    params = [activation_params(copied, ranges) for ranges in choices]
    emitter = _ParametricEmitter(copied)
    feeds: list[Feed] = [{} for _ in choices]
    for value in params[0]:
        emitter.alternatives(value, [chosen[value] for chosen in params], feeds)
    return copied.model, feeds


class _ParametricEmitter(QDQEmitter):
    """Writes scales and zero points as inputs of the graph."""

    def __init__(self, plan: QuantPlan) -> None:
        super().__init__(plan)
        self._choices: Sequence[QParams] = ()
        self._feeds: Sequence[Feed] = ()

    def alternatives(
        self, value: ir.Value, choices: Sequence[QParams], feeds: Sequence[Feed]
    ) -> None:
        """Give `value` its integer form, and each of `feeds` the parameters of its choice."""
        self._choices, self._feeds = choices, feeds
        self.activation(value, choices[0])

    def _scale_and_zero(self, params: QParams) -> tuple[ir.Value, ir.Value]:
        choices = self._choices
        if params is not choices[0]:
            # Integers of another width for some readers, derived from those of the value.
            choices = [params_for_range(params.qtype, one.represented) for one in choices]
        scale, zero = self._input("scale", params.scale), self._input("zero", params.zero_point)
        for feed, one in zip(self._feeds, choices, strict=True):
            feed |= {scale.name or "": one.scale, zero.name or "": one.zero_point}
        return scale, zero

    def _input(self, name: str, like: NDArray[Any]) -> ir.Value:
        kind = ir.TensorType(ir.DataType.from_numpy(like.dtype))
        fresh = self._names.fresh(name)
        value = ir.Value(name=fresh, shape=ir.Shape(like.shape), type=kind)
        self._graph.inputs.append(value)
        return value
