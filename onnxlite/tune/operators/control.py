"""Constants, and nodes that run graphs of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onnxlite.tune.operators.call import Call, Operators, from_array, to_torch


def _if(call: Call) -> tuple[Tensor, ...]:
    taken = "then_branch" if bool(call.x.reshape(())) else "else_branch"
    return call.run_graph(call.attr(taken))


def _constant(call: Call) -> Tensor:
    (attr,) = call.node.attributes.values()
    if attr.type.name == "TENSOR":
        return to_torch(attr.value)
    if attr.name in ("value_float", "value_floats"):
        return from_array(np.array(attr.value, np.float32))
    if attr.name in ("value_int", "value_ints"):
        return from_array(np.array(attr.value, np.int64))
    return call.refuse(attr.name)


def _constant_of_shape(call: Call) -> Tensor:
    value = call.attr("value")
    fill = torch.zeros(1) if value is None else to_torch(value)
    return fill.reshape(()).repeat(call.x.tolist()) if call.x.numel() else fill.reshape(())


OPERATORS: Operators = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "If": _if,
}
