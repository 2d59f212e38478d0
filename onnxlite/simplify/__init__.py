"""Simplification: the same function with fewer nodes, verified by running both models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxlite.apply import accepted, as_result
from onnxlite.batch_axis import bind
from onnxlite.model import ModelLike, clone, load
from onnxlite.samples import SamplesLike
from onnxlite.simplify.opset import upgrade_opset
from onnxlite.simplify.options import Simplify, SimplifyReport
from onnxlite.simplify.pipeline import simplify_ir
from onnxlite.simplify.rewrite import Context, Refused, Replacement, Rewrite
from onnxlite.simplify.rules import DEFAULT_RULES
from onnxlite.step import Result, StepContext, from_options

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


@from_options(Simplify)
def simplify(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    rules: Sequence[Rewrite] | None = None,
    options: Simplify,
    context: StepContext,
) -> Result[Any, SimplifyReport]:
    """Fold, fuse and clean up the graph without changing what it computes.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: inputs to verify on; None generates some.
        rules: the rewrites to apply; None takes `onnxlite.simplify.DEFAULT_RULES`.

    Returns:
        The model, a `ModelProto` if one came in, otherwise an `ir.Model`, and the report.
        Names and order of inputs and outputs, and dynamic dimensions, stay as they are.

    Raises:
        OptionError: a wrong option.
        LoadError, InvalidModelError: the model cannot be read.
        SamplesError: the samples do not fit the model.
    """
    source = load(model)
    samples = bind(source, samples, context.batch_axis)
    result, report = simplify_ir(clone(source), samples, options, context, rules=rules)
    return as_result(model, *accepted(options, source, result, report))
