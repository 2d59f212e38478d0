"""Rounding the weights of a whole model, layer after layer, each making up for those before.

The model may already have what else will be lost: integer activations, removed channels.
Every layer is fitted to the reference on the inputs that it really gets, and put on its grid
with compensation; scale and bias per output come last, and cost nothing at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import onnx_ir as ir

from onnxlite.records import Progress, no_progress
from onnxlite.repair.engine import Engine, Options, pair_up
from onnxlite.repair.fit import held_out_feeds
from onnxlite.repair.grid import Grid
from onnxlite.repair.mask import Mask
from onnxlite.samples import Feed, Samples


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


def round_layers(
    model: ir.Model,
    reference: ir.Model,
    samples: Samples,
    grids: Mapping[str, Grid | Mask],
    options: Options,
    *,
    progress: Progress = no_progress,
) -> tuple[dict[str, RoundedLayer], list[Feed]]:
    """Round the layers named in `grids`, in place.

    Args:
        model: with shapes inferred; its weights are changed.
        reference: what it was made from, with shapes inferred.
        samples: unlabelled inputs.
        grids: by node name. Layers whose weight other nodes read as well are left alone.
        options: of the fits.

    Returns:
        The layers that were rounded, by node name, and the feeds that no fit has seen.

    Raises:
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    pairs, _ = pair_up(model, reference)
    pairs = [
        (layer, target)
        for layer, target in pairs
        if layer.owns_weight and (layer.node.name or "") in grids
    ]
    if not pairs:
        return {}, []
    engine = Engine(model, reference, pairs, samples, options, grids)
    rounded: dict[str, RoundedLayer] = {}
    for index, ((layer, _), (fit, _)) in enumerate(zip(pairs, engine.fits(), strict=True)):
        progress("round", index + 1, len(pairs))
        if isinstance(fit, str) or fit.scale is None:
            continue
        layer.write(fit.weight, fit.bias)
        rounded[layer.node.name or ""] = RoundedLayer(
            fit.weight, fit.scale, fit.bias, fit.method, fit.error_before, fit.error
        )
    return rounded, [engine.feeds[index] for index in held_out_feeds(len(engine.feeds))]
