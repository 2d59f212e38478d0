"""Normalisations and softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxlite.tune.operators.call import Call, OperatorFunction, Operators


def _batch(call: Call) -> Tensor:
    if call.attr("training_mode", 0):
        call.refuse("training_mode")
    x, scale, bias, mean, variance = call.inputs
    epsilon = call.attr("epsilon", 1e-5)
    if mean.requires_grad or variance.requires_grad:  # computed statistics: torch gives no gradient
        inverse = torch.rsqrt(variance + epsilon)
        gain, shift = (part.reshape(-1, *[1] * (x.dim() - 2)) for part in (scale * inverse, bias))
        return (x - mean.reshape(gain.shape)) * gain + shift
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def _instance(call: Call) -> Tensor:
    x, scale, bias = call.inputs
    axes = list(range(2, x.dim()))
    centred = x - x.mean(axes, True)
    unit = centred * torch.rsqrt(centred.square().mean(axes, True) + call.attr("epsilon", 1e-5))
    shape = (1, -1, *(1 for _ in axes))
    return unit * scale.reshape(shape) + bias.reshape(shape)


def _layer(call: Call) -> tuple[Tensor, ...]:
    x, scale, bias = call.inputs[0], call.inputs[1], call.get(2)
    axes = list(range(call.attr("axis", -1) % x.dim(), x.dim()))
    mean = x.mean(axes, True)
    centred = x - mean
    inverse = torch.rsqrt(centred.square().mean(axes, True) + call.attr("epsilon", 1e-5))
    out = centred * inverse * scale
    return (out if bias is None else out + bias), mean, inverse


def _rms(call: Call) -> Tensor:
    axes = list(range(call.attr("axis", -1) % call.x.dim(), call.x.dim()))
    square = call.x.square().mean(axes, True)
    return call.x * torch.rsqrt(square + call.attr("epsilon", 1e-5)) * call.inputs[1]


def _group(call: Call) -> Tensor:
    x, scale, bias = call.inputs
    groups, epsilon = call.attr("num_groups"), call.attr("epsilon", 1e-5)
    unit = F.group_norm(x, groups, eps=epsilon)
    # Before opset 21 there was one scale per group, afterwards one per channel.
    if scale.numel() != x.shape[1]:
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    return unit * scale.reshape(shape) + bias.reshape(shape)


def _local_response(call: Call) -> Tensor:
    size, x = call.attr("size"), call.x
    square = x.square().movedim(1, -1)
    padded = F.pad(square, ((size - 1) // 2, size // 2))
    total = padded.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    alpha, beta = call.attr("alpha", 1e-4), call.attr("beta", 0.75)
    return x / (call.attr("bias", 1.0) + alpha / size * total) ** beta


def _lp(call: Call) -> Tensor:
    axis, power = call.attr("axis", -1), call.attr("p", 2)
    norm = torch.linalg.vector_norm(call.x, power, axis, True)
    return torch.where(norm == 0, torch.zeros_like(call.x), call.x / norm)


def _mean_variance(call: Call) -> Tensor:
    axes = call.attr("axes", [0, 2, 3])
    centred = call.x - call.x.mean(axes, True)
    return centred / (centred.square().mean(axes, True).sqrt() + 1e-9)


def _along(function: Callable[[Tensor, int], Tensor]) -> OperatorFunction:
    """Softmax and its kin: before opset 13 the axes from `axis` on are one."""

    def run(call: Call) -> Tensor:
        x = call.x
        if call.opset >= 13:
            return function(x, call.attr("axis", -1))
        axis = call.attr("axis", 1) % max(x.dim(), 1)
        return function(x.reshape(prod(x.shape[:axis]), -1), 1).reshape(x.shape)

    return run


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


OPERATORS: Operators = {
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "Hardmax": _along(_hardmax),
    "InstanceNormalization": _instance,
    "LRN": _local_response,
    "LayerNormalization": _layer,
    "LogSoftmax": _along(torch.log_softmax),
    "LpNormalization": _lp,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms,
    "Softmax": _along(torch.softmax),
}
