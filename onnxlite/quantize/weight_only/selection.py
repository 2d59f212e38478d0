"""Selection of the weights to quantize and of the width of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxlite.graph import const_tensor, iter_nodes, node_name
from onnxlite.ops import iter_parameters, spec_of
from onnxlite.packing import Bits, weight_type
from onnxlite.patterns import check_patterns, matches
from onnxlite.quantize.weight_only.codes import blocks_of
from onnxlite.quantize.weight_only.options import QuantizeWeights
from onnxlite.records import EXCLUDED, Reason, Skipped

STEP = "quantize-weights"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
#: With fewer levels than this the last layer gets 8 bits: no later layer can compensate its
#: errors.
_FEW_LEVELS = 16
#: Ternary and binary errors average out over the summands of an output. Layers with fewer
#: summands than this get 8 bits; they are small.
_COARSEST, _FEW_SUMMANDS = 3, 32


@dataclass(frozen=True)
class Weight:
    """Weight tensor to quantize, with its readers and width.

    Attributes:
        value: the initializer.
        tensor: its data.
        uses: the nodes and ports that read it; those that multiply by it come first.
        graph: the graph that has the initializer.
        bits: its width.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    uses: tuple[tuple[ir.Node, int], ...]
    graph: ir.Graph
    bits: Bits

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(int(dim) for dim in self.tensor.shape.numpy())

    @property
    def node(self) -> ir.Node:
        """Node that reports name the weight after."""
        return self.uses[0][0]


def select(model: ir.Model, options: QuantizeWeights) -> tuple[list[Weight], list[Skipped]]:
    """Select weights of a normalized model, in the order of their first readers.

    Weights of operators in the operator table are selected, and tables of which nodes take
    entries. Other tensors are selected only if `include` names them.

    Raises:
        OptionError: a pattern matches no weight.
    """
    found: dict[ir.Value, tuple[tuple[ir.Node, int], ...]] = {}
    for parameter in iter_parameters(model):
        uses = found.get(parameter.value, ())
        found[parameter.value] = (*uses, (parameter.node, parameter.port))
    ends = _ends(list(found))
    found |= {table: () for table in _tables(model) if table not in found}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value not in found and options.include and value.uses():
                found[value] = ()
    names: dict[ir.Value, tuple[str, ...]] = {}
    chosen: list[Weight] = []
    skipped: list[Skipped] = []
    for value, uses in found.items():
        everywhere = tuple((use.node, use.idx) for use in value.uses())
        uses = (*uses, *(use for use in everywhere if use not in uses))
        names[value] = (value.name or "", *(node.name or "" for node, _ in uses))
        if options.include and not matches(names[value], options.include):
            continue
        reason: Reason | None = EXCLUDED
        if not matches(names[value], options.exclude):
            refusal = _refusal(value)
            reason = None if refusal is None else Reason("unsupported", refusal)
        bits = _bits(value, uses, options, ends)
        if reason is None and bits == "float":
            reason = Reason("first-or-last", "the first and last layers stay float")
        if reason is not None:
            node = node_name(uses[0][0])
            skipped.append(Skipped(STEP, node, reason.code, reason.message))
            continue
        assert bits != "float"
        tensor, owner = const_tensor(value), value.graph
        assert tensor is not None
        assert isinstance(owner, ir.Graph)
        chosen.append(Weight(value, tensor, uses, owner, bits))
    check_patterns(
        (*options.include, *options.exclude),
        (name for group in names.values() for name in group),
        what="weight",
        compared="the names of weight tensors and of the nodes that read them",
    )
    return chosen, skipped


def _tables(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the float constants of two axes or more of which nodes take computed entries."""
    for node in iter_nodes(model):
        if spec_of(node).table_axes is None:
            continue
        value, *places = node.inputs
        tensor = const_tensor(value)
        if value is None or tensor is None or all(p is None or const_tensor(p) for p in places):
            continue
        if tensor.dtype in _FLOATS and len(tensor.shape) > 1:
            yield value


def _refusal(value: ir.Value) -> str | None:
    tensor = const_tensor(value)
    assert tensor is not None
    if tensor.dtype not in _FLOATS:
        return f"its weight {value.name!r} is {tensor.dtype}, not float"
    if not tensor.size:
        return f"its weight {value.name!r} is empty"
    if len(tensor.shape) < 2:
        return f"its weight {value.name!r} has less than two axes"
    if not value.is_initializer() or value.is_graph_output():
        return f"its weight {value.name!r} is an output of the graph"
    return None


def _bits(
    value: ir.Value,
    uses: Sequence[tuple[ir.Node, int]],
    options: QuantizeWeights,
    ends: tuple[ir.Value | None, ir.Value | None],
) -> Bits | Literal["float"]:
    """Return the width of one weight; `"float"` if it stays float."""
    levels = weight_type(options.bits).levels
    at_end = value in ends
    if at_end and options.first_last_bits != "auto" and options.first_last_bits != "same":
        return options.first_last_bits
    few = weight_type(options.bits).levels <= _COARSEST and _summands(uses, value) < _FEW_SUMMANDS
    narrow = at_end and (value is ends[0] or levels < _FEW_LEVELS)
    if levels < 256 and ((narrow and options.first_last_bits == "auto") or few or _depthwise(uses)):
        return 8
    return options.bits


def _ends(values: Sequence[ir.Value]) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the weights of the first and the last layer that multiplies by weights."""
    layers = [
        value for value in values if any(spec_of(u.node).macs is not None for u in value.uses())
    ]
    return (layers[0], layers[-1]) if layers else (None, None)


def _summands(uses: Sequence[tuple[ir.Node, int]], value: ir.Value) -> int:
    tensor = const_tensor(value)
    assert tensor is not None
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    return blocks_of(tuple(uses), shape, 0).size


def _depthwise(uses: Sequence[tuple[ir.Node, int]]) -> bool:
    """Return whether a reader is a depthwise convolution."""
    rules = [spec_of(node).quant for node, _ in uses]
    return any(
        rule is not None and rule.reduction_axes is not None and not rule.reduction_axes(node)
        for (node, _), rule in zip(uses, rules, strict=True)
    )
