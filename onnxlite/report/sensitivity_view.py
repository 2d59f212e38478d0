"""What each layer costs and gains in INT8, as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from onnxlite.quantize.mixed.sensitivity import LayerSensitivity, Sensitivity
from onnxlite.report.text import table

_COLUMNS = (
    "layer",
    "operator",
    "alone dB",
    "noise share",
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
            "alone: only this layer quantized. noise share: what goes if it stays float. "
            "kept float: all but this layer quantized; confirmed: the same, really quantized, "
            f"on samples held out. Estimated on {sensitivity.samples:,} samples, weights "
            "rounded to the nearest integers."
        ),
        *(
            Text(f"not quantized: {d.node or 'the model'}: {d.message}")
            for d in sensitivity.skipped
        ),
    ]
    return Group(table(title, _COLUMNS, map(_row, sensitivity.ranked)), *notes)


def _row(layer: LayerSensitivity) -> tuple[str, ...]:
    return (
        layer.name,
        layer.op_type,
        _decibels(layer.alone_db),
        f"{layer.share:.1%}",
        _decibels(layer.float_db),
        "-" if layer.confirmed_db is None else _decibels(layer.confirmed_db),
        _microseconds(layer.float_us),
        _microseconds(layer.int_us),
    )


def _decibels(value: float) -> str:
    return f"{value:.1f}"


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
