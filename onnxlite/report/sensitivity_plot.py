"""What each layer costs and gains in INT8, as a plot: one SVG file without anything around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from xml.sax.saxutils import escape

from onnxlite.quantize.mixed.sensitivity import LayerSensitivity, Sensitivity

#: Pixels.
_ROW, _NAME, _PANEL, _GAP, _TOP, _BOTTOM = 16, 240, 300, 60, 64, 16
_COST, _GAIN, _LOSS, _TEXT, _RULE = "#c2410c", "#15803d", "#7f1d1d", "#1f2937", "#9ca3af"
#: More layers would make a picture that nobody reads; the heaviest are drawn.
_MOST_ROWS = 80


def sensitivity_plot(sensitivity: Sensitivity) -> str:
    """An SVG document: per layer its share of the noise, and the time that INT8 gains.

    Layers stand in topological order; of more than 80 those are drawn whose noise weighs most.
    """
    heaviest = {layer.name for layer in sensitivity.ranked[:_MOST_ROWS]}
    layers = [layer for layer in sensitivity.layers if layer.name in heaviest]
    shares = [layer.share for layer in layers]
    gains = [layer.gain_us for layer in layers]
    width = _NAME + 2 * (_PANEL + _GAP)
    height = _TOP + _ROW * len(layers) + _BOTTOM
    title = f"INT8 for {sensitivity.target}: {sensitivity.sqnr_db:.1f} dB at {sensitivity.output}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11" '
        f'fill="{_TEXT}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(12, 22, title, size=14),
        _text(_NAME, _TOP - 14, "share of the noise that goes if the layer stays float"),
        _text(_NAME + _PANEL + _GAP, _TOP - 14, "microseconds that INT8 gains in its kernel"),
        *_names(layers),
        *_bars(shares, _NAME, (_COST, _RULE), lambda value: f"{value:.1%}"),
        *_bars(gains, _NAME + _PANEL + _GAP, (_GAIN, _LOSS), lambda value: f"{value:.0f}"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _names(layers: Sequence[LayerSensitivity]) -> Iterator[str]:
    for index, layer in enumerate(layers):
        text = f"{layer.name} ({layer.op_type})"
        shown = text if len(text) <= 38 else f"...{text[-35:]}"
        yield _text(_NAME - 8, _TOP + _ROW * index + 12, shown, anchor="end")


def _bars(
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
    bottom = _TOP + _ROW * len(values)
    yield f'<path d="M{zero:.1f} {_TOP - 4}V{bottom}" stroke="{_RULE}"/>'
    for index, value in enumerate(values):
        if value is None:
            continue
        top, length = _TOP + _ROW * index + 3, abs(value) * scale
        start = zero if value >= 0 else zero - length
        color = colors[0] if value >= 0 else colors[1]
        yield (
            f'<rect x="{start:.1f}" y="{top}" width="{length:.1f}" height="{_ROW - 6}" '
            f'fill="{color}"/>'
        )
        yield _text(max(zero, start + length) + 4, top + 9, label(value))


def _text(x: float, y: float, text: str, *, size: int | None = None, anchor: str = "start") -> str:
    font = "" if size is None else f' font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{font}>{escape(text)}</text>'
