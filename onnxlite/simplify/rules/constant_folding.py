"""Constant folding, and control flow that constants decide before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import ExecutionError, ModelError
from onnxlite.graph import (
    attribute,
    const_tensor,
    constant,
    is_op,
    rank,
    scalar,
    static_shape,
    subgraphs_of,
)
from onnxlite.model import unmapped
from onnxlite.ops import spec_of
from onnxlite.runtime import Session
from onnxlite.simplify.rewrite import (
    NODE_BYTES,
    Context,
    Outcome,
    Refused,
    Replacement,
    axes_of,
    freed_bytes,
    rule,
)


@rule("inline-if", "If")
def inline_if(node: ir.Node, _context: Context) -> Outcome:
    """If(constant, then, else) -> the nodes of the branch that is taken."""
    condition = scalar(node.inputs[0])
    if condition is None:
        return None
    branch = node.attributes["then_branch" if condition else "else_branch"].as_graph()
    copy = branch.clone(allow_outer_scope_values=True)
    results = list(copy.outputs)
    if len(set(results)) < len(results) or any(_is_foreign(v, copy) for v in results):
        return None
    copy.outputs.clear()
    for name in list(copy.initializers):
        del copy.initializers[name]
    nodes = tuple(copy)
    copy.remove(nodes)
    for inner in nodes:
        for output in inner.outputs:
            # Two branches may use one name; in the outer graph each needs its own.
            output.name = None
    return Replacement(nodes, tuple(zip(node.outputs, results, strict=True)))


def _is_foreign(value: ir.Value, graph: ir.Graph) -> bool:
    producer = value.producer()
    return producer is None or producer.graph is not graph


_SAME_RANK = ("Relu", "Sigmoid", "Tanh", "Cast", "Identity", "Neg", "Abs")
_RECURRENT = {0: 3, 5: 3, 6: 3}
_MAX_STEPS = 8


@rule("decide-if", "If")
def decide_if(node: ir.Node, _context: Context) -> Outcome:
    """If(c, then, else) where only one branch's rank fits what reads it -> c is a constant.

    `torch` exports a check of the rank as an If on it. When an LSTM reads the result, one
    branch would make the run fail, so in every run that succeeds the other one is taken.
    Declines (silently) unless both ranks are known and the reader always runs.
    """
    condition = node.inputs[0]
    if condition is None or scalar(condition) is not None or condition.is_graph_output():
        return None
    producer = condition.producer()
    if producer is None or producer.graph is not node.graph:
        return None
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    for index, output in enumerate(node.outputs):
        ranks = [rank(branch.outputs[index]) for branch in branches]
        needed = _needed_rank(output, node, steps=0)
        if needed is None or None in ranks or ranks[0] == ranks[1] or needed not in ranks:
            continue
        dims = rank(condition) or 0
        decided = np.full((1,) * dims, ranks[0] == needed)
        return Replacement((), ((condition, constant(decided, f"{condition.name}_decided")),))
    return None


def _needed_rank(value: ir.Value, like: ir.Node, *, steps: int) -> int | None:
    """The only rank with which some reader of `value` can run, if there is such a reader."""
    for user, port in value.uses():
        if user.graph is not like.graph or steps > _MAX_STEPS:
            continue
        if is_op(user, "LSTM", "GRU", "RNN") and port in _RECURRENT:
            return _RECURRENT[port]
        if is_op(user, "Conv") and port == 0 and (dims := rank(user.inputs[1])):
            return dims
        if is_op(user, "Transpose") and (perm := attribute(user, "perm")):
            return len(perm)
        added = 0 if is_op(user, *_SAME_RANK) else None
        axes = axes_of(user) if is_op(user, "Unsqueeze", "Squeeze") and port == 0 else None
        if axes:
            added = len(axes) if user.op_type == "Unsqueeze" else -len(axes)
        if added is None:
            continue
        after = _needed_rank(user.outputs[0], like, steps=steps + 1)
        if after is not None:
            return after - added
    return None


Array: TypeAlias = NDArray[Any]

_FOLDABLE = frozenset("biuf")
#: One folded tensor may at most be this large if its inputs are smaller.
_MAX_GROWTH_BYTES = 256 << 10
#: And this large in any case, because it is held in memory.
_MAX_BYTES = 128 << 20
#: Larger results that come from disk are computed again when needed instead of being held.
_MAX_HELD_BYTES = 1 << 20


@rule("fold-constants")
def fold_constants(node: ir.Node, context: Context) -> Outcome:
    """f(constants) -> a constant, which all equal nodes share.

    Declines when the result would enlarge the file noticeably (an expanded scalar, a constant
    that other nodes still read), for random operators, quantization, subgraphs, and types NumPy
    does not have.
    """
    spec = spec_of(node)
    # Folding Q and DQ would undo a quantized model's purpose.
    if spec.random or spec.quantized or subgraphs_of(node) or not node.outputs:
        return None
    if is_op(node, "Identity", "Constant") and node.outputs[0].is_graph_output():
        return None
    tensors = [const_tensor(value) for value in node.inputs if value is not None]
    if any(tensor is None for tensor in tensors) or (not tensors and node.op_type != "Constant"):
        return None
    if any(value.dtype is not None and not _native(value.dtype) for value in node.inputs if value):
        return None
    nbytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    equal = _equal_nodes(node)
    freed = freed_bytes(equal) + NODE_BYTES * len(equal)
    allowed = freed + max(0, min(_MAX_GROWTH_BYTES - freed, context.growth))
    if nbytes > _MAX_BYTES:
        return Refused(f"its inputs hold {nbytes >> 20} MiB, too much to compute with in memory")
    expected = _expected_bytes(node)
    if expected is not None and expected > allowed:
        return _larger(expected, freed, nbytes)
    program = _Program.of(node, context.opset)
    arrays = program.run()
    if arrays is None:
        return None
    total = sum(array.nbytes for array in arrays)
    if total > allowed:
        return _larger(total, freed, nbytes)
    olds = [output for output in node.outputs if output.name]
    if len(olds) == 1 and nbytes > _MAX_HELD_BYTES and program.reads_from_disk:
        made = [program.on_demand(arrays[0], olds[0].name or "")]
    else:
        made = [constant(a, old.name or "folded") for old, a in zip(olds, arrays, strict=True)]
    places = [node.outputs.index(old) for old in olds]
    pairs = [
        (each.outputs[place], new)
        for each in equal
        for place, new in zip(places, made, strict=True)
    ]
    return Replacement((), tuple(pairs), home=_home(equal))


def _larger(result: int, freed: int, read: int) -> Refused:
    """Say why a result is not stored."""
    if freed < read:
        return Refused(
            f"its result of {result:,} bytes would be stored besides its inputs, which other "
            "nodes read as well",
            "inputs-stay",
        )
    return Refused(f"its result of {result:,} bytes would be larger than its inputs", "grows")


def _equal_nodes(node: ir.Node) -> list[ir.Node]:
    """The nodes of any graph that compute the same from the same constants, `node` first.

    Nodes that make an output of a graph are equal to no other.
    """
    if not node.inputs or any(output.is_graph_output() for output in node.outputs):
        return [node]
    first = next(value for value in node.inputs if value is not None)
    attributes = {name: attr.value for name, attr in node.attributes.items()}
    others = [
        user
        for user, _ in first.uses()
        if user is not node
        and user.op_identifier() == node.op_identifier()
        and list(user.inputs) == list(node.inputs)
        and [bool(o.name) for o in user.outputs] == [bool(o.name) for o in node.outputs]
        and {name: attr.value for name, attr in user.attributes.items()} == attributes
        and not any(output.is_graph_output() for output in user.outputs)
    ]
    return [node, *dict.fromkeys(others)]


def _home(nodes: Sequence[ir.Node]) -> ir.Graph | None:
    """The graph for a result that several nodes share: that of their inputs."""
    graphs = {node.graph for node in nodes}
    if len(graphs) == 1:
        return None
    owners = [value.graph for value in nodes[0].inputs if value is not None]
    return next((graph for graph in owners if isinstance(graph, ir.Graph)), None)


def _expected_bytes(node: ir.Node) -> int | None:
    """Size of the results as far as shapes tell; None where they do not."""
    # ConstantOfShape can ask for any amount: its input says how much.
    if is_op(node, "ConstantOfShape") and (tensor := const_tensor(node.inputs[0])) is not None:
        return prod([int(size) for size in tensor.numpy()]) * 4
    total = 0
    for output in node.outputs:
        shape = static_shape(output)
        if shape is None or output.dtype is None:
            return None
        total += int(prod(shape) * output.dtype.itemsize)
    return total


def _native(dtype: ir.DataType) -> bool:
    try:
        return dtype.numpy().kind in _FOLDABLE and dtype.numpy().isbuiltin == 1
    except TypeError:
        return False


@dataclass(frozen=True)
class _Program:
    """A node cut out of its graph, with the constants that it reads."""

    model: ir.Model
    tensors: dict[str, ir.TensorProtocol]

    @classmethod
    def of(cls, node: ir.Node, opset: int) -> _Program:
        """The program that computes `node`, whose inputs must all be constants."""
        tensors: dict[str, ir.TensorProtocol] = {}
        inputs: list[ir.Value | None] = []
        for index, value in enumerate(node.inputs):
            tensor = const_tensor(value)
            if tensor is None:
                inputs.append(None)
                continue
            name = f"input_{index}"
            shape = ir.Shape(tensor.shape.numpy())
            inputs.append(ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype)))
            tensors[name] = tensor
        copy = ir.Node(
            "", node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs)
        )
        outputs = []
        for index, (old, new) in enumerate(zip(node.outputs, copy.outputs, strict=True)):
            if old.name:
                new.name, new.type = f"output_{index}", old.type
                outputs.append(new)
        present = [value for value in inputs if value is not None]
        graph = ir.Graph(present, outputs, nodes=[copy], opset_imports={"": opset}, name="fold")
        return cls(ir.Model(graph, ir_version=10), tensors)

    @property
    def reads_from_disk(self) -> bool:
        """True if an input is not held in memory."""
        kinds = (ir.ExternalTensor, ir.LazyTensor)
        return any(isinstance(tensor, kinds) for tensor in self.tensors.values())

    def run(self) -> list[Array] | None:
        """Compute the outputs; None if ONNX Runtime cannot."""
        feed = {name: unmapped(tensor).numpy() for name, tensor in self.tensors.items()}
        try:
            result = Session(self.model, threads=1, optimization="none").run(feed)
        except (ExecutionError, ModelError):
            return None
        arrays = list(result.values())
        known = all(isinstance(a, np.ndarray) and a.dtype.kind in _FOLDABLE for a in arrays)
        return arrays if known else None

    def on_demand(self, array: Array, name: str) -> ir.Value:
        """The result as a constant that is computed again whenever it is needed.

        `array` is the result itself, of which only type and shape are kept: so a model
        larger than memory can be folded.
        """

        def build() -> ir.TensorProtocol:
            arrays = self.run()
            assert arrays is not None  # it ran when the node was folded
            return ir.tensor(arrays[0], name=name)

        dtype, shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        lazy = ir.LazyTensor(build, dtype, shape, name=name)
        return ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=lazy)


RULES = (inline_if, decide_if, fold_constants)
