"""Fit weights to samples with GPTQ before they are coded.

Layers are processed in topological order. Each layer gets the weights that best reproduce the
float model's output from the layer's quantized input, is rounded with compensation (GPTQ), and
gets a scale and a bias per output channel (`repair.layerwise_rounding`). Weights that cannot be
fitted, such as embeddings, are coded first, so that later layers compensate their error as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.fidelity import Reference
from onnxlite.inputs import Feed
from onnxlite.model import clone
from onnxlite.ops.linear_layer import LinearLayer, find_layers
from onnxlite.packing import WeightType
from onnxlite.quantize.weight_only.codes import Blocks, Coding, coding
from onnxlite.records import Skipped
from onnxlite.repair.engine import FitOptions
from onnxlite.repair.grid import Grid
from onnxlite.repair.layerwise_rounding import RoundedLayer, round_layers, shared_weight
from onnxlite.repair.options import BEST_MAX_ROWS, Repair
from onnxlite.samples import Samples
from onnxlite.step import StepContext

#: Memory budget in bytes for the activations of both models.
_ACTIVATION_BYTES = 1 << 28
#: Scales below this count as zero; such a block holds zeros only.
_MIN_SCALE = 1e-30


@dataclass(frozen=True)
class FitTarget:
    """Levels and blocks that a fitted weight must have.

    Attributes:
        kind: its levels.
        blocks: the blocks with one scale each.
        nearest: the weight rounded to nearest.
    """

    kind: WeightType
    blocks: Blocks
    nearest: ir.TensorProtocol

    @property
    def grid(self) -> Grid:
        """Return the levels as a grid for layerwise rounding."""
        block = self.blocks.size if self.blocks.view != self.blocks.shape else 0
        if self.kind.levels <= 3:
            return Grid(high=1, odd=self.kind.levels == 2, block=block)
        return Grid(high=self.kind.levels // 2 - 1, uneven=True, block=block)

    def suits(self, layer: LinearLayer) -> bool:
        """Return whether every output and block of features has its own scale."""
        groups, features, outputs = layer.matrix_shape
        scales = int(np.prod(self.blocks.scale_shape))
        blocked = self.blocks.view != self.blocks.shape
        return scales * self.blocks.size == groups * features * outputs and (
            blocked or scales == groups * outputs
        )


@dataclass(frozen=True)
class FittedWeight:
    """Weight of a layer after the fit.

    Attributes:
        tensor: the float weight, rounded to its levels.
        coding: scales and zero points.
        error_nearest: squared output error of round-to-nearest on held-out rows, over the
            variance of the float output.
        error: the same for the fitted weight.
    """

    tensor: ir.TensorProtocol
    coding: Coding
    error_nearest: float
    error: float


def fit_weights(
    model: ir.Model,
    samples: Samples,
    targets: Mapping[str, FitTarget],
    *,
    best: bool,
    context: StepContext,
) -> tuple[dict[str, FittedWeight], list[Skipped]]:
    """Fit the weights of a model to its float outputs; rewrite biases in place.

    Args:
        model: the normalized float model; biases change if the fit is kept, weights do not.
        samples: unlabelled inputs.
        targets: levels and blocks of every weight that gets few bits, by name.
        best: fit the weights to more positions of the outputs.
        context: threads and progress.

    Returns:
        The fitted weights by name, and what was skipped. There are no fitted weights if
        round-to-nearest has less error on held-out samples.
    """
    reference, simulated = clone(model), clone(model)
    infer_shapes(simulated)
    infer_shapes(reference)
    layers = {layer.weight.name or "": layer for layer in find_layers(simulated)[0]}
    grids: dict[str, Grid] = {}
    shared: list[Skipped] = []
    for name, target in targets.items():
        layer = layers.get(name)
        if layer is not None and not layer.owns_weight:
            shared.append(shared_weight("gptq", layer))
        if layer is not None and layer.owns_weight and target.suits(layer):
            grids[layer.name] = target.grid
        else:
            _put(simulated, name, target.nearest)
    if not grids:
        reason = Skipped("gptq", "", "no-layer", "no layer can be fitted to samples")
        return {}, [*shared, reason]
    nearest = clone(simulated)
    for name, target in targets.items():
        _put(nearest, name, target.nearest)
    repair = Repair(max_rows=BEST_MAX_ROWS) if best else Repair()
    options = FitOptions(repair=repair, cache_bytes=_ACTIVATION_BYTES, threads=context.threads)
    rounded, held_out = round_layers(
        reference, simulated, samples, grids, options, progress=context.progress
    )
    for name, layer in layers.items():
        if name in targets and layer.name not in rounded:
            _put(simulated, name, targets[name].nearest)
    if not rounded:
        reason = Skipped("gptq", "", "no-layer", "no layer could be fitted to the samples")
        return {}, [*shared, reason]
    if worse := _why_worse(reference, nearest, simulated, held_out, context.threads):
        return {}, [*shared, Skipped("gptq", "", "no-gain", worse)]
    return _take_over(model, targets, rounded), shared


def _why_worse(
    reference: ir.Model,
    nearest: ir.Model,
    fitted: ir.Model,
    held_out: list[Feed],
    threads: int | None,
) -> str | None:
    """Return the reason to keep round-to-nearest, or None."""
    outputs = Reference(reference, held_out, threads=threads)
    before, after = outputs.sqnr_db(nearest), outputs.sqnr_db(fitted)
    if after >= before:
        return None
    return (
        f"on {len(held_out)} feeds held out weights fitted to the samples give {after:.1f} dB "
        f"and the nearest ones {before:.1f} dB"
    )


def _take_over(
    model: ir.Model, targets: Mapping[str, FitTarget], rounded: Mapping[str, RoundedLayer]
) -> dict[str, FittedWeight]:
    """Collect the fitted weights and rewrite the biases in place."""
    fitted = {}
    for layer in find_layers(model)[0]:
        name = layer.weight.name or ""
        found = rounded.get(layer.name)
        if found is None or name not in targets:
            continue
        fitted[name] = _fitted(layer, found, targets[name])
        old = layer.weight.const_value
        layer.write(found.matrix, found.bias)
        layer.weight.const_value = old
    return fitted


def _put(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> None:
    for graph in model.graphs():
        if name in graph.initializers:
            graph.initializers[name].const_value = tensor


def _fitted(layer: LinearLayer, found: RoundedLayer, target: FitTarget) -> FittedWeight:
    grid, blocks = target.grid, target.blocks
    spread = np.broadcast_to(grid.spread(found.scale), found.matrix.shape)
    scale = layer.geometry.tensor(np.ascontiguousarray(spread)).reshape(blocks.view)
    first = tuple(slice(1) if axis in blocks.reduced else slice(None) for axis in range(scale.ndim))
    step = scale[first]
    # The levels of binary weights are odd numbers, two apart.
    step = np.where(np.abs(step) > _MIN_SCALE, step, 0) * (2 if grid.odd else 1)
    weight = np.ascontiguousarray(layer.geometry.tensor(found.matrix), np.float32)
    tensor = ir.Tensor(weight, name=layer.weight.name)
    return FittedWeight(tensor, coding(target.kind, step), found.error_before, found.error)
