"""Layer-wise rounding: put the weights of a whole model on grids, one layer after the other.

The model may already have what else will be lost: integer activations, removed channels.
Every layer is fitted to the reference on the inputs that it really gets, and put on its grid
with compensation, so that it makes up for the layers before it; scale and bias per output come
last, and cost nothing at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import onnx_ir as ir

from onnxlite.graph import node_name
from onnxlite.inputs import Feed
from onnxlite.ops.linear_layer import LinearLayer
from onnxlite.records import Progress, Skipped, no_progress
from onnxlite.repair.engine import Engine, FitOptions
from onnxlite.repair.grid import Grid
from onnxlite.repair.mask import Mask
from onnxlite.repair.targets import match_layers
from onnxlite.samples import Samples


class RoundedLayer(msgspec.Struct, frozen=True):
    """A layer's weight on its grid.

    Attributes:
        matrix: float64[g, K, M], whole multiples of `scale`.
        scale: as the grid gives it, float64[g, M] without blocks.
        bias: float64[g, M].
        method: how it was found, `"none"` for the nearest numbers of the old weight.
        error_before: of the nearest numbers, on rows held out, over the target's variance.
        error: of the new ones.
    """

    matrix: Any
    scale: Any
    bias: Any
    method: str
    error_before: float
    error: float


def shared_weight(what: str, layer: LinearLayer) -> Skipped:
    """Return why a layer is not rounded with compensation: its input alone cannot decide."""
    message = f"other nodes read its weight {layer.weight.name!r} as well: rounded to nearest"
    return Skipped(what, node_name(layer.node), "shared-weight", message)


def round_layers(
    reference: ir.Model,
    candidate: ir.Model,
    samples: Samples,
    grids: Mapping[str, Grid | Mask],
    options: FitOptions,
    *,
    progress: Progress = no_progress,
) -> tuple[dict[str, RoundedLayer], list[Feed]]:
    """Rewrite in place: round the layers of `candidate` that are named in `grids`.

    Args:
        reference: what the candidate was made from, with shapes inferred.
        candidate: with shapes inferred; its weights are changed.
        samples: unlabelled inputs.
        grids: by node name. Layers whose weight other nodes read as well are left alone.
        options: of the fits.
        progress: called as layers are done.

    Returns:
        The layers that were rounded, by node name, and the feeds that no fit has seen.

    Raises:
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    pairs = [
        pair
        for pair in match_layers(reference, candidate)[0]
        if pair.layer.owns_weight and pair.layer.name in grids
    ]
    if not pairs:
        return {}, []
    engine = Engine(reference, candidate, pairs, samples, options, grids)
    rounded: dict[str, RoundedLayer] = {}
    for index, (pair, (fit, _)) in enumerate(zip(pairs, engine.fits(), strict=True)):
        progress("round", index + 1, len(pairs))
        if isinstance(fit, str) or fit.scale is None:
            continue
        pair.layer.write(fit.weight, fit.bias)
        rounded[pair.layer.name] = RoundedLayer(
            fit.weight, fit.scale, fit.bias, fit.method, fit.error_before, fit.error
        )
    return rounded, engine.held_out
