"""Plots as SVG: trials of a search, layers before and after, sensitivity of layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from onnxlite.quantize.mixed.sensitivity import LayerSensitivity, Sensitivity
from onnxlite.recipe import LayerPair, LayerState
from onnxlite.report.html import Markup, element, html_table, joined
from onnxlite.report.text import count_text, size_text
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
        *_front(trials, x, y),
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


def _front(trials: Sequence[Trial], x: _Scale, y: _Scale) -> Iterator[Markup]:
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


_WIDTH, _HEIGHT = 110, 16


def layers_section(layers: Sequence[LayerPair], sensitivity: Mapping[str, float]) -> Markup:
    """One row per layer: precision, channels, and bars for MACs, bytes, time, sensitivity.

    Args:
        layers: before and after.
        sensitivity: share of the noise of INT8 that is a layer's, by its name.
    """
    measures: list[tuple[str, Callable[[LayerState], float | None], Callable[[float], str]]] = [
        ("MACs", lambda s: s.macs, _count),
        ("bytes", lambda s: s.size_bytes, lambda value: size_text(int(value))),
        ("time", lambda s: s.latency_us, lambda value: f"{value:.1f} us"),
    ]
    shown = [m for m in measures if any(_values(pair, m[1]) != (None, None) for pair in layers)]
    tops = [
        max((v for pair in layers for v in _values(pair, get) if v is not None), default=1.0)
        for _, get, _ in shown
    ]
    heaviest = max(sensitivity.values(), default=0.0)
    rows = []
    for pair in layers:
        state = pair.before or pair.after
        assert state is not None
        row = [
            pair.name,
            state.op_type,
            _change(pair, lambda s: s.precision),
            _change(pair, lambda s: None if s.channels is None else count_text(s.channels)),
            *(
                _bars(_values(pair, get), top, text)
                for (_, get, text), top in zip(shown, tops, strict=True)
            ),
        ]
        if heaviest > 0:
            row.append(_share(_sensitivity_of(pair, sensitivity), heaviest))
        rows.append(row)
    columns = ["layer", "operator", "precision", "channels", *(name for name, _, _ in shown)]
    return html_table([*columns, *(["sensitivity"] if heaviest > 0 else [])], rows)


def _values(
    pair: LayerPair, get: Callable[[LayerState], float | None]
) -> tuple[float | None, float | None]:
    before = None if pair.before is None else get(pair.before)
    return before, None if pair.after is None else get(pair.after)


def _change(pair: LayerPair, get: Callable[[LayerState], str | None]) -> str:
    before = "-" if pair.before is None else get(pair.before) or "-"
    after = "gone" if pair.after is None else get(pair.after) or "-"
    return before if before == after else f"{before} → {after}"


def _sensitivity_of(pair: LayerPair, sensitivity: Mapping[str, float]) -> float | None:
    names = [state.name for state in (pair.after, pair.before) if state is not None]
    return next((sensitivity[name] for name in names if name in sensitivity), None)


def _bars(
    values: tuple[float | None, float | None], top: float, text: Callable[[float], str]
) -> Markup:
    """Two bars, before above after, and their numbers."""
    bars = [
        _bar(index, value / (top or 1.0), color)
        for index, (value, color) in enumerate(zip(values, ("before", "after"), strict=True))
        if value is not None
    ]
    numbers = " → ".join("-" if value is None else text(value) for value in values)
    return _cell(bars, numbers)


def _share(value: float | None, top: float) -> Markup:
    if value is None:
        return Markup("-")
    return _cell([_bar(0, max(value, 0.0) / top, "warn")], f"{value:.1%}")


def _bar(index: int, share: float, color: str) -> Markup:
    return element(
        "rect",
        "",
        {
            "x": 0,
            "y": index * 8,
            "width": round(max(share * _WIDTH, 1.0), 1),
            "height": 6,
            "rx": 1,
            "fill": f"var(--{color})",
        },
    )


def _cell(bars: Sequence[Markup], numbers: str) -> Markup:
    drawing = element("svg", bars, {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "aria-hidden": "true"})
    return element("div", joined([drawing, element("span", numbers)]), {"class": "bars"})


def _count(value: float) -> str:
    """A large number in short: `1.2 M`."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


#: Pixels.
_ROW, _NAME, _PANEL, _GAP, _HEAD, _FOOT = (
    16,
    240,
    300,
    60,
    64,
    16,
)
_COST, _GAIN, _LOSS, _TEXT, _RULE = "#c2410c", "#15803d", "#7f1d1d", "#1f2937", "#9ca3af"
#: More layers would make a picture that nobody reads; the heaviest are drawn.
_MOST_ROWS = 80


def sensitivity_plot(sensitivity: Sensitivity) -> str:
    """An SVG document: per layer its share of the noise, and the time that INT8 gains.

    Layers stand in topological order; of more than 80 those are drawn whose noise weighs most.
    """
    heaviest = {layer.name for layer in sensitivity.ranked[:_MOST_ROWS]}
    layers = [layer for layer in sensitivity.layers if layer.name in heaviest]
    shares = [layer.noise_fraction for layer in layers]
    gains = [layer.gain_us for layer in layers]
    width = _NAME + 2 * (_PANEL + _GAP)
    height = _HEAD + _ROW * len(layers) + _FOOT
    title = f"INT8 for {sensitivity.target}: {sensitivity.sqnr_db:.1f} dB at {sensitivity.output}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11" '
        f'fill="{_TEXT}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _label(12, 22, title, size=14),
        _label(
            _NAME,
            _HEAD - 14,
            "share of the noise that goes if the layer stays float",
        ),
        _label(
            _NAME + _PANEL + _GAP,
            _HEAD - 14,
            "microseconds that INT8 gains in its kernel",
        ),
        *_names(layers),
        *_panel(shares, _NAME, (_COST, _RULE), lambda value: f"{value:.1%}"),
        *_panel(gains, _NAME + _PANEL + _GAP, (_GAIN, _LOSS), lambda value: f"{value:.0f}"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _names(layers: Sequence[LayerSensitivity]) -> Iterator[str]:
    for index, layer in enumerate(layers):
        text = f"{layer.name} ({layer.op_type})"
        shown = text if len(text) <= 38 else f"...{text[-35:]}"
        yield _label(_NAME - 8, _HEAD + _ROW * index + 12, shown, anchor="end")


def _panel(
    values: Sequence[float | None],
    left: int,
    colors: tuple[str, str],
    label: Callable[[float], str],
) -> Iterator[str]:
    """Bars to the right of a line for positive values and to its left for negative ones."""
    known = [value for value in values if value is not None]
    high, low = max([0.0, *known]), min([0.0, *known])
    scale = (_PANEL - 40) / ((high - low) or 1.0)
    zero = left - low * scale
    bottom = _HEAD + _ROW * len(values)
    yield f'<path d="M{zero:.1f} {_TOP - 4}V{bottom}" stroke="{_RULE}"/>'
    for index, value in enumerate(values):
        if value is None:
            continue
        top, length = _HEAD + _ROW * index + 3, abs(value) * scale
        start = zero if value >= 0 else zero - length
        color = colors[0] if value >= 0 else colors[1]
        yield (
            f'<rect x="{start:.1f}" y="{top}" width="{length:.1f}" height="{_ROW - 6}" '
            f'fill="{color}"/>'
        )
        yield _label(max(zero, start + length) + 4, top + 9, label(value))


def _label(x: float, y: float, text: str, *, size: int | None = None, anchor: str = "start") -> str:
    font = "" if size is None else f' font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{font}>{escape(text)}</text>'
