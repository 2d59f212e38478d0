"""The rewrite contract: a pure function from one node to its replacement.

A rule looks at one node (the *root*) and its neighbours and returns a `Replacement`, a
`Refused` with the reason, or None when the pattern is not there. It changes nothing; the
driver splices the replacement in, gives names, and removes what became dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import (
    attribute,
    const_array,
    const_tensor,
    constant,
    is_op,
    rank,
    scalar,
    sole_consumer,
)


@dataclass(frozen=True)
class Replacement:
    """New nodes in topological order, and which new value stands for which old one.

    The nodes go directly before the root, or before another node if an earlier value is
    replaced too. Constants made with `constant` are registered
    as initializers by the driver. An old value keeps its name if its new value comes
    from a new node, and a graph output keeps its name in any case.

    New constants go into the graph of the root, or into `home`, where other graphs read them.
    """

    nodes: tuple[ir.Node, ...]
    outputs: tuple[tuple[ir.Value, ir.Value], ...]
    before: ir.Node | None = None
    home: ir.Graph | None = None


@dataclass(frozen=True)
class Refused:
    """The pattern is there, but the rewrite would be wrong or wasteful."""

    reason: str
    code: str = "refused"


@dataclass(frozen=True)
class Context:
    """Facts that a rule may use beyond its node.

    Attributes:
        opset: version of the standard operator set.
        precedes: True if a node of the same graph was visited before the root in this
            pass, which proves that it comes first.
        growth: bytes by which folding may still enlarge the model.
    """

    opset: int
    precedes: Callable[[ir.Node], bool]
    growth: float


Outcome = Replacement | Refused | None


class Rewrite(Protocol):
    """One rule: its name in reports, the operators it starts from, and what it does."""

    @property
    def name(self) -> str:
        """The rule's name in reports, for example `"fold-batchnorm"`."""
        ...

    @property
    def op_types(self) -> frozenset[str]:
        """Operators that can be the root; empty means every operator."""
        ...

    def apply(self, node: ir.Node, context: Context) -> Outcome:
        """Match at `node`; see the module's docstring."""
        ...


@dataclass(frozen=True)
class Rule:
    """A `Rewrite` made from a function by the `rule` decorator."""

    name: str
    op_types: frozenset[str]
    function: Callable[[ir.Node, Context], Outcome]

    def apply(self, node: ir.Node, context: Context) -> Outcome:
        """Match at `node`; see the module's docstring."""
        return self.function(node, context)


def rule(name: str, *op_types: str) -> Callable[[Callable[[ir.Node, Context], Outcome]], Rule]:
    """Make a function a `Rule` whose roots are nodes of these operators."""
    return lambda function: Rule(name, frozenset(op_types), function)


def ints(values: Sequence[int], name: str) -> ir.Value:
    """A new int64 vector: the form in which operators take axes, shapes and pads."""
    return constant(np.asarray(values, np.int64), name)


def replace_with(node: ir.Node, *new: ir.Node) -> Replacement:
    """Replace the single output of `node` by that of the last of `new`."""
    return Replacement(tuple(new), ((node.outputs[0], new[-1].outputs[0]),))


def bypass(node: ir.Node, value: ir.Value | None) -> Outcome:
    """Return the replacement of `node` by `value`, where the graph's outputs allow it.

    An output of a graph must come from a node of that graph, under the output's name;
    where `value` cannot take the name, an Identity would be needed and nothing is won.
    """
    output = node.outputs[0]
    if value is None or value is output:
        return None
    if output.is_graph_output():
        producer = value.producer()
        if producer is None or producer.graph is not node.graph or value.is_graph_output():
            return None
    return Replacement((), ((output, value),))


#: Bytes that a node takes in a file at least.
NODE_BYTES = 64

#: Constants above this many elements are weights; no rule looks for a pattern in them.
SMALL = 1 << 16


def freed_bytes(nodes: Sequence[ir.Node]) -> int:
    """Bytes of the constants that nothing but these nodes reads."""
    read = {value for value in nodes[0].inputs if value is not None}
    return sum(
        tensor.nbytes
        for value in read
        if (tensor := const_tensor(value)) is not None
        and not value.is_graph_output()
        and all(user in nodes for user, _ in value.uses())
    )


class ConstOperand(NamedTuple):
    """A binary node with one constant operand: `data (op) array`, constant at `port`."""

    data: ir.Value
    array: NDArray[Any]
    port: int


def made_by(value: ir.Value | None, *op_types: str, like: ir.Node) -> ir.Node | None:
    """The node that makes `value`, if it is one of these and in the same graph as `like`."""
    if value is None:
        return None
    producer = value.producer()
    if producer is None or producer.graph is not like.graph or not is_op(producer, *op_types):
        return None
    return producer


def owned_by(value: ir.Value | None, *op_types: str, like: ir.Node) -> ir.Node | None:
    """As `made_by`, and `like` is the only reader, so that both can be replaced as one."""
    producer = made_by(value, *op_types, like=like)
    if producer is None or value is None:
        return None
    if len(producer.outputs) > 1 and any(o.uses() for o in producer.outputs[1:]):
        return None
    return producer if sole_consumer(value) is like else None


def small_const(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant of at most `SMALL` elements of a numeric type; larger ones stay unread."""
    tensor = const_tensor(value)
    if tensor is None or tensor.size > SMALL or tensor.dtype == ir.DataType.STRING:
        return None
    return const_array(value)


def const_operand(node: ir.Node) -> ConstOperand | None:
    """Split a binary node into its data and its small constant."""
    if len(node.inputs) != 2:
        return None
    for port in (1, 0):
        data, array = node.inputs[1 - port], small_const(node.inputs[port])
        if array is not None and data is not None and const_tensor(data) is None:
            return ConstOperand(data, array, port)
    return None


def near(value: ir.Value | None, target: float, *, rtol: float = 1e-4) -> bool:
    """Return True if `value` is a one-element constant equal to `target` up to rounding."""
    number = scalar(value)
    return number is not None and bool(np.isclose(float(number), target, rtol=rtol, atol=1e-12))


def other_input(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The operand of a binary node that is not `value`."""
    if len(node.inputs) != 2 or value not in node.inputs:
        return None
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def const_ints(value: ir.Value | None) -> list[int] | None:
    """The numbers of a constant integer scalar or vector."""
    array = small_const(value)
    if array is None or array.dtype.kind not in "iu" or array.ndim > 1:
        return None
    return [int(item) for item in array.reshape(-1)]


def axes_of(node: ir.Node, port: int = 1) -> list[int] | None:
    """The constant axes of a node, from an input or (older opsets) an attribute.

    None when they are computed or absent; see `has_axes` for the difference.
    """
    if port < len(node.inputs) and node.inputs[port] is not None:
        return const_ints(node.inputs[port])
    axes = attribute(node, "axes")
    return None if axes is None else [int(axis) for axis in axes]


def has_axes(node: ir.Node, port: int = 1) -> bool:
    """Return True if a node names its axes."""
    return (port < len(node.inputs) and node.inputs[port] is not None) or (
        "axes" in node.attributes
    )


def positive(axis: int, dims: int) -> int:
    """An axis counted from the front."""
    return axis + dims if axis < 0 else axis


def same_value_shape(left: ir.Value | None, right: ir.Value | None) -> bool:
    """Return True if two values certainly have the same shape; dimensions compare by name."""
    if left is None or right is None or left.shape is None or right.shape is None:
        return False
    return len(left.shape) == len(right.shape) and all(
        same_dim(a, b) for a, b in zip(left.shape, right.shape, strict=True)
    )


def same_dim(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    """Return True if two dimensions are certainly equal."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return a.value is not None and a.value == b.value


def is_float(value: ir.Value | None) -> bool:
    """Return True if a value is known to be of a floating-point type."""
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def broadcasts_into(array: NDArray[Any], value: ir.Value) -> bool:
    """Return True if broadcasting `array` with `value` keeps the shape of `value`."""
    dims = rank(value)
    if array.size == 1 and array.ndim == 0:
        return True
    if dims is None or array.ndim > dims or value.shape is None:
        return False
    tail = list(value.shape)[dims - array.ndim :]
    return all(n == 1 or n == dim for n, dim in zip(array.shape, tail, strict=True))
