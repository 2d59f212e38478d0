"""Placement search: keep in float the layers that are not faster on integers on this machine.

1. Profile the float model and the one with every candidate on integers.
2. Partition the nodes so that their times and the conversions between them add up to the least.
   The costs of conversions are the least certain part, so several factors of them are tried.
3. Time the partitions, everything on integers, and the float model in turn. The fastest one
   is taken, and none if the float model is as fast.

Times are taken with one thread, on one sample and on up to eight at once; the result is
faster on one, not slower on eight, and the fastest on average of both. Between equally fast
ones size decides, and between equally small ones the noise. Results are kept in the cache, by
graph, shapes and machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import onnx_ir as ir

from onnxlite.analysis.fingerprint import fingerprint
from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.cache import Cache, CacheKey
from onnxlite.fidelity import Reference
from onnxlite.inputs import Feed, feed_size, trim
from onnxlite.machine import is_busy
from onnxlite.model import size_bytes
from onnxlite.quantize.core.options import QuantizeStatic
from onnxlite.quantize.core.plan import Placement, QuantPlan
from onnxlite.quantize.core.qtypes import QParams
from onnxlite.quantize.core.quick_qdq import quick_qdq
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.placement.costs import measured_costs
from onnxlite.quantize.placement.partition import Costs, min_cost_partition
from onnxlite.quantize.placement.race import EQUAL, MIN_GAIN, race
from onnxlite.records import Progress, Reason
from onnxlite.runtime import Session
from onnxlite.samples import Samples
from onnxlite.timing import current_timer

_THREADS = 1
#: Several forms of a model are in memory at once while they are timed.
_MAX_BYTES = 1 << 30
#: Largest number of samples in a run that is timed.
_MAX_BATCH = 8
_CONVERSION_WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_PROFILE_S, _TIMING_S = 0.4, 1.0
#: Factor of these times for the best effort.
_BEST = 4
#: Fractions of the float model's time: smaller gains are noise; losses are for eight samples.
_MIN_GAIN, _MAX_LOSS = MIN_GAIN, 0.0
_FASTER = Reason("faster-in-float", "faster in float")
#: Times of placements this close are equal, in proportion, and so are sizes.
_EQUAL_TIMES, _EQUAL_SIZES = EQUAL, 0.02
_BUSY = ", while other work kept the machine busy: measure again when it is idle"


@dataclass(frozen=True)
class MeasuredPlacement:
    """A placement that pays.

    Attributes:
        placement: what runs on integers, nothing if nothing pays; its `skipped` says what
            does not, and why.
        note: how fast it was, for the report; empty if it was not timed.
    """

    placement: Placement
    note: str = ""


def fastest_placement(
    source: ir.Model,
    everything: QuantPlan,
    params: Mapping[ir.Value, QParams],
    feeds: Samples,
    options: QuantizeStatic,
    progress: Progress,
) -> MeasuredPlacement:
    """Find the part of a placement that is faster on integers.

    Args:
        source: the float model as it was given, which the result must not be slower than.
        everything: the largest placement, in the prepared model.
        params: of its values.
        feeds: the first one is timed.
        options: what the caller asked for.
        progress: called as placements are timed.
    """
    if (
        options.placement == "everything"
        or current_timer() is None
        or not everything.target.runs_here
    ):
        return MeasuredPlacement(everything.placement)
    if size_bytes(source) > _MAX_BYTES:
        note = f", not timed because {_MAX_BYTES >> 20} MiB are exceeded"
        return MeasuredPlacement(everything.placement, note)
    sizes = _timed_feeds(feeds)
    key, cache = _cache_key(everything, list(sizes.values())), Cache()
    timing = cache.read(key, _Timing)
    if timing is None and options.placement == "remembered":
        return MeasuredPlacement(everything.placement)
    if timing is None:
        busy = is_busy()
        timing = _measure(source, everything, params, sizes, options, progress, busy)
        cache.write(key, timing, busy=busy)
    return _measured_placement(timing, everything, options)


class _Timing(msgspec.Struct, frozen=True):
    """Record of a search.

    Attributes:
        pays: whether a placement is faster than float.
        ratios: time of the best placement over the float model's, by number of samples.
        in_float: seconds in float and on integers of the nodes that stay float, by their
            position in the graph; of all nodes if no placement pays.
        busy: other work kept the machine busy.
    """

    pays: bool
    ratios: dict[int, float]
    in_float: dict[int, tuple[float, float]]
    busy: bool


def _cache_key(plan: QuantPlan, feeds: Sequence[Feed]) -> CacheKey:
    positions = {node.name: index for index, node in enumerate(plan.model.graph)}
    chosen = sorted(positions[node.name] for node in plan.placement.nodes)
    question = fingerprint(plan.model, feeds, (plan.target.name, str(_THREADS), repr(chosen)))
    return CacheKey("placement", ("onnxlite.quantize", "onnxlite.timing"), {"question": question})


def _timed_feeds(feeds: Samples) -> dict[int, Feed]:
    """Cut one sample and up to eight from the first feed, by number; a fixed batch stays whole."""
    first = next(iter(feeds))
    sizes = {}
    for count in (1, min(_MAX_BATCH, feed_size(first, feeds.inputs))):
        sizes[count] = trim(first, feeds.inputs, count)
    if any(feed is None for feed in sizes.values()):
        return {feed_size(first, feeds.inputs): first}
    return {count: feed for count, feed in sizes.items() if feed is not None}


def _measure(
    source: ir.Model,
    everything: QuantPlan,
    params: Mapping[ir.Value, QParams],
    sizes: Mapping[int, Feed],
    options: QuantizeStatic,
    progress: Progress,
    busy: bool,
) -> _Timing:
    """Find candidates and time them against the float model."""
    one = next(iter(sizes.values()))
    whole = quick_qdq(everything, params)
    shape_of = concrete_shapes(everything.model, [one])
    longer = _BEST if options.effort == "best" else 1
    budget_s = _PROFILE_S * longer
    costs = measured_costs(everything, whole, one, shape_of, threads=_THREADS, budget_s=budget_s)
    candidates = {frozenset(everything.placement.nodes): (everything.placement, whole)}
    for placement in _partitions(everything, costs, options):
        if placement.layers and frozenset(placement.nodes) not in candidates:
            quantized = quick_qdq(replace(everything, placement=placement), params)
            candidates[frozenset(placement.nodes)] = (placement, quantized)
    placements, models = zip(*candidates.values(), strict=True)
    sessions = [Session(each, threads=_THREADS, random="drawn") for each in (source, *models)]
    ratios = race(sessions, sizes, _pays, budget_s=_TIMING_S * longer, progress=progress)
    equal, pays = _fastest(list(ratios.values()))
    best = _most_accurate(equal, source, models, one)
    chosen = set(placements[best].nodes) if pays else set()
    positions = {node: index for index, node in enumerate(everything.model.graph)}
    return _Timing(
        pays=pays,
        ratios={count: row[best] for count, row in ratios.items()},
        in_float={
            positions[node]: (costs.in_float[node], costs.on_integers[node])
            for node in everything.placement.nodes
            if node not in chosen
        },
        busy=busy,
    )


def _partitions(plan: QuantPlan, costs: Costs, options: QuantizeStatic) -> Iterator[Placement]:
    """Yield the cheapest placement for each factor of the costs of conversions."""
    for weight in _CONVERSION_WEIGHTS:
        on_integers = min_cost_partition(plan.placement, costs, conversion_weight=weight)
        stay = (node for node in plan.placement.nodes if node not in on_integers)
        yield _placed(plan, options, {node.name or "": _FASTER for node in stay})


def _placed(
    plan: QuantPlan, options: QuantizeStatic, keep_float: Mapping[str, Reason]
) -> Placement:
    return place(
        plan.model,
        plan.target,
        include=options.include,
        exclude=options.exclude,
        keep_float=keep_float,
    )


def _pays(ratios: Sequence[float]) -> bool:
    """Tell whether a placement pays, by its times over float for each number of samples."""
    return ratios[0] <= 1 - _MIN_GAIN and all(ratio <= 1 + _MAX_LOSS for ratio in ratios)


def _fastest(rows: Sequence[Sequence[float]]) -> tuple[list[int], bool]:
    """Find the fastest placements, by position, and whether they pay.

    Args:
        rows: for each number of samples the times of all placements over the float model's.
    """
    indices = range(len(rows[0]))
    good = [i for i in indices if _pays([row[i] for row in rows])]
    among = good or list(indices)
    means = [sum(row[i] for row in rows) / len(rows) for i in indices]
    fastest = min(means[i] for i in among)
    return [i for i in among if means[i] <= fastest * (1 + _EQUAL_TIMES)], bool(good)


def _most_accurate(
    among: Sequence[int], source: ir.Model, models: Sequence[ir.Model], feed: Feed
) -> int:
    """Choose the model with the least noise among those about as small as the smallest."""
    smallest = min(size_bytes(models[i]) for i in among)
    small = [i for i in among if size_bytes(models[i]) <= smallest * (1 + _EQUAL_SIZES)]
    if len(small) == 1:
        return small[0]
    reference = Reference(source, [feed], threads=_THREADS)
    return max(small, key=lambda i: reference.sqnr_db(models[i]))


def _measured_placement(
    timing: _Timing, plan: QuantPlan, options: QuantizeStatic
) -> MeasuredPlacement:
    """The placement that a record stands for, in the plan's model."""
    speed = " and ".join(
        f"{ratio:.2f} on {count} sample{'' if count == 1 else 's'}"
        for count, ratio in timing.ratios.items()
    )
    placement = _placed(
        plan,
        options,
        {
            node.name or "": _reason(*timing.in_float[index])
            for index, node in enumerate(plan.model.graph)
            if index in timing.in_float
        },
    )
    if timing.pays:
        note = f", time {speed} of float"
    else:
        note = (
            "nothing is faster on integers here: of the float model's time the best placement "
            f'took {speed}; placement="everything" quantizes all the same, to save size'
        )
    return MeasuredPlacement(placement, f"{note}{_BUSY}" if timing.busy else note)


def _reason(in_float: float, on_integers: float) -> Reason:
    times = f"measured {in_float * 1e6:.0f} us in float and {on_integers * 1e6:.0f} us on integers"
    if on_integers < in_float:
        times += ", which the conversions around it cost more than"
    return Reason("faster-in-float", times)
