"""Recurrent cells: LSTM, GRU, RNN; a hidden unit is its rows of every gate and direction."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from onnxlite.ops.spec import CONTRIB_DOMAIN, OpSpec, ShapeOf
from onnxlite.ops.tracker import Ids, Tracker, keep_axes, spread, tracked_axes

#: Ports of the initial states and of the peepholes.
_STATES, _PEEPHOLE = (5, 6), 7


def _recurrent_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """Sequence length x batch x (input and recurrent weights), X is [seq, batch, input]."""
    data = shape_of(node.inputs[0])
    weights = [shape_of(node.inputs[1]), shape_of(node.inputs[2])]
    if data is None or any(w is None for w in weights):
        return None
    return data[0] * data[1] * sum(prod(w) for w in weights if w is not None)


def _recurrent_summed(_node: ir.Node, _port: int) -> tuple[int, ...]:
    """Weights are [directions, gates x hidden, input]."""
    return (2,)


def _cell(node: ir.Node, t: Tracker, gates: int) -> None:
    """`W[dirs, gates*H, in]`, `R[dirs, gates*H, H]`, `B[dirs, 2*gates*H]`, `P[dirs, 3*H]`.

    `hidden_size` counts for both directions, so that a unit is the same row in both.
    """
    data, weight, recurrence = node.inputs[:3]
    assert data is not None
    assert weight is not None
    assert recurrence is not None
    ids = keep_axes(t, t.ids(data), (2,), "a recurrent cell runs over its axis")
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    present = [v for v in (weight, recurrence, *node.inputs[3:4], *node.inputs[7:8]) if v]
    if not all(t.is_constant(value) for value in present):
        for value in (data, *present):
            t.pin(t.ids(value), "the weights of the recurrent cell are computed")
        return
    if lengths is not None:
        t.pin(t.ids(lengths), "it is a length")
    if tracked_axes(ids):
        t.bind(1, 2, ids.reshape(-1))
    hidden = t.mint(t.shape(recurrence)[2])
    t.recount("hidden_size", hidden, 0)
    t.bind(1, 1, np.tile(hidden, gates))
    t.bind(2, 1, np.tile(hidden, gates))
    t.bind(2, 2, hidden)
    t.bind(3, 1, np.tile(hidden, 2 * gates))
    t.bind(_PEEPHOLE, 1, np.tile(hidden, 3))
    _initial_states(node, t, hidden)
    for value in node.outputs:
        if value.name:
            rank = len(t.shape(value))
            t.put(value, spread(hidden, rank - 1, rank))


def _initial_states(node: ir.Node, t: Tracker, hidden: Ids) -> None:
    for port in _STATES:
        initial = node.inputs[port] if port < len(node.inputs) else None
        if initial is None:
            continue
        state = t.ids(initial)
        if t.is_constant(initial):
            t.bind(port, 2, hidden)
        elif state.shape[2] > 1:
            t.tie(state, spread(hidden, 2, 3))
        else:
            t.pin(hidden, "its initial state is computed without units")
            t.pin(state, "it is the state of a recurrent cell")


def lstm(node: ir.Node, t: Tracker) -> None:
    """Four gates."""
    _cell(node, t, 4)


def gru(node: ir.Node, t: Tracker) -> None:
    """Three gates."""
    _cell(node, t, 3)


def rnn(node: ir.Node, t: Tracker) -> None:
    """One gate."""
    _cell(node, t, 1)


ROWS = (
    OpSpec(
        op_type="LSTM",
        macs=_recurrent_macs,
        weights=(1, 2),
        summed_axes=_recurrent_summed,
        dynamic_kernels=("lstm",),
        channels=lstm,
    ),
    OpSpec(
        op_type="GRU",
        macs=_recurrent_macs,
        weights=(1, 2),
        summed_axes=_recurrent_summed,
        channels=gru,
    ),
    OpSpec(
        op_type="RNN",
        macs=_recurrent_macs,
        weights=(1, 2),
        summed_axes=_recurrent_summed,
        channels=rnn,
    ),
    # Its weights are transposed and have as many elements.
    OpSpec(
        op_type="DynamicQuantizeLSTM",
        domain=CONTRIB_DOMAIN,
        macs=_recurrent_macs,
        weights=(1, 2),
        quantized=True,
    ),
)
