"""A run's report as tables: before and after, the steps, what was skipped, the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from onnxlite.recipe import RunReport
from onnxlite.records import Skipped, StepReport
from onnxlite.report.measure_view import fidelity_view, latency_note, latency_row
from onnxlite.report.text import (
    cell_text,
    count_text,
    quotient_text,
    ratio_text,
    size_text,
    table,
)

#: More places than these share a line "and so many more".
_PLACES_SHOWN = 2


def run_view(report: RunReport, *, layers: bool = False) -> RenderableType:
    """What a run did and what it brought; with `layers`, also one row per layer and step."""
    parts: list[RenderableType] = [steps_table(report.steps), Text(), before_after(report)]
    if report.latency is not None:
        parts.append(Text(latency_note(report.latency)))
    if report.fidelity is not None:
        parts += [Text(), fidelity_view(report.fidelity)]
    if report.samples.note not in report.warnings:
        parts.append(Text(report.samples.note))
    if skipped := skipped_table(report.steps):
        parts += [Text(), skipped]
    if layers:
        for step in report.steps:
            if step.layers:
                parts += [Text(), layers_table(step)]
    if report.warnings:
        parts += [Text(), *(Text(f"warning: {w}", style="yellow") for w in report.warnings)]
    if report.output_path:
        parts += [Text(), Text(f"written: {report.output_path}")]
    return Group(*parts)


def before_after(report: RunReport) -> RenderableType:
    """Size, parameters, nodes and latency of both models, side by side."""
    before, after, sizes = report.input, report.output, report.sizes
    nodes = sum(before.operators.values()), sum(after.operators.values())
    rows = [
        (
            "file",
            size_text(sizes.input_bytes),
            size_text(sizes.output_bytes),
            ratio_text(sizes.ratio),
        ),
        (
            "file, zipped",
            size_text(sizes.input_deflated_bytes),
            size_text(sizes.output_deflated_bytes),
            quotient_text(sizes.output_deflated_bytes, sizes.input_deflated_bytes),
        ),
        (
            "parameters",
            count_text(before.parameters),
            count_text(after.parameters),
            quotient_text(after.parameters, before.parameters),
        ),
        (
            "MACs",
            count_text(before.macs),
            count_text(after.macs),
            quotient_text(after.macs, before.macs),
        ),
        ("nodes", count_text(nodes[0]), count_text(nodes[1]), quotient_text(nodes[1], nodes[0])),
    ]
    if report.latency is not None:
        rows.append(latency_row(report.latency))
    return table("Before and after", ("", "before", "after", "ratio"), rows)


def steps_table(steps: tuple[StepReport, ...]) -> RenderableType:
    """One row per step: what it did, or why it did nothing."""
    return table(
        "Steps",
        ("", "step", "seconds", "result", "changes"),
        (
            (
                str(number),
                step.step,
                f"{step.seconds:.2f}",
                step.summary if step.changed else f"unchanged: {step.summary}",
                ", ".join(f"{kind} {count:,}" for kind, count in step.changes.items()),
            )
            for number, step in enumerate(steps, 1)
        ),
    )


def skipped_table(steps: tuple[StepReport, ...]) -> RenderableType | None:
    """What was not done and why; equal reasons share a row. None if nothing was skipped."""
    rows = [(step.step, *row) for step in steps for row in grouped_skipped(step.skipped)]
    return table("Not done", ("step", "what", "why", "where"), rows) if rows else None


def grouped_skipped(skipped: tuple[Skipped, ...]) -> Iterator[tuple[str, str, str]]:
    """What, why and where; places with the same reason share a row."""
    for what, reason in Counter((d.what, d.message) for d in skipped):
        places = [d.node for d in skipped if (d.what, d.message) == (what, reason) and d.node]
        shown = ", ".join(places[:_PLACES_SHOWN]) or "the model"
        more = len(places) - _PLACES_SHOWN
        yield what, reason, shown + (f" and {more} more" if more > 0 else "")


def layers_table(step: StepReport) -> RenderableType:
    """One step's rows per layer, with the step's own columns."""
    columns = list(dict.fromkeys(key for row in step.layers for key in row.values))
    return table(
        f"Layers of {step.step}",
        ("layer", "operator", *columns),
        (
            (row.name, row.op_type, *(cell_text(row.values.get(key)) for key in columns))
            for row in step.layers
        ),
    )
