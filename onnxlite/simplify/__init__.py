"""Simplification: the same function with fewer nodes, proved by running both models.

simplify         the step
simplify_ir      the same on a private copy, for other steps
upgrade_opset    a newer operator set, when a later step needs it
DEFAULT_RULES    the rewrites that `simplify` applies
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx_ir as ir

from onnxlite.model import ModelLike, in_kind, load
from onnxlite.records import Progress, ReportSink, announce, no_progress
from onnxlite.samples import SamplesLike
from onnxlite.simplify.opset import upgrade_opset
from onnxlite.simplify.pipeline import simplify_ir
from onnxlite.simplify.rewrite import Context, Refused, Replacement, Rewrite
from onnxlite.simplify.rules import DEFAULT_RULES

logger = logging.getLogger(__name__)

__all__ = [
    "DEFAULT_RULES",
    "Context",
    "Refused",
    "Replacement",
    "Rewrite",
    "simplify",
    "simplify_ir",
    "upgrade_opset",
]


@in_kind
def simplify(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    verify: bool = True,
    rules: Sequence[Rewrite] | None = None,
    onnxsim: bool = True,
    time_limit: float = 120.0,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Return an equivalent model with fewer nodes; the given one is not changed.

    Args:
        model: the model.
        samples: inputs to verify on; generated ones otherwise.
        verify: compare every result with the original in ONNX Runtime (largest relative
            difference 1e-4); a rewrite that fails is left out alone and reported.
        rules: the rewrites to apply; `DEFAULT_RULES` if not given.
        onnxsim: also use onnxsim, in a child process.
        time_limit: seconds that onnxsim may take.
        on_report: called with the step's report.
        progress: called as the work goes on.

    Returns:
        A `ModelProto` for a `ModelProto`, an `ir.Model` otherwise. Names and order of
        inputs and outputs, and dynamic dimensions, stay as they are.

    Raises:
        LoadError, InvalidModelError: the model cannot be read.
        SamplesError: the samples do not fit the model.
    """
    result, report = simplify_ir(
        load(model),
        samples=samples,
        verify=verify,
        rules=rules,
        onnxsim=onnxsim,
        time_limit=time_limit,
        progress=progress,
    )
    announce(report, on_report, logger)
    return result
