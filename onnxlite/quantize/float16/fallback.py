"""Float32 fallback: keep float32 where 16 bits cost most, until the outputs are near enough.

The noise of separate parts of a network adds up, so what each part brings is measured by
itself: the plan with this part, weights and all, in float32. Parts that bring most for their
bytes are kept with their weights while that costs little; of others only the activations are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxlite.errors import VerificationError
from onnxlite.fidelity import noise_ratio
from onnxlite.quantize.float16.convert import Prepared, convert
from onnxlite.quantize.float16.plan import HalfPlan
from onnxlite.quantize.float16.verify import Float32Outputs
from onnxlite.records import Progress, Reason

#: What the outputs should reach on the samples; others are then safely above 50 dB.
TARGET_DB = 53.0
#: Consecutive parts of the network that are tried; fewer where each trial takes long.
_PARTS, _PARTS_OF_LARGE, _LARGE_BYTES = 24, 12, 1 << 28
#: What weights that stay float32 may add, as a share of all: the file stays below 0.52.
_MAX_FRACTION = 0.0195


def fall_back(
    prepared: Prepared,
    plan: HalfPlan,
    check: Float32Outputs,
    *,
    progress: Progress,
) -> HalfPlan:
    """Keep the parts of `plan` in float32 that bring its outputs to 53 dB, if any do.

    Returns:
        The plan itself where it is near enough, or another one that keeps more nodes: the
        best that was found.
    """

    def noise(candidate: HalfPlan) -> float:
        """Noise over signal of the worst output; infinite where it is not finite."""
        try:
            return noise_ratio(check.sqnr_db(convert(prepared, candidate).model))
        except VerificationError:
            return math.inf

    wanted = noise_ratio(TARGET_DB)
    best, least = plan, noise(plan)
    if least <= wanted:
        return plan
    total = sum(value.const_value.nbytes for value in prepared.roundings if value.const_value)
    parts = _parts(list(plan.ports), total)
    found = []
    for index, part in enumerate(parts):
        progress("refine", index, len(parts))
        gain = least - noise(_without(plan, part, part))
        cost = _bytes(prepared, part)
        found.append((gain / (cost + _MAX_FRACTION * total / 100), gain, cost, index))
    progress("refine", len(parts), len(parts))
    kept: list[ir.Node] = []
    exact: list[ir.Node] = []
    spent, later = 0, []
    for _, gain, cost, index in sorted(found, reverse=True):
        if spent + cost > _MAX_FRACTION * total:
            later.append((gain, index))
            continue
        spent += cost
        kept, exact = kept + parts[index], exact + parts[index]
        candidate = _without(plan, kept, exact)
        if (now := noise(candidate)) < least:
            best, least = candidate, now
        if least <= wanted:
            return best
    for _, index in sorted(later, reverse=True):
        kept = kept + parts[index]
        candidate = _without(plan, kept, exact)
        if (now := noise(candidate)) < least:
            best, least = candidate, now
        if least <= wanted:
            return best
    return best


def _without(plan: HalfPlan, nodes: Sequence[ir.Node], exact: Sequence[ir.Node]) -> HalfPlan:
    other = plan.copy()
    other.exact.update(exact)
    for node in nodes:
        message = "16 bits cost most here, as trials on the samples show"
        other.keep(node, Reason("costs-most", message))
    return other


def _bytes(prepared: Prepared, nodes: Sequence[ir.Node]) -> int:
    """What these nodes' constants take more in float32 than in 16 bits."""
    values = {value for node in nodes for value in node.inputs if value in prepared.roundings}
    return sum(v.const_value.nbytes // 2 for v in values if v is not None and v.const_value)


def _parts(nodes: list[ir.Node], nbytes: int) -> list[list[ir.Node]]:
    wanted = _PARTS if nbytes < _LARGE_BYTES else _PARTS_OF_LARGE
    count = min(wanted, len(nodes))
    return [
        nodes[index * len(nodes) // count : (index + 1) * len(nodes) // count]
        for index in range(count)
    ]
