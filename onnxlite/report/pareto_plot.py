"""The trials of a search as a plot: what is lost against latency, the area of a dot is its size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnxlite.report.markup import Markup, element
from onnxlite.search import SearchRecord, Trial

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 16, 44


_Style: TypeAlias = dict[str, str | float | None]


@dataclass(frozen=True)
class _Scale:
    """From values to pixels, linear between two ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(max(share, -0.02), 1.02)

    def ticks(self, count: int) -> list[float]:
        """Round numbers inside of the ends, about so many."""
        raw = (self.high - self.low) / count
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def pareto_plot(record: SearchRecord, *, narrow: bool = False) -> Markup | None:
    """An SVG element for a wide page or a phone; None if fewer than two trials were measured."""
    trials = [t for t in record.trials if t.latency is not None and t.quality is not None]
    if len(trials) < 2:
        return None
    width, height = (360, 320) if narrow else (820, 400)
    x, y = _scales(record, trials, width, height)
    parts = [
        *_axes(x, y, width, height, record.metric),
        *_limits(record, x, y),
        *_front(record, trials, x, y),
        *(_dot(trial, record, x, y) for trial in sorted(trials, key=lambda t: -(t.size or 0))),
    ]
    attributes = {
        "viewBox": f"0 0 {width} {height}",
        "class": "plot narrow" if narrow else "plot",
        "role": "img",
        "aria-label": "Trials: loss against latency",
    }
    return element("svg", parts, attributes)


def _scales(
    record: SearchRecord, trials: Sequence[Trial], width: int, height: int
) -> tuple[_Scale, _Scale]:
    latencies = [t.latency.median for t in trials if t.latency is not None]
    losses = [t.quality.drop for t in trials if t.quality is not None]
    bound = record.budget.max_drop or 0.0
    # Hopeless trials would squeeze all others together: they stand at the edge.
    top = max([bound * 3, *(loss for loss in losses if loss <= bound * 4), 1e-6])
    if not bound:
        top = max([*losses, 1e-6])
    low = min([0.0, *losses])
    return (
        _Scale(0.0, max([1.05, *(min(value, 1.6) for value in latencies)]), _LEFT, width - _RIGHT),
        _Scale(low - 0.04 * (top - low), top, height - _BOTTOM, _TOP),
    )


def _axes(x: _Scale, y: _Scale, width: int, height: int, metric: str) -> Iterator[Markup]:
    rule: _Style = {"stroke": "var(--rule)", "fill": "none"}
    for value in x.ticks(8):
        at = x(value)
        yield element("path", "", {"d": f"M{at:.1f} {_TOP}V{height - _BOTTOM}", **rule})
        yield _text(at, height - _BOTTOM + 16, f"{value:g}x", "middle")
    for value in y.ticks(5):
        at = y(value)
        yield element("path", "", {"d": f"M{_LEFT} {at:.1f}H{width - _RIGHT}", **rule})
        yield _text(_LEFT - 6, at + 4, f"{value:.4g}", "end")
    middle = (_LEFT + width - _RIGHT) / 2
    yield _text(middle, height - 8, "latency / original", "middle")
    center = (_TOP + height - _BOTTOM) / 2
    yield element(
        "text",
        f"loss of {metric}",
        {"x": 14, "y": center, "text-anchor": "middle", "transform": f"rotate(-90 14 {center})"},
    )


def _limits(record: SearchRecord, x: _Scale, y: _Scale) -> Iterator[Markup]:
    style: _Style = {
        "stroke": "var(--bad)",
        "stroke-dasharray": "5 4",
        "fill": "none",
    }
    if record.budget.max_drop is not None:
        at = y(record.budget.max_drop)
        yield element("path", "", {"d": f"M{x.start:.1f} {at:.1f}H{x.end:.1f}", **style})
        yield _text(x.end - 4, at - 5, "budget", "end")
    if record.budget.max_latency is not None:
        at = x(record.budget.max_latency)
        yield element("path", "", {"d": f"M{at:.1f} {y.end:.1f}V{y.start:.1f}", **style})


def _front(record: SearchRecord, trials: Sequence[Trial], x: _Scale, y: _Scale) -> Iterator[Markup]:
    """A line through the trials that none beats in loss and latency alone."""
    points: list[tuple[float, float]] = []
    least = math.inf
    known = [(t.latency.median, t.quality.drop) for t in trials if t.latency and t.quality]
    for latency, loss in sorted(known):
        if loss < least:
            least = loss
            points.append((x(latency), y(loss)))
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
    style: _Style = {
        "stroke": "var(--after)",
        "stroke-opacity": 0.45,
        "fill": "none",
    }
    yield element("path", "", {"d": path, **style})


def _dot(trial: Trial, record: SearchRecord, x: _Scale, y: _Scale) -> Markup:
    assert trial.latency is not None
    assert trial.quality is not None
    at = x(trial.latency.median), y(trial.quality.drop)
    radius = 3 + 11 * math.sqrt(min(trial.size or 0.0, 1.2))
    chosen = trial.number == record.chosen
    color = "var(--after)" if trial.in_budget else "var(--before)"
    text = (
        f"{trial.number}: {trial.label}\n{trial.quality}\nlatency {trial.latency}\n"
        f"size {trial.size or 0:.3f}x"
    )
    attributes: _Style = {
        "cx": round(at[0], 1),
        "cy": round(at[1], 1),
        "r": round(radius, 1),
        "fill": color,
        "fill-opacity": 0.85 if chosen else 0.4,
        "stroke": "var(--text)" if chosen else color,
        "stroke-width": 2.5 if chosen else 1,
    }
    parts = [element("circle", element("title", text), attributes)]
    if chosen:
        parts.append(_text(at[0] + radius + 5, at[1] - 6, "result", "start"))
    return element("g", parts)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return element("text", text, {"x": round(x, 1), "y": round(y, 1), "text-anchor": anchor})
