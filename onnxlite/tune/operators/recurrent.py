"""LSTM, GRU and RNN, step by step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxlite.tune.operators.call import Call, Operators

#: Gives the next states (the first is the output) from a step's input and the states.
_Cell = Callable[[Tensor, list[Tensor]], list[Tensor]]

_ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def _recurrent(call: Call) -> tuple[Tensor, ...]:
    """All directions of the layer: outputs Y, Y_h and, for an LSTM, Y_c."""
    op = call.node.op_type
    weight = call.inputs[1]
    hidden, states = call.attr("hidden_size"), 2 if op == "LSTM" else 1
    batch_first = call.attr("layout", 0)
    x = call.x.transpose(0, 1) if batch_first else call.x
    steps, batch = x.shape[:2]
    if call.attr("clip"):
        call.refuse("clip")
    ways = weight.shape[0]
    start = [call.get(5 + index) for index in range(states)]
    start = [t.transpose(0, 1) if batch_first and t is not None else t for t in start]
    lengths = call.get(4)
    sequences, finals = [], []
    for way in range(ways):
        backward = way == 1 or call.attr("direction", "forward") == "reverse"
        cell = _cell(call, way)
        zero = x.new_zeros(batch, hidden)
        state = [zero if t is None else t[way] for t in start]
        outputs: list[Tensor] = [zero] * steps
        for step in reversed(range(steps)) if backward else range(steps):
            new = cell(x[step], state)
            if lengths is not None:
                live = (step < lengths)[:, None]
                state = [torch.where(live, a, b) for a, b in zip(new, state, strict=True)]
                outputs[step] = torch.where(live, new[0], zero)
            else:
                state, outputs[step] = new, new[0]
        sequences.append(torch.stack(outputs))
        finals.append(state)
    y = torch.stack(sequences, 1)
    last = [torch.stack([final[index] for final in finals]) for index in range(states)]
    if batch_first:
        return y.permute(2, 0, 1, 3), *(t.transpose(0, 1) for t in last)
    return y, *last


def _cell(call: Call, way: int) -> _Cell:
    op = call.node.op_type
    w, r = call.inputs[1][way], call.inputs[2][way]
    bias = call.get(3)
    hidden = call.attr("hidden_size")
    wb, rb = w.new_zeros(2, w.shape[0]) if bias is None else bias[way].chunk(2)
    names = call.attr("activations")
    each = {"LSTM": 3, "GRU": 2, "RNN": 1}[op]
    default = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
    chosen = default[op] if names is None else names[way * each : (way + 1) * each]
    for name in chosen:
        if name.lower() not in _ACTIVATIONS:
            call.refuse(f"activation {name!r}")
    f, *others = (_ACTIVATIONS[name.lower()] for name in chosen)

    def rnn(x: Tensor, state: list[Tensor]) -> list[Tensor]:
        return [f(x @ w.T + wb + state[0] @ r.T + rb)]

    def lstm(x: Tensor, state: list[Tensor]) -> list[Tensor]:
        h, c = state
        i, o, forget, new = (x @ w.T + wb + h @ r.T + rb).chunk(4, 1)
        g, last = others
        peephole = call.get(7)
        p = w.new_zeros(3, hidden) if peephole is None else peephole[way].chunk(3)
        i = f(i + p[0] * c)
        kept = 1 - i if call.attr("input_forget", 0) else f(forget + p[2] * c)
        c = kept * c + i * g(new)
        return [f(o + p[1] * c) * last(c), c]

    def gru(x: Tensor, state: list[Tensor]) -> list[Tensor]:
        (h,) = state
        (g,) = others
        xs = x @ w.T + wb
        z, reset = f(xs[:, : 2 * hidden] + (h @ r.T + rb)[:, : 2 * hidden]).chunk(2, 1)
        rh, bh = r[2 * hidden :], rb[2 * hidden :]
        if call.attr("linear_before_reset", 0):
            inner = reset * (h @ rh.T + bh)
        else:
            inner = (reset * h) @ rh.T + bh
        return [(1 - z) * g(xs[:, 2 * hidden :] + inner) + z * h]

    return {"RNN": rnn, "LSTM": lstm, "GRU": gru}[op]


OPERATORS: Operators = {"GRU": _recurrent, "LSTM": _recurrent, "RNN": _recurrent}
