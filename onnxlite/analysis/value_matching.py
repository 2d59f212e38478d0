"""Matching of the values of an original model with those of one compressed from it.

A node is found again by the lineage of its name, or by the name of its output. A quantized value
is matched as its integers, behind the QuantizeLinear that follows or at the output of an integer
operator, together with scale and zero point. Where the range of the integers replaces an
activation, the match is that of the activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.lineage import Origin, origin_of
from onnxlite.graph import attribute, const_array, const_tensor, is_op, sole_consumer
from onnxlite.ops import spec_of


@dataclass(frozen=True)
class Code:
    """Quantization parameters of a value: real numbers are `(q - zero) * scale`.

    Attributes:
        scale: `float32[]`, or `float32[n]` along `axis`.
        zero: of the integers' type, shaped like `scale`.
        axis: None for one scale.
    """

    scale: NDArray[Any]
    zero: NDArray[Any]
    axis: int | None = None

    def decode(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """The real numbers that integers stand for."""
        scale, zero = self._spread(integers.ndim)
        real: NDArray[np.float32] = ((integers.astype(np.float32) - zero) * scale).astype(
            np.float32
        )
        return real

    def encode(self, real: NDArray[Any]) -> NDArray[Any]:
        """The nearest integers, saturated."""
        scale, zero = self._spread(real.ndim)
        limits = np.iinfo(self.zero.dtype)
        rounded = np.rint(real / scale) + zero
        integers: NDArray[Any] = np.clip(rounded, limits.min, limits.max).astype(self.zero.dtype)
        return integers

    def _spread(self, rank: int) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.axis is None:
            return self.scale.reshape(()), self.zero.reshape(()).astype(np.float32)
        shape = [-1 if index == self.axis % rank else 1 for index in range(rank)]
        return self.scale.reshape(shape), self.zero.reshape(shape).astype(np.float32)


@dataclass(frozen=True, eq=False)
class MatchedValue:
    """A value of the original and what has become of it.

    Attributes:
        node: what is compared: the node's name, or its output's where it has none.
        op_type: with the activation that is part of it, `"Conv+Relu"`; `"input"` for an input.
        reference: the value in the original.
        candidate: the value in the compressed model.
        code: of `candidate`, None where it is float.
        kept: channels of the original's value that are left; None for all.
        axis: along which `kept` counts.
        gain: float64[channels], what each channel that is left has been multiplied by; None for
            nothing.
    """

    node: str
    op_type: str
    reference: ir.Value
    candidate: ir.Value
    code: Code | None = None
    kept: tuple[int, ...] | None = None
    axis: int = 1
    gain: NDArray[np.float64] | None = None

    def of_reference(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array that the candidate should have for the original's."""
        left = array if self.kept is None else np.take(array, self.kept, self.axis)
        if self.gain is None:
            return left
        shape = [-1 if axis == self.axis % left.ndim else 1 for axis in range(left.ndim)]
        multiplied: NDArray[Any] = left * self.gain.reshape(shape).astype(left.dtype)
        return multiplied


def match_values(
    reference: ir.Model, candidate: ir.Model, inputs: Mapping[str, str]
) -> list[MatchedValue]:
    """Line up two models, in the topological order of the reference.

    Args:
        reference: the original, in topological order.
        candidate: made from it.
        inputs: the candidate's name of every input of the reference.
    """
    return list(_Pairing(reference, candidate).rows(inputs))


class _Pairing:
    def __init__(self, reference: ir.Model, candidate: ir.Model) -> None:
        self._reference, self._candidate = reference, candidate
        self._values = {v.name: v for node in candidate.graph for v in node.outputs if v.name}
        self._inputs = {value.name: value for value in candidate.graph.inputs}
        self._nodes: dict[str, tuple[ir.Node, Origin]] = {}
        for node in candidate.graph:
            if node.name:
                origin = origin_of(candidate, node.name)
                self._nodes.setdefault(origin.node, (node, origin))
        self._names = {v.name for node in reference.graph for v in node.outputs}
        #: Channels that are left of a value of the reference, and the axis they lie along.
        self._kept: dict[ir.Value, tuple[tuple[int, ...], int]] = {}

    def rows(self, inputs: Mapping[str, str]) -> Iterator[MatchedValue]:
        for value in self._reference.graph.inputs:
            found = self._inputs.get(inputs.get(value.name or "", ""))
            if found is not None and (coded := _quantized(found)) is not None:
                yield MatchedValue(value.name or "", "input", value, *coded)
        absorbed: set[ir.Node] = set()
        for node in self._reference.graph:
            if node in absorbed or not _is_compared(node):
                self._inherit(node)
                continue
            twin, origin = self._find(node)
            self._keep(node, origin)
            if twin is None:
                continue
            activation = self._absorbed(node, twin)
            if activation is not None:
                absorbed.add(activation)
                self._inherit(activation)
            yield self._row(node, twin, activation)

    def _find(self, node: ir.Node) -> tuple[ir.Value | None, Origin | None]:
        """The candidate's value, and where its node comes from if that is known."""
        name = node.outputs[0].name
        twin, origin = self._nodes.get(node.name or "", (None, None))
        if twin is not None and node.op_type not in twin.op_type:
            twin = origin = None
        if name in self._values:
            return self._values[name], origin
        if twin is None or twin.outputs[0].name in self._names:
            return None, origin  # it computes what was another node's output
        return twin.outputs[0], origin

    def _row(self, node: ir.Node, value: ir.Value, activation: ir.Node | None) -> MatchedValue:
        source = (activation or node).outputs[0]
        coded = _quantized(value) or (value, None)
        kept = self._kept.get(source, (None, 1))
        op_type = node.op_type if activation is None else f"{node.op_type}+{activation.op_type}"
        return MatchedValue(node.name or source.name or "", op_type, source, *coded, *kept)

    def _absorbed(self, node: ir.Node, value: ir.Value) -> ir.Node | None:
        """The activation behind a node of the reference that is part of its integers."""
        activation = sole_consumer(node.outputs[0])
        if activation is None or spec_of(activation).output_range is None:
            return None
        gone = activation.outputs[0].name not in self._values and not self._nodes.get(
            activation.name or ""
        )
        return activation if gone and _quantized(value) is not None else None

    def _keep(self, node: ir.Node, origin: Origin | None) -> None:
        """Note which channels of a node's output are left."""
        if origin is not None and origin.kept is not None:
            self._kept[node.outputs[0]] = (origin.kept, spec_of(node).channel_axis)
        else:
            self._inherit(node)

    def _inherit(self, node: ir.Node) -> None:
        """Nodes without weights have the channels of what they read."""
        if spec_of(node).weights or not node.outputs:
            return
        for value in node.inputs:
            if value in self._kept:
                self._kept.setdefault(node.outputs[0], self._kept[value])


def _converts(node: ir.Node) -> bool:
    """True for Q and DQ, and for nodes that change only the form of a value."""
    return is_op(node, "QuantizeLinear", "DequantizeLinear", "Constant", "Identity")


def _is_compared(node: ir.Node) -> bool:
    """Nodes that compute real numbers; moving them says nothing new."""
    rule = spec_of(node).quant
    if not node.outputs or _converts(node) or (rule and rule.kind == "layout"):
        return False
    dtype = node.outputs[0].dtype
    return dtype is None or dtype == ir.DataType.FLOAT


def _quantized(value: ir.Value) -> tuple[ir.Value, Code] | None:
    """The integers of a value and their code, where it has any."""
    known = value.dtype is not None
    if value.dtype is None or value.dtype.is_integer():
        code = _code_of_readers(value)
        if known or code is not None:
            return None if code is None else (value, code)
    reader = sole_consumer(value)
    if reader is None or not is_op(reader, "QuantizeLinear"):
        # A graph's input may have float readers beside.
        readers = [use.node for use in value.uses() if is_op(use.node, "QuantizeLinear")]
        if not readers or not value.is_graph_input():
            return None
        reader = readers[0]
    code = _code(reader.inputs[1:3], attribute(reader, "axis", 1))
    return None if code is None else (reader.outputs[0], code)


def _code_of_readers(value: ir.Value) -> Code | None:
    """Find the parameters at a reader, which has scale and zero point on the next two ports."""
    for use in value.uses():
        node, port = use.node, use.idx
        if is_op(node, "QuantizeLinear"):
            continue
        rule = spec_of(node).quant
        if rule is not None and rule.kind == "layout":
            code = _code_of_readers(node.outputs[0])
            code = code if code is None or code.axis is None else None
        else:
            code = _code(node.inputs[port + 1 : port + 3], attribute(node, "axis", 1))
        if code is not None:
            return code
    return None


def _code(constants: Sequence[ir.Value | None], axis: int) -> Code | None:
    if len(constants) != 2 or any(const_tensor(value) is None for value in constants):
        return None
    scale, zero = (const_array(value) for value in constants)
    assert scale is not None
    assert zero is not None
    if scale.dtype.kind != "f" or zero.dtype.kind not in "iu" or scale.shape != zero.shape:
        return None
    if scale.size == 1 or (scale == scale.flat[0]).all():
        return Code(scale.reshape(-1)[:1], zero.reshape(-1)[:1])
    return Code(scale, zero, axis) if scale.ndim == 1 else None
