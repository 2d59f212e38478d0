"""Baseline quantization for trials: nearest integers and full ranges.

What is prepared and calibrated once serves any choice of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate import collect_ranges
from onnxlite.ops import spec_of
from onnxlite.quantize.core.plan import Placement, QuantPlan
from onnxlite.quantize.core.prepare import already_quantized, pool_means, prepare
from onnxlite.quantize.core.quick_qdq import quick_qdq
from onnxlite.quantize.core.scales import activation_params
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.mixed.error_propagation import ErrorModel, Source
from onnxlite.records import Progress, Skipped, no_progress
from onnxlite.samples import Samples


class Baseline:
    """A float model with the ranges of everything that may be quantized.

    Attributes:
        model: the float model as it is before Q and DQ nodes.
        placement: of everything that may be quantized.
        layers: the layers with weights among it, in topological order.
    """

    def __init__(
        self,
        model: ir.Model,
        placement: Placement,
        samples: Samples,
        target: Target,
        *,
        threads: int | None,
        progress: Progress = no_progress,
    ) -> None:
        self.model, self.placement, self.target = model, placement, target
        self.layers = tuple(node for node in placement.nodes if _has_weight(node))
        self._ranges = collect_ranges(
            model,
            [value.name for value in placement.values if value.name],
            samples,
            threads=threads,
            progress=progress,
        )
        self._names = tuple(node.name or "" for node in self.layers)

    def errors(self, *, threads: int | None) -> ErrorModel:
        """The float model with every rounding error, to be switched on."""
        plan = QuantPlan(self.model, self.placement, self.target)
        params = activation_params(plan, self._ranges)
        return ErrorModel(plan, params, threads=threads)

    def sources(self, layers: Sequence[str]) -> frozenset[Source]:
        """Where noise comes from if only these layers, and what lies between, are quantized.

        Who reads a rounded value is taken from the whole placement: beside a lone layer, a float
        reader of its input counts as reading the rounded one, too.
        """
        placement = self._place(self.model, layers)
        return frozenset(
            (
                *(Source("value", value.name or "") for value in placement.values),
                *(Source("weight", n.name or "") for n in placement.nodes if _has_weight(n)),
            )
        )

    def quantized(self, layers: Sequence[str]) -> ir.Model:
        """The model in QDQ form with only these layers, and what lies between, quantized."""
        plan = QuantPlan(self.model, self._place(self.model, layers), self.target)
        return quick_qdq(plan, activation_params(plan, self._ranges), bound_pairs=True)

    def _place(self, model: ir.Model, layers: Sequence[str]) -> Placement:
        out = set(self._names).difference(layers)
        chosen = [escape(name) for name in layers] or [""]
        return place(model, self.target, include=chosen, exclude=[escape(n) for n in sorted(out)])


def plan(
    model: ir.Model, target: Target, *, include: Sequence[str], exclude: Sequence[str]
) -> tuple[ir.Model, Placement, list[Skipped]] | Skipped:
    """Prepare a model, which is changed, and place everything that may be quantized.

    Returns:
        The prepared model, its placement and what was skipped; or why there is nothing to
        quantize.
    """
    if reason := already_quantized(model):
        return Skipped("quantize", "", "already-quantized", reason)
    ready, skipped = prepare(model)
    if isinstance(ready, Skipped):
        return ready
    pool_means(ready)
    infer_shapes(ready)
    placement = place(ready, target, include=include, exclude=exclude)
    if not any(_has_weight(node) for node in placement.nodes):
        return Skipped("quantize", "", "no-layer", "no layer can be quantized")
    return ready, placement, [*skipped, *placement.skipped]


def mask(model: ErrorModel, sources: frozenset[Source]) -> NDArray[np.bool_]:
    """Which errors are on, `bool[sources]`."""
    return np.array([source in sources for source in model.sources], np.bool_)


def _has_weight(node: ir.Node) -> bool:
    rule = spec_of(node).quant
    return rule is not None and rule.weight is not None
