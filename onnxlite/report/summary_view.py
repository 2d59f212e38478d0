"""A model's summary as tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from onnxlite.analysis.summary import Summary
from onnxlite.report.text import count_text, shape_text, size_text, table


def summary_view(summary: Summary, *, layers: bool = False) -> RenderableType:
    """What the model is; with `layers`, also one row per layer."""
    parts: list[RenderableType] = [_facts(summary), Text(), _operators(summary)]
    if layers:
        parts += [Text(), _layers(summary)]
    if summary.notes:
        parts += [Text(), *(Text(f"note: {note}") for note in summary.notes)]
    return Group(*parts)


def _facts(summary: Summary) -> RenderableType:
    opsets = ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())
    types = ", ".join(f"{name} {size_text(n)}" for name, n in summary.bytes_by_type.items())
    rows = [
        *(("input", str(spec)) for spec in summary.inputs),
        *(("output", str(spec)) for spec in summary.outputs),
        ("made by", summary.producer or "-"),
        ("opset", f"{opsets} (IR {summary.ir_version})"),
        ("file", size_text(summary.file_bytes)),
        ("tensors", f"{size_text(summary.size_bytes)} ({types or 'none'})"),
        ("parameters", count_text(summary.parameters)),
        ("MACs", _macs(summary)),
    ]
    return table(summary.name, ("", ""), rows)


def _macs(summary: Summary) -> str:
    shapes = ", ".join(f"{name} {shape_text(s)}" for name, s in summary.macs_inputs.items())
    return count_text(summary.macs) + (f" (at {shapes})" if shapes else "")


def _operators(summary: Summary) -> RenderableType:
    rows = [(name, count_text(count)) for name, count in summary.operators.items()]
    rows.append(("all", count_text(sum(summary.operators.values()))))
    return table("Operators", ("operator", "nodes"), rows)


def _layers(summary: Summary) -> RenderableType:
    return table(
        "Layers",
        ("layer", "operator", "weight", "type", "parameters", "bytes", "MACs", "output", "zeros"),
        (
            (
                layer.name,
                layer.op_type,
                shape_text(layer.weight_shape) if layer.weight_shape is not None else "-",
                layer.weight_type or "-",
                count_text(layer.parameters),
                count_text(layer.size_bytes),
                count_text(layer.macs),
                shape_text(layer.output_shape),
                "-" if layer.sparsity is None else f"{layer.sparsity:.1%}",
            )
            for layer in summary.layers
        ),
    )
