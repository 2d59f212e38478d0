"""Records as terminal tables and as JSON."""

from __future__ import annotations

from onnxlite.report.channels_view import channels_view
from onnxlite.report.files import load_report, report_kind, save_report, write_text
from onnxlite.report.json_form import SCHEMA, from_json, to_json
from onnxlite.report.measure_view import fidelity_view, latency_view
from onnxlite.report.page import html_page
from onnxlite.report.run_view import run_view
from onnxlite.report.search_view import search_view, trial_line
from onnxlite.report.sensitivity_plot import sensitivity_plot
from onnxlite.report.sensitivity_view import sensitivity_view
from onnxlite.report.summary_view import summary_view

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
