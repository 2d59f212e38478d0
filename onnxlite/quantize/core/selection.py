"""Selection of the nodes that can run on integers, and of the values between them.

Layers with weights are quantized; the operators between them follow when everything
around them is on integers, so that no value is converted back and forth. Candidates are
removed until the rest is consistent (a greatest fixed point).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from types import MappingProxyType

import onnx_ir as ir

from onnxlite.analysis.lineage import origin_of
from onnxlite.graph import (
    const_tensor,
    iter_nodes,
    node_name,
    sole_consumer,
)
from onnxlite.ops import output_bounds, spec_of
from onnxlite.patterns import check_patterns, matches
from onnxlite.quantize.core.plan import Placement, reads_integers
from onnxlite.quantize.core.targets import Target
from onnxlite.records import EXCLUDED, Reason, Skipped, main_reasons

_WHAT = "quantize"


def place(
    model: ir.Model,
    target: Target,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    keep_float: Mapping[str, Reason] = MappingProxyType({}),
) -> Placement:
    """Decide what is quantized.

    Args:
        model: with shapes and names.
        target: what the result runs on.
        include: patterns of names of layers; empty means all.
        exclude: patterns of names of nodes that stay float.
        keep_float: names of nodes that stay float, each with the reason.
    """
    able, skipped = able_nodes(model, target, include, exclude, keep_float)
    return replace(place_among(model, target, able), skipped=tuple(skipped))


def nothing_placed(placement: Placement) -> str:
    """Say why no layer is on integers, in the words of what refused them."""
    if not placement.skipped:
        return "no layer can be quantized: it has none with weights"
    return f"no layer can be quantized: {main_reasons(placement.skipped)}"


def able_nodes(
    model: ir.Model,
    target: Target,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    keep_float: Mapping[str, Reason] = MappingProxyType({}),
) -> tuple[list[ir.Node], list[Skipped]]:
    """Find the nodes that can run on integers, in topological order, and layers that cannot.

    See `place` for the arguments.
    """
    able: list[ir.Node] = []
    skipped: list[Skipped] = []
    for node in model.graph:
        rule = spec_of(node).quant
        if rule is None:
            if _has_weights(node):
                message = "it has no integer kernel"
                skipped.append(Skipped(_WHAT, node_name(node), "no-kernel", message))
            continue
        if rule.kind == "compute":
            reason = (
                _refusal(node) or by_name(node, include, exclude) or keep_float.get(node.name or "")
            )
            if reason:
                name = node_name(node)
                skipped.append(Skipped(_WHAT, name, reason.code, reason.message))
                continue
        elif (
            not _is_float(node)
            or by_name(node, (), exclude)
            or node.op_type in target.refuses
            or node.name in keep_float
            or (rule.refuses and rule.refuses(node))
        ):
            continue
        able.append(node)
    skipped += [
        Skipped(_WHAT, node_name(node), "in-body", "inside the body of a control-flow node")
        for node in iter_nodes(model)
        if node.graph is not model.graph and _is_compute(node)
    ]
    return able, skipped


def place_among(model: ir.Model, target: Target, able: Iterable[ir.Node]) -> Placement:
    """Decide what is quantized if these nodes can run on integers and no other can.

    All layers with weights are taken, and nodes between integers; none is reported as skipped.
    """
    chosen = dict.fromkeys(able)
    _settle(chosen)
    absorbed = [node for node in model.graph if _is_absorbable(node, chosen, target)]
    values = _quantized_values(model, chosen, set(absorbed), target)
    return Placement(tuple(chosen), tuple(absorbed), tuple(values), ())


def _is_compute(node: ir.Node) -> bool:
    rule = spec_of(node).quant
    return rule is not None and rule.kind == "compute"


def _is_float(node: ir.Node) -> bool:
    rule = spec_of(node).quant
    assert rule is not None
    return all(
        value is not None and value.dtype == ir.DataType.FLOAT
        for value in (*(node.inputs[port] for port in rule.ports(node)), *node.outputs)
    )


def layer_patterns(model: ir.Model, patterns: Sequence[str]) -> tuple[str, ...]:
    """Add to patterns of node or weight names the names of the nodes that they mean.

    A layer is meant by its own name, by those of its constants, and by the name that it had
    in the original of a recipe.

    Args:
        model: normalized, before a rewrite gives it other names.
        patterns: of node or weight names.

    Raises:
        OptionError: a pattern matches nothing.
    """
    if not patterns:
        return ()
    names: dict[str, tuple[str, ...]] = {}
    for node in iter_nodes(model):
        constants = (value for value in node.inputs if const_tensor(value) is not None)
        former = origin_of(model, node.name or "").source
        names[node.name or ""] = (former, *(value.name or "" for value in constants if value))
    check_patterns(
        patterns,
        (name for node, others in names.items() for name in (node, *others)),
        what="node",
        compared="the names of nodes and of weight tensors",
    )
    meant = (escape(node) for node, others in names.items() if matches(others, patterns))
    return (*patterns, *(name for name in meant if name not in patterns))


def by_name(node: ir.Node, include: Sequence[str], exclude: Sequence[str]) -> Reason | None:
    """Why patterns of node names leave a node out, or None."""
    name = node.name or ""
    if include and not matches((name,), include):
        return Reason("not-included", "not among the included names")
    if matches((name,), exclude):
        return EXCLUDED
    return None


def _refusal(node: ir.Node) -> Reason | None:
    """Why a layer with weights cannot run on integers, or None."""
    message = _obstacle(node)
    return None if message is None else Reason("unsupported", message)


def _obstacle(node: ir.Node) -> str | None:
    rule = spec_of(node).quant
    assert rule is not None
    assert rule.weight is not None
    weight = node.inputs[rule.weight] if rule.weight < len(node.inputs) else None
    tensor = const_tensor(weight)
    if tensor is None:
        if _is_foldable(weight):
            return "its weight is computed from constants: simplify the model first"
        return "its second operand is computed at run time, not a constant weight"
    if tensor.dtype != ir.DataType.FLOAT:
        return (
            f"its weight {tensor.name!r} is {tensor.dtype}, not float32: quantize the float32 "
            "model that it was made from"
        )
    if not tensor.size:
        return f"its weight {tensor.name!r} is empty"
    if len(tensor.shape) < 2:
        return f"its weight {tensor.name!r} has less than two axes"
    if const_tensor(node.inputs[0]) is not None:
        return "its data is a constant"
    if rule.refuses and (reason := rule.refuses(node)):
        return reason
    return _bias_refusal(node, rule.bias)


def _has_weights(node: ir.Node) -> bool:
    """Tell whether a layer without a quantization rule multiplies by constant weights."""
    spec = spec_of(node)
    ports = [port for port in spec.weights if port < len(node.inputs)]
    return spec.macs is not None and any(const_tensor(node.inputs[i]) is not None for i in ports)


def _is_foldable(value: ir.Value | None) -> bool:
    """Tell whether a value depends on constants alone."""
    ahead, seen = [value], {value}
    while ahead:
        current = ahead.pop()
        if current is None or const_tensor(current) is not None:
            continue
        producer = current.producer()
        if producer is None or not producer.inputs:
            return False
        ahead += [data for data in producer.inputs if data not in seen]
        seen.update(producer.inputs)
    return True


def _bias_refusal(node: ir.Node, port: int | None) -> str | None:
    if port is None or port >= len(node.inputs) or node.inputs[port] is None:
        return None
    rule = spec_of(node).quant
    assert rule is not None
    assert rule.weight is not None
    bias, weight = const_tensor(node.inputs[port]), const_tensor(node.inputs[rule.weight])
    assert weight is not None
    axis = rule.channel_axis(node) if rule.channel_axis else None
    if bias is None:
        return "its bias is computed at run time"
    if axis is None or bias.size != weight.shape[axis]:
        return f"its bias {bias.name!r} has {bias.size} values, not one per output channel"
    return None


def _settle(chosen: dict[ir.Node, None]) -> None:
    """Remove nodes that are not surrounded by integer nodes until nothing changes."""
    while True:
        lonely = [node for node in chosen if not _is_compute(node) and _is_lonely(node, chosen)]
        if not lonely:
            return
        for node in lonely:
            del chosen[node]


def _is_lonely(node: ir.Node, chosen: dict[ir.Node, None]) -> bool:
    rule = spec_of(node).quant
    assert rule is not None
    inputs = [node.inputs[port] for port in rule.ports(node)]
    # A sum whose other side a layer converts anyhow stays on integers: a first layer in float
    # must not take the residual additions behind it along.
    made = [source(value) in chosen for value in inputs]
    if not any(made):
        return True
    if not all(own or read_by_layer(v, chosen) for own, v in zip(made, inputs, strict=True)):
        return True
    return not any(_leads_to(output, chosen) for output in node.outputs)


def read_by_layer(value: ir.Value | None, chosen: Container[ir.Node]) -> bool:
    """Tell whether a layer takes a value as integers, which gives it an integer form anyhow."""
    return value is not None and any(
        _is_compute(use.node) and reads_integers(use.node, use.idx, chosen) for use in value.uses()
    )


def source(value: ir.Value | None) -> ir.Node | None:
    """Find the node that computes `value`, behind a Relu or Clip that can be absorbed."""
    producer = None if value is None else value.producer()
    if producer is not None and spec_of(producer).output_range is not None:
        data = producer.inputs[0]
        if data is not None and sole_consumer(data) is producer:
            return data.producer()
    return producer


def _leads_to(value: ir.Value, chosen: dict[ir.Node, None]) -> bool:
    """Tell whether an integer node reads `value`, directly or behind an activation."""
    for use in value.uses():
        if reads_integers(use.node, use.idx, chosen):
            return True
        is_activation = spec_of(use.node).output_range is not None and use.idx == 0
        if is_activation and any(_leads_to(output, chosen) for output in use.node.outputs):
            return True
    return False


def _is_absorbable(node: ir.Node, chosen: dict[ir.Node, None], target: Target) -> bool:
    """Tell whether a Relu or Clip with constant bounds alone reads an integer node's output."""
    if output_bounds(node) is None:
        return False
    data = node.inputs[0]
    if data is None or data.producer() not in chosen or sole_consumer(data) is not node:
        return False
    producer = data.producer()
    assert producer is not None
    return _needs_integer_output(producer, target) or _leads_to(node.outputs[0], chosen)


def _needs_integer_output(node: ir.Node, target: Target) -> bool:
    rule = spec_of(node).quant
    return rule is not None and not target.goes_to_float(node)


def _quantized_values(
    model: ir.Model, chosen: dict[ir.Node, None], absorbed: set[ir.Node], target: Target
) -> list[ir.Value]:
    inner = {node.inputs[0] for node in absorbed}
    result = []
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        if value in inner or value.dtype != ir.DataType.FLOAT:
            continue
        maker = source(value) if value.producer() in absorbed else value.producer()
        made = maker is not None and maker in chosen and _needs_integer_output(maker, target)
        if made or any(reads_integers(use.node, use.idx, chosen) for use in value.uses()):
            result.append(value)
    return result
