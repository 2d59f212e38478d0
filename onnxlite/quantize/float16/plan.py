"""Which nodes compute in 16 bits, and why the others stay float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxlite.errors import OptionError
from onnxlite.graph import iter_nodes, node_name
from onnxlite.quantize.float16.dtype_limits import HalfRange, Rounding, half_range, rounding
from onnxlite.quantize.float16.port_types import HalfPorts, HalfTypes
from onnxlite.records import Progress, Reason, Skipped

STEP = "to-float16"

#: Other inputs may make a value so many times larger than the samples do.
_MARGIN = 8
#: A value that is nowhere larger than this many of the smallest steps has lost its precision.
_LEAST_STEPS = 1 << 10


class HalfPlan:
    """The nodes of a model that compute in 16 bits; `keep` takes some away.

    Args:
        model: normalised and with types inferred; not changed.
        dtype: FLOAT16 or BFLOAT16.
    """

    def __init__(self, model: ir.Model, dtype: ir.DataType) -> None:
        types = HalfTypes(model.opset_imports, dtype)
        #: What becomes 16 bits wide at each node that computes so.
        self.ports: dict[ir.Node, HalfPorts] = {}
        #: Nodes whose constants stay float32 as well.
        self.exact: set[ir.Node] = set()
        #: What stays float32 and why.
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
            reason = "it counts: its result becomes an integer or a float32 argument"
            self.keep(node, Reason("counts", reason))

    def copy(self) -> HalfPlan:
        """Another plan of the same content, to be changed by itself."""
        other = copy.copy(self)
        other.ports, other.exact = dict(self.ports), set(self.exact)
        other.skipped = list(self.skipped)
        return other

    def keep(self, node: ir.Node, reason: Reason) -> None:
        """Let `node` compute in float32; one that never could is passed over."""
        if self.ports.pop(node, None) is not None:
            self.skipped.append(Skipped(STEP, node_name(node), reason.code, reason.message))

    def only_store(self) -> None:
        """Let every node compute in float32."""
        self.ports.clear()
        self.skipped.clear()

    def keep_named(self, model: ir.Model, patterns: Sequence[str]) -> None:
        """Keep the nodes whose name or operator matches, with their constants.

        Raises:
            OptionError: a pattern matches nothing.
        """
        unused = set(patterns)
        for node in iter_nodes(model):
            names = (node.name or "", node.op_type)
            hits = [p for p in patterns if any(fnmatchcase(name, p) for name in names)]
            if hits:
                unused.difference_update(hits)
                self.exact.add(node)
                self.keep(node, Reason("kept-by-name", "kept by name"))
        if unused:
            raise OptionError(
                f"keep: no node matches {', '.join(map(repr, sorted(unused)))}: patterns are "
                "compared with the names of nodes and of operators"
            )

    def keep_unfit_constants(
        self, model: ir.Model, roundings: Mapping[ir.Value, Rounding], *, clamp: bool
    ) -> None:
        """Keep nodes whose constants 16 bits do not hold; `clamp` is for those beyond the range."""
        for node in iter_nodes(model):
            for value in node.inputs:
                found = None if value is None else roundings.get(value)
                if found is None or found.faithful or found.lifted:
                    continue
                if not found.clamped:
                    message = f"16 bits give its constant {found.sqnr_db:.0f} dB"
                    self.keep(node, Reason("inexact-constant", message))
                elif not clamp:
                    message = f"{found.clamped} numbers of its constant are beyond the range"
                    self.keep(node, Reason("constant-out-of-range", message))

    def keep_out_of_range(
        self, model: ir.Model, magnitudes: Mapping[str, float], dtype: ir.DataType
    ) -> None:
        """Keep nodes that make or read a value which the samples show to leave the range."""
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
        return f"reaches {largest:.3g}, too near to {limit.largest:.0f},"
    if 0 < largest < limit.smallest * _LEAST_STEPS:
        return f"is never above {largest:.3g}, where 16 bits are coarse,"
    return None


def constant_roundings(
    model: ir.Model, dtype: ir.DataType, progress: Progress
) -> dict[ir.Value, Rounding]:
    """What 16 bits make of every float32 constant; each is read once and let go."""
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
    """Nodes that compute indices or sizes in float, which 11 bits would round.

    Their float inputs come from integers and single constants alone, and their results go,
    through nodes of the same kind, where floats become integers or must be float32.
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
