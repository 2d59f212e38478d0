"""Weights fitted to samples before they are coded: the repair engine with the levels as grid.

In topological order each layer gets the weights that come closest to the float model's output
on the input that the layer has by now, is rounded with compensation (GPTQ), and gets a factor
and a bias per output channel (`repair.layerwise_rounding`). What no fit can take, an embedding
for example, is coded first, so that the layers behind make up for that, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.fidelity import Reference
from onnxlite.model import clone
from onnxlite.ops.linear_layer import LinearLayer, find_layers
from onnxlite.packing import WeightType
from onnxlite.quantize.weight_only.codes import Blocks, Coding, coding
from onnxlite.records import Progress, Skipped
from onnxlite.repair.engine import FitOptions
from onnxlite.repair.grid import Grid
from onnxlite.repair.layerwise_rounding import RoundedLayer, round_layers
from onnxlite.samples import Samples

#: Values of both models that are held between layers.
_CACHE_BYTES = 1 << 28


@dataclass(frozen=True)
class Fitted:
    """A layer's weight after the fit.

    Attributes:
        tensor: the float weight, on its levels.
        coding: the levels.
        error_nearest: squared error of the nearest levels on rows held out, over the target's
            variance.
        error: of the new weight.
    """

    tensor: ir.TensorProtocol
    coding: Coding
    error_nearest: float
    error: float


def fit_weights(
    model: ir.Model,
    reference: ir.Model,
    samples: Samples,
    forms: Mapping[str, tuple[WeightType, Blocks]],
    nearest: Mapping[str, ir.TensorProtocol],
    *,
    threads: int | None,
    progress: Progress,
) -> tuple[dict[str, Fitted], list[Skipped]]:
    """Fit the layers of a model to its float original, and write the new biases into it.

    Args:
        model: normalised; its biases are changed if the fit is kept, weights are not.
        reference: the float original.
        samples: unlabelled inputs.
        forms: type and blocks of every weight that gets few bits, by name.
        nearest: the same weights rounded to nearest.
        threads: of ONNX Runtime.
        progress: called as layers are done.

    Returns:
        What was fitted, by the weight's name. It is empty, with the reason, where rounding to
        nearest does better on the samples that no layer was fitted to.
    """
    simulated, reference = clone(model), clone(reference)
    infer_shapes(simulated)
    infer_shapes(reference)
    layers = {layer.weight.name or "": layer for layer in find_layers(simulated)[0]}
    grids: dict[str, Grid] = {}
    for name, (kind, blocks) in forms.items():
        layer = layers.get(name)
        if layer is not None and layer.owns_weight and _fits(layer, blocks):
            grids[layer.node.name or ""] = _grid(kind, blocks)
        else:
            _put(simulated, name, nearest[name])
    rounded_model = clone(simulated)
    for name, tensor in nearest.items():
        _put(rounded_model, name, tensor)
    if not grids:
        return {}, [Skipped("gptq", "", "no-layer", "no layer can be fitted to samples")]
    options = FitOptions(cache_bytes=_CACHE_BYTES, threads=threads)
    rounded, held_out = round_layers(
        reference, simulated, samples, grids, options, progress=progress
    )
    unfitted = {name for name, layer in layers.items() if layer.node.name not in rounded}
    for name in unfitted & set(nearest):
        _put(simulated, name, nearest[name])
    if not rounded:
        return {}, [Skipped("gptq", "", "no-layer", "no layer could be fitted to the samples")]
    wanted = Reference(reference, held_out, threads=threads)
    nearest_db, fitted_db = (wanted.sqnr_db(side) for side in (rounded_model, simulated))
    if not fitted_db >= nearest_db:
        reason = (
            f"on {len(held_out)} feeds held out weights fitted to the samples give "
            f"{fitted_db:.1f} dB and the nearest ones {nearest_db:.1f} dB"
        )
        return {}, [Skipped("gptq", "", "no-gain", reason)]
    fitted = {}
    for layer in find_layers(model)[0]:
        name = layer.weight.name or ""
        found = rounded.get(layer.node.name or "")
        if found is None or name not in forms:
            continue
        fitted[name] = _fitted(layer, found, grids[layer.node.name or ""], *forms[name])
        old = layer.weight.const_value
        layer.write(found.matrix, found.bias)
        layer.weight.const_value = old
    return fitted, []


def _grid(kind: WeightType, blocks: Blocks) -> Grid:
    block = blocks.size if blocks.view != blocks.shape else 0
    if kind.levels <= 3:
        return Grid(high=1, odd=kind.levels == 2, block=block)
    return Grid(high=kind.levels // 2 - 1, uneven=True, block=block)


def _fits(layer: LinearLayer, blocks: Blocks) -> bool:
    """Whether the layer's outputs, and blocks of features, have the scales of `blocks`."""
    groups, features, outputs = layer.matrix_shape
    scales = int(np.prod(blocks.scale_shape))
    return scales * blocks.size == groups * features * outputs and (
        blocks.view != blocks.shape or scales == groups * outputs
    )


def _put(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> None:
    for graph in model.graphs():
        if name in graph.initializers:
            graph.initializers[name].const_value = tensor


def _fitted(
    layer: LinearLayer, found: RoundedLayer, grid: Grid, kind: WeightType, blocks: Blocks
) -> Fitted:
    features = layer.matrix_shape[1]
    spread = np.broadcast_to(grid.spread(found.scale), found.matrix.shape)
    assert spread.shape[1] == features
    scale = layer.geometry.tensor(np.ascontiguousarray(spread)).reshape(blocks.view)
    first = tuple(slice(1) if axis in blocks.reduced else slice(None) for axis in range(scale.ndim))
    step = scale[first]
    # A grid of odd numbers has steps of two.
    step = np.where(np.abs(step) > 1e-30, step, 0) * (2 if grid.odd else 1)
    weight = np.ascontiguousarray(layer.geometry.tensor(found.matrix), np.float32)
    tensor = ir.Tensor(weight, name=layer.weight.name)
    return Fitted(tensor, coding(kind, step), found.error_before, found.error)


def decoded_tensor(
    tensor: ir.TensorProtocol, blocks: Blocks, found: Coding, codes: NDArray[Any]
) -> ir.TensorProtocol:
    """The float weight that codes stand for, of the old weight's type."""
    decoded = found.decode(codes).reshape(blocks.shape).astype(tensor.dtype.numpy())
    return ir.Tensor(decoded, dtype=tensor.dtype, name=tensor.name)
