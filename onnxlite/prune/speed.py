"""The latency of a model as units go, told from the measured times of its layers.

Of every layer a few widths are measured. In between its time follows the work that the
kernels do, which is that of channels rounded up to whole blocks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.kept_shapes import KeptShapes
from onnxlite.machine import machine
from onnxlite.ops import Ids, spec_of
from onnxlite.prune.price import Item, padded_macs
from onnxlite.records import Progress, silent
from onnxlite.runtime import Session
from onnxlite.samples import Feed
from onnxlite.timing.interleaved import paired_times
from onnxlite.timing.layer_times import LayerTimes

#: Shares of its units at which a layer is measured.
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
_RUNS = 9


def latency_items(
    model: ir.Model,
    channels: ChannelMap,
    orders: Sequence[Ids],
    counts: Sequence[Sequence[int]],
    feed: Feed,
    *,
    threads: int | None,
    progress: Progress = silent,
) -> list[Item]:
    """The time of every layer, and of all other nodes by the size of what they make.

    Args:
        model: the model.
        channels: its units.
        orders: of every group the units in the order in which they go.
        counts: of every group the numbers of units it may keep.
        feed: to time the whole model on.
        threads: of ONNX Runtime.
        progress: called as layers are done.
    """
    times = LayerTimes(threads=threads)
    shapes = KeptShapes(channels, orders)
    layers = [node for node in model.graph if spec_of(node).macs is not None]
    items, whole = [], 0.0
    try:
        for index, node in enumerate(layers):
            progress("time layers", index, len(layers))
            item = _layer_item(model, node, shapes, counts, times)
            if item is not None:
                items.append(item)
                whole += item.price(shapes)
    finally:
        times.keep()
    progress("time layers", len(layers), len(layers))
    rest = max(_run_seconds(model, feed, threads) - whole, 0.0)
    measured = {value for item in items for value in item.values}
    others = [v for node in model.graph for v in node.outputs if v not in measured]
    total = sum(_size(shapes, value) for value in others)
    return [*items, *(_share_item(value, rest / total) for value in others if total)]


def _layer_item(
    model: ir.Model,
    node: ir.Node,
    shapes: KeptShapes,
    counts: Sequence[Sequence[int]],
    times: LayerTimes,
) -> Item | None:
    values = tuple(value for value in (*node.inputs, *node.outputs) if value is not None)
    groups = set().union(*map(shapes.groups_of, values))
    before = list(shapes.removed)
    block = machine().channel_block
    found: dict[float, float] = {}
    for share in _SHARES if groups else _SHARES[:1]:
        for group in groups:
            total = counts[group][0]
            some = [count for count in counts[group] if count]
            kept = min(some, key=lambda count: abs(count - share * total))
            shapes.removed[group] = total - kept
        attributes = {n: shapes.count(node, n) for n in node.attributes}
        seconds = times.time(
            model, node, shapes.shape, {n: c for n, c in attributes.items() if c is not None}
        )
        if seconds is not None:
            found[padded_macs(node, shapes, block)] = seconds
    shapes.removed[:] = before
    if not found:
        return None
    works = sorted(found)
    # More work never takes less time; where it was measured so, that was noise.
    seconds_of = np.maximum.accumulate([found[work] for work in works])
    return Item(
        values,
        lambda now: float(np.interp(padded_macs(node, now, block), works, seconds_of)),
        (node,),
    )


def _share_item(value: ir.Value, seconds: float) -> Item:
    producer = value.producer()
    nodes = () if producer is None else (producer,)
    return Item((value,), lambda shapes: _size(shapes, value) * seconds, nodes)


def _size(shapes: KeptShapes, value: ir.Value) -> int:
    return prod(shapes.shape(value) or (0,))


def _run_seconds(model: ir.Model, feed: Feed, threads: int | None) -> float:
    session = Session(model, threads=threads)
    session.run(feed)
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        session.run(feed)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def latency_ratio(
    reference: ir.Model, candidate: ir.Model, feed: Feed, *, threads: int | None, budget_s: float
) -> float:
    """Median of candidate time over reference time, in interleaved runs."""
    sessions = (Session(reference, threads=threads), Session(candidate, threads=threads))
    times = paired_times(sessions, [(feed, feed)], budget_s=budget_s)
    return float(np.median(times[:, 1] / times[:, 0]))
