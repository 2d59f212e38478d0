"""Layer-by-layer fidelity: values of two models compared on the same samples.

For each layer two figures: how far its output is from the original's in the compressed model as
it is (`sqnr_db`: everything before it counts), and how far if it gets the original's own values
to read (`own_db`: only what the layer itself does to them). Values are taken in chunks, so
that memory is bounded by the chunk and not by the model or the samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.shapes import concrete_shapes, infer_shapes
from onnxlite.analysis.value_matching import MatchedValue, match_values
from onnxlite.calibrate.effective_range import effective_range
from onnxlite.evaluate.channel_scales import ChannelScales
from onnxlite.evaluate.metrics import Meter
from onnxlite.fidelity import noise_ratio
from onnxlite.graph import const_tensor
from onnxlite.inputs import Feed
from onnxlite.model import clone
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session, tapped

#: Values of the original that are held at a time, of one feed.
_CHUNK_BYTES = 1 << 27
#: A layer that is so much worse on the original's values does not read what they are. Layers
#: that were fitted to make up for others are a few dB worse.
_MEANINGLESS_DB = 15.0
#: Times that all is compared again without such values, or with factors.
_ROUNDS = 8


class LayerFidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Fidelity of the output of one layer.

    SQNR is in dB, infinite without any error, minus infinite with new NaN. Of an output that only
    a sum with a Relu behind it reads, only what gets through there counts.

    Attributes:
        name: of the node in the original, or of an input that is quantized.
        op_type: of the node, with the activation that is part of it.
        value: the output's name in the original.
        sqnr_db: of the output, in the compressed model as it is.
        own_db: of the output if the layer reads the original's values.
        input_db: the worst `sqnr_db` of what it reads.
        max_abs: largest difference of the output, in the compressed model as it is; of channels
            that were multiplied, against the original's times the factor.
    """

    name: str
    op_type: str
    value: str
    sqnr_db: float
    own_db: float
    input_db: float
    max_abs: float

    @property
    def lost(self) -> float:
        """Noise over signal that is new in the output, against what the layer reads."""
        return noise_ratio(self.sqnr_db) - noise_ratio(self.input_db)


@dataclass
class _Row:
    """A comparison in progress.

    Attributes:
        reads: the rows whose values the layer reads.
        inputs: of the candidate that it reads as well.
        whole: measures the output in the compressed model as it is.
        own: measures it if the layer reads the original's values.
        scales: finds channels that were multiplied.
        other: of the original, the other side of the sum that alone reads the output, if a Relu
            follows: the Relu cuts off what lies below its negative, so that is not compared.
        fits: whether the output has the original's shape, less the channels that are gone.
    """

    pair: MatchedValue
    reads: tuple[int, ...]
    inputs: tuple[str, ...]
    whole: Meter
    own: Meter
    scales: ChannelScales
    other: ir.Value | None
    fits: bool = True


@dataclass(frozen=True)
class _Models:
    """Both models, and what they are run on.

    Attributes:
        reference: the original.
        candidate: made from it.
        feeds: inputs of the reference, re-iterable.
        inputs: the candidate's name of every input of the reference.
        threads: of ONNX Runtime.
    """

    reference: ir.Model
    candidate: ir.Model
    feeds: Iterable[Feed]
    inputs: Mapping[str, str]
    threads: int | None


def compare_layers(
    reference: ir.Model,
    candidate: ir.Model,
    feeds: Iterable[Feed],
    inputs: Mapping[str, str],
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[tuple[LayerFidelity, ...], list[str]]:
    """Compare all values that both models have.

    Args:
        reference: the original.
        candidate: made from it.
        feeds: inputs of the reference, re-iterable.
        inputs: the candidate's name of every input of the reference.
        threads: of ONNX Runtime.
        progress: called after every chunk.

    Returns:
        One row per layer, in the original's order, and notes on what could not be compared.

    Raises:
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    reference, candidate = clone(reference), clone(candidate)
    for side in (reference, candidate):
        side.graph.sort()
        infer_shapes(side)
    both = _Models(reference, candidate, feeds, inputs, threads)
    pairs = match_values(reference, candidate, inputs)
    notes: list[str] = []
    rows: list[_Row] = []
    for _ in range(_ROUNDS):
        rows = _rows(pairs)
        chunks = _chunks(rows, reference, next(iter(feeds)))
        for done, chunk in enumerate(chunks, 1):
            _run_chunk(both, rows, chunk)
            progress("compare layers", done, len(chunks))
        if multiplied := _multiplied(rows):
            pairs = [multiplied.get(pair.candidate, pair) for pair in pairs]
            continue
        changed = _changed_meaning(rows)
        if not changed:
            break
        names = ", ".join(sorted(row.pair.node for row in changed))
        notes.append(f"not compared, because a rewrite gave them another meaning: {names}")
        gone = {row.pair.candidate for row in changed}
        pairs = [pair for pair in pairs if pair.candidate not in gone]
    if scaled := [row.pair.node for row in rows if row.pair.gain is not None]:
        notes.append(
            "compared with the original's values times a factor per channel, as equalization "
            f"leaves them: {', '.join(scaled)}"
        )
    if lost := [row.pair.node for row in rows if not row.fits]:
        notes.append(f"not compared, because they have another shape: {', '.join(lost)}")
    if not rows:
        notes.append("no layer of the candidate is one of the reference's, by its name")
    return _results(rows), notes


def _rows(pairs: Sequence[MatchedValue]) -> list[_Row]:
    """Pair up values; each layer reads the nearest values that are compared."""
    # What two layers of the original have become one value for is the first one's.
    unique = {pair.candidate: pair for pair in reversed(pairs)}
    pairs = [pair for pair in pairs if unique[pair.candidate] is pair]
    index = {pair.candidate: number for number, pair in enumerate(pairs)}
    rows = []
    for pair in pairs:
        reads, free = _sources(pair.candidate, index)
        name = pair.reference.name or ""
        part = effective_range(pair.reference)
        meters = Meter(name, cut=False), Meter(name, cut=False), ChannelScales(pair.axis)
        other = None if part is None else part.other
        rows.append(_Row(pair, tuple(sorted(reads)), tuple(free), *meters, other))
    return rows


def _sources(value: ir.Value, index: Mapping[ir.Value, int]) -> tuple[set[int], list[str]]:
    """Find the compared values right before a value, and inputs of the graph."""
    reads: set[int] = set()
    free: dict[str, None] = {}
    producer = value.producer()
    queue = [v for v in _reads(producer) if v is not None] if producer is not None else []
    seen: set[ir.Value] = set()
    while queue:
        source = queue.pop()
        if source in seen or const_tensor(source) is not None:
            continue
        seen.add(source)
        if source in index:
            reads.add(index[source])
        elif (before := source.producer()) is not None:
            queue += _reads(before)
        elif source.is_graph_input():
            free[source.name or ""] = None
    return reads, list(free)


def _reads(node: ir.Node | None) -> list[ir.Value]:
    """List what a node or its bodies read from the main graph."""
    if node is None:
        return []
    found = [value for value in node.inputs if value is not None]
    for attr in node.attributes.values():
        graphs = (
            [attr.as_graph()]
            if attr.type == ir.AttributeType.GRAPH
            else attr.as_graphs()
            if attr.type == ir.AttributeType.GRAPHS
            else []
        )
        for graph in graphs:
            for inner in graph.all_nodes():
                found += [v for v in inner.inputs if v is not None and v.graph is node.graph]
    return found


def _chunks(rows: Sequence[_Row], reference: ir.Model, feed: Feed) -> list[list[int]]:
    """Rows that are run together: as many as fit into memory."""
    shape_of = concrete_shapes(reference, [feed])
    chunks: list[list[int]] = [[]]
    held = 0
    for number, row in enumerate(rows):
        shape = shape_of(row.pair.reference) or ()
        size = 4 * math.prod(shape)
        if chunks[-1] and held + size > _CHUNK_BYTES:
            chunks.append([])
            held = 0
        chunks[-1].append(number)
        held += size
    return chunks


def _run_chunk(both: _Models, rows: Sequence[_Row], chunk: Sequence[int]) -> None:
    """Run both models on all feeds, and measure the values of some rows."""
    mine = [rows[number] for number in chunk]
    needed = {n for row in mine for n in row.reads}.union(chunk)
    wanted = [rows[n].pair.reference for n in needed]
    wanted += [row.other for row in mine if row.other is not None]
    exact = Session(tapped(both.reference, _names(wanted)), threads=both.threads)
    names = _names(row.pair.candidate for row in mine)
    made = Session(tapped(both.candidate, names), threads=both.threads)
    layers = [_layer_session(row, rows, both) for row in mine]
    for feed in both.feeds:
        renamed = {both.inputs[name]: array for name, array in feed.items()}
        want: dict[str, Any] = {**feed, **exact.run(feed)}
        have: dict[str, Any] = {**renamed, **made.run(made.suited(renamed))}
        for row, layer in zip(mine, layers, strict=True):
            if row.fits:
                given = {name: renamed[name] for name in row.inputs}
                given |= dict(_as_candidate(rows[number].pair, want) for number in row.reads)
                _measure(row, want, have, layer, given)


def _measure(
    row: _Row,
    want: Mapping[str, Any],
    have: Mapping[str, Any],
    layer: Session,
    given: Feed,
) -> None:
    """Add one feed to a row.

    Args:
        row: of the layer.
        want: values of the reference.
        have: values of the candidate.
        layer: the candidate's layer alone.
        given: the reference's values in the form in which that reads them.
    """
    pair = row.pair
    target = pair.of_reference(want[pair.reference.name or ""])
    got = _decoded(pair, have[pair.candidate.name or ""])
    row.fits = got.shape == target.shape
    if not row.fits:
        return
    floor: NDArray[Any] | float = -np.inf
    if row.other is not None:
        floor = -pair.of_reference(want[row.other.name or ""])
    row.whole.update(np.maximum(target, floor), np.maximum(got, floor))
    if pair.gain is None:
        row.scales.update(*(np.where(target > floor, side, 0) for side in (target, got)))
    own = _decoded(pair, layer.run(layer.suited(given))[pair.candidate.name or ""])
    row.own.update(np.maximum(target, floor), np.maximum(own, floor))


def _as_candidate(pair: MatchedValue, want: Mapping[str, Any]) -> tuple[str, NDArray[Any]]:
    """Name and value of the candidate's counterpart, were it the reference's value."""
    value = pair.of_reference(want[pair.reference.name or ""])
    return pair.candidate.name or "", value if pair.code is None else pair.code.encode(value)


def _multiplied(rows: Sequence[_Row]) -> dict[ir.Value, MatchedValue]:
    """Pairs with the factors of channels that have some, by the candidate's value.

    Layers come first, and what only passes factors on after them, one round later.
    """
    found: dict[ir.Value, MatchedValue] = {}
    for row in rows:
        known = row.pair.gain is not None or row.pair.candidate.is_graph_output()
        known = known or row.pair.reference.is_graph_output() or not row.fits
        gain = None if known else row.scales.found(row.own.result().decibels)
        if gain is not None:
            found[row.pair.candidate] = replace(row.pair, gain=gain)
    return found


def _changed_meaning(rows: Sequence[_Row]) -> list[_Row]:
    """Find values of the old name and another meaning, as of a folded scale.

    Whoever reads such a value makes no sense of the original's, and none of the candidate's own.
    """
    found: dict[int, None] = {}
    for row in rows:
        reads = [number for number in row.reads if rows[number].fits]
        if (
            row.fits
            and reads
            and row.whole.result().decibels - row.own.result().decibels > _MEANINGLESS_DB
        ):
            found[min(reads, key=lambda number: rows[number].whole.result().decibels)] = None
    return [rows[number] for number in found]


def _names(values: Iterable[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]


def _decoded(pair: MatchedValue, array: NDArray[Any]) -> NDArray[Any]:
    return array if pair.code is None else pair.code.decode(array)


def _layer_session(row: _Row, rows: Sequence[_Row], both: _Models) -> Session:
    """Load the layer alone: from the compared values before it to its own."""
    candidate = both.candidate
    starts = [rows[number].pair.candidate for number in row.reads]
    starts += [value for value in candidate.graph.inputs if value.name in row.inputs]
    graph = ir.convenience.extract(candidate.graph, starts, [row.pair.candidate])
    codes = {rows[number].pair.candidate.name: rows[number].pair.code for number in row.reads}
    for value in graph.inputs:
        code = codes.get(value.name)
        if code is not None:
            value.type = ir.TensorType(ir.DataType.from_numpy(code.zero.dtype))
        elif value.type is None:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    layer = ir.Model(
        graph, ir_version=candidate.ir_version, functions=list(candidate.functions.values())
    )
    layer.opset_imports.update(candidate.opset_imports)
    return Session(layer, threads=both.threads)


def _results(rows: Sequence[_Row]) -> tuple[LayerFidelity, ...]:
    decibels = [row.whole.result().decibels for row in rows]
    return tuple(
        LayerFidelity(
            name=row.pair.node,
            op_type=row.pair.op_type,
            value=row.pair.reference.name or "",
            sqnr_db=decibels[number],
            own_db=row.own.result().decibels,
            input_db=min((decibels[n] for n in row.reads if rows[n].fits), default=math.inf),
            max_abs=row.whole.result().max_abs or 0.0,
        )
        for number, row in enumerate(rows)
        if row.fits
    )
