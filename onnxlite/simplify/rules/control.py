"""Control flow that is decided before the model runs."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import scalar
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


RULES = (inline_if,)
