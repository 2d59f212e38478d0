"""A plan carried out on a copy of the model, so that plans can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.graph import iter_nodes
from onnxlite.model import clone
from onnxlite.quantize.half.graph import HalfGraph, IoType
from onnxlite.quantize.half.numbers import Rounding
from onnxlite.quantize.half.plan import HalfPlan


@dataclass(frozen=True)
class Prepared:
    """A float32 model ready for conversion.

    Attributes:
        model: normalised, with types inferred.
        dtype: FLOAT16 or BFLOAT16.
        io: the type at the model's inputs and outputs.
        roundings: what 16 bits make of every float32 constant.
        untyped: values whose type was inferred for the conversion and is not written.
    """

    model: ir.Model
    dtype: ir.DataType
    io: IoType
    roundings: Mapping[ir.Value, Rounding]
    untyped: Sequence[ir.Value]


@dataclass(frozen=True)
class Converted:
    """A model in 16 bits.

    Attributes:
        model: the new model.
        constants: how many constants it stores in 16 bits.
        casts: how many Cast nodes were inserted.
        clamped: names of constants that 16 bits do not hold, and how many numbers of each.
    """

    model: ir.Model
    constants: int
    casts: int
    clamped: Mapping[str, int]


def convert(prepared: Prepared, plan: HalfPlan) -> Converted:
    """Carry out `plan`; the prepared model stays as it is."""
    model = clone(prepared.model)
    nodes = dict(zip(iter_nodes(prepared.model), iter_nodes(model), strict=True))
    values = dict(zip(_values(prepared.model), _values(model), strict=True))
    graph = HalfGraph(
        model,
        prepared.dtype,
        {nodes[node]: ports for node, ports in plan.ports.items()},
        [nodes[node] for node in plan.exact],
        prepared.io,
        {values[value]: found for value, found in prepared.roundings.items()},
    )
    graph.rewrite()
    outputs = set(model.graph.outputs)
    for value in map(values.__getitem__, prepared.untyped):
        if value not in outputs:
            value.type = value.shape = None
    found = {values[value].name: r.clamped for value, r in prepared.roundings.items()}
    clamped = {value.name or "": found[value.name] for value in graph.clamped}
    return Converted(model, graph.constants, graph.casts, clamped)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()
    yield from computed(model)


def computed(model: ir.Model) -> Iterator[ir.Value]:
    """Every value that a node computes, subgraphs included."""
    return (value for node in iter_nodes(model) for value in node.outputs)
