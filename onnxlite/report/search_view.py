"""A search as tables: the verdict, the limits, every trial; then the run that it chose."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from onnxlite.report.run_view import run_view
from onnxlite.report.text import ratio_text, table
from onnxlite.search import Check, Estimate, OptimizeReport, SearchRecord, Trial

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
    """What was searched, what was found, and what the result is."""
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
    """How a trial ended, with the reason."""
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
    return [table("Budget, on samples that the choice has not seen", columns, rows), Text()]


def _figure(figure: Estimate) -> tuple[str, str]:
    if figure.low is None or figure.high is None:
        return f"{figure.value:.4g}", "-"
    return f"{figure.value:.4g}", f"{figure.low:.4g} to {figure.high:.4g}"


def verdict_text(check: Check) -> str:
    """Met, missed, or how many samples would tell."""
    if check.verdict != "undecided":
        return check.verdict
    kept = "kept to, but not for sure" if check.within else "missed, but not for sure"
    if check.samples_needed is None:
        return kept
    return f"{kept}: about {check.samples_needed:,} samples would tell"


def _how(record: SearchRecord) -> str:
    samples = record.samples
    counts = ", ".join(f"{count:,} for {name}" for name, count in samples.items())
    ended = "" if record.stopped == "finished" else f"; ended early: {record.stopped}"
    cached = f", {record.cached} look-ups from the cache" if record.cached else ""
    return (
        f"metric {record.metric}: {record.metric_reason}; samples: {counts}; "
        f"{len(record.trials)} trials in {record.seconds:.0f} s{cached}{ended}"
    )
