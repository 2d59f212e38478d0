"""Write a decision into the graph as QuantizeLinear and DequantizeLinear nodes (QDQ form).

    x -> Conv(w, b) -> Relu -> y     becomes

    x -> Q -> DQ -> Conv(DQ(w8), DQ(b32)) -> Q -> DQ -> y

The Relu is gone because the scale of y implements it. Every weight keeps one integer
copy; the float one disappears with its last use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import add_initializer, const_array, node_names, value_names
from onnxlite.ops import spec_of
from onnxlite.quantize.core.plan import QuantPlan, reads_integers
from onnxlite.quantize.core.qtypes import QParams, QType, params_for_range, positive_scale, quantize
from onnxlite.quantize.core.weights import layer_weight

#: Steps of a bias without weights: as exact as float32.
_BIAS_STEPS = 1 << 23
_INT32_MAX = 2**31 - 1


class QDQEmitter:
    """Inserts Q and DQ nodes into one model; constants of equal value are shared.

    For a target whose ranges cannot do the work of a Relu or Clip none is removed: Q and DQ
    follow it.
    """

    def __init__(self, plan: QuantPlan) -> None:
        self._graph = plan.model.graph
        self._target = plan.target
        self._activation_bits = plan.activation_bits
        self._fused = set(plan.placement.absorbed)
        self._absorbed = self._fused if plan.target.absorbs else set()
        self._chosen = set(plan.placement.nodes)
        self._names = value_names(plan.model)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._node_names = node_names(plan.model)

    def activations(self, params: Mapping[ir.Value, QParams]) -> None:
        """Give every value of the plan its integer form."""
        for value, value_params in params.items():
            self.activation(value, value_params)

    def activation(self, value: ir.Value, params: QParams) -> None:
        """Give `value` its integer form and send its readers there."""
        graph, producer = self._graph, value.producer()
        made = producer in self._chosen or producer in self._fused
        readers = [
            use for use in value.uses() if made or reads_integers(use.node, use.idx, self._chosen)
        ]
        is_output = made and value.is_graph_output()
        source = value
        if producer is not None and producer in self._absorbed and producer.inputs[0] is not None:
            source = producer.inputs[0]
        base = value.name or "value"
        q, dq = self._pair(source, base, params)
        for node, port in readers:
            node.replace_input_with(port, dq.outputs[0])
        if is_output:
            for index, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[index] = dq.outputs[0]
            value.name = self._names.fresh(f"{base}_float")
            dq.outputs[0].name = base
            dq.outputs[0].type, dq.outputs[0].shape = value.type, value.shape
        anchor = source.producer()
        if anchor is None:
            first = next(iter(graph))
            graph.insert_before(first, (q, dq))
        else:
            graph.insert_after(anchor, (q, dq))
        self._convert(value, params, dq, made=made)
        if source is not value:
            assert producer is not None
            graph.remove(producer, safe=True)

    def _convert(self, value: ir.Value, params: QParams, dq: ir.Node, *, made: bool) -> None:
        """Give the readers that compute in another width integers of that width."""
        readers = [
            use
            for use in dq.outputs[0].uses()
            if reads_integers(use.node, use.idx, self._chosen)
            and self._activation_bits.differ(value, use.node)
        ]
        if not readers or self._target.wide is None:
            return
        wide = value in self._activation_bits.values
        qtype = self._target.activation if wide else self._target.wide
        other = params_for_range(qtype, params.represented)
        source = dq.outputs[0] if made else value
        base = f"{value.name or 'value'}_{qtype.bits}bit"
        pair = self._pair(source, base, other)
        self._graph.insert_after(dq, pair)
        for node, port in readers:
            node.replace_input_with(port, pair[1].outputs[0])

    def layer(
        self,
        node: ir.Node,
        scale: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], QParams]:
        """Quantize the weight and bias of a layer; returns the weight's integers and parameters.

        Args:
            node: the layer; its activations may be rewired already.
            scale: of a weight that lies on its grid already; None to choose one.
        """
        rule, target = spec_of(node).quant, self._target
        assert rule is not None
        assert rule.weight is not None
        weight_value = node.inputs[rule.weight]
        weight = const_array(weight_value)
        assert weight is not None
        assert weight_value is not None
        axis, qtype = target.channel_axis(node), target.weight_type(node)
        if scale is None:
            integers, weight_params = layer_weight(node, weight, target)
        else:
            flat = scale.reshape(-1) if axis is not None else scale.reshape(-1)[0]
            flat = positive_scale(np.asarray(flat))
            zero = np.zeros(flat.shape, qtype.dtype)
            weight_params = QParams(qtype, flat, zero, axis)
            integers = quantize(weight, weight_params)
        bias_value = self._bias(node, rule.bias)
        if bias_value is not None and target.quantize_bias:
            bias = const_array(bias_value)
            assert bias is not None
            input_scale = self._input_scale(node)
            dead = _without_weights(integers, axis)
            wider = _room_for_bias(weight_params, bias.reshape(-1), input_scale, dead)
            if not np.array_equal(wider.scale, weight_params.scale):
                weight_params, integers = wider, quantize(weight, wider)
            self._replace_bias(node, rule.bias, bias.reshape(-1), weight_params, input_scale)
        name = weight_value.name or "weight"
        self._dequantized(node, rule.weight, integers, weight_params, name)
        return integers, weight_params

    def _bias(self, node: ir.Node, port: int | None) -> ir.Value | None:
        return node.inputs[port] if port is not None and port < len(node.inputs) else None

    def _input_scale(self, node: ir.Node) -> float:
        """The scale of the integers that `node` reads."""
        value = node.inputs[0]
        assert value is not None
        dequantize_node = value.producer()
        assert dequantize_node is not None
        scale = const_array(dequantize_node.inputs[1])
        assert scale is not None
        return float(scale)

    def _replace_bias(
        self,
        node: ir.Node,
        port: int | None,
        bias: NDArray[Any],
        weight_params: QParams,
        input_scale: float,
    ) -> None:
        assert port is not None
        value = node.inputs[port]
        assert value is not None
        scale = (np.float32(input_scale) * weight_params.scale).astype(np.float32)
        integers = np.clip(np.rint(bias / scale.astype(np.float64)), -_INT32_MAX, _INT32_MAX)
        zero = np.zeros(scale.shape, np.int32)
        axis = 0 if scale.ndim else None
        params = QParams(QType(32, signed=True, symmetric=True), scale, zero, axis)
        self._dequantized(node, port, integers.astype(np.int32), params, value.name or "bias")

    def _dequantized(
        self, node: ir.Node, port: int, integers: NDArray[Any], params: QParams, name: str
    ) -> None:
        """Replace a constant input of `node` by its integer form and a DQ node."""
        stored = self._constant(f"{name}_q", integers)
        attributes = {} if params.axis is None else {"axis": params.axis}
        dq = ir.node(
            "DequantizeLinear",
            [stored, *self._scale_and_zero(params)],
            attributes,
            name=self._node_names.fresh(f"{name}_dq"),
        )
        dq.outputs[0].name = self._names.fresh(f"{name}_dq")
        self._graph.insert_before(node, dq)
        old = node.inputs[port]
        node.replace_input_with(port, dq.outputs[0])
        if old is None or not old.name or not old.is_initializer():
            return
        if not old.uses() and not old.is_graph_output():
            del self._graph.initializers[old.name]

    def _pair(self, source: ir.Value, base: str, params: QParams) -> tuple[ir.Node, ir.Node]:
        constants = self._scale_and_zero(params)
        q = ir.node(
            "QuantizeLinear",
            [source, *constants],
            name=self._node_names.fresh(f"{base}_q"),
        )
        # Types and shapes of the new values follow from the nodes: written out, they would
        # be a tenth of a small model's file.
        q.outputs[0].name = self._names.fresh(f"{base}_q")
        dq = ir.node(
            "DequantizeLinear",
            [q.outputs[0], *constants],
            name=self._node_names.fresh(f"{base}_dq"),
        )
        dq.outputs[0].name = self._names.fresh(f"{base}_dq")
        return q, dq

    def _scale_and_zero(self, params: QParams) -> tuple[ir.Value, ir.Value]:
        # Short names: they are read three times each, and a small model has many.
        return self._constant("scale", params.scale), self._constant("zero", params.zero_point)

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            fresh = self._names.fresh(name)
            self._constants[key] = add_initializer(self._graph, fresh, array)
        return self._constants[key]


def _without_weights(integers: NDArray[Any], axis: int | None) -> NDArray[np.bool_]:
    """Which output channels have no weights, bool[channels]; bool[] of a single scale."""
    others = tuple(i for i in range(integers.ndim) if i != axis)
    return np.asarray(~integers.any(axis=others), np.bool_)


def _room_for_bias(
    params: QParams, bias: NDArray[Any], input_scale: float, dead: NDArray[np.bool_]
) -> QParams:
    """Weight scales with which each bias is an int32 in units of `input_scale * weight_scale`.

    A channel whose weights are almost zero has a tiny scale, with which its bias may exceed 32
    bits. One without weights is nothing but its bias, and has the scale that suits that.
    """
    if not bias.size:
        return params
    magnitude = np.abs(bias.astype(np.float64))
    needed = (magnitude if params.axis is not None else magnitude.max()) / input_scale
    suited = np.where(needed > 0, needed / _BIAS_STEPS, 1.0)
    scale = np.where(dead, suited, np.maximum(params.scale, needed * 1.001 / _INT32_MAX))
    return QParams(params.qtype, positive_scale(scale), params.zero_point, params.axis)
