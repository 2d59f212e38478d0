"""Float32 fallback: keep the most sensitive parts in float32 to reach an SQNR.

The noise of separate parts of a network adds up, so the gain of each part is measured alone, with
its nodes and weights in float32. Parts are kept in the order of gain per byte: with their weights
within a budget of bytes, then the others with float32 activations only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.errors import VerificationError
from onnxlite.fidelity import noise_ratio
from onnxlite.quantize.float16.convert import Prepared, convert
from onnxlite.quantize.float16.plan import HalfPlan
from onnxlite.quantize.float16.verify import Float32Outputs, RefusedError, measured_db
from onnxlite.records import Progress, Reason, Skipped

#: SQNR to reach on the samples in dB; it leaves a margin above 50 dB for other inputs.
TARGET_DB = 53.0
#: Number of consecutive parts of the network that are tried; fewer for large models.
_PARTS, _PARTS_OF_LARGE, _LARGE_BYTES = 24, 12, 1 << 28
#: Number of nodes that are kept in float32 because ONNX Runtime refuses them in 16 bits.
_MAX_REFUSED = 8
#: Bytes that float32 weights may add, as a fraction of all: the file stays below 0.52.
_MAX_FRACTION = 0.0195


def fall_back(
    prepared: Prepared,
    plan: HalfPlan,
    check: Float32Outputs,
    *,
    progress: Progress,
) -> HalfPlan:
    """Keep parts of the network in float32 until the outputs reach 53 dB.

    Returns:
        The plan itself if it reaches 53 dB, else the best plan found with more float32 nodes;
        nodes that ONNX Runtime refuses in 16 bits are among them.
    """
    fallback = _Fallback(prepared, plan, check)
    if fallback.noise == math.inf and _is_refused(prepared, plan, check):
        fallback = _Fallback(prepared, keep_refused(prepared, plan, check), check)
    if not fallback.reached:
        parts = fallback.measure_parts(progress)
        too_large = fallback.keep_with_weights(parts)
        fallback.keep_activations(too_large)
    return fallback.best


def keep_refused(prepared: Prepared, plan: HalfPlan, check: Float32Outputs | Skipped) -> HalfPlan:
    """Keep the nodes in float32 that ONNX Runtime cannot compute in 16 bits.

    Type rules of ONNX allow more than its kernels do. A node is to blame if the model runs with
    all nodes before it in 16 bits and not with itself; it is found by bisection.

    Returns:
        A plan that ONNX Runtime takes, or the plan itself if there are more than eight such nodes.
    """
    candidate = plan
    for _ in range(_MAX_REFUSED):
        nodes = list(candidate.ports)
        good, bad = 0, len(nodes)
        while bad - good > 1:
            middle = (good + bad) // 2
            if _is_refused(prepared, _with_float32(candidate, nodes[middle:], ()), check):
                bad = middle
            else:
                good = middle
        candidate = candidate.copy()
        message = "ONNX Runtime cannot compute it in 16 bits"
        candidate.keep(nodes[bad - 1], Reason("no-16-bit-kernel", message))
        if not candidate.ports or not _is_refused(prepared, candidate, check):
            return candidate
    return plan


def _is_refused(prepared: Prepared, plan: HalfPlan, check: Float32Outputs | Skipped) -> bool:
    try:
        measured_db(convert(prepared, plan).model, check)
    except RefusedError:
        return True
    except VerificationError:
        pass  # it runs; what its outputs are worth is measured at the end
    return False


@dataclass(frozen=True)
class _Part:
    """Consecutive nodes of the network.

    Attributes:
        index: position of the part in the network.
        nodes: the nodes.
        nbytes: bytes that its weights take more in float32 than in 16 bits.
        gain: noise over signal that disappears with the part in float32.
    """

    index: int
    nodes: list[ir.Node]
    nbytes: int
    gain: float


class _Fallback:
    """State of one fallback.

    Attributes:
        best: the plan of least noise so far.
        noise: its noise over signal at the worst output.
    """

    def __init__(self, prepared: Prepared, plan: HalfPlan, check: Float32Outputs) -> None:
        self._prepared, self._plan, self._check = prepared, plan, check
        self._nbytes = sum(v.const_value.nbytes for v in prepared.roundings if v.const_value)
        self._kept: list[ir.Node] = []
        self._exact: list[ir.Node] = []
        self.best, self.noise = plan, self._noise(plan)

    @property
    def reached(self) -> bool:
        """True if the best plan reaches the SQNR."""
        return self.noise <= noise_ratio(TARGET_DB)

    def measure_parts(self, progress: Progress) -> list[_Part]:
        """Measure the gain of every part alone, with its weights in float32."""
        parts = _split(list(self._plan.ports), self._nbytes)
        measured = []
        for index, nodes in enumerate(parts):
            progress("refine", index, len(parts))
            gain = self.noise - self._noise(_with_float32(self._plan, nodes, nodes))
            measured.append(_Part(index, nodes, _weight_bytes(self._prepared, nodes), gain))
        progress("refine", len(parts), len(parts))
        return measured

    def keep_with_weights(self, parts: Sequence[_Part]) -> list[_Part]:
        """Keep parts and their weights within the budget, most gain per byte first.

        Returns:
            The parts whose weights exceed the budget.
        """
        budget, spent = _MAX_FRACTION * self._nbytes, 0
        # A model whose constants have 16 bits already has no bytes to budget.
        least = max(budget / 100, 1.0)

        def rank(part: _Part) -> tuple[float, float, int, int]:
            return part.gain / (part.nbytes + least), part.gain, part.nbytes, part.index

        too_large = []
        for part in sorted(parts, key=rank, reverse=True):
            if self.reached:
                break
            if spent + part.nbytes > budget:
                too_large.append(part)
                continue
            spent += part.nbytes
            self._exact += part.nodes
            self._keep(part.nodes)
        return too_large

    def keep_activations(self, parts: Sequence[_Part]) -> None:
        """Keep parts with 16-bit weights and float32 activations, most gain first."""
        for part in sorted(parts, key=lambda part: (part.gain, part.index), reverse=True):
            if self.reached:
                break
            self._keep(part.nodes)

    def _keep(self, nodes: Sequence[ir.Node]) -> None:
        self._kept += nodes
        candidate = _with_float32(self._plan, self._kept, self._exact)
        noise = self._noise(candidate)
        if noise < self.noise:
            self.best, self.noise = candidate, noise

    def _noise(self, plan: HalfPlan) -> float:
        """Measure the noise over signal of the worst output; infinite if not finite."""
        try:
            return noise_ratio(self._check.sqnr_db(convert(self._prepared, plan).model))
        except VerificationError:
            return math.inf


def _with_float32(plan: HalfPlan, nodes: Sequence[ir.Node], exact: Sequence[ir.Node]) -> HalfPlan:
    """Copy a plan with some nodes in float32; the constants of `exact` as well."""
    other = plan.copy()
    other.exact.update(exact)
    for node in nodes:
        message = "16 bits cost most accuracy here on the samples"
        other.keep(node, Reason("costs-most", message))
    return other


def _weight_bytes(prepared: Prepared, nodes: Sequence[ir.Node]) -> int:
    """Return the bytes that the constants of nodes take more in float32 than in 16 bits."""
    values = {value for node in nodes for value in node.inputs if value in prepared.roundings}
    return sum(v.const_value.nbytes // 2 for v in values if v is not None and v.const_value)


def _split(nodes: list[ir.Node], nbytes: int) -> list[list[ir.Node]]:
    """Split the nodes into consecutive parts of about equal length."""
    wanted = _PARTS if nbytes < _LARGE_BYTES else _PARTS_OF_LARGE
    count = min(wanted, len(nodes))
    return [
        nodes[index * len(nodes) // count : (index + 1) * len(nodes) // count]
        for index in range(count)
    ]
