"""GPTQ: round the weights of each layer on the integer activations that it gets.

The sequential repair of `onnxlite.repair` with an integer grid: a layer's weights are fitted
to the float model on the integer activations that the layer really gets, rounded with
compensation (GPTQ), and given a scale and bias per output channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.fidelity import Reference, paired_gain_db
from onnxlite.graph import const_tensor
from onnxlite.model import clone
from onnxlite.ops import spec_of
from onnxlite.ops.linear_layer import LinearLayer, find_layers
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.core.weights import PAIR_LIMIT
from onnxlite.records import Skipped
from onnxlite.repair.engine import FitOptions
from onnxlite.repair.grid import Grid
from onnxlite.repair.layerwise_rounding import RoundedLayer, round_layers, shared_weight
from onnxlite.repair.options import BEST_MAX_ROWS, Repair
from onnxlite.runtime import Session
from onnxlite.samples import Samples
from onnxlite.step import StepContext

#: Memory for values of both models between layers.
_CACHE_BYTES = 3 << 25


def round_with_gptq(
    plan: QuantPlan,
    reference: ir.Model,
    samples: Samples,
    *,
    best: bool,
    context: StepContext,
) -> tuple[dict[str, RoundedLayer], list[Skipped]]:
    """Round the weights of a plan's layers, and write them with their biases into its model.

    Args:
        plan: its model has Q and DQ nodes at the activations, and float weights, which change.
        reference: the float model, with the same names.
        samples: unlabelled inputs.
        best: fit the weights to more positions of the outputs.
        context: threads and progress.

    Returns:
        What was rounded, by node name, and why the nearest numbers are kept elsewhere: others
        read the weight as well, or they are clearly better on the samples that no layer was
        fitted to.
    """
    simulated = clone(plan.model)
    infer_shapes(simulated)
    wanted = {node.name or "" for node in plan.layers}
    found = [layer for layer in find_layers(simulated)[0] if layer.node.name in wanted]
    grids = {layer.node.name or "": _grid(layer, plan.target) for layer in found}
    shared = [shared_weight("compensate", layer) for layer in found if not layer.owns_weight]
    threads = context.threads
    repair = Repair(max_rows=BEST_MAX_ROWS) if best else Repair()
    options = FitOptions(repair=repair, cache_bytes=_CACHE_BYTES, threads=threads)
    nearest = clone(simulated)
    for layer in find_layers(nearest)[0]:
        if layer.node.name in grids:
            _write_nearest(layer, grids[layer.node.name])
    rounded, held_out = round_layers(
        reference, simulated, samples, grids, options, progress=context.progress
    )
    if not rounded:
        reason = Skipped("compensate", "", "no-layer", "no layer could be fitted to the samples")
        return {}, [*shared, reason]
    original = Reference(reference, held_out, threads=threads)
    # As the nodes say: ONNX Runtime would fuse Q and DQ around float weights.
    before, after = (
        original.errors(Session(each, threads=threads, qdq="float").run)
        for each in (nearest, simulated)
    )
    gain, deviation = paired_gain_db(before, after)
    # Few samples are held out: they must speak clearly against what is better in general.
    if after.worst_db < before.worst_db and gain + deviation < 0:
        message = (
            f"on {len(held_out)} feeds held out weights fitted to the samples give "
            f"{after.worst_db:.1f} dB and the nearest ones {before.worst_db:.1f} dB"
        )
        return {}, [*shared, Skipped("compensate", "", "no-gain", message)]
    for layer in find_layers(plan.model)[0]:
        if layer.node.name in rounded:
            new = rounded[layer.node.name]
            layer.write(new.matrix, new.bias)
    return rounded, shared


def _write_nearest(layer: LinearLayer, grid: Grid) -> None:
    matrix = layer.matrix
    scale = grid.full_scale(matrix)
    layer.write(grid.nearest(matrix, scale) * scale[:, None], layer.bias)


def _grid(layer: LinearLayer, target: Target) -> Grid:
    partner = _partners(layer) if target.avoid_saturation else None
    return Grid(
        high=target.weight_type(layer.node).qmax,
        shared=target.channel_axis(layer.node) is None,
        partner=partner,
        pair_limit=PAIR_LIMIT,
    )


def _partners(layer: LinearLayer) -> NDArray[np.intp] | None:
    """The neighbour of each feature in the kernel's order of addition, -1 for none."""
    rule = spec_of(layer.node).quant
    assert rule is not None
    assert rule.reduction_axes is not None
    axes = rule.reduction_axes(layer.node)
    tensor = const_tensor(layer.weight)
    if not axes or tensor is None:
        return None
    shape = [int(dim) for dim in tensor.shape.numpy()]
    sizes = [shape[axis] for axis in axes]
    ranks = np.arange(int(np.prod(sizes))).reshape(sizes)
    # The axes in the weight's own order, and broadcast along all others.
    ordered = ranks.transpose(np.argsort(axes))
    spread = ordered.reshape([shape[i] if i in axes else 1 for i in range(len(shape))])
    rank: NDArray[Any] = layer.geometry.arranged(np.broadcast_to(spread, shape))[0, :, 0]
    feature = np.argsort(rank)
    other = rank ^ 1
    inside = other < len(rank)
    return np.where(inside, feature[np.where(inside, other, 0)], -1)
