"""Write a plan into the graph as QuantizeLinear and DequantizeLinear nodes (QDQ form).

    x -> Conv(w, b) -> Relu -> y     becomes

    x -> Q -> DQ -> Conv(DQ(w8), DQ(b32)) -> Q -> DQ -> y

The Relu is gone because the scale of y implements it. Every weight keeps one integer
copy; the float one disappears with its last use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder, Place, drop_unused
from onnxlite.graph import const_array
from onnxlite.ops import spec_of
from onnxlite.quantize.core.integer_copies import IntegerCopies, IntegerCopy
from onnxlite.quantize.core.plan import QuantPlan, reads_integers, weight_port
from onnxlite.quantize.core.qtypes import QParams, QType, params_for_range, positive_scale, quantize
from onnxlite.quantize.core.weights import layer_weight

#: Gives the values that hold the scale and zero point of an activation.
Parameters: TypeAlias = Callable[[QParams], tuple[ir.Value, ir.Value]]

#: A weight, its channel axis and the axes over which products are added.
_WeightForm: TypeAlias = tuple[ir.Value, int | None, tuple[int, ...]]

_INT32 = QType(32, signed=True, symmetric=True)
#: Steps of a bias without weights: as exact as float32.
_BIAS_STEPS = 1 << 23


class QDQEmitter:
    """Inserts Q and DQ nodes into a plan's model; constants of equal value are shared.

    For a target whose ranges cannot do the work of a Relu or Clip none is removed: Q and DQ
    follow it.

    Args:
        plan: its model is changed.
        parameters: makes scales and zero points of activations; None makes constants.
    """

    def __init__(self, plan: QuantPlan, parameters: Parameters | None = None) -> None:
        self._graph = plan.model.graph
        self._target = plan.target
        self._activation_bits = plan.activation_bits
        self._fused = set(plan.placement.absorbed)
        self._absorbed = self._fused if plan.target.absorbs else set()
        self._chosen = set(plan.placement.nodes)
        self._builder = GraphBuilder(plan.model)
        self._weights: dict[_WeightForm, tuple[NDArray[Any], QParams]] = {}
        #: The integers of weights, for what still reads them as float.
        self.copies = IntegerCopies()
        self._parameters = self._constants if parameters is None else parameters

    def activations(self, params: Mapping[ir.Value, QParams]) -> None:
        """Give values of the plan their integer form."""
        for value, value_params in params.items():
            self.activation(value, value_params)

    def activation(self, value: ir.Value, params: QParams) -> None:
        """Give `value` its integer form and send its readers there."""
        producer = value.producer()
        made = producer in self._chosen or producer in self._fused
        readers = [
            use for use in value.uses() if made or reads_integers(use.node, use.idx, self._chosen)
        ]
        absorbed = producer if producer in self._absorbed else None
        source = value if absorbed is None else absorbed.inputs[0]
        assert source is not None
        base = value.name or "value"
        real = self._pair(self._builder.behind(source), source, base, params)
        for node, port in readers:
            node.replace_input_with(port, real)
        if made and value.is_graph_output():
            self._become_output(value, real)
        self._convert(value, params, real, made=made)
        if absorbed is not None:
            self._graph.remove(absorbed, safe=True)

    def _become_output(self, value: ir.Value, real: ir.Value) -> None:
        """Let `real` be the graph output that `value` was, under its name."""
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[index] = real
        name = value.name
        value.name, real.name = self._builder.names.fresh(f"{name}_float"), name
        real.type, real.shape = value.type, value.shape

    def _convert(self, value: ir.Value, params: QParams, real: ir.Value, *, made: bool) -> None:
        """Give the readers that compute in another width integers of that width."""
        readers = [
            use
            for use in real.uses()
            if reads_integers(use.node, use.idx, self._chosen)
            and self._activation_bits.differ(value, use.node)
        ]
        if not readers or self._target.wide is None:
            return
        wide = value in self._activation_bits.values
        qtype = self._target.activation if wide else self._target.wide
        other = params_for_range(qtype, params.represented)
        source, base = real if made else value, f"{value.name or 'value'}_{qtype.bits}bit"
        converted = self._pair(self._builder.behind(real), source, base, other)
        for node, port in readers:
            node.replace_input_with(port, converted)

    def layer(
        self, node: ir.Node, scale: NDArray[Any] | None = None
    ) -> tuple[NDArray[Any], QParams]:
        """Quantize the weight and bias of a layer.

        Args:
            node: the layer; its activations may have their integer form already.
            scale: of a weight that lies on its grid already; None to choose one.

        Returns:
            The weight's integers and their parameters.
        """
        rule = spec_of(node).quant
        assert rule is not None
        assert rule.weight is not None
        form = self._form(node)
        if form not in self._weights:
            self._weights[form] = self._weight(node, form, scale)
        integers, params = self._weights[form]
        bias = self._bias(node)
        if rule.bias is not None and bias is not None:
            self._dequantized(node, rule.bias, *_quantized_bias(bias, params, _input_scale(node)))
        stored = self._dequantized(node, rule.weight, integers, params)
        shape = [-1 if axis == params.axis else 1 for axis in range(integers.ndim)]
        scale = params.scale if params.axis is None else params.scale.reshape(shape)
        self.copies.add(form[0], IntegerCopy(stored, scale))
        return integers, params

    def _form(self, node: ir.Node) -> _WeightForm:
        """How a layer reads its weight; layers that read it alike share its integers."""
        rule = spec_of(node).quant
        assert rule is not None
        assert rule.weight is not None
        assert rule.reduction_axes is not None
        weight = node.inputs[rule.weight]
        assert weight is not None
        return weight, self._target.channel_axis(node), rule.reduction_axes(node)

    def _weight(
        self, node: ir.Node, form: _WeightForm, scale: NDArray[Any] | None
    ) -> tuple[NDArray[Any], QParams]:
        """Quantize a weight with room for the biases of all layers that share its integers."""
        weight = const_array(form[0])
        assert weight is not None
        if scale is None:
            integers, params = layer_weight(node, weight, self._target)
        else:
            params = self._grid(node, scale)
            integers = quantize(weight, params)
        needed: NDArray[np.float64] | None = None
        for reader, port in form[0].uses():
            if reader not in self._chosen or weight_port(reader) != port:
                continue
            bias = self._bias(reader) if self._form(reader) == form else None
            if bias is not None and bias.size:
                steps = np.abs(bias.astype(np.float64)) / _input_scale(reader)
                needed = steps if needed is None else np.maximum(needed, steps)
        if needed is None:
            return integers, params
        wider = _room_for_bias(params, needed, _without_weights(integers, params))
        if not np.array_equal(wider.scale, params.scale):
            params, integers = wider, quantize(weight, wider)
        return integers, params

    def _bias(self, node: ir.Node) -> NDArray[Any] | None:
        """The bias that becomes integers, flat; None without one."""
        rule = spec_of(node).quant
        if rule is None or not self._target.quantize_bias:
            return None
        bias = _constant_input(node, rule.bias)
        return None if bias is None else bias.reshape(-1)

    def _grid(self, node: ir.Node, scale: NDArray[Any]) -> QParams:
        """Parameters of a layer's weight with scales that are known."""
        axis, qtype = self._target.channel_axis(node), self._target.weight_type(node)
        flat = scale.reshape(-1) if axis is not None else scale.reshape(-1)[0]
        positive = positive_scale(np.asarray(flat))
        return QParams(qtype, positive, np.zeros(positive.shape, qtype.dtype), axis)

    def _dequantized(
        self, node: ir.Node, port: int, integers: NDArray[Any], params: QParams
    ) -> ir.Value:
        """Replace a constant input of `node` by a DQ node; return the integers before it."""
        old = node.inputs[port]
        assert old is not None
        place, name = self._builder.before(node), old.name or "constant"
        stored = place.constant(f"{name}_q", integers)
        attributes = {} if params.axis is None else {"axis": params.axis}
        inputs = [stored, *self._constants(params)]
        real = place.op("DequantizeLinear", inputs, attributes, name=f"{name}_dq")
        node.replace_input_with(port, real)
        drop_unused([old])
        return stored

    def _pair(self, place: Place, source: ir.Value, base: str, params: QParams) -> ir.Value:
        """Insert Q and DQ nodes for `source`; returns the output of DQ.

        Types and shapes of the new values follow from the nodes: written out, they would be a
        tenth of a small model's file.
        """
        parameters = self._parameters(params)
        integers = place.op("QuantizeLinear", [source, *parameters], name=f"{base}_q")
        return place.op("DequantizeLinear", [integers, *parameters], name=f"{base}_dq")

    def _constants(self, params: QParams) -> tuple[ir.Value, ir.Value]:
        # Short names: they are read three times each, and a small model has many.
        constant = self._builder.constant
        scale = constant(self._graph, "scale", params.scale)
        return scale, constant(self._graph, "zero", params.zero_point)


def _constant_input(node: ir.Node, port: int | None) -> NDArray[Any] | None:
    """The constant that a node reads at a port, None without one."""
    if port is None or port >= len(node.inputs):
        return None
    return const_array(node.inputs[port])


def _input_scale(node: ir.Node) -> float:
    """The scale of the integers that `node` reads."""
    dequantize = None if node.inputs[0] is None else node.inputs[0].producer()
    assert dequantize is not None
    scale = const_array(dequantize.inputs[1])
    assert scale is not None
    return float(scale)


def _quantized_bias(
    bias: NDArray[Any], weight: QParams, input_scale: float
) -> tuple[NDArray[np.int32], QParams]:
    """A bias in units of `input_scale * weight_scale`, int32[channels], and its parameters."""
    scale = (np.float32(input_scale) * weight.scale).astype(np.float32)
    integers = np.clip(np.rint(bias / scale.astype(np.float64)), -_INT32.qmax, _INT32.qmax)
    axis = 0 if scale.ndim else None
    return integers.astype(np.int32), QParams(_INT32, scale, np.zeros(scale.shape, np.int32), axis)


def _without_weights(integers: NDArray[Any], params: QParams) -> NDArray[np.bool_]:
    """Output channels without weights, bool[channels]; bool[] of a single scale."""
    others = tuple(i for i in range(integers.ndim) if i != params.axis)
    return np.asarray(~integers.any(axis=others), np.bool_)


def _room_for_bias(
    params: QParams, needed: NDArray[np.float64], dead: NDArray[np.bool_]
) -> QParams:
    """Weight scales with which each bias is an int32 in units of `input_scale * weight_scale`.

    A channel whose weights are almost zero has a tiny scale, with which its bias may exceed 32
    bits. One without weights is nothing but its bias, and has the scale that suits that.

    Args:
        params: of the weight.
        needed: magnitude of each bias in units of `input_scale`.
        dead: channels without weights.
    """
    if params.axis is None:
        needed = needed.max()
    suited = np.where(needed > 0, needed / _BIAS_STEPS, 1.0)
    scale = np.where(dead, suited, np.maximum(params.scale, needed * 1.001 / _INT32.qmax))
    return QParams(params.qtype, positive_scale(scale), params.zero_point, params.axis)
