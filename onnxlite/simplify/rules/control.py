"""Control flow that is decided before the model runs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, constant, is_op, rank, scalar
from onnxlite.simplify.patterns import axes_of
from onnxlite.simplify.rewrite import Context, Outcome, Replacement, rule


@rule("inline-if", "If")
def inline_if(node: ir.Node, context: Context) -> Outcome:
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
def decide_if(node: ir.Node, context: Context) -> Outcome:
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


RULES = (inline_if, decide_if)
