"""Plan of the nodes that compute in 16 bits, and why the others stay float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxlite.graph import iter_nodes, node_name
from onnxlite.patterns import check_patterns, matches
from onnxlite.quantize.float16.dtype_limits import HalfRange, Rounding, half_range, rounding
from onnxlite.quantize.float16.port_types import HalfPorts, HalfTypes
from onnxlite.records import Progress, Reason, Skipped

STEP = "to-float16"

#: Safety factor: other inputs may make values this many times larger than the samples do.
_MARGIN = 8
#: A value whose largest magnitude is below this many of the smallest numbers is imprecise.
_MIN_STEPS = 1 << 10


class HalfPlan:
    """Set of the nodes that compute in 16 bits; `keep` removes nodes from it.

    Args:
        model: a normalized model with inferred types; not changed.
        dtype: FLOAT16 or BFLOAT16.
    """

    def __init__(self, model: ir.Model, dtype: ir.DataType) -> None:
        types = HalfTypes(model.opset_imports, dtype)
        #: 16-bit inputs and outputs of each node that computes in 16 bits.
        self.ports: dict[ir.Node, HalfPorts] = {}
        #: Nodes whose constants stay float32 as well.
        self.exact: set[ir.Node] = set()
        #: Nodes that stay float32, and why.
        self.skipped: list[Skipped] = []
        refused: set[ir.Node] = set()
        for node in iter_nodes(model):
            found = types.ports(node)
            if isinstance(found, HalfPorts):
                self.ports[node] = found
            elif _has_floats(node):
                refused.add(node)
                self.skipped.append(Skipped(STEP, node_name(node), "no-16-bit-form", found))
        for node in _counting(model, self.ports, refused):
            reason = "it computes an index or a size, which 11 bits would round"
            self.keep(node, Reason("counts", reason))

    def copy(self) -> HalfPlan:
        """Return an independent copy."""
        other = copy.copy(self)
        other.ports, other.exact = dict(self.ports), set(self.exact)
        other.skipped = list(self.skipped)
        return other

    def keep(self, node: ir.Node, reason: Reason) -> None:
        """Keep `node` in float32; nodes that have no 16-bit form are ignored."""
        if self.ports.pop(node, None) is not None:
            self.skipped.append(Skipped(STEP, node_name(node), reason.code, reason.message))

    def only_store(self) -> None:
        """Keep every node in float32, so that 16 bits are only used for storage."""
        self.ports.clear()
        self.skipped.clear()

    def keep_named(self, model: ir.Model, patterns: Sequence[str]) -> None:
        """Keep nodes and their constants in float32 by name or operator.

        Raises:
            OptionError: a pattern matches nothing.
        """
        known: list[str] = []
        for node in iter_nodes(model):
            names = (node.name or "", node.op_type)
            known += names
            if matches(names, patterns):
                self.exact.add(node)
                self.keep(node, Reason("kept-by-name", "kept by name"))
        check_patterns(patterns, known, what="node", compared="the names of nodes and of operators")

    def keep_unfit_constants(
        self, model: ir.Model, roundings: Mapping[ir.Value, Rounding], *, clamp: bool
    ) -> None:
        """Keep nodes in float32 whose constants 16 bits cannot represent.

        With `clamp`, constants beyond the range are clamped and their nodes are not kept.
        """
        for node in iter_nodes(model):
            for value in node.inputs:
                found = None if value is None else roundings.get(value)
                if value is None or found is None or found.faithful or found.lifted:
                    continue
                if not found.clamped:
                    message = f"its constant {value.name!r} has {found.sqnr_db:.0f} dB in 16 bits"
                    self.keep(node, Reason("inexact-constant", message))
                elif not clamp:
                    message = (
                        f"{found.clamped} elements of its constant {value.name!r} are out of range"
                    )
                    self.keep(node, Reason("constant-out-of-range", message))

    def keep_out_of_range(
        self, model: ir.Model, magnitudes: Mapping[str, float], dtype: ir.DataType
    ) -> None:
        """Keep nodes in float32 that write or read a value out of range on the samples."""
        limit = half_range(dtype)
        for node in iter_nodes(model):
            ports = self.ports.get(node)
            if ports is None:
                continue
            touched = [node.outputs[i] for i in ports.outputs]
            touched += [value for i in ports.inputs if (value := node.inputs[i]) is not None]
            for value in touched:
                largest = magnitudes.get(value.name or "", 1.0)
                if (reason := _range_fault(largest, limit)) is not None:
                    message = f"value {value.name!r} {reason} on the samples"
                    self.keep(node, Reason("value-out-of-range", message))
                    break


def _range_fault(largest: float, limit: HalfRange) -> str | None:
    if not largest * _MARGIN <= limit.largest:
        return f"reaches {largest:.3g}, too close to the limit {limit.largest:.0f},"
    if 0 < largest < limit.smallest * _MIN_STEPS:
        return f"is at most {largest:.3g}, where 16 bits are imprecise,"
    return None


def constant_roundings(
    model: ir.Model, dtype: ir.DataType, progress: Progress
) -> dict[ir.Value, Rounding]:
    """Measure the rounding of every float32 constant."""
    found = {}
    constants = [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None
    ]
    for index, value in enumerate(constants):
        assert value.const_value is not None
        progress(STEP, index, len(constants))
        found[value] = rounding(value.const_value, dtype)
    return found


def _has_floats(node: ir.Node) -> bool:
    values = (*node.inputs, *node.outputs)
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in values)


def _counting(
    model: ir.Model, ports: Mapping[ir.Node, HalfPorts], refused: set[ir.Node]
) -> Iterator[ir.Node]:
    """Yield nodes that compute indices or sizes in float, which 11 bits would round.

    Their float inputs depend on integers and scalar constants only. Their results become
    integers or inputs that must be float32, possibly through other such nodes.
    """
    derived: set[ir.Value] = set()
    for node in iter_nodes(model):
        floats = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
        if all(v in derived or (v.const_value is not None and v.const_value.size == 1)
               for v in floats):  # fmt: skip
            derived.update(v for v in node.outputs if v.dtype == ir.DataType.FLOAT)
    pending = [node for node in iter_nodes(model) if node in refused or _gives_integers(node)]
    seen: set[ir.Node] = set()
    while pending:
        node = pending.pop()
        reads = [value for value in node.inputs if value in derived]
        if not reads or node in seen:
            continue
        seen.add(node)
        if node in ports:
            yield node
        for value in reads:
            producer = value.producer() if value is not None else None
            if producer is not None:
                if producer in ports and producer not in seen and not _reads(producer, derived):
                    seen.add(producer)
                    yield producer
                pending.append(producer)


def _reads(node: ir.Node, values: set[ir.Value]) -> bool:
    return any(value in values for value in node.inputs)


def _gives_integers(node: ir.Node) -> bool:
    return any(value.dtype is not None and value.dtype.is_integer() for value in node.outputs)
