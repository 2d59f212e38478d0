"""Placement by what it saves on this machine: no layer on integers that is faster in float.

1. Profile the float model and the one with every candidate on integers.
2. Label the nodes so that their times and the conversions between them add up to the least.
   What conversions cost is the least certain part, so several weights of them are tried.
3. Time the labellings, everything on integers, and the float model in turn. The fastest one
   is taken, and none if the float model is as fast.

Times are taken with one thread, on one sample and on up to eight at once; the result is
faster on one, not slower on eight, and the fastest on average of both. Between equally fast
ones size decides, and between equally small ones too the noise they make. What was decided is
kept for the next time, by graph, shapes and machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxlite.analysis.fingerprint import fingerprint
from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.cache import Cache, CacheKey
from onnxlite.fidelity import Reference
from onnxlite.machine import is_busy
from onnxlite.model import size_bytes
from onnxlite.quantize.core.options import QuantizeStatic
from onnxlite.quantize.core.plan import Placement, QuantPlan
from onnxlite.quantize.core.qtypes import QParams
from onnxlite.quantize.core.quick_qdq import quick_qdq
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.placement.costs import measured_costs
from onnxlite.quantize.placement.partition import Costs, min_cost_partition
from onnxlite.records import Progress, Reason
from onnxlite.runtime import Session
from onnxlite.samples import Feed, Samples, feed_size, trim
from onnxlite.timing import current_timer, time_ratios

_THREADS = 1
#: Several forms of a model are in memory at once while they are timed.
_MAX_BYTES = 1 << 30
_MANY = 8
_WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_PROFILE_S, _RACE_S = 1.5, 2.5
#: Of the float model's time: a gain below it is noise, and so is a loss on eight samples.
_LEAST_GAIN, _MOST_LOSS = 0.03, 0.0
_FASTER = Reason("faster-in-float", "faster in float")
#: Times of placements this close are equal, in proportion, and so are sizes.
_EQUAL, _HARDLY = 0.02, 0.02

_WHILE_BUSY = "busy"
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
    model, target = everything.model, everything.target
    sizes = _timed_feeds(feeds)
    nodes = {node.name: index for index, node in enumerate(model.graph)}
    chosen = sorted(nodes[node.name] for node in everything.placement.nodes)
    question = fingerprint(model, list(sizes.values()), (target.name, str(_THREADS), repr(chosen)))
    key = CacheKey("placement", ("onnxlite.quantize", "onnxlite.timing"), {"question": question})
    cache = Cache()
    kept = cache.read(key, dict[str, float])
    if kept is None:
        busy = is_busy()
        kept = _numbers(_decide(source, everything, params, sizes, options, progress), nodes)
        kept[_WHILE_BUSY] = float(busy)
        cache.write(key, kept, busy=busy)
    found = _read(kept, everything, options)
    if kept[_WHILE_BUSY]:
        return MeasuredPlacement(found.placement, f"{found.note}{_BUSY}")
    return found


@dataclass(frozen=True)
class _Decision:
    """What was found: times by node, the nodes that stay float, and ratios to float by size."""

    costs: Costs
    in_float: Sequence[ir.Node]
    ratios: Mapping[int, float]
    pays: bool


def _timed_feeds(feeds: Samples) -> dict[int, Feed]:
    """One sample and up to eight, by their number; the first feed where its size is fixed."""
    first = next(iter(feeds))
    sizes = {}
    for count in (1, min(_MANY, feed_size(first, feeds.inputs))):
        sizes[count] = trim(first, feeds.inputs, count)
    if any(feed is None for feed in sizes.values()):
        return {feed_size(first, feeds.inputs): first}
    return {count: feed for count, feed in sizes.items() if feed is not None}


def _decide(
    source: ir.Model,
    everything: QuantPlan,
    params: Mapping[ir.Value, QParams],
    sizes: Mapping[int, Feed],
    options: QuantizeStatic,
    progress: Progress,
) -> _Decision:
    one = next(iter(sizes.values()))
    whole = quick_qdq(everything, params)
    shape_of = concrete_shapes(everything.model, [one])
    costs = measured_costs(everything, whole, one, shape_of, threads=_THREADS, budget_s=_PROFILE_S)
    nodes = everything.placement.nodes
    candidates = {frozenset(nodes): (everything.placement, whole)}
    for weight in _WEIGHTS:
        labelled = min_cost_partition(everything.placement, costs, conversion_weight=weight)
        keep_float = {node.name or "": _FASTER for node in nodes if node not in labelled}
        smaller = _placed(everything, options, keep_float)
        if smaller.layers and frozenset(smaller.nodes) not in candidates:
            quantized = quick_qdq(replace(everything, placement=smaller), params)
            candidates[frozenset(smaller.nodes)] = (smaller, quantized)
    placements, models = zip(*candidates.values(), strict=True)
    sessions = [Session(each, threads=_THREADS) for each in (source, *models)]
    ratios = {
        count: time_ratios(sessions, feed, budget_s=_RACE_S, progress=progress)
        for count, feed in sizes.items()
    }
    equal, pays = _fastest(list(ratios.values()))
    best = _most_accurate(equal, source, models, one)
    stay = [node for node in nodes if node not in set(placements[best].nodes)]
    return _Decision(costs, stay, {count: row[best] for count, row in ratios.items()}, pays)


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


def _fastest(rows: Sequence[Sequence[float]]) -> tuple[list[int], bool]:
    """The fastest placements, by position, and whether they are worth it.

    Args:
        rows: of every size the times of all placements, the float model's being 1.
    """
    indices = range(len(rows[0]))
    good = [
        i
        for i in indices
        if rows[0][i] <= 1 - _LEAST_GAIN and all(row[i] <= 1 + _MOST_LOSS for row in rows)
    ]
    among = good or list(indices)
    means = [sum(row[i] for row in rows) / len(rows) for i in indices]
    fastest = min(means[i] for i in among)
    return [i for i in among if means[i] <= fastest * (1 + _EQUAL)], bool(good)


def _most_accurate(
    among: Sequence[int], source: ir.Model, models: Sequence[ir.Model], feed: Feed
) -> int:
    """Of the models that are hardly larger than the smallest, the one with the least noise."""
    smallest = min(size_bytes(models[i]) for i in among)
    small = [i for i in among if size_bytes(models[i]) <= smallest * (1 + _HARDLY)]
    if len(small) == 1:
        return small[0]
    reference = Reference(source, [feed], threads=_THREADS)
    return max(small, key=lambda i: reference.sqnr_db(models[i]))


def _numbers(decision: _Decision, nodes: Mapping[str | None, int]) -> dict[str, float]:
    """A decision as numbers to be kept: nodes by their position in the graph."""
    kept = {"pays": float(decision.pays)}
    kept |= {f"ratio {count}": ratio for count, ratio in decision.ratios.items()}
    for node in decision.in_float if decision.pays else decision.costs.in_float:
        index = nodes[node.name]
        kept[f"float {index}"] = decision.costs.in_float[node]
        kept[f"integers {index}"] = decision.costs.on_integers[node]
    return kept


def _read(kept: Mapping[str, float], plan: QuantPlan, options: QuantizeStatic) -> MeasuredPlacement:
    ratios = {key.split()[1]: ratio for key, ratio in kept.items() if key.startswith("ratio ")}
    speed = " and ".join(
        f"{ratio:.2f} on {count} sample{'' if count == '1' else 's'}"
        for count, ratio in ratios.items()
    )
    keep_float = {}
    for index, node in enumerate(plan.model.graph):
        if f"float {index}" in kept:
            keep_float[node.name or ""] = _reason(kept[f"float {index}"], kept[f"integers {index}"])
    placement = _placed(plan, options, keep_float)
    if kept["pays"]:
        return MeasuredPlacement(placement, f", time {speed} of float")
    return MeasuredPlacement(
        placement,
        f"nothing is faster on integers here: of the float model's time the best placement took "
        f'{speed}; placement="everything" quantizes all the same, to save size',
    )


def _reason(in_float: float, on_integers: float) -> Reason:
    times = f"measured {in_float * 1e6:.0f} us in float and {on_integers * 1e6:.0f} us on integers"
    if on_integers < in_float:
        times += ", which the conversions around it cost more than"
    return Reason("faster-in-float", times)
