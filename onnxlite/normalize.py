"""Normal form of a graph, made once before any pass looks at it.

Weights may be Constant nodes, may be listed as graph inputs (IR version < 4) and nodes
may be calls of model-local functions. Afterwards every constant is an initializer, no
initializer is an input, no function is left, and every node and value has a unique name.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxlite.graph import Names, value_names
from onnxlite.records import Skipped


def normalize(model: ir.Model) -> tuple[Skipped, ...]:
    """Rewrite in place: bring `model` into the form described above; idempotent.

    Returns:
        What could not be normalized, and why.
    """
    skipped = inline_functions(model)
    common.RemoveInitializersFromInputsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _name_everything(model)
    model.ir_version = max(model.ir_version, 4)
    return skipped


def inline_functions(model: ir.Model) -> tuple[Skipped, ...]:
    """Rewrite in place: replace calls of the model's functions by their bodies.

    Returns:
        Why the calls stay, if they do.
    """
    if not model.functions:
        return ()
    try:
        common.InlinePass()(model)
    # Recursion and attribute references that onnx_ir cannot resolve: calls stay calls,
    # which every later step treats as an unknown operator.
    except Exception as error:
        return (Skipped("inline-functions", "", "not-possible", str(error)),)
    return ()


def _name_everything(model: ir.Model) -> None:
    values, nodes = value_names(model), Names()
    for graph in model.graphs():
        for node in graph:
            node.name = nodes.fresh(node.name or node.op_type)
            for output in node.outputs:
                if output.name is None:
                    output.name = values.fresh(f"{node.name}_output")
