"""Which outputs hold class scores: what a classifier ends in."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import const_tensor, is_op, rank
from onnxlite.ops.table import spec_of

#: What turns scores into probabilities.
_PROBABILITIES = ("Softmax", "LogSoftmax")
#: What may stand behind a classifier's last layer: a bias, a softmax in pieces, another shape.
_BEHIND = (
    "Add",
    "Div",
    "Exp",
    "Flatten",
    "GlobalAveragePool",
    "Identity",
    "ReduceMean",
    "Reshape",
    "Squeeze",
    "Sub",
)


def holds_scores(output: ir.Value) -> bool:
    """Whether a value `[n, classes]` comes from a softmax or straight from a layer's weights.

    An embedding of the same shape comes from a pooling or a normalisation.
    """
    if rank(output) not in (2, None):
        return False
    node = output.producer()
    while node is not None:
        if is_op(node, *_PROBABILITIES):
            return True
        weights = spec_of(node).weights
        if weights:
            return any(
                port < len(node.inputs) and const_tensor(node.inputs[port]) is not None
                for port in weights
            )
        if not is_op(node, *_BEHIND) or not node.inputs:
            return False
        moving = [v for v in node.inputs if v is not None and const_tensor(v) is None]
        node = moving[0].producer() if moving else None
    return False
