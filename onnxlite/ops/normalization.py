"""Normalizations, softmax, reductions: operators that mix the positions of an axis."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxlite.graph import attribute, const_array
from onnxlite.ops.spec import OpSpec, QuantRule, contrib_form
from onnxlite.ops.tracker import (
    Tracker,
    keep_axes,
    line_of,
    mixed_over,
    spread,
    tie_along,
    tracked_axes,
)


def batch_normalization(node: ir.Node, t: Tracker) -> None:
    """Scale, bias, mean and variance are bound; the variance is a divisor."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    if attribute(node, "training_mode", 0) or len([v for v in node.outputs if v.name]) > 1:
        t.pin(ids, "batch normalization in training mode")
        return
    if ids.ndim > 1 and ids.shape[1] > 1:
        line = line_of(t, ids, 1)
        for port in (1, 2, 3, 4):
            t.bind(port, 0, line, fill=None if port == 4 else 0.0)
        ids = spread(line, 1, ids.ndim)
    elif tracked_axes(ids):
        t.pin(ids, "it is not the channel axis of the normalization")
    t.put(node.outputs[0], ids)


def instance_normalization(node: ir.Node, t: Tracker) -> None:
    """Channels are bound; what is normalised together goes together."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    if ids.shape[1] > 1:
        line = line_of(t, ids, 1)
        t.bind(1, 0, line)
        t.bind(2, 0, line)
        ids = spread(line, 1, ids.ndim)
    else:
        ids = keep_axes(t, ids, (0, 1), "it is normalised over")
    t.put(node.outputs[0], ids)


def group_normalization(node: ir.Node, t: Tracker) -> None:
    """Whole groups go: their channels are one unit, `num_groups` counts."""
    data, scale = node.inputs[0], node.inputs[1]
    assert data is not None
    assert scale is not None
    ids = keep_axes(t, t.ids(data), (0, 1), "it is normalised over")
    if ids.shape[1] > 1:
        groups = int(attribute(node, "num_groups", 1))
        grid = line_of(t, ids, 1).reshape(groups, -1)
        line = tie_along(t, grid, 1).reshape(-1)
        t.recount("num_groups", line, 0)
        # One scale per group in opset 18, per channel from 21 on.
        per_group = t.shape(scale)[0] == groups
        for port in (1, 2):
            t.bind(port, 0, line if per_group else grid.reshape(-1))
    t.put(node.outputs[0], ids)


def layer_normalization(node: ir.Node, t: Tracker) -> None:
    """The normalised axes must stay: removing a position changes the mean of the others."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    first = attribute(node, "axis", -1) % ids.ndim
    ids = mixed_over(t, ids, tuple(range(first, ids.ndim)), "it is normalised over")
    t.put(node.outputs[0], ids)
    for value in node.outputs[1:]:
        if value.name and set(tracked_axes(ids)) & set(range(first, ids.ndim)) == set():
            t.put(value, ids)


def softmax(node: ir.Node, t: Tracker) -> None:
    """Its axis must stay; before opset 13 all axes from `axis` on are one."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    if t.opset < 13:
        axes = range(attribute(node, "axis", 1) % ids.ndim, ids.ndim)
    else:
        axis = attribute(node, "axis", -1) % ids.ndim
        axes = range(axis, axis + 1)
    _mix(node, t, axes, "softmax runs over its axis")


def lrn(node: ir.Node, t: Tracker) -> None:
    """A channel is divided by the energy of its neighbours."""
    _mix(node, t, (1,), "local response normalization runs over its axis")


def along_axis(node: ir.Node, t: Tracker) -> None:
    """Positions of one axis depend on each other."""
    data = node.inputs[0]
    assert data is not None
    axis = attribute(node, "axis")
    if axis is None and len(node.inputs) > 1:
        array = const_array(node.inputs[1])
        axis = None if array is None else int(array.reshape(()))
    axes = range(len(t.shape(data))) if axis is None else (axis % len(t.shape(data)),)
    _mix(node, t, axes, "it works along its axis")


def top_k(node: ir.Node, t: Tracker) -> None:
    """The positions that are the largest are not known before."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    axis = attribute(node, "axis", -1) % ids.ndim
    others = tuple(a for a in range(ids.ndim) if a != axis)
    ids = keep_axes(t, ids, others, "the largest of its axis are picked")
    for value in node.outputs:
        t.put(value, ids)


def _mix(node: ir.Node, t: Tracker, axes: Sequence[int], reason: str) -> None:
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    t.put(node.outputs[0], mixed_over(t, ids, tuple(axes), reason))


def reduce(node: ir.Node, t: Tracker) -> None:
    """Reduced axes must stay; other axes keep their units."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    axes = attribute(node, "axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        array = const_array(node.inputs[1])
        if array is None:
            t.pin(ids, "the axes of its reduction are computed")
            return
        axes = array.tolist()
    if not axes:
        axes = [] if attribute(node, "noop_with_empty_axes", 0) else range(ids.ndim)
    reduced = {int(axis) % ids.ndim for axis in axes}
    kept = [axis for axis in range(ids.ndim) if axis not in reduced]
    ids = keep_axes(t, ids, tuple(kept), "it is reduced over")
    if not attribute(node, "keepdims", 1):
        ids = ids.reshape([ids.shape[axis] for axis in kept])
    t.put(node.outputs[0], ids)


def arg_reduce(node: ir.Node, t: Tracker) -> None:
    """As `reduce`, over one axis."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    axis = attribute(node, "axis", 0) % ids.ndim
    kept = [a for a in range(ids.ndim) if a != axis]
    ids = keep_axes(t, ids, tuple(kept), "it is searched over")
    if not attribute(node, "keepdims", 1):
        ids = ids.reshape([ids.shape[a] for a in kept])
    t.put(node.outputs[0], ids)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Min", "Prod", "Sum", "SumSquare")

ROWS = (
    OpSpec(
        op_type="BatchNormalization",
        gain=1,
        channels=batch_normalization,
        # The running mean and variance.
        writes_inputs=lambda node: bool(attribute(node, "training_mode", 0)),
    ),
    OpSpec(op_type="GroupNormalization", gain=1, channels=group_normalization),
    OpSpec(op_type="InstanceNormalization", gain=1, channels=instance_normalization),
    OpSpec(op_type="LayerNormalization", gain=1, affine=(1, 2), channels=layer_normalization),
    OpSpec(op_type="RMSNormalization", gain=1, affine=(1,), channels=layer_normalization),
    OpSpec(
        op_type="Softmax",
        quant=QuantRule(
            kind="integer",
            fixed_range=(0.0, 1.0),
            integer_form=contrib_form("QLinearSoftmax", records_opset=True),
        ),
        scores="makes",
        channels=softmax,
    ),
    OpSpec(op_type="LogSoftmax", scores="makes", channels=softmax),
    OpSpec(op_type="Hardmax", channels=softmax),
    OpSpec(op_type="LRN", channels=lrn),
    *(OpSpec(op_type=name, channels=along_axis) for name in ("LpNormalization", "CumSum")),
    OpSpec(op_type="TopK", channels=top_k, shape_ports=(1,)),
    OpSpec(op_type="ReduceMean", scores="keeps", channels=reduce),
    *(OpSpec(op_type=f"Reduce{name}", channels=reduce) for name in _REDUCTIONS),
    *(
        OpSpec(op_type=name, channels=arg_reduce, rounds=lambda _node: True)
        for name in ("ArgMax", "ArgMin")
    ),
)
