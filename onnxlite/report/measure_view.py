"""Fidelity and latency as tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from onnxlite.evaluate import Fidelity, Latency
from onnxlite.evaluate.metrics import OutputFidelity
from onnxlite.report.layers_view import layers_view
from onnxlite.report.text import quotient_text, ratio_text, shape_text, size_text, table


def fidelity_view(fidelity: Fidelity) -> RenderableType:
    """How well a candidate reproduces its reference."""
    notes = [Text(f"note: {note}") for note in fidelity.notes]
    layers = [Text(), layers_view(fidelity.layers)] if fidelity.layers else []
    return Group(fidelity_table(fidelity), *metrics_table(fidelity), *layers, *notes)


def fidelity_table(fidelity: Fidelity) -> RenderableType:
    """One row per output."""
    return table(
        f"Fidelity on {fidelity.samples:,} samples",
        ("output", "SQNR dB", "max diff", "mean diff", "peak", "cosine", "top-1 same", "equal"),
        (
            (
                row.name,
                _decibels(row),
                _number(row.max_abs),
                _number(row.mean_abs),
                _number(row.peak),
                "-" if row.cosine is None else f"{row.cosine:.5f}",
                _share(row.agreement),
                _share(row.equal),
            )
            for row in fidelity.outputs
        ),
    )


def latency_view(latency: Latency) -> RenderableType:
    """Both models' times, and the ratio with its interval."""
    one, two, ratio = latency.reference, latency.candidate, latency.ratio
    rows = [
        latency_row(latency),
        (
            "latency, minimum",
            _milliseconds(one.minimum_ms),
            _milliseconds(two.minimum_ms),
            ratio_text(ratio.minimum),
        ),
        (
            "session start",
            _milliseconds(one.start_ms),
            _milliseconds(two.start_ms),
            quotient_text(two.start_ms, one.start_ms),
        ),
    ]
    if one.memory is not None and two.memory is not None:
        before, after = one.memory.peak_bytes, two.memory.peak_bytes
        rows.append(
            ("peak memory", size_text(before), size_text(after), quotient_text(after, before))
        )
    return Group(
        table("Latency", ("", "before", "after", "ratio"), rows),
        *(Text(line) for line in (latency_note(latency), *latency.notes)),
    )


def latency_row(latency: Latency) -> tuple[str, str, str, str]:
    """Median latency of both, and the ratio."""
    return (
        "latency, median",
        _milliseconds(latency.reference.median_ms),
        _milliseconds(latency.candidate.median_ms),
        ratio_text(latency.ratio.median),
    )


def latency_note(latency: Latency) -> str:
    """Under which conditions a latency holds, and how sure the ratio is."""
    threads = "all cores" if latency.threads is None else f"{latency.threads} thread(s)"
    shapes = ", ".join(f"{name} {shape_text(s)}" for name, s in latency.inputs.items())
    return (
        f"latency ratio {latency.ratio} (95% interval) over {latency.rounds} interleaved rounds, "
        f"{threads}, {shapes}; {latency.machine}"
    )


def metrics_table(fidelity: Fidelity) -> list[RenderableType]:
    """Task metrics of both models: one table, or nothing without metrics."""
    rows = [
        (m.name, _metric(m.reference), _metric(m.candidate), f"{m.candidate - m.reference:+.4f}")
        for m in fidelity.metrics
    ]
    columns = ("metric", "before", "after", "difference")
    return [Text(), table("Task", columns, rows)] if rows else []


def _decibels(row: OutputFidelity) -> str:
    """`inf` without any error, `broken` with new NaN, `-` where it makes no sense."""
    if row.broken:
        return f"broken ({row.broken})"
    if row.max_abs is None:
        return "-"
    return "inf" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"


def _milliseconds(value: float) -> str:
    return f"{value:.3f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _metric(value: float) -> str:
    return f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
