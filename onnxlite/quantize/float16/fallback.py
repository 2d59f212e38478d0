"""Float32 fallback: keep the most sensitive parts in float32 to reach an SQNR.

The noise of separate parts of a network adds up, so the gain of each part is measured alone, with
its nodes and weights in float32. Parts are kept in the order of gain per byte: with their weights
within a budget of bytes, then the others with float32 activations only.
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

#: SQNR to reach on the samples in dB; it leaves a margin above 50 dB for other inputs.
TARGET_DB = 53.0
#: Number of consecutive parts of the network that are tried; fewer for large models.
_PARTS, _PARTS_OF_LARGE, _LARGE_BYTES = 24, 12, 1 << 28
#: Bytes that float32 weights may add, as a fraction of all: the file stays below 0.52.
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
