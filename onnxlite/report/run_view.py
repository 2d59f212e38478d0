"""Reports of runs and searches as tables: steps, before and after, trials, limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from onnxlite.recipe import RunReport
from onnxlite.records import Row, Skipped, StepReport
from onnxlite.report.measure_view import fidelity_view, latency_note, latency_row, spread_text
from onnxlite.report.text import cell_text, count_text, quotient_text, ratio_text, size_text, table
from onnxlite.search import Check, Estimate, OptimizeReport, SearchRecord, Trial

#: More places than these share a line "and so many more".
_PLACES_SHOWN = 2


def run_view(report: RunReport, *, layers: bool = False) -> RenderableType:
    """Show steps and results of a run; with `layers`, also one row per layer and step."""
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
            for title, rows in step.row_tables():
                parts += [Text(), rows_table(title, rows)]
    return Group(*parts, *_verdicts(report))


def _verdicts(report: RunReport) -> Iterator[RenderableType]:
    """Usability, warnings, and the path of the written file."""
    if report.usability is not None and not report.usability.good:
        style = "yellow" if report.usable else "bold red"
        yield from (Text(), Text(str(report.usability), style=style))
    if report.warnings:
        yield from (Text(), *(Text(f"warning: {w}", style="yellow") for w in report.warnings))
    if report.output_path:
        yield from (Text(), Text(f"written: {report.output_path}"))


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
                ", ".join(f"{kind} {count:,}" for kind, count in step.counts()),
            )
            for number, step in enumerate(steps, 1)
        ),
    )


def skipped_table(steps: tuple[StepReport, ...]) -> RenderableType | None:
    """Show skipped items, one row per reason; None if nothing was skipped."""
    rows = [(step.step, *row) for step in steps for row in grouped_skipped(step.skipped)]
    return table("Not done", ("step", "what", "why", "where"), rows) if rows else None


def grouped_skipped(skipped: tuple[Skipped, ...]) -> Iterator[tuple[str, str, str]]:
    """What, why and where; places with the same reason share a row."""
    for what, reason in Counter((d.what, d.message) for d in skipped):
        places = [d.node for d in skipped if (d.what, d.message) == (what, reason) and d.node]
        shown = ", ".join(places[:_PLACES_SHOWN]) or "the model"
        more = len(places) - _PLACES_SHOWN
        yield what, reason, shown + (f" and {more} more" if more > 0 else "")


#: Headings of columns whose names of fields say less.
_HEADINGS = {"name": "layer", "op_type": "operator"}


def rows_table(title: str, rows: Sequence[Row]) -> RenderableType:
    """Show rows of one type; columns in which every cell is empty are left out."""
    columns = rows[0].columns()
    filled = [
        i
        for i, cells in enumerate(zip(*(row.cells() for row in rows), strict=True))
        if any(cell is not None for cell in cells)
    ]
    return table(
        title,
        [_HEADINGS.get(columns[i], columns[i]) for i in filled],
        ([cell_text(row.cells()[i]) for i in filled] for row in rows),
    )


#: What each limit is on, in words.
FIGURES = {
    "max_drop": "drop",
    "min_agreement": "agreement",
    "min_cosine": "cosine",
    "min_sqnr_db": "SQNR dB",
    "max_error": "largest error",
    "max_latency": "latency / original",
    "max_latency_ms": "latency ms",
    "max_size": "size / original",
    "max_bytes": "bytes",
}


def search_view(report: OptimizeReport) -> RenderableType:
    """Show the budget, the trials and the result of a search."""
    record = report.search
    parts: list[RenderableType] = [trials_table(record), Text(), *_limits(record)]
    parts += [Text(record.verdict, style="bold"), Text(_how(record))]
    if report.changed:
        parts += [Text(), run_view(report)]
    return Group(*parts)


def trial_columns(record: SearchRecord) -> tuple[str, ...]:
    """The headings of `trial_cells`."""
    return ("", "recipe", record.metric, "lost", "latency", "size", "seconds", "outcome")


def trial_cells(trial: Trial) -> tuple[str, ...]:
    """A trial as a row of a table; a star marks the Pareto front."""
    quality = trial.quality
    return (
        f"{trial.number}{'*' if trial.on_front else ''}",
        trial.label,
        "-" if quality is None else f"{quality.candidate:.4f}",
        "-" if quality is None else f"{quality.drop:.4f}",
        ratio_text(None if trial.latency is None else trial.latency.median),
        ratio_text(trial.size),
        f"{trial.seconds:.1f}",
        outcome_text(trial),
    )


def trials_table(record: SearchRecord) -> RenderableType:
    """One row per trial; a star marks the Pareto front, an arrow the result."""
    rows = [(trial, trial_cells(trial)) for trial in record.trials]
    return table(
        "Trials",
        trial_columns(record),
        (
            (f"{'>' if trial.number == record.chosen else ''}{number}", *others)
            for trial, (number, *others) in rows
        ),
    )


def trial_line(trial: Trial) -> str:
    """A trial that just ended, in one line."""
    parts = [f"trial {trial.number}: {trial.label}"]
    if trial.quality is not None:
        parts.append(f"{trial.quality.metric} {trial.quality.candidate:.4f}")
    if trial.latency is not None:
        parts.append(f"latency {ratio_text(trial.latency.median)}, size {ratio_text(trial.size)}")
    return f"{'; '.join(parts)}; {outcome_text(trial)}"


def outcome_text(trial: Trial) -> str:
    """Show the outcome of a trial, with the reason."""
    if trial.accepted:
        return "within the budget"
    if trial.status != "measured":
        return f"{trial.status}: {trial.reason}"
    if trial.in_budget:
        return str(trial.reason)
    missed = [c.limit for c in trial.checks if not c.within or c.verdict != "met"]
    return f"misses {', '.join(missed)}"


def _limits(record: SearchRecord) -> list[RenderableType]:
    if not record.checks:
        return []
    rows = [
        (
            c.limit,
            FIGURES.get(c.limit, c.limit),
            f"{c.bound:g}",
            *_figure(c.figure),
            verdict_text(c),
        )
        for c in record.checks
    ]
    columns = ("limit", "on", "bound", "found", "95% interval", "verdict")
    lines = [Text(line) for line in spread_lines(record)]
    return [table("Budget, on samples that the choice has not seen", columns, rows), *lines, Text()]


def _figure(figure: Estimate) -> tuple[str, str]:
    if figure.low is None or figure.high is None:
        return f"{figure.value:.4g}", "-"
    return f"{figure.value:.4g}", f"{figure.low:.4g} to {figure.high:.4g}"


def verdict_text(check: Check) -> str:
    """Met, missed, or why it is undecided and how many samples would decide."""
    if check.verdict != "undecided":
        return check.verdict
    parts = ["within the limit, but undecided" if check.within else "missed, but undecided"]
    if (doubt := check.doubt) is not None:
        parts.append(doubt)
    if check.samples_needed is not None:
        parts.append(f"about {check.samples_needed:,} samples would decide")
    return "; ".join(parts)


def spread_lines(record: SearchRecord) -> list[str]:
    """One line per limited figure: the median, the 95% quantile and the worst sample."""
    found = [(check.limit, check.figure.spread) for check in record.checks]
    return [
        f"{FIGURES.get(limit, limit)} of single samples: {spread_text(spread)}"
        for limit, spread in found
        if spread is not None
    ]


def _how(record: SearchRecord) -> str:
    samples = record.samples
    counts = ", ".join(f"{count:,} for {name}" for name, count in samples.items())
    ended = "" if record.stopped == "finished" else f"; ended early: {record.stopped}"
    cached = f", {record.cached} look-ups from the cache" if record.cached else ""
    return (
        f"{record.metric_text}; samples: {counts}; "
        f"{len(record.trials)} trials in {record.seconds:.0f} s{cached}{ended}"
    )
