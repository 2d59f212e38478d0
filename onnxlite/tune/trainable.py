"""Trainable constants of a model: weights, biases and scales, and where they start.

Rounding took a part of a step from each quantized weight. Integers that start at what was rounded
are the same, and those that rounding could as well have moved the other way cross the boundary
first; from whole numbers all of them are half a step away from the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import (
    add_initializer,
    attribute,
    const_array,
    is_op,
    iter_nodes,
    value_names,
)
from onnxlite.ops import CodedWeight, coded_weight, spec_of, trained_ports
from onnxlite.opset import opset_version
from onnxlite.packing import matching_formats, pack
from onnxlite.tune.operators.call import from_array
from onnxlite.tune.operators.quantization import RANGES
from onnxlite.tune.parameters import (
    ActivationScale,
    FloatConstant,
    PackedWeight,
    QuantizedBias,
    QuantizedWeight,
    TrainableConstant,
)
from onnxlite.tune.torch_graph import compute_behind

Array = NDArray[Any]

#: Constants this large are masks and bounds and no weights.
_NO_WEIGHT = 1e4
#: How far a scale may grow that no activation was folded into.
_MAX_GROWTH = 2.0
#: How far from a whole number integers may start: less than half, so that they stay.
_MAX_RESIDUAL = 0.45
#: Where the reference is a step of many away, the weight was changed for another reason than
#: rounding.
ONE_STEP = 1.0
#: Seed of the codes that encoders are checked on.
_SEED = 0


class TrainableConstants:
    """Finds everything in a model that can be learned.

    Scales that happen to be equal share a constant in the file; here each value gets its own.

    Args:
        model: normalized; rewritten in place where scales get constants of their own.
        reference: what it was made from, normalized; None leaves the start of integers at
            whole numbers.

    Attributes:
        constants: what is learned, in the order in which it is computed.
        own_scales: names of the scales that got constants of their own.
    """

    def __init__(self, model: ir.Model, reference: ir.Model | None) -> None:
        self.constants: list[TrainableConstant] = []
        self.own_scales: list[str] = []
        self._model, self._originals = model, _Originals(reference)
        self._names = value_names(model)
        self._known: set[str] = set()
        self._add_activation_scales()
        biases = [found for node in iter_nodes(model) for found in self._add_weights(node)]
        for node, dequantize in biases:
            self._add_bias(node, dequantize)

    def _add_activation_scales(self) -> None:
        """Add one scale per value that is quantized, also over nodes that only move values."""
        for group in (g for graph in self._model.graphs() for g in _scale_groups(graph)):
            array = const_array(group[0].inputs[1])
            assert array is not None
            name = self._own_scale(group, array)
            quantizer = next((n for n in group if is_op(n, "QuantizeLinear")), group[0])
            widest = 1.0 if _starts_at_zero(quantizer) else _MAX_GROWTH
            self.constants.append(ActivationScale(name, array, widest))

    def _own_scale(self, nodes: Sequence[ir.Node], array: Array) -> str:
        """Give these Q and DQ nodes a constant of their own for their scale."""
        old = nodes[0].inputs[1]
        assert old is not None
        base, graph = old.name or "scale", nodes[0].graph
        assert isinstance(graph, ir.Graph)
        value = add_initializer(graph, self._names.fresh(base), array)
        for node in nodes:
            node.replace_input_with(1, value)
        home = old.graph
        if isinstance(home, ir.Graph) and not old.uses() and not old.is_graph_output():
            home.initializers.pop(base, None)
        assert value.name is not None
        self.own_scales.append(value.name)
        return value.name

    def _add_weights(self, node: ir.Node) -> Iterator[tuple[ir.Node, ir.Node]]:
        """Add the constants of a node; yield integer biases, which come last."""
        for port in trained_ports(node):
            value = node.inputs[port] if port < len(node.inputs) else None
            if value is None or not _is_constant(value):
                continue
            rule = spec_of(node).quant
            producer = value.producer()
            if rule is not None and rule.bias == port and is_op(producer, "DequantizeLinear"):
                assert producer is not None
                yield node, producer
                continue
            coded = coded_weight(value)
            if coded is not None and self._add_packed(value, coded):
                continue
            original = self._originals.read_by(node, port)
            for source in _constants_behind(value):
                if isinstance(source, ir.Value):
                    self._add_float(source)
                else:
                    self._add_quantized(source, original)

    def _add_packed(self, weight: ir.Value, coded: CodedWeight) -> bool:
        """Add the codes of a packed weight, and tell whether they are known now."""
        names = [v.name or "" for v in (coded.codes, coded.scale)]
        if names[0] in self._known:
            return True
        opset = opset_version(self._model)

        def decode(words: Sequence[Array]) -> NDArray[np.float32]:
            given = {v: from_array(w) for v, w in zip(coded.stored, words, strict=True)}
            found: Array = compute_behind(coded.codes, given, opset).numpy()
            return found.astype(np.float32)

        arrays = [const_array(v) for v in (*coded.stored, coded.scale)]
        stored, scale = [a for a in arrays[:-1] if a is not None], arrays[-1]
        assert scale is not None
        codes = decode(stored)
        encode = _encoder(decode, stored, codes)
        if encode is None:
            return False
        self._known.add(names[0])
        readers = [use.node for use in coded.codes.uses()]
        if is_op(readers[0], "DequantizeLinear"):
            names[1] = self._own_scale(readers, scale)
        start = codes + self._packed_residual(weight, codes.shape, scale, opset)
        places = [v.name or "" for v in coded.stored]
        self.constants.append(
            PackedWeight((names[0], names[1]), codes, start, scale, places, encode)
        )
        return True

    def _packed_residual(
        self, weight: ir.Value, shape: tuple[int, ...], scale: Array, opset: int
    ) -> Array:
        """Rounding residual of a packed weight in steps; zero where it is unknown."""
        original = self._originals.named(weight)
        now = compute_behind(weight, {}, opset).numpy()
        if original is None or original.shape != now.shape or scale.ndim != len(shape):
            return np.zeros(shape, np.float32)
        return rounding_residual(original.reshape(shape), now.reshape(shape), scale)

    def _add_float(self, value: ir.Value) -> None:
        array = const_array(value)
        if array is None or value.name in self._known or not _is_weight(array):
            return
        assert value.name is not None
        self._known.add(value.name)
        self.constants.append(FloatConstant(value.name, array))

    def _add_quantized(self, dequantize: ir.Node, original: Array | None) -> None:
        stored, scale = dequantize.inputs[0], const_array(dequantize.inputs[1])
        integers = const_array(stored)
        if stored is None or stored.name is None or integers is None or scale is None:
            return
        if stored.name in self._known or any(u.node is not dequantize for u in stored.uses()):
            return
        if scale.dtype != np.float32:
            return
        self._known.add(stored.name)
        name = self._own_scale([dequantize], scale)
        start = integers.astype(np.float32)
        step = _broadcast_scale(dequantize, integers.ndim)
        if step is not None:
            opset = opset_version(self._model)
            now = compute_behind(dequantize.outputs[0], {}, opset).numpy()
            start += rounding_residual(original, now, step, ONE_STEP)
        self.constants.append(QuantizedWeight((stored.name, name), integers, start, scale))

    def _add_bias(self, node: ir.Node, dequantize: ir.Node) -> None:
        rule = spec_of(node).quant
        assert rule is not None
        assert rule.weight is not None
        stored, scale = dequantize.inputs[0], const_array(dequantize.inputs[1])
        integers = const_array(stored)
        sides = [_scale_of(node.inputs[0]), _scale_of(node.inputs[rule.weight])]
        if stored is None or stored.name is None or integers is None or scale is None:
            return
        if None in sides or any(u.node is not dequantize for u in stored.uses()):
            return
        names, fixed = [], {}
        for side in sides:
            assert side is not None
            assert side.name is not None
            array = const_array(side)
            assert array is not None
            names.append(side.name)
            fixed[side.name] = array
        sizes = {array.size for array in fixed.values()} | {scale.size}
        if len(sizes - {1}) > 1:
            return
        bias = (integers.astype(np.float64) * scale).astype(np.float32)
        own = self._own_scale([dequantize], scale)
        self.constants.append(
            QuantizedBias((stored.name, own), bias, scale.shape, (names[0], names[1]), fixed)
        )


class _Originals:
    """Constants of the reference; None where there is none."""

    def __init__(self, reference: ir.Model | None) -> None:
        self._constants = {} if reference is None else reference.graph.initializers
        nodes = [] if reference is None else list(iter_nodes(reference))
        self._nodes = {node.name: node for node in nodes if node.name}

    def named(self, value: ir.Value) -> Array | None:
        """Return the constant with the name of a value."""
        return const_array(self._constants.get(value.name or ""))

    def read_by(self, node: ir.Node, port: int) -> Array | None:
        """Return what the node of the same name and operator reads there."""
        found = self._nodes.get(node.name or "")
        if found is None or found.op_type != node.op_type or port >= len(found.inputs):
            return None
        return const_array(found.inputs[port])


def rounding_residual(
    original: Array | None, now: Array, step: Array, most: float = np.inf
) -> NDArray[np.float32]:
    """Return what rounding took from a weight, in steps; zero where that is not known.

    Args:
        original: the weight before it was rounded.
        now: the rounded weight.
        step: of its integers, to be broadcast to the shape of `now`.
        most: steps; what is further off counts as unknown.
    """
    if original is None or original.shape != now.shape:
        return np.zeros(now.shape, np.float32)
    found = (original - now) / np.where(step == 0, 1, step)
    near = np.where(np.abs(found) < most, found, 0)
    return near.clip(-_MAX_RESIDUAL, _MAX_RESIDUAL).astype(np.float32)


def _encoder(
    decode: Callable[[Sequence[Array]], Array], stored: Sequence[Array], codes: Array
) -> Callable[[Array], Sequence[Array]] | None:
    """Return the function from codes to words; None where their format is not known."""
    if len(stored) == 1 and np.array_equal(stored[0].reshape(-1), codes.reshape(-1)):
        return lambda new: [new.reshape(stored[0].shape).astype(stored[0].dtype)]
    low, high = int(codes.min()), int(codes.max())
    trial = np.random.default_rng(_SEED).integers(low, high + 1, codes.shape)
    for kind, offset in matching_formats(stored, codes):

        def encode(new: Array, kind: Any = kind, offset: float = offset) -> list[Array]:
            words = pack(kind, np.rint(new - offset).astype(np.uint8))
            return [word.reshape(old.shape) for word, old in zip(words, stored, strict=True)]

        if np.array_equal(decode(encode(trial)), trial):
            return encode
    return None


def _broadcast_scale(dequantize: ir.Node, rank: int) -> Array | None:
    """Scale of a DQ node along its axis; None for one in blocks."""
    scale = const_array(dequantize.inputs[1])
    if scale is None or (scale.ndim > 1 and scale.size > 1):
        return None
    shape = [1] * rank
    if scale.size > 1:
        shape[attribute(dequantize, "axis", 1)] = -1
    spread: Array = scale.reshape(shape)
    return spread


def _is_constant(value: ir.Value) -> bool:
    if value.is_initializer():
        return not value.is_graph_input()
    producer = value.producer()
    return producer is not None and all(v is None or _is_constant(v) for v in producer.inputs)


def _is_weight(array: NDArray[Any]) -> bool:
    if array.dtype not in (np.float32, np.float16) or array.size < 2:
        return False
    return bool(np.abs(array).max() < _NO_WEIGHT)


def _constants_behind(value: ir.Value) -> Iterator[ir.Value | ir.Node]:
    """Yield the float constants that a weight is made of, and the DQ nodes of its integers."""
    producer = value.producer()
    if producer is None:
        yield value
    elif is_op(producer, "DequantizeLinear", "QuantizeLinear"):
        first = producer.inputs[0]
        if first is not None and first.producer() is None:
            if is_op(producer, "DequantizeLinear"):
                yield producer
            else:
                yield first
        elif first is not None:
            yield from _constants_behind(first)
    else:
        for source in producer.inputs:
            if source is not None:
                yield from _constants_behind(source)


def _scale_of(value: ir.Value | None) -> ir.Value | None:
    """Return the scale of the DQ node that makes a value."""
    producer = None if value is None else value.producer()
    if not is_op(producer, "DequantizeLinear"):
        return None
    assert producer is not None
    return producer.inputs[1] if const_array(producer.inputs[1]) is not None else None


def _scale_groups(graph: ir.Graph) -> list[list[ir.Node]]:
    """Group Q and DQ nodes of activations by the scale that they must have in common."""
    group_of: dict[ir.Node, list[ir.Node]] = {}

    def join(a: ir.Node, b: ir.Node) -> None:
        first, second = group_of[a], group_of[b]
        if first is not second and a.inputs[1] is b.inputs[1]:
            first += second
            group_of.update((node, first) for node in second)

    for node in graph:
        if not is_op(node, "QuantizeLinear", "DequantizeLinear"):
            continue
        scale = const_array(node.inputs[1])
        constant = node.inputs[0] is not None and _is_constant(node.inputs[0])
        if scale is None or scale.size != 1 or scale.dtype != np.float32 or constant:
            continue
        group_of[node] = [node]
        for source in _quantizers_behind(node.inputs[0]):
            if source in group_of:
                join(source, node)
    unique = {id(group): group for group in group_of.values()}
    # A DQ of integers that the caller feeds has a scale that the caller knows.
    return [g for g in unique.values() if any(is_op(n, "QuantizeLinear") for n in g)]


def _quantizers_behind(value: ir.Value | None) -> Iterator[ir.Node]:
    """Yield the nearest Q or DQ nodes behind nodes whose output has the scale of their input."""
    producer = None if value is None else value.producer()
    if producer is None:
        return
    if is_op(producer, "QuantizeLinear", "DequantizeLinear"):
        yield producer
        return
    rule = spec_of(producer).quant
    if rule is not None and (rule.kind == "layout" or rule.shared_scale):
        for source in producer.inputs:
            yield from _quantizers_behind(source)


def _starts_at_zero(node: ir.Node) -> bool:
    """Tell whether the range begins at zero, where it may do the work of an activation."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        return True
    array, tensor = const_array(zero), zero.const_value
    if array is None or tensor is None:
        return True
    return bool((array.astype(np.int64) == RANGES[tensor.dtype][0]).all())
