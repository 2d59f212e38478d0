"""Baseline quantization for trials: round-to-nearest and min-max ranges.

One preparation and calibration serves every choice of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.quantized_model import QUANTIZE_ONCE, already_quantized, computed_weights
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate import collect_ranges
from onnxlite.quantize.core.plan import Placement, QuantPlan, weight_port
from onnxlite.quantize.core.prepare import pool_means, prepare
from onnxlite.quantize.core.quick_qdq import quick_qdq
from onnxlite.quantize.core.scales import activation_params
from onnxlite.quantize.core.selection import (
    able_nodes,
    layer_patterns,
    nothing_placed,
    place,
    place_among,
)
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.mixed.error_propagation import ErrorModel, Source
from onnxlite.records import Skipped
from onnxlite.samples import Samples
from onnxlite.step import StepContext


class Baseline:
    """Float model with the ranges of every value that may be quantized.

    Args:
        plan: plan with everything quantized that may be.
        samples: unlabelled inputs for calibration.
        context: threads and progress.

    Attributes:
        plan: the given plan.
        layers: its layers with weights, in topological order.
    """

    def __init__(self, plan: QuantPlan, samples: Samples, context: StepContext) -> None:
        self.plan, self.layers = plan, plan.layers
        self._context = context
        self._ranges = collect_ranges(
            plan.model,
            [value.name for value in plan.placement.values if value.name],
            samples,
            threads=context.threads,
            progress=context.progress,
        )
        self._able, _ = able_nodes(plan.model, plan.target)

    def errors(self) -> ErrorModel:
        """Return the float model with a switchable error for every rounding."""
        params = activation_params(self.plan, self._ranges)
        return ErrorModel(self.plan, params, threads=self._context.threads)

    def sources(self, layers: Sequence[str]) -> frozenset[Source]:
        """Return the sources of noise if only these layers are quantized.

        Nodes between these layers are quantized as well. The readers of a rounded value come from
        the placement of all layers: a float reader next to a single layer counts as reading the
        rounded value.
        """
        placement = self._place(layers)
        return frozenset(
            (
                *(Source("value", value.name or "") for value in placement.values),
                *(Source("weight", node.name or "") for node in placement.layers),
            )
        )

    def quantized(self, layers: Sequence[str]) -> ir.Model:
        """Return the QDQ model with only these layers and the nodes between quantized."""
        plan = replace(self.plan, placement=self._place(layers))
        return quick_qdq(plan, activation_params(plan, self._ranges), bound_pairs=True)

    def _place(self, layers: Sequence[str]) -> Placement:
        wanted = set(layers)
        able = [n for n in self._able if weight_port(n) is None or n.name in wanted]
        return place_among(self.plan.model, self.plan.target, able)


def plan_everything(
    model: ir.Model, target: Target, *, include: Sequence[str], exclude: Sequence[str]
) -> tuple[QuantPlan, list[Skipped]] | Skipped:
    """Prepare a model in place and plan to quantize everything that may be.

    Args:
        model: a private copy; it is changed.
        target: the integer types.
        include: patterns (`fnmatch`) of layer names to quantize; empty means all.
        exclude: patterns of names that stay float.

    Returns:
        The plan and the skipped layers; or the reason why nothing can be quantized.

    Raises:
        OptionError: a pattern matches nothing.
    """
    if reason := already_quantized(model, QUANTIZE_ONCE):
        return Skipped("quantize", "", "already-quantized", reason)
    ready, skipped = prepare(model)
    if isinstance(ready, Skipped):
        return ready
    pool_means(ready)
    infer_shapes(ready)
    placement = place(
        ready,
        target,
        include=layer_patterns(ready, include),
        exclude=layer_patterns(ready, exclude),
    )
    if not placement.layers:
        computed = computed_weights(model, QUANTIZE_ONCE)
        return Skipped("quantize", "", "no-layer", computed or nothing_placed(placement))
    return QuantPlan(ready, placement, target), [*skipped, *placement.skipped]


def mask(model: ErrorModel, sources: frozenset[Source]) -> NDArray[np.bool_]:
    """Return the switches of an error model for some sources, `bool[sources]`."""
    return np.array([source in sources for source in model.sources], np.bool_)
