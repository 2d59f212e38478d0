"""Convolutions: weights, costs, quantization and channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, rank, static_dim
from onnxlite.ops.geometry import conv_geometry
from onnxlite.ops.spec import IntegerForm, OpSpec, Quantized, QuantRule, ShapeOf, integer_operands
from onnxlite.ops.tracker import Ids, Tracker, keep_axes, spread, tie_along, tracked_axes


def _conv_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    return _filter_macs(node, shape_of, port=1)


def _qlinear_conv_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    return _filter_macs(node, shape_of, port=3)


def _filter_macs(node: ir.Node, shape_of: ShapeOf, *, port: int) -> int | None:
    weight, output = shape_of(node.inputs[port]), shape_of(node.outputs[0])
    if weight is None or output is None:
        return None
    return prod(output) * prod(weight[1:])


def _conv_transpose_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    weight, data = shape_of(node.inputs[1]), shape_of(node.inputs[0])
    if weight is None or data is None:
        return None
    return prod(data) * prod(weight[1:])


def _first_axis(_node: ir.Node) -> int:
    return 0


def _conv_reduction(node: ir.Node) -> tuple[int, ...]:
    """Kernel positions, then input channels: ONNX Runtime's integer kernels work on NHWC."""
    if attribute(node, "group", 1) > 1 and static_dim(node.inputs[1], 1) == 1:
        return ()
    return (*range(2, rank(node.inputs[1]) or 2), 1)


def _conv_output(_node: ir.Node, _port: int) -> int:
    return 0


def _conv_transpose_output(_node: ir.Node, _port: int) -> int:
    return 1


def _conv_channels(node: ir.Node) -> tuple[int, int] | None:
    size = static_dim(node.inputs[1], 1)
    return None if size is None else (1, size * int(attribute(node, "group", 1)))


def _conv_transpose_channels(node: ir.Node) -> tuple[int, int] | None:
    size = static_dim(node.inputs[1], 0)
    return None if size is None else (1, size)


def _conv_summed(node: ir.Node, port: int) -> tuple[int, ...]:
    return tuple(range(1, rank(node.inputs[port]) or 2))


def _conv_transpose_summed(node: ir.Node, port: int) -> tuple[int, ...]:
    return (0, *range(2, rank(node.inputs[port]) or 2))


def _qlinear_conv(inputs: Sequence[Quantized], output: Quantized) -> list[ir.Value | None]:
    bias = [operand.integers for operand in inputs[2:]]
    return [*integer_operands(inputs[:2], output), *bias]


def conv(node: ir.Node, t: Tracker) -> None:
    """Input units are consumed by slices of `W[out, in/group, *kernel]`, output units minted.

    Grouped: every group loses equally many; the j-th outputs of all go together. Depthwise
    (one input channel a group): an output channel belongs to the unit of its input, `group`
    counts.
    """
    _convolution(node, t, out_axis=0, in_axis=1)


def conv_transpose(node: ir.Node, t: Tracker) -> None:
    """As `conv`, with `W[in, out/group, *kernel]`."""
    _convolution(node, t, out_axis=1, in_axis=0)


def _convolution(node: ir.Node, t: Tracker, *, out_axis: int, in_axis: int) -> None:
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None
    assert weight is not None
    rank = len(t.shape(data))
    ids = keep_axes(t, t.ids(data), (1,), "a convolution slides over its axis")
    if not t.is_constant(weight):
        t.pin(ids, "the convolution's weight is computed")
        t.pin(t.ids(weight), "it is a convolution's weight")
        return
    group = int(attribute(node, "group", 1))
    channels, outputs = t.shape(data)[1], t.shape(out)[1]
    tracked = bool(tracked_axes(ids))
    if group > 1 and group == channels:
        if not tracked:
            return
        line = ids.reshape(-1)
        made = np.repeat(line, outputs // group)
        t.recount("group", line, 0)
        # Of a depthwise weight the axis with one slice per group is axis 0, either way.
        t.bind(1, 0, made if out_axis == 0 else line)
    else:
        if tracked:
            line = ids.reshape(-1) if group == 1 else _balanced_groups(t, ids.reshape(group, -1))
            t.bind(1, in_axis, line.reshape(-1) if in_axis == 0 else line)
        made = _tied_groups(t, t.mint(outputs), group)
        t.bind(1, out_axis, made if out_axis == 0 else made[: outputs // group])
    t.bind(2, 0, made)
    t.put(out, spread(made, 1, rank))


def _tied_groups(t: Tracker, line: Ids, group: int) -> Ids:
    if group == 1:
        return line
    return np.tile(tie_along(t, line.reshape(group, -1), 0).reshape(-1), group)


def _balanced_groups(t: Tracker, lines: Ids) -> Ids:
    """Tie every position of the first group to one of each other group, as little as needed.

    Positions of one unit are paired first, then those of units with as many positions: a
    channel shuffle before puts several positions of a unit in one group.
    """
    for other in range(1, len(lines)):
        first, second = _paired(t.roots(lines[0]), t.roots(lines[other]))
        t.tie(lines[0][first], lines[other][second])
    return lines


def _paired(a: Ids, b: Ids) -> tuple[list[int], list[int]]:
    """Two orders of positions in which `a` and `b` agree where they can."""
    free: dict[int, list[int]] = {}
    for place, unit in enumerate(b.tolist()):
        free.setdefault(unit, []).append(place)
    left, right, rest = [], [], []
    for place, unit in enumerate(a.tolist()):
        if free.get(unit):
            left.append(place)
            right.append(free[unit].pop(0))
        else:
            rest.append(place)
    return left + _by_count(a, rest), right + _by_count(
        b, sorted(place for places in free.values() for place in places)
    )


def _by_count(line: Ids, places: list[int]) -> list[int]:
    """Places of the units that have most of them first; those of a unit stay together."""
    units = line[places].tolist()
    return [
        place
        for place, unit in sorted(
            zip(places, units, strict=True),
            key=lambda pair: (-units.count(pair[1]), units.index(pair[1])),
        )
    ]


_CONV = QuantRule(
    kind="compute",
    weight=1,
    channel_axis=_first_axis,
    reduction_axes=_conv_reduction,
    bias=2,
    integer_form=IntegerForm(op_type="QLinearConv", domain="", arrange=_qlinear_conv),
)

ROWS = (
    OpSpec(
        op_type="Conv",
        quant=_CONV,
        macs=_conv_macs,
        weights=(1,),
        output_axis=_conv_output,
        data_channels=_conv_channels,
        summed_axes=_conv_summed,
        geometry=conv_geometry,
        channels=conv,
    ),
    OpSpec(
        op_type="ConvTranspose",
        macs=_conv_transpose_macs,
        weights=(1,),
        output_axis=_conv_transpose_output,
        outputs_per_group=True,
        data_channels=_conv_transpose_channels,
        summed_axes=_conv_transpose_summed,
        geometry=conv_geometry,
        channels=conv_transpose,
    ),
    # Of quantized models: counted, never pruned or quantized again.
    OpSpec(op_type="ConvInteger", macs=_conv_macs, weights=(1,), quantized=True),
    OpSpec(op_type="QLinearConv", macs=_qlinear_conv_macs, weights=(3,), quantized=True),
)
