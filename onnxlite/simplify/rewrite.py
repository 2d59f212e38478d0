"""What a rewrite is: a small pure function from one node to what should replace it.

A rule looks at one node (the *root*) and its neighbours and returns a `Replacement`, a
`Refused` with the reason, or None when the pattern is not there. It changes nothing; the
driver splices the replacement in, gives names, and removes what became dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxlite.graph import constant


@dataclass(frozen=True)
class Replacement:
    """New nodes in topological order, and which new value stands for which old one.

    The nodes go directly before the root, or before another node if an earlier value is
    replaced too. Constants made with `constant` are registered
    as initializers by the driver. An old value keeps its name if its new value comes
    from a new node, and a graph output keeps its name in any case.
    """

    nodes: tuple[ir.Node, ...]
    outputs: tuple[tuple[ir.Value, ir.Value], ...]
    before: ir.Node | None = None


@dataclass(frozen=True)
class Refused:
    """The pattern is there, but the rewrite would be wrong or wasteful."""

    reason: str


@dataclass(frozen=True)
class Context:
    """What a rule may know beyond its node.

    Attributes:
        opset: version of the standard operator set.
        precedes: whether a node of the same graph was visited before the root in this
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
    """Let the readers of `node` read `value` instead, where the graph's outputs allow it.

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
