"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxlite.tune.operators.call import Call, Operators


def _matmul(call: Call) -> Tensor:
    a, b = call.inputs
    return torch.matmul(a, b)


def _gemm(call: Call) -> Tensor:
    a, b, c = call.inputs[0], call.inputs[1], call.get(2)
    a = a.T if call.attr("transA", 0) else a
    b = b.T if call.attr("transB", 0) else b
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    out = a @ b if alpha == 1 else alpha * (a @ b)
    if c is None:
        return out
    return out + (c if beta == 1 else beta * c)


def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.attr("equation"), *call.inputs)


OPERATORS: Operators = {"Einsum": _einsum, "Gemm": _gemm, "MatMul": _matmul}
