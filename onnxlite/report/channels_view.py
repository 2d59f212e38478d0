"""Channel units as a table."""

from __future__ import annotations

from rich.console import RenderableType

from onnxlite.prune import ChannelReport
from onnxlite.report.text import count_text, table

_LAYERS_SHOWN = 3


def channels_view(report: ChannelReport) -> RenderableType:
    """One row per group of units: how many, which layers they bind, why some must stay."""
    rows = [
        (
            group.name,
            count_text(group.units),
            count_text(group.width),
            count_text(group.parameters),
            _layers(group.layers),
            group.pinned or _state(group.ends),
        )
        for group in report.groups
    ]
    title = f"{report.prunable:,} of {report.units:,} channel units may be removed"
    return table(title, ("group", "units", "width", "weights a unit", "layers", "state"), rows)


def _state(ends: tuple[str, ...]) -> str:
    return f"may go; with all of them end {_layers(ends)}" if ends else "may go"


def _layers(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_LAYERS_SHOWN])
    more = len(names) - _LAYERS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
