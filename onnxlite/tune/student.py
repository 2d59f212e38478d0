"""The student: a compressed model, and which of its constants are learned in which form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxlite.graph import (
    add_initializer,
    const_array,
    is_op,
    iter_nodes,
    value_names,
)
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.ops import CodedWeight, coded_weight, spec_of, trained_ports
from onnxlite.opset import opset_version
from onnxlite.tune.operators.call import from_array
from onnxlite.tune.operators.quantization import RANGES
from onnxlite.tune.packing import CodePacking
from onnxlite.tune.parameters import (
    ActivationScale,
    Arrays,
    FloatConstant,
    PackedWeight,
    QuantizedBias,
    QuantizedWeight,
    Tensors,
    TrainableConstant,
    TrainableTensor,
)
from onnxlite.tune.rounding_init import ONE_STEP, Originals, rest, spread_step
from onnxlite.tune.torch_graph import TorchGraph, compute_behind, read_by

#: Constants this large are masks and bounds and no weights.
_NO_WEIGHT = 1e4
#: How far a scale may grow that no activation was folded into.
_WIDER = 2.0


class Student:
    """A compressed model whose weights, biases and scales can be learned.

    Scales that happen to be equal share a constant in the file; here each value gets its own.

    Args:
        model: it is not changed.
        reference: what it was made from, normalised. Integers and codes of weights start where
            the reference has the weight, within what is rounded to them.

    Attributes:
        model: the private copy that is learned on, normalised.
        learned: what is learned, in the order in which it is computed.
    """

    def __init__(self, model: ir.Model, reference: ir.Model | None = None) -> None:
        self._originals = Originals(reference)
        self.model = clone(model)
        normalize(self.model)
        self._taken = value_names(self.model)
        self.learned: list[TrainableConstant] = []
        self._known: set[str] = set()
        self._find_activation_scales()
        biases = [found for node in iter_nodes(self.model) for found in self._find_weights(node)]
        for node, dequantize in biases:
            self._add_bias(node, dequantize)
        names = [name for item in self.learned for name in item.names]
        self._graph = TorchGraph(self.model, tuned=names)

    @property
    def leaves(self) -> list[TrainableTensor]:
        """Everything that the optimizer changes."""
        return [leaf for item in self.learned for leaf in item.leaves]

    def __call__(self, feed: Tensors, taps: Sequence[str] = ()) -> Tensors:
        """Outputs, and the values named `taps`, with gradients for the leaves."""
        values: Tensors = {}
        for item in self.learned:
            item.compute(values)
        return self._graph(feed, tuned=values, taps=taps)

    def part(
        self, known: Sequence[str], wanted: str
    ) -> tuple[tuple[str, ...], tuple[TrainableConstant, ...]]:
        """What of `known` the value `wanted` is computed from, and what is learned on the way."""
        nodes = self._graph.part(known, [wanted])
        read = {name for node in nodes for name in read_by(node)}
        learned = tuple(item for item in self.learned if read.intersection(item.names))
        return tuple(name for name in known if name in read), learned

    def between(self, given: Tensors, wanted: Sequence[str]) -> Tensors:
        """Values by name, from others, with gradients for the leaves."""
        values: Tensors = {}
        for item in self.learned:
            item.compute(values)
        return self._graph.between(given, wanted, tuned=values)

    def project(self) -> None:
        """Bring everything back into its range after a step."""
        with torch.no_grad():
            for item in self.learned:
                item.project()

    def state(self) -> list[Tensor]:
        """A copy of all leaves."""
        return [leaf.tensor.detach().clone() for leaf in self.leaves]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Set all leaves to a state."""
        with torch.no_grad():
            for leaf, tensor in zip(self.leaves, state, strict=True):
                leaf.tensor.copy_(tensor)

    def written(self) -> ir.Model:
        """The model with what was learned in its constants; equal scales share one again."""
        arrays: Arrays = {}
        for item in self.learned:
            item.store(arrays)
        result = clone(self.model)
        stored = {n: (g, v) for g in result.graphs() for n, v in g.initializers.items()}
        shared: dict[tuple[ir.Graph, tuple[int, ...], bytes], ir.Value] = {}
        for name, array in arrays.items():
            _, value = stored[name]
            old = value.const_value
            assert old is not None
            value.const_value = ir.Tensor(array, dtype=old.dtype, name=name)
        for name in self._split:
            graph, value = stored[name]
            array = arrays[name]
            first = shared.setdefault((graph, array.shape, array.tobytes()), value)
            if first is not value:
                value.replace_all_uses_with(first)
                del graph.initializers[name]
        return result

    def _find_activation_scales(self) -> None:
        """One scale per value that is quantized, also over operators that only move values."""
        self._split: list[str] = []
        for group in (g for graph in self.model.graphs() for g in _scale_groups(graph)):
            old = group[0].inputs[1]
            assert old is not None
            array = const_array(old)
            assert array is not None
            name = self._own_scale(group, array)
            quantizer = next((n for n in group if is_op(n, "QuantizeLinear")), group[0])
            widest = 1.0 if _starts_at_zero(quantizer) else _WIDER
            self.learned.append(ActivationScale(name, array, widest))

    def _own_scale(self, nodes: Sequence[ir.Node], array: NDArray[Any]) -> str:
        """A constant of their own for the scale of these Q and DQ nodes."""
        old = nodes[0].inputs[1]
        assert old is not None
        base, graph = old.name or "scale", nodes[0].graph
        assert isinstance(graph, ir.Graph)
        value = add_initializer(graph, self._taken.fresh(base), array)
        for node in nodes:
            node.replace_input_with(1, value)
        home = old.graph
        if isinstance(home, ir.Graph) and not old.uses() and not old.is_graph_output():
            home.initializers.pop(base, None)
        assert value.name is not None
        self._split.append(value.name)
        return value.name

    def _find_weights(self, node: ir.Node) -> Iterator[tuple[ir.Node, ir.Node]]:
        """Learn the constants of a node; yields integer biases, which come last."""
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
            if coded is not None and self._add_coded(value, coded):
                continue
            for leaf in _constants_behind(value):
                self._add(leaf, self._originals.read_by(node, port))

    def _add_coded(self, weight: ir.Value, coded: CodedWeight) -> bool:
        """Learn the codes of a packed weight; whether that is possible."""
        names = [v.name or "" for v in (coded.codes, coded.scale)]
        if names[0] in self._known:
            return True
        opset = opset_version(self.model)

        def decode(words: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
            given = {v: from_array(w) for v, w in zip(coded.stored, words, strict=True)}
            found: NDArray[Any] = compute_behind(coded.codes, given, opset).numpy()
            return found.astype(np.float32)

        arrays = [const_array(v) for v in (*coded.stored, coded.scale)]
        stored = [a for a in arrays[:-1] if a is not None]
        scale = arrays[-1]
        assert scale is not None
        try:
            words = CodePacking(decode, stored)
        except ValueError:
            return False
        self._known.add(names[0])
        readers = [use.node for use in coded.codes.uses()]
        if is_op(readers[0], "DequantizeLinear"):
            names[1] = self._own_scale(readers, scale)
        places = [v.name or "" for v in coded.stored]
        codes = decode(stored)
        start = codes + self._rest(weight, codes.shape, scale, opset)
        self.learned.append(
            PackedWeight((names[0], names[1]), codes, start, scale, places, words.encode)
        )
        return True

    def _rest(
        self, weight: ir.Value, shape: tuple[int, ...], scale: NDArray[Any], opset: int
    ) -> NDArray[Any]:
        """What rounding took from a weight of the reference, in steps; zero where unknown."""
        original = self._originals.named(weight)
        now = compute_behind(weight, {}, opset).numpy()
        if original is None or original.shape != now.shape or scale.ndim != len(shape):
            return np.zeros(shape, np.float32)
        return rest(original.reshape(shape), now.reshape(shape), scale)

    def _add(self, source: ir.Value | ir.Node, original: NDArray[Any] | None) -> None:
        if isinstance(source, ir.Value):
            array = const_array(source)
            if array is None or source.name in self._known or not _is_weight(array):
                return
            assert source.name is not None
            self._known.add(source.name)
            self.learned.append(FloatConstant(source.name, array))
            return
        stored, scale = source.inputs[0], const_array(source.inputs[1])
        integers = const_array(stored)
        if stored is None or stored.name is None or integers is None or scale is None:
            return
        if stored.name in self._known or any(u.node is not source for u in stored.uses()):
            return
        if scale.dtype != np.float32:
            return
        self._known.add(stored.name)
        name = self._own_scale([source], scale)
        start = integers.astype(np.float32)
        step = spread_step(source, integers.ndim)
        if step is not None:
            now = compute_behind(source.outputs[0], {}, opset_version(self.model)).numpy()
            start += rest(original, now, step, ONE_STEP)
        self.learned.append(QuantizedWeight((stored.name, name), integers, start, scale))

    def _add_bias(self, node: ir.Node, source: ir.Node) -> None:
        rule = spec_of(node).quant
        assert rule is not None
        assert rule.weight is not None
        stored, scale = source.inputs[0], const_array(source.inputs[1])
        integers = const_array(stored)
        sides = [_scale_of(node.inputs[0]), _scale_of(node.inputs[rule.weight])]
        if stored is None or stored.name is None or integers is None or scale is None:
            return
        if None in sides or any(u.node is not source for u in stored.uses()):
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
        own = self._own_scale([source], scale)
        self.learned.append(
            QuantizedBias((stored.name, own), bias, scale.shape, (names[0], names[1]), fixed)
        )


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
    """The float constants that a weight is made of, and the DQ nodes of its integers."""
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
    """The scale of the DQ node that makes a value."""
    producer = None if value is None else value.producer()
    if not is_op(producer, "DequantizeLinear"):
        return None
    assert producer is not None
    return producer.inputs[1] if const_array(producer.inputs[1]) is not None else None


def _scale_groups(graph: ir.Graph) -> list[list[ir.Node]]:
    """Q and DQ nodes of activations by the scale that they must have in common."""
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
    """The nearest Q or DQ nodes behind operators whose output has the scale of their input."""
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
    """Whether the range begins at zero, where it may do the work of an activation."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        return True
    array, tensor = const_array(zero), zero.const_value
    if array is None or tensor is None:
        return True
    return bool((array.astype(np.int64) == RANGES[tensor.dtype][0]).all())
