"""Models and measurements as tables: summary, channels, fidelity, latency, sensitivity."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from onnxlite.analysis.summary import Summary
from onnxlite.evaluate import Fidelity, Latency, LayerFidelity, MetricPair
from onnxlite.evaluate.metrics import OutputFidelity, PartFidelity
from onnxlite.evaluate.per_sample import SampleSpread
from onnxlite.prune import ChannelReport
from onnxlite.quantize.mixed.sensitivity import LayerSensitivity, Sensitivity
from onnxlite.report.text import (
    cosine_text,
    count_text,
    decibels_text,
    part_decibels,
    part_name,
    quotient_text,
    ratio_text,
    shape_text,
    size_text,
    table,
)


def summary_view(summary: Summary, *, layers: bool = False) -> RenderableType:
    """Show a model's summary; with `layers`, also one row per layer."""
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
        ("batch axis", _batch_axes(summary)),
        *(("output", str(spec)) for spec in summary.outputs),
        ("made by", summary.producer or "-"),
        ("opset", f"{opsets} (IR {summary.ir_version})"),
        ("file", size_text(summary.file_bytes)),
        ("tensors", f"{size_text(summary.size_bytes)} ({types or 'none'})"),
        ("parameters", count_text(summary.parameters)),
        ("MACs", _macs(summary)),
    ]
    return table(summary.name, ("", ""), rows)


def _batch_axes(summary: Summary) -> str:
    """The axis of all inputs, or that of each."""
    axes = summary.batch_axes
    if len(set(axes.values())) == 1 and None not in axes.values():
        return str(next(iter(axes.values())))
    return ", ".join(f"{name} {'none' if axis is None else axis}" for name, axis in axes.items())


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


_LAYERS_SHOWN = 3


def channels_view(report: ChannelReport) -> RenderableType:
    """One row per group of units: how many, which layers they bind, why some must stay."""
    rows = [
        (
            group.name,
            count_text(group.units),
            count_text(group.width),
            count_text(group.parameters),
            _layer_names(group.layers),
            group.pinned or _state(group.branch),
        )
        for group in report.groups
    ]
    title = f"{report.prunable:,} of {report.units:,} channel units may be removed"
    return table(title, ("group", "units", "width", "weights a unit", "layers", "state"), rows)


def _state(branch: tuple[str, ...]) -> str:
    return f"removable, with the branch {_layer_names(branch)}" if branch else "removable"


def _layer_names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_LAYERS_SHOWN])
    more = len(names) - _LAYERS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


_COLUMNS = ("layer", "operator", "own dB", "reads dB", "output dB", "max diff")


def layers_view(layers: tuple[LayerFidelity, ...]) -> RenderableType:
    """One row per layer, and which one loses most."""
    if not layers:
        return Text("no layers to compare")
    rows = (
        (
            layer.name,
            layer.op_type,
            _decibels(layer.own_db),
            _decibels(layer.input_db),
            _decibels(layer.sqnr_db),
            f"{layer.max_abs:.3g}",
        )
        for layer in layers
    )
    notes = (
        "own: SQNR of a layer's output if it reads the original's values. reads: the worst of "
        "what it reads. output: of its output in the model as it is."
    )
    worst = max(layers, key=lambda layer: layer.lost)
    verdict = (
        f"most is lost in {worst.name} ({worst.op_type}): it reads {_decibels(worst.input_db)} dB "
        f"and puts out {_decibels(worst.sqnr_db)} dB; by itself it gives "
        f"{_decibels(worst.own_db)} dB"
    )
    return Group(table("Layers", _COLUMNS, rows), Text(notes), Text(verdict))


def _decibels(value: float) -> str:
    return f"{value:.1f}"


def fidelity_view(fidelity: Fidelity) -> RenderableType:
    """Show the fidelity of a candidate to its reference."""
    notes = [Text(f"note: {note}") for note in fidelity.notes]
    layers = [Text(), layers_view(fidelity.layers)] if fidelity.layers else []
    spread = [Text(line) for line in per_sample_lines(fidelity)]
    return Group(fidelity_table(fidelity), *spread, *metrics_table(fidelity), *layers, *notes)


def per_sample_lines(fidelity: Fidelity) -> list[str]:
    """One line per output: SQNR of its median, 95% quantile and worst sample."""
    return [
        f"SQNR of single samples, {row.worst_part}: {spread_text(row.per_sample, ' dB', '.1f')}"
        for row in fidelity.outputs
        if row.per_sample is not None and row.per_sample.samples > 1 and row.sqnr_db is not None
    ]


def fidelity_table(fidelity: Fidelity) -> RenderableType:
    """One row per output, and one per part of an output that has several."""
    rows: list[tuple[str, ...]] = []
    for row in fidelity.outputs:
        rows.append(
            (
                row.name,
                _output_decibels(row),
                _number(row.max_abs),
                _number(row.mean_abs),
                _number(row.peak),
                cosine_text(row.cosine),
                _share(row.agreement),
                _share(row.equal),
            )
        )
        if len(row.parts) > 1:
            rows += [_part_row(part) for part in row.parts]
    return table(
        f"Fidelity on {fidelity.samples:,} samples",
        ("output", "SQNR dB", "max diff", "mean diff", "peak", "cosine", "top-1 same", "equal"),
        rows,
    )


def _part_row(part: PartFidelity) -> tuple[str, ...]:
    return (part_name(part), part_decibels(part), "", "", "", cosine_text(part.cosine), "", "")


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


#: Differences of metrics of at least so much are shown with four decimals.
_SHOWN_FROM = 5e-5


def metrics_table(fidelity: Fidelity) -> list[RenderableType]:
    """Task metrics of both models, with the reason and further figures; nothing without any."""
    rows = [
        (m.name, _metric(m.reference), _metric(m.candidate), _difference(m.candidate - m.reference))
        if m.drop is not None
        else (m.name, _metric(m.reference), "undecided", "-")
        for m in fidelity.metrics
    ]
    columns = ("metric", "before", "after", "difference")
    notes = [Text(line) for metric in fidelity.metrics for line in _metric_lines(metric)]
    return [Text(), table("Task", columns, rows), *notes] if rows else []


def _difference(value: float) -> str:
    """Four decimals, and what is smaller by its power of ten; `0` for none."""
    if value == 0:
        return "0"
    return f"{value:+.4f}" if abs(value) >= _SHOWN_FROM else f"{value:+.1e}"


def _metric_lines(metric: MetricPair) -> list[str]:
    """Further figures of a task metric, why it was chosen, and what it means."""
    details = ", ".join(f"{name} {value:.4g}" for name, value in metric.details.items())
    return [
        *([f"{metric.name}: {details}"] if details else []),
        f"{metric.name}: {metric.reason}; a drop of 1%: {metric.meaning}",
    ]


def spread_text(spread: SampleSpread, unit: str = "", digits: str = ".4g") -> str:
    """Show the median, the 95% quantile and the worst of single samples."""
    figures = (spread.median, spread.q95, spread.worst)
    median, q95, worst = (f"{figure:{digits}}{unit}" for figure in figures)
    return f"median {median}, 95% quantile {q95}, worst {worst} (sample {spread.worst_sample})"


def _output_decibels(row: OutputFidelity) -> str:
    """`inf` without any error, `broken` with new NaN, `-` where it makes no sense."""
    if row.broken:
        return f"broken ({row.broken})"
    if row.max_abs is None:
        return "-"
    return decibels_text(row.sqnr_db)


def _milliseconds(value: float) -> str:
    return f"{value:.3f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _metric(value: float) -> str:
    return f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


_SENSITIVITY_COLUMNS = (
    "layer",
    "operator",
    "alone dB",
    "noise fraction",
    "kept float dB",
    "confirmed dB",
    "float us",
    "INT8 us",
)


def sensitivity_view(sensitivity: Sensitivity) -> RenderableType:
    """One row per layer, those first whose noise weighs most."""
    title = (
        f"INT8 for {sensitivity.target}: {_decibels(sensitivity.sqnr_db)} dB at "
        f"{sensitivity.output!r} with everything quantized"
    )
    if sensitivity.confirmed_db is not None:
        title += f", {_decibels(sensitivity.confirmed_db)} dB on samples held out"
    notes = [
        Text(
            "alone: only this layer quantized. noise fraction: noise that disappears if it stays "
            "float. kept float: all but this layer quantized; confirmed: the same measured "
            f"on held-out samples. Estimated on {sensitivity.samples:,} samples, weights "
            "rounded to the nearest integers."
        ),
        *(
            Text(f"not quantized: {d.node or 'the model'}: {d.message}")
            for d in sensitivity.skipped
        ),
    ]
    return Group(table(title, _SENSITIVITY_COLUMNS, map(_row, sensitivity.ranked)), *notes)


def _row(layer: LayerSensitivity) -> tuple[str, ...]:
    return (
        layer.name,
        layer.op_type,
        _decibels(layer.alone_db),
        f"{layer.noise_fraction:.1%}",
        _decibels(layer.float_db),
        "-" if layer.confirmed_db is None else _decibels(layer.confirmed_db),
        _microseconds(layer.float_us),
        _microseconds(layer.int_us),
    )


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
