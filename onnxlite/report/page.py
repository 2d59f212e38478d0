"""A run's report as one HTML page that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Iterator

from onnxlite.recipe import RunReport
from onnxlite.report.html import STYLE, Markup, element, html_table, joined
from onnxlite.report.measure_view import per_sample_lines
from onnxlite.report.plots import layers_section, pareto_plot
from onnxlite.report.run_view import (
    FIGURES,
    grouped_skipped,
    spread_lines,
    trial_cells,
    trial_columns,
    verdict_text,
)
from onnxlite.report.text import (
    cosine_text,
    count_text,
    decibels_text,
    part_decibels,
    part_name,
    ratio_text,
    size_text,
)
from onnxlite.search import OptimizeReport, SearchRecord


def html_page(report: RunReport) -> str:
    """The whole page; that of an `OptimizeReport` also shows the search."""
    search = report.search if isinstance(report, OptimizeReport) else None
    parts = [*_head(report, search), *_cards(report)]
    if search is not None:
        parts += _search(search)
    if report.layers:
        sensitivity = {} if search is None else search.sensitivity
        parts += [
            element("h2", "Layers"),
            element("p", _bars_note(report, bool(sensitivity)), {"class": "note"}),
            layers_section(report.layers, sensitivity),
        ]
    parts += [*_fidelity(report), *_steps(report), *_skipped(report), *_how(report)]
    body = element("body", element("main", parts))
    head = element(
        "head",
        [
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", f"onnxlite: {report.input.name}"),
            element("style", Markup(STYLE)),
        ],
    )
    return f"<!doctype html>\n{element('html', [head, body], {'lang': 'en'})}\n"


def _head(report: RunReport, search: SearchRecord | None) -> Iterator[Markup]:
    yield element("h1", report.input_path or report.input.name)
    environment = report.environment
    version = environment.packages.get("onnxlite", "?")
    yield element("p", f"onnxlite {version} on {environment.machine}", {"class": "soft"})
    if search is not None:
        style = "verdict" if search.met else "verdict no"
        yield element("p", search.verdict, {"class": style})
    elif not report.changed:
        yield element("p", "The model is unchanged.", {"class": "verdict no"})
    if report.usability is not None and not report.usability.good:
        style = "warning" if report.usable else "verdict no"
        yield element("p", f"The result is {report.usability}.", {"class": style})
    for warning in report.warnings:
        yield element("p", f"Warning: {warning}", {"class": "warning"})


def _cards(report: RunReport) -> Iterator[Markup]:
    before, after, sizes = report.input, report.output, report.sizes
    cards = []
    latency = report.latency
    if latency is not None:
        one, two = latency.reference.median_ms, latency.candidate.median_ms
        interval = f"95%: {latency.ratio.low:.3f} to {latency.ratio.high:.3f}"
        cards.append(_card("Latency", latency.ratio.median, f"{one:.3f} → {two:.3f} ms", interval))
    cards.append(
        _card(
            "File",
            sizes.ratio,
            f"{size_text(sizes.input_bytes)} → {size_text(sizes.output_bytes)}",
        )
    )
    for name, old, new in (
        ("MACs", before.macs, after.macs),
        ("Parameters", before.parameters, after.parameters),
    ):
        if old and new is not None:
            cards.append(_card(name, new / old, f"{count_text(old)} → {count_text(new)}"))
    if latency is not None and latency.reference.memory and latency.candidate.memory:
        peak = latency.reference.memory.peak_bytes, latency.candidate.memory.peak_bytes
        cards.append(
            _card("Peak memory", peak[1] / peak[0], f"{size_text(peak[0])} → {size_text(peak[1])}")
        )
    cards += _quality_cards(report)
    yield element("div", cards, {"class": "cards"})


def _quality_cards(report: RunReport) -> Iterator[Markup]:
    search = report.search if isinstance(report, OptimizeReport) else None
    if search is not None and search.quality is not None:
        q = search.quality
        drop = q.figures["drop"]
        interval = ""
        if drop.low is not None and drop.high is not None:
            interval = f"lost: {drop.value:.4f}, 95%: {drop.low:.4f} to {drop.high:.4f}"
        yield _plain_card(q.metric, f"{q.candidate:.4f}", f"original {q.reference:.4f}", interval)
    if report.fidelity is not None:
        worst = f"{report.fidelity.sqnr_db:.1f} dB"
        agreement = report.fidelity.agreement
        same = "" if agreement is None else f"top class kept: {agreement:.2%}"
        yield _plain_card("SQNR", worst, f"on {report.fidelity.samples:,} unseen samples", same)
    for metric in () if report.fidelity is None or search else report.fidelity.metrics:
        yield _plain_card(metric.name, f"{metric.candidate:.4f}", f"was {metric.reference:.4f}", "")


def _card(name: str, ratio: float, change: str, note: str = "") -> Markup:
    """Show a figure as a fraction of the original's, with a bar."""
    style = "big good" if ratio < 0.995 else "big bad" if ratio > 1.005 else "big"
    fill = element("div", "", {"class": "fill", "style": f"width:{min(ratio, 1.0):.1%}"})
    return element(
        "div",
        [
            element("div", name, {"class": "name"}),
            element("div", ratio_text(ratio), {"class": style}),
            element("div", fill, {"class": "track"}),
            element("div", change, {"class": "from"}),
            element("div", note, {"class": "note"}),
        ],
        {"class": "card"},
    )


def _plain_card(name: str, value: str, first: str, second: str) -> Markup:
    return element(
        "div",
        [
            element("div", name, {"class": "name"}),
            element("div", value, {"class": "big"}),
            element("div", first, {"class": "from"}),
            element("div", second, {"class": "note"}),
        ],
        {"class": "card"},
    )


def _search(search: SearchRecord) -> Iterator[Markup]:
    if search.checks:
        yield element("h2", "Budget")
        yield element(
            "p",
            f"On {search.samples.get('check', 0):,} samples that neither calibration nor choice "
            f"has seen; {search.final_checks} candidate(s) were checked on them.",
            {"class": "note"},
        )
        rows = [
            (
                check.limit,
                FIGURES.get(check.limit, check.limit),
                f"{check.bound:g}",
                str(check.figure),
                verdict_text(check),
            )
            for check in search.checks
        ]
        yield html_table(("limit", "on", "bound", "found [95%]", "verdict"), rows, numbers=(2, 3))
        for line in spread_lines(search):
            yield element("p", line, {"class": "note"})
    yield element("h2", "Trials")
    plots = [p for p in (pareto_plot(search), pareto_plot(search, narrow=True)) if p is not None]
    if plots:
        note = (
            "Further down and to the left is better; the area of a dot is the size of the file, "
            "blue dots keep to the budget."
        )
        yield element("p", note, {"class": "note"})
        yield element("div", plots, {"class": "panel"})
    classes = ["chosen" if t.number == search.chosen else None for t in search.trials]
    trials = [trial_cells(trial) for trial in search.trials]
    yield element("p", "", {})
    yield html_table(trial_columns(search), trials, numbers=(2, 3, 4, 5, 6), row_classes=classes)
    counts = ", ".join(f"{count:,} for {name}" for name, count in search.samples.items())
    yield element(
        "p",
        f"* on the Pareto front of loss, latency and size; {search.metric_text}. "
        f"Samples: {counts}. {search.seconds:.0f} seconds, {search.cached} look-ups from "
        f"the cache; {search.stopped}.",
        {"class": "note"},
    )


def _bars_note(report: RunReport, sensitivity: bool) -> str:
    shapes = ", ".join(f"{name} {shape}" for name, shape in report.input.macs_inputs.items())
    text = f"Bars: before above after. MACs and times of one run ({shapes})."
    if report.latency is None:
        text = f"Bars: before above after. MACs of one run ({shapes})."
    if sensitivity:
        text += " Sensitivity: a layer's share of the noise if all are quantized to INT8."
    return text


def _fidelity(report: RunReport) -> Iterator[Markup]:
    if report.fidelity is None:
        return
    yield element("h2", "Fidelity")
    rows: list[tuple[str, ...]] = []
    for row in report.fidelity.outputs:
        rows.append(
            (
                row.name,
                "-" if row.max_abs is None else decibels_text(row.sqnr_db),
                "-" if row.max_abs is None else f"{row.max_abs:.3g}",
                "-" if row.peak is None else f"{row.peak:.3g}",
                "-" if row.cosine is None else f"{row.cosine:.5f}",
                "-" if row.agreement is None else f"{row.agreement:.2%}",
            )
        )
        if len(row.parts) > 1:
            rows += [
                (part_name(part), part_decibels(part), "", "", cosine_text(part.cosine), "")
                for part in row.parts
            ]
    columns = ("output", "SQNR dB", "largest error", "peak", "cosine", "top class kept")
    yield html_table(columns, rows, numbers=(1, 2, 3, 4, 5))
    for line in per_sample_lines(report.fidelity):
        yield element("p", line, {"class": "note"})
    yield element("p", report.samples.note, {"class": "note"})


def _steps(report: RunReport) -> Iterator[Markup]:
    if not report.steps:
        return
    yield element("h2", "Steps")
    rows = [
        (
            step.step,
            f"{step.seconds:.1f}",
            step.summary if step.changed else f"unchanged: {step.summary}",
            ", ".join(f"{kind} {count:,}" for kind, count in step.counts()),
        )
        for step in report.steps
    ]
    yield html_table(("step", "seconds", "result", "changes"), rows, numbers=(1,))


def _skipped(report: RunReport) -> Iterator[Markup]:
    rows = [(step.step, *row) for step in report.steps for row in grouped_skipped(step.skipped)]
    if rows:
        yield element("h2", "Not done, and why")
        yield html_table(("step", "what", "why", "where"), rows)


def _how(report: RunReport) -> Iterator[Markup]:
    yield element("h2", "How to get this again")
    if report.command:
        yield element("pre", report.command)
    if report.recipe:
        summary = "The recipe: save it as recipe.toml"
        model = report.input_path or "model.onnx"
        yield element("pre", f"onnxlite run recipe.toml {model} --data DATA -o small.onnx")
        yield element(
            "details", joined([element("summary", summary), element("pre", report.recipe)])
        )
    packages = report.environment.packages.items()
    machine = report.environment.machine
    rows = [
        ("processor", f"{machine.cpu}, {machine.cores} cores"),
        ("instructions", ", ".join(machine.instructions) or "-"),
        ("system", f"{machine.system}, Python {machine.python}"),
        *packages,
        ("seconds", f"{report.seconds:.1f}"),
    ]
    table = html_table(("", ""), rows)
    yield element("details", joined([element("summary", "The environment"), table]))
