"""Quantization of weights, bounded where kernels would saturate.

Without VNNI instructions ONNX Runtime multiplies uint8 activations by int8 weights with
`vpmaddubsw`, which adds two neighbouring products in a saturating int16. Two large
weights of one sign then overflow: 255 * 127 * 2 > 32767. Halving the range of all weights
(`reduce_range` elsewhere) avoids it and costs a bit of every weight. Here only pairs that
can overflow are bounded, `|a| + |b| <= 128` where both have one sign, and the scale of
each channel is the one with the least squared error under that bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.fidelity import array_sqnr_db
from onnxlite.ops import spec_of
from onnxlite.quantize.core.qtypes import QParams, QType, params_for_weight, quantize
from onnxlite.quantize.core.targets import Target

#: `255 * 128 == 32640`, the largest multiple of 255 within int16.
PAIR_LIMIT = 128
#: Scales tried, as multiples of the one that uses the whole range: below 1 the largest
#: weights are clipped and the others finer, at 2 no pair overflows.
_FACTORS = np.geomspace(0.8, 2.0, 33)


def quantize_weight(
    weight: NDArray[Any],
    qtype: QType,
    *,
    channel_axis: int | None,
    reduction_axes: tuple[int, ...],
    avoid_saturation: bool,
) -> tuple[NDArray[Any], QParams]:
    """Quantize a weight symmetrically.

    Args:
        weight: `float32`, of any shape.
        qtype: the integer type.
        channel_axis: output channels: one scale each; None for one scale in all.
        reduction_axes: the axes over which the kernel adds products, outermost first.
        avoid_saturation: bound pairs of neighbours along `reduction_axes`.

    Returns:
        The integers, shaped like `weight`, and their parameters.
    """
    params = params_for_weight(qtype, weight, channel_axis)
    integers = quantize(weight, params)
    if not avoid_saturation or qtype.bits != 8 or not qtype.signed:
        return integers, params
    others = tuple(i for i in range(weight.ndim) if i != channel_axis)
    best = np.full(params.scale.shape, np.inf)
    scale = params.scale.copy()
    for factor in _FACTORS:
        trial = QParams(
            qtype, (params.scale * factor).astype(np.float32), params.zero_point, channel_axis
        )
        bounded = bound_pairs(weight, trial, reduction_axes)
        spread = _spread(trial.scale, weight.ndim, channel_axis)
        error = ((weight - bounded * spread) ** 2).sum(axis=others)
        better = error < best
        best = np.where(better, error, best)
        scale = np.where(better, trial.scale, scale)
    params = QParams(qtype, scale.astype(np.float32), params.zero_point, channel_axis)
    return bound_pairs(weight, params, reduction_axes), params


def layer_weight(
    node: ir.Node, weight: NDArray[Any], target: Target
) -> tuple[NDArray[Any], QParams]:
    """Quantize the weight of a layer for a target, see `quantize_weight`."""
    rule = spec_of(node).quant
    assert rule is not None
    assert rule.reduction_axes is not None
    return quantize_weight(
        weight,
        target.weight_type(node),
        channel_axis=target.channel_axis(node),
        reduction_axes=rule.reduction_axes(node),
        avoid_saturation=target.avoid_saturation,
    )


def weight_sqnr_db(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float | None:
    """SQNR of a layer's weights in dB, for a report; None where there is no noise or no signal.

    Args:
        pairs: each weight, and the real numbers that its integers stand for.
    """
    decibels = array_sqnr_db(*pairs)
    return round(decibels, 2) if math.isfinite(decibels) else None


def bound_pairs(weight: NDArray[Any], params: QParams, axes: tuple[int, ...]) -> NDArray[Any]:
    """Bound neighbours of one sign along `axes` so that they add up to at most 128.

    What a pair has too much is taken from both halves alike, which is the least squared
    error. Pairs are positions `2i` and `2i + 1` of the flattened axes; an odd last one has
    no partner.
    """
    others = tuple(i for i in range(weight.ndim) if i not in axes)
    order = (*axes, *others)
    exact = (weight / _spread(params.scale, weight.ndim, params.axis)).transpose(order)
    integers = quantize(weight, params).astype(np.int16).transpose(order)
    shape = integers.shape
    rows = int(np.prod(shape[: len(axes)]))
    exact, integers = exact.reshape(rows, -1), integers.reshape(rows, -1)
    even = rows // 2 * 2
    a, b = integers[0:even:2], integers[1:even:2]
    excess = np.where(np.sign(a) * np.sign(b) > 0, np.abs(a) + np.abs(b) - PAIR_LIMIT, 0)
    excess = np.maximum(excess, 0)
    # An odd excess takes one more from the half that was rounded up further.
    from_a = excess // 2 + (excess % 2) * (
        np.abs(a) - np.abs(exact[0:even:2]) > np.abs(b) - np.abs(exact[1:even:2])
    )
    bounded = integers.copy()
    bounded[0:even:2] = a - np.sign(a) * from_a
    bounded[1:even:2] = b - np.sign(b) * (excess - from_a)
    back = bounded.reshape(shape).transpose(np.argsort(order))
    return np.ascontiguousarray(back).astype(params.qtype.dtype)


def _spread(scale: NDArray[Any], rank: int, axis: int | None) -> NDArray[Any]:
    return scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(rank)])
