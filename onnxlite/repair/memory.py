"""How many samples are used: values are held between layers, and their bytes are bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import prod

import onnx_ir as ir

from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.repair.frontier import Route
from onnxlite.samples import Feed, Samples, feed_size

#: More samples than this tell the fits of layers nothing new, however small they are.
_ENOUGH_SAMPLES = 2048
#: Stops in a row that may be run again because their values are too large to be held.
_LONGEST_RERUN = 5
_STRING_BYTES = 64


@dataclass(frozen=True)
class Plan:
    """The feeds to run on, and for each route which stops are held.

    Attributes:
        feeds: the first ones of the samples.
        hold: of each route, for each stop.
        complete: there are no more samples.
    """

    feeds: tuple[Feed, ...]
    hold: tuple[tuple[bool, ...], ...]
    complete: bool


def plan(samples: Samples, routes: Sequence[Route], cache_bytes: int) -> Plan:
    """Take as many feeds as can be held and are worth it; at least one.

    A stop at which too much would be held is run through, and what it needs is run again
    for the next. So that this costs no more than a few runs, the feeds must fit into
    memory at one of every few stops; the first feed tells how large its values are.
    """
    first = next(iter(samples))
    needed = [route.held_bytes(_sizes(route.model, first)) for route in routes]
    per_feed = sum(map(_least_held, needed)) + sum(array.nbytes for array in first.values())
    enough = -(-_ENOUGH_SAMPLES // max(feed_size(first, samples.inputs), 1))
    count = min(max(1, cache_bytes // max(per_feed, 1)), enough)
    taken = tuple(islice(samples, count + 1))
    feeds = taken[:count]
    share = cache_bytes // len(routes)
    hold = tuple(
        tuple(size * len(feeds) <= share or size <= _least_held(sizes) for size in sizes)
        for sizes in needed
    )
    return Plan(feeds, hold, complete=len(taken) <= count)


def _least_held(sizes: Sequence[int]) -> int:
    """The least limit under which one of every few stops in a row is held."""
    windows = range(max(1, len(sizes) - _LONGEST_RERUN + 1))
    return max(min(sizes[start : start + _LONGEST_RERUN]) for start in windows)


def _sizes(model: ir.Model, feed: Feed) -> dict[ir.Value, int]:
    """Bytes of every value of the main graph on one feed, where its shape is known."""
    shape_of = concrete_shapes(model, [feed])
    sizes = {}
    for value in chain(model.graph.inputs, *(node.outputs for node in model.graph)):
        shape = shape_of(value)
        if shape is not None:
            sizes[value] = int(prod(shape) * _itemsize(value.dtype))
    return sizes


def _itemsize(dtype: ir.DataType | None) -> float:
    """Bytes of an element; of a string, those of the pointer and a short text."""
    if dtype is None:
        return ir.DataType.FLOAT.itemsize
    return _STRING_BYTES if dtype.is_string() else dtype.itemsize
