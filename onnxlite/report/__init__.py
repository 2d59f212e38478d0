"""Records as terminal tables and as JSON."""

from __future__ import annotations

from onnxlite.report.files import (
    SCHEMA,
    from_json,
    load_report,
    report_kind,
    save_report,
    to_json,
    write_text,
)
from onnxlite.report.measure_view import (
    channels_view,
    fidelity_view,
    latency_view,
    sensitivity_view,
    summary_view,
)
from onnxlite.report.page import html_page
from onnxlite.report.plots import sensitivity_plot
from onnxlite.report.run_view import run_view, search_view, trial_line

__all__ = [
    "SCHEMA",
    "channels_view",
    "fidelity_view",
    "from_json",
    "html_page",
    "latency_view",
    "load_report",
    "report_kind",
    "run_view",
    "save_report",
    "search_view",
    "sensitivity_plot",
    "sensitivity_view",
    "summary_view",
    "to_json",
    "trial_line",
    "write_text",
]
