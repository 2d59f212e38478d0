"""Reductions over axes, and what orders values along one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxlite.tune.operators.call import Call, OperatorFunction, Operators


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> OperatorFunction:
    """A reduction whose axes are an attribute up to opset 12 or 17, and an input later."""

    def run(call: Call) -> Tensor:
        axes = call.ints("axes", 1)
        if not axes:
            if call.attr("noop_with_empty_axes", 0):
                return call.x
            axes = list(range(call.x.dim()))
        if not call.x.numel():
            call.refuse("a reduction of nothing")
        if not axes:
            return function(call.x.reshape(1), [0], False)
        return function(call.x, axes, bool(call.attr("keepdims", 1))).to(call.x.dtype)

    return run


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return x.double().mean(axes, keep).trunc()


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Tensor]) -> OperatorFunction:
    def run(call: Call) -> Tensor:
        axis, keep = call.attr("axis", 0), bool(call.attr("keepdims", 1))
        if call.attr("select_last_index", 0):
            found = function(call.x.flip(axis), dim=axis, keepdim=keep)
            return call.x.shape[axis] - 1 - found
        return function(call.x, dim=axis, keepdim=keep)

    return run


def _top_k(call: Call) -> tuple[Tensor, ...]:
    counts = call.ints("k", 1)
    assert counts is not None
    axis = call.attr("axis", -1)
    # torch.topk does not say which of equal values it takes; ONNX takes the first.
    order = call.x.sort(dim=axis, descending=bool(call.attr("largest", 1)), stable=True).indices
    places = order.narrow(axis, 0, counts[0])
    return call.x.gather(axis, places), places


def _cum_sum(call: Call) -> Tensor:
    axis = int(call.inputs[1])
    x = call.x.flip(axis) if call.attr("reverse", 0) else call.x
    out = x.cumsum(axis, dtype=x.dtype)
    if call.attr("exclusive", 0):
        out = out - x
    return out.flip(axis) if call.attr("reverse", 0) else out


OPERATORS: Operators = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": _cum_sum,
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "ReduceLogSum": _reduce(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduce(_mean),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduce(_prod),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keep)),
    "TopK": _top_k,
}
