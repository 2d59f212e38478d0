"""Tied lengths: while measuring, sizes that depend on values are those of the reference.

Text to speech repeats the frames of a token by its rounded duration. A tiny error flips a
rounding, all later frames move, and the outputs differ in length: their difference says nothing.
Here the rounding node is taken out. What it rounds becomes an output, which is measured as every
output is, and what it gave becomes an input, fed with the values of the reference (teacher
forcing):

    x -> Ceil -> y -> ...      becomes      x (output),  y_tied (input) -> ...

Everything that works on models and feeds then compares the same frames, layer by layer too.
`TiedLengths.restore` puts the node back. Rounded values must lie along the batch axis, as feeds
are cut along it; selections such as NonMaxSuppression do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder, drop_unused
from onnxlite.graph import const_tensor, constant
from onnxlite.inputs import Feed, InputSpec, feed_size, input_specs
from onnxlite.model import clone
from onnxlite.ops import value_lengths
from onnxlite.runtime import Session
from onnxlite.samples import Bound, Samples, SamplesLike

#: What the name of an input ends with that holds the rounded values of the reference.
_SUFFIX = ".tied"
#: Feeds on which the rounded values of a result are compared with the reference's.
_FEEDS_COMPARED = 8


@dataclass(frozen=True)
class _Rounding:
    """A rounding node that was taken out.

    Attributes:
        node: of the original model.
        output: name of what it gave.
        measured: names of its computed inputs that became outputs.
    """

    node: ir.Node
    output: str
    measured: tuple[str, ...]

    @property
    def tied(self) -> str:
        """Name of the input that holds the values of the reference."""
        return self.output + _SUFFIX


@dataclass(frozen=True)
class TiedLengths:
    """A model whose sizes that depend on values became inputs.

    Attributes:
        model: copy of the model, without the rounding nodes.
        roundings: the nodes that were taken out.
    """

    model: ir.Model
    roundings: tuple[_Rounding, ...]

    def restore(self, model: ir.Model) -> ir.Model:
        """Put the rounding nodes back into a model that was made of `self.model`.

        The graph of `model` is changed, and returned.
        """
        graph = model.graph
        builder = GraphBuilder(model)
        values = {value.name: value for node in graph for value in node.outputs}
        values.update((value.name, value) for value in (*graph.inputs, *graph.outputs))
        values.update(graph.initializers)
        mine = self.model.graph
        types = {value.name: value.dtype for value in (*mine.inputs, *mine.outputs)}
        for rounding in self.roundings:
            tied = next(value for value in graph.inputs if value.name == rounding.tied)
            graph.inputs.remove(tied)
            old = values.get(rounding.output)
            if old is None:
                old = _put_back(rounding, values, types, builder)
            if tied.dtype and old.dtype and tied.dtype != old.dtype:
                to = {"to": int(tied.dtype)}
                old = builder.end().op("Cast", [old], to, name=rounding.tied)
            tied.replace_all_uses_with(old, replace_graph_outputs=True)
            for name in rounding.measured:
                graph.outputs.remove(values[name])
        graph.sort()
        return model


def _put_back(
    rounding: _Rounding,
    values: Mapping[str | None, ir.Value],
    types: Mapping[str | None, ir.DataType | None],
    builder: GraphBuilder,
) -> ir.Value:
    """Append a copy of the rounding node, which computes in the types that it had."""
    node, at = rounding.node, builder.end()
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        found = None if value is None else values.get(value.name)
        tensor = const_tensor(value)
        if found is None and value is not None and tensor is not None:
            found = constant(tensor, builder.names.fresh(value.name or "constant"))
            builder.model.graph.register_initializer(found)
        # A conversion to float16 also changes what was measured.
        wanted = None if value is None else types.get(value.name)
        if found is not None and wanted and found.dtype and found.dtype != wanted:
            found = at.op("Cast", [found], {"to": int(wanted)}, name=rounding.tied)
        inputs.append(found)
    new = builder.make(node.op_type, inputs, name=rounding.output, domain=node.domain)
    new.attributes.update(node.attributes)
    new.name = node.name
    out, dtype = new.outputs[0], types.get(rounding.tied)
    out.name, out.shape = rounding.output, node.outputs[0].shape
    if dtype is not None:
        out.dtype = dtype
    builder.model.graph.append(new)
    return out


class TiedSamples(Bound):
    """Feeds of a model with the rounded values of the reference; re-iterable.

    Args:
        samples: feeds of the reference.
        values: for each feed, what is added to it.
    """

    def __init__(self, samples: Samples, values: Sequence[Feed]) -> None:
        self.samples, self.values = samples, values
        self.inputs = samples.inputs

    def __iter__(self) -> Iterator[Feed]:
        for feed, values in zip(self.samples, self.values, strict=False):
            yield feed | values


def rounded_values(
    model: ir.Model, names: Sequence[str], feeds: Iterable[Feed], *, threads: int | None = None
) -> list[Feed]:
    """Compute inner values on every feed; only the part of the model that makes them is run.

    Raises:
        ExecutionError: ONNX Runtime does not run the model.
    """
    copy = clone(model)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs[:] = [values[name] for name in names]
    session = Session(copy, threads=threads)
    return [session.run(session.suited(feed)) for feed in feeds]


def tie_lengths(
    model: ir.Model, samples: SamplesLike, *, limit: int | None = None, threads: int | None = None
) -> tuple[TiedLengths, TiedSamples] | None:
    """Take the nodes out that round what lengths are made of, and feed what they gave.

    Args:
        model: the reference; not changed.
        samples: unlabelled inputs.
        limit: at most so many samples.
        threads: of ONNX Runtime; None takes all cores.

    Returns:
        None for a model without such nodes, which costs one pass over its nodes, or whose rounded
        values do not lie along the batch axis.

    Raises:
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the model.
    """
    nodes = [node for node in value_lengths(model).rounding if len(node.outputs) == 1]
    if not nodes:
        return None
    stream = Samples(samples, input_specs(model), limit=limit)
    specs = stream.inputs
    names = [node.outputs[0].name or "" for node in nodes]
    measured = [value.name or "" for node in nodes for value in _measured(node)]
    rounded = rounded_values(model, [*names, *measured], stream, threads=threads)
    kept = [
        name
        for name in names
        if all(_along_batch(v[name], feed, specs) for v, feed in zip(rounded, stream, strict=False))
    ]
    if not kept:
        return None
    first = next(iter(stream))
    inputs = [_input(name + _SUFFIX, rounded[0][name], first, specs) for name in kept]
    types = {name: ir.DataType.from_numpy(array.dtype) for name, array in rounded[0].items()}
    tied = _taken_out(model, inputs, types)
    values = [{name + _SUFFIX: each[name] for name in kept} for each in rounded]
    return tied, TiedSamples(stream, values)


@dataclass(frozen=True)
class TiedPair:
    """Two models with tied lengths, and their feeds."""

    reference: TiedLengths
    candidate: TiedLengths
    feeds: TiedSamples

    @property
    def names(self) -> list[str]:
        """Names of the inputs that hold rounded values."""
        return [rounding.tied for rounding in self.reference.roundings]


def tie_pair(
    reference: ir.Model,
    candidate: ir.Model,
    samples: SamplesLike,
    *,
    limit: int | None = None,
    threads: int | None = None,
) -> TiedPair | None:
    """Tie the lengths of two models to those of the reference, see `tie_lengths`.

    Returns:
        None where `tie_lengths` gives None, or the candidate lacks the rounded values.
    """
    tied = tie_lengths(reference, samples, limit=limit, threads=threads)
    other = None if tied is None else tie_like(tied[0], candidate)
    return None if tied is None or other is None else TiedPair(tied[0], other, tied[1])


def tie_like(tied: TiedLengths, candidate: ir.Model) -> TiedLengths | None:
    """Do the same to a model that was made from the tied one; None if it lacks the values."""
    names = [rounding.output for rounding in tied.roundings]
    present = {value.name for node in candidate.graph for value in node.outputs}
    if not present.issuperset(names):
        return None
    known = {value.name: value for value in tied.model.graph.inputs}
    made = {value.name: value for node in candidate.graph for value in node.outputs}
    inputs = []
    for name in names:
        old = known[name + _SUFFIX]
        dtype = made[name].dtype or old.dtype or ir.DataType.FLOAT
        inputs.append(ir.Value(name=old.name, shape=old.shape, type=ir.TensorType(dtype)))
    types = {
        value.name or "": value.dtype
        for value in tied.model.graph.outputs
        if value.dtype is not None
    }
    return _taken_out(candidate, inputs, types)


def _measured(node: ir.Node) -> list[ir.Value]:
    """Return the computed inputs of a node."""
    return [
        value
        for value in dict.fromkeys(node.inputs)
        if value is not None and const_tensor(value) is None and not value.is_graph_input()
    ]


def _taken_out(
    model: ir.Model, inputs: Sequence[ir.Value], types: Mapping[str, ir.DataType]
) -> TiedLengths:
    """Take out the nodes that make what the inputs are to hold.

    Args:
        model: not changed.
        inputs: named after the values.
        types: of values whose type the model does not say.
    """
    copy = clone(model)
    graph = copy.graph
    originals = {value.name: node for node in model.graph for value in node.outputs}
    made = {value.name: value for node in graph for value in node.outputs}
    roundings = []
    for tied in inputs:
        name = (tied.name or "").removesuffix(_SUFFIX)
        value = made[name]
        node = value.producer()
        assert node is not None
        new = [each for each in _measured(node) if not each.is_graph_output()]
        for each in new:
            if each.dtype is None and (dtype := types.get(each.name or "")) is not None:
                each.dtype = dtype
        graph.outputs.extend(new)
        graph.inputs.append(tied)
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, tied)
        if not value.is_graph_output():
            read = [each for each in node.inputs if each is not None]
            graph.remove(node, safe=True)
            drop_unused(read)
        roundings.append(_Rounding(originals[name], name, tuple(v.name or "" for v in new)))
    return TiedLengths(copy, tuple(roundings))


def _along_batch(array: NDArray[Any], feed: Feed, specs: Sequence[InputSpec]) -> bool:
    return array.ndim == 0 or array.shape[0] == feed_size(feed, specs)


def _input(name: str, array: NDArray[Any], feed: Feed, specs: Sequence[InputSpec]) -> ir.Value:
    """Declare an input for values like `array`, with the inputs' names of dynamic axes."""
    symbols: dict[int, str] = {}
    for spec in specs:
        for dim, size in zip(spec.shape or (), feed[spec.name].shape, strict=False):
            if isinstance(dim, str):
                symbols.setdefault(size, dim)
    batch = next((s.batch for s in specs if s.shape and s.batch_axis is not None), None)
    dims: list[int | str | None] = [
        batch if axis == 0 else 1 if size == 1 else symbols.get(size)
        for axis, size in enumerate(array.shape)
    ]
    return ir.Value(
        name=name, shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
    )


def agreement(candidate: ir.Model, feeds: TiedSamples, *, threads: int | None = None) -> float:
    """Fraction of the candidate's rounded values that are those of the reference, 0 to 1.

    Args:
        candidate: runs on the reference's inputs, with the rounding nodes in place.
        feeds: the reference's values; the first few feeds are compared.
        threads: of ONNX Runtime; None takes all cores.
    """
    wanted = feeds.values[:_FEEDS_COMPARED]
    names = [name.removesuffix(_SUFFIX) for name in wanted[0]]
    made = rounded_values(
        candidate, names, list(islice(feeds.samples, len(wanted))), threads=threads
    )
    equal = total = 0
    for one, other in zip(wanted, made, strict=True):
        for name in names:
            equal += int(np.count_nonzero(one[name + _SUFFIX] == other[name]))
            total += other[name].size
    return equal / total if total else 1.0
