"""Allocate bits to weights under a size budget, by output noise removed per byte.

The noise at the outputs is measured once per weight, rounded alone to few bits. For small errors
it is proportional to the weight's own rounding error, which extrapolates it to the other widths.
A greedy ascent from the fewest bits then takes, again and again, the wider form that removes most
noise per byte (the lower convex hull of each weight's widths).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import ExecutionError, OptionError
from onnxlite.fidelity import Reference
from onnxlite.graph import tensor_array
from onnxlite.inputs import Feed
from onnxlite.model import clone
from onnxlite.packing import Bits
from onnxlite.quantize.weight_only.kernels import why_not_packed
from onnxlite.quantize.weight_only.options import QuantizeWeights
from onnxlite.quantize.weight_only.plan import WeightPlan, plan_weight
from onnxlite.quantize.weight_only.selection import Weight
from onnxlite.runtime import Outputs, Session, probe_feeds

#: Candidate widths, fewest bits first.
WIDTHS: tuple[Bits, ...] = ("ternary", 2, 3, 4, 5, 6, 8)
#: Candidate widths of a weight that a kernel reads; kernels have no other widths.
KERNEL_WIDTHS: tuple[Bits, ...] = (2, 4, 8)
#: Widths at which noise is measured; the first one that a weight has a plan for is used.
PROBES: tuple[Bits, ...] = (3, 4)

#: Candidate plans of one weight by width, fewest bits first.
Plans = Mapping[Bits, WeightPlan]


@dataclass(frozen=True)
class FileSize:
    """Size of a float model, and a function that measures the packed file.

    Attributes:
        total: bytes of the float model.
        measure: returns the bytes of the file with weights packed by these plans; None for
            models that are too large to write, whose size is estimated instead.
    """

    total: int
    measure: Callable[[Sequence[WeightPlan]], int] | None


@dataclass(frozen=True)
class WidthCost:
    """Cost of a weight at one width.

    Attributes:
        bits: the width.
        nbytes: bytes in the file.
        noise: noise over signal at the outputs.
    """

    bits: Bits
    nbytes: int
    noise: float


def allocate_bits(
    model: ir.Model,
    weights: Sequence[Weight],
    options: QuantizeWeights,
    feeds: Sequence[Feed],
    size: FileSize,
    threads: int | None,
) -> list[WeightPlan]:
    """Plan the width of every weight within `options.max_size`.

    Weights that no width makes smaller get no plan.

    Args:
        model: the normalized float model.
        weights: the weights that may get few bits.
        options: the options of the step; `max_size` is set.
        feeds: inputs to measure noise on; one is generated if there are none.
        size: the size of the float model.
        threads: number of threads; None takes all cores.

    Raises:
        OptionError: the model exceeds `max_size` even with the fewest bits.
    """
    assert options.max_size is not None
    candidates = _candidates(weights, options, threads)
    noise = None
    if size.measure is not None:
        noise = _noise(model, candidates, feeds, threads)
    costs = [
        _costs(plans, None if noise is None else noise[name]) for name, plans in candidates.items()
    ]
    fixed = size.total - sum(_any(plans).weight.tensor.nbytes for plans in candidates.values())
    budget = int(options.max_size * size.total) - fixed

    def chosen(bits: Sequence[Bits]) -> list[WeightPlan]:
        return [plans[width] for plans, width in zip(candidates.values(), bits, strict=True)]

    bits = allocate(costs, budget)
    if bits is None:
        least = fixed + sum(min(cost.nbytes for cost in each) for each in costs)
        raise OptionError(
            f"max_size={options.max_size} cannot be reached: with the fewest bits in all weights "
            f"it still has about {least / size.total:.3f} of its size; raise max_size to that"
        )
    first = chosen(bits)
    if size.measure is None:
        return first
    # The estimate is too high: it counts nodes generously and the other initializers as float32.
    # Allocate once more with the bytes that the measured file leaves over.
    spare = fixed + sum(plan.file_bytes for plan in first) - size.measure(first)
    more = allocate(costs, budget + spare)
    if more is not None and size.measure(chosen(more)) <= options.max_size * size.total:
        return chosen(more)
    return first


def allocate(costs: Sequence[Sequence[WidthCost]], budget: int) -> list[Bits] | None:
    """Choose the width of every weight.

    Args:
        costs: for each weight, the costs of its widths.
        budget: bytes for all weights together.

    Returns:
        The width of each weight; None if the fewest bits exceed the budget.
    """
    hulls = [_hull(each) for each in costs]
    chosen = [0] * len(hulls)
    spent = sum(hull[0].nbytes for hull in hulls)
    if spent > budget:
        return None
    wider = [(-_rate(*hull[:2]), index) for index, hull in enumerate(hulls) if len(hull) > 1]
    heapq.heapify(wider)
    while wider:
        _, index = heapq.heappop(wider)
        hull, at = hulls[index], chosen[index]
        more = hull[at + 1].nbytes - hull[at].nbytes
        if spent + more > budget:
            continue  # `spent` never decreases, so this weight keeps its width
        spent += more
        chosen[index] = at + 1
        if at + 2 < len(hull):
            heapq.heappush(wider, (-_rate(hull[at + 1], hull[at + 2]), index))
    return [hull[at].bits for hull, at in zip(hulls, chosen, strict=True)]


def _rate(narrow: WidthCost, wide: WidthCost) -> float:
    """Return the noise removed per byte added."""
    return (narrow.noise - wide.noise) / max(1, wide.nbytes - narrow.nbytes)


def _hull(costs: Sequence[WidthCost]) -> list[WidthCost]:
    """Return the widths on the lower convex hull of noise over bytes."""
    hull: list[WidthCost] = []
    for cost in sorted(costs, key=lambda each: (each.nbytes, each.noise)):
        if hull and cost.noise >= hull[-1].noise:
            continue
        while len(hull) > 1 and _rate(hull[-2], hull[-1]) <= _rate(hull[-1], cost):
            hull.pop()
        hull.append(cost)
    return hull


def _candidates(
    weights: Sequence[Weight], options: QuantizeWeights, threads: int | None
) -> dict[str, Plans]:
    """Plan each weight at every width that makes it smaller; by weight name."""
    candidates: dict[str, Plans] = {}
    for weight in weights:
        by_kernel = options.mode == "compute" and why_not_packed(weight) is None
        plans: dict[Bits, WeightPlan] = {}
        for bits in KERNEL_WIDTHS if by_kernel else WIDTHS:
            plan = plan_weight(replace(weight, bits=bits), options, threads)
            if isinstance(plan, WeightPlan):
                plans[bits] = plan
        if plans:
            candidates[weight.value.name or ""] = plans
    return candidates


def _any(plans: Plans) -> WeightPlan:
    return next(iter(plans.values()))


def _probe(plans: Plans) -> WeightPlan | None:
    """Return the plan that the noise of a weight is measured with."""
    return next((plans[bits] for bits in PROBES if bits in plans), None)


def _costs(plans: Plans, noise: float | None) -> list[WidthCost]:
    """Extrapolate the noise of one probe to every width of a weight.

    Noise is proportional to the squared rounding error of the weight.
    """
    probe = _probe(plans)
    unit = 1.0 if probe is None or not probe.coded.error.noise else 1 / probe.coded.error.noise
    if noise is None:
        noise, unit = 1.0, 1 / max(_any(plans).coded.error.signal, 1e-30)
    return [
        WidthCost(bits, plan.file_bytes, noise * unit * plan.coded.error.noise)
        for bits, plan in plans.items()
    ]


def _noise(
    model: ir.Model,
    candidates: Mapping[str, Plans],
    feeds: Sequence[Feed],
    threads: int | None,
) -> dict[str, float] | None:
    """Measure each weight's probe noise at the outputs; None if the model cannot be run.

    A weight in a branch that no sample takes shows no noise. It gets the median noise per
    rounding error of the other weights, because zero noise would give it the fewest bits.
    """
    probes = {name: _probe(plans) for name, plans in candidates.items()}
    measured = output_noise(
        model,
        {name: None if plan is None else plan.decoded for name, plan in probes.items()},
        feeds,
        threads,
    )
    if measured is None:
        return None
    relative = {
        name: plan.coded.relative_noise for name, plan in probes.items() if plan is not None
    }
    factors = [measured[name] / lost for name, lost in relative.items() if lost and measured[name]]
    typical = float(np.median(factors)) if factors else 1.0
    return {name: noise or typical * relative.get(name, 0.0) for name, noise in measured.items()}


def output_noise(
    model: ir.Model,
    rounded: Mapping[str, Callable[[], ir.TensorProtocol] | None],
    feeds: Sequence[Feed],
    threads: int | None,
) -> dict[str, float] | None:
    """Measure the output noise of each weight rounded alone.

    One session serves all weights: each weight is an input with a default.

    Args:
        model: the normalized float model.
        rounded: by weight name, a function that returns the rounded tensor; None for a weight
            whose noise counts as zero.
        feeds: model inputs; one is generated if there are none.
        threads: number of threads of ONNX Runtime.

    Returns:
        Noise over signal, summed over the outputs, by weight name; None if the model cannot be
        run.
    """
    try:
        feeds = feeds or probe_feeds(model, count=1)
        session = Session(_with_weights_as_inputs(model, rounded), threads=threads)
        reference = Reference(session.run, feeds)
    except ExecutionError:
        return None

    def noise(name: str, tensor: ir.TensorProtocol) -> float:
        array = tensor_array(tensor)
        errors = reference.errors(_overridden(session, name, array))
        return sum(
            error.noise / error.signal for error in errors.outputs.values() if error.signal > 0
        )

    return {name: 0.0 if make is None else noise(name, make()) for name, make in rounded.items()}


def _overridden(
    session: Session, name: str, array: NDArray[np.generic]
) -> Callable[[Feed], Outputs]:
    return lambda feed: session.run({**feed, name: array})


def _with_weights_as_inputs(model: ir.Model, names: Mapping[str, object]) -> ir.Model:
    """Copy the model with the named weights as inputs with defaults."""
    copy = clone(model)
    copy.ir_version = max(copy.ir_version, 4)  # earlier versions have no optional inputs
    main = copy.graph
    for graph in list(copy.graphs()):
        for name in [name for name in graph.initializers if name in names]:
            value = graph.initializers[name]
            if graph is not main:
                del graph.initializers[name]
                main.register_initializer(value)
            main.inputs.append(value)
    return copy
