"""Keeping float32 where 16 bits cost most, until the outputs are near enough.

The noise of separate parts of a network adds up, so what each part brings is measured by
itself: the plan with this part in float32. The parts that bring most are kept.
"""

from __future__ import annotations

import itertools

import onnx_ir as ir

from onnxlite.errors import VerificationError
from onnxlite.quantize.half_check import HalfCheck
from onnxlite.quantize.half_convert import Prepared, convert
from onnxlite.quantize.half_plan import HalfPlan
from onnxlite.records import Progress

#: What the outputs should reach on the samples; others are then safely above 50 dB.
TARGET_DB = 53.0
#: Consecutive parts of the network that are tried.
_PARTS = 12


def refine(
    prepared: Prepared,
    plan: HalfPlan,
    check: HalfCheck,
    *,
    threads: int | None,
    progress: Progress,
) -> HalfPlan:
    """Keep the parts of `plan` in float32 that bring its outputs to 53 dB, if any do.

    Returns:
        The plan itself where it is near enough, or another one that keeps more nodes.
    """

    def reached(candidate: HalfPlan) -> float:
        try:
            return check.sqnr_db(convert(prepared, candidate).model, threads=threads)
        except VerificationError:
            return float("-inf")

    best, best_db = plan, reached(plan)
    if best_db >= TARGET_DB:
        return plan
    parts = _parts(list(plan.ports))
    gains = []
    for index, part in enumerate(parts):
        progress("refine", index, len(parts))
        gains.append((reached(_without(plan, part, 0.0)), index))
    kept: list[ir.Node] = []
    for _, index in sorted(gains, reverse=True):
        kept += parts[index]
        candidate = _without(plan, kept, best_db)
        if (now := reached(candidate)) > best_db + 0.1:
            best, best_db = candidate, now
        if best_db >= TARGET_DB:
            break
    return best


def _without(plan: HalfPlan, nodes: list[ir.Node], present_db: float) -> HalfPlan:
    other = plan.copy()
    for node in nodes:
        other.exact.add(node)
        other.keep(node, f"16 bits cost most here: the outputs would be at {present_db:.0f} dB")
    return other


def _parts(nodes: list[ir.Node]) -> list[list[ir.Node]]:
    count = min(_PARTS, len(nodes))
    bounds = [index * len(nodes) // count for index in range(count + 1)] if count else []
    return [nodes[a:b] for a, b in itertools.pairwise(bounds)]
