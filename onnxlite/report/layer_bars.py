"""Every layer before and after, as a table with bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnxlite.recipe import LayerPair, LayerState
from onnxlite.report.markup import Markup, element, html_table, joined
from onnxlite.report.text import count_text, size_text

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
