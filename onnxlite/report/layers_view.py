"""Two models compared layer by layer, as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from onnxlite.evaluate import LayerFidelity
from onnxlite.report.text import table

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
