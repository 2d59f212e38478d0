"""Fitting the layers of one model to another, one after the other, each model run once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import is_op, node_name
from onnxlite.ops.linear_layer import LinearLayer, find_layers
from onnxlite.records import Skipped
from onnxlite.repair.activation_store import ActivationStore, ExecutionPlan, plan_memory
from onnxlite.repair.fit import Fit, Method, RegressionRows, rows_wanted, split
from onnxlite.repair.grid import Grid
from onnxlite.repair.mask import Mask
from onnxlite.repair.targets import FitTarget, clip_behind, match_targets, sum_target
from onnxlite.samples import Feed, Samples

Array = NDArray[Any]

STEP = "repair"

_NO_GRIDS: Mapping[str, Grid | Mask] = MappingProxyType({})


@dataclass(frozen=True)
class Options:
    """How layers are fitted; see `onnxlite.repair` and `sequential.repair_ir`."""

    method: Method = "auto"
    ridge: float = 1e-3
    max_rows: int = 12288
    cache_bytes: int = 1 << 29
    passes: int = 1
    seed: int = 0
    threads: int | None = None


class Engine:
    """The layers of a model, their targets in a reference, and the samples to fit them on.

    Args:
        model: with its shapes inferred; fitted layers may be written to between fits.
        reference: the same.
        pairs: of layers and targets, in topological order; see `pair_up`.
        samples: as many of them are used as the memory allows.
        grids: of layers whose new weights must lie on one, by the node's name.
    """

    def __init__(
        self,
        model: ir.Model,
        reference: ir.Model,
        pairs: Sequence[tuple[LinearLayer, FitTarget]],
        samples: Samples,
        options: Options,
        grids: Mapping[str, Grid | Mask] = _NO_GRIDS,
    ) -> None:
        self.pairs, self._options, self._grids = pairs, options, grids
        route = ExecutionPlan(model, [value for pair in pairs for value in _reads(*pair)])
        wanted = ExecutionPlan(reference, [target.value for _, target in pairs])
        chosen = plan_memory(samples, (route, wanted), options.cache_bytes)
        self.feeds: Sequence[Feed] = chosen.feeds
        self.complete = chosen.complete
        self._have = ActivationStore(route, chosen.feeds, threads=options.threads), chosen.hold[0]
        self._want = ActivationStore(wanted, chosen.feeds, threads=options.threads), chosen.hold[1]

    def fits(self) -> Iterator[tuple[Fit | str, int]]:
        """The fit of every layer and its number of rows; the layers before it must be written."""
        for rows in self.collected():
            if isinstance(rows, str):
                yield rows, 0
            else:
                yield rows.solve(self._options.ridge), rows.count

    def collected(self) -> Iterator[RegressionRows | str]:
        """The rows of every layer, or why there are none."""
        (have, hold), (want, hold_wanted) = self._have, self._want
        feeds, stop = len(self.feeds), 0
        for index, (layer, target) in enumerate(self.pairs):
            rows = self._rows(layer, target)
            wanted = rows_wanted(layer.matrix_shape[1], self._options.max_rows)
            per_feed = -(-wanted // feeds)
            addends: list[Array | None] = [None] * feeds
            if target.addend is not None:
                addends = list(have.visit(stop, hold=hold[stop]))
                stop += 1
            inputs = have.visit(stop, hold=hold[stop])
            stop += 1
            outputs = want.visit(index, hold=hold_wanted[index])
            problem = ""
            for feed, values in enumerate(zip(inputs, outputs, addends, strict=True)):
                seed = (self._options.seed, index, feed)
                drawn = _draw(layer, target, *values, per_feed, seed)
                if isinstance(drawn, str):
                    problem = drawn
                elif not problem:
                    rows.add(*drawn, held_out=split(len(drawn[0]), feed, feeds))
            yield problem or rows

    def _rows(self, layer: LinearLayer, target: FitTarget) -> RegressionRows:
        grid = self._grids.get(layer.node.name or "") if layer.owns_weight else None
        return RegressionRows(
            layer.matrix,
            layer.bias,
            method=self._options.method,
            fixed=not layer.owns_weight,
            has_bias=layer.bias_node is not None,
            clip=clip_behind(layer, target),
            passes=self._options.passes,
            grid=grid,
        )


def pair_up(
    model: ir.Model,
    reference: ir.Model,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> tuple[list[tuple[LinearLayer, FitTarget]], list[Skipped]]:
    """The layers of a model that can be fitted, with their targets, and why others cannot."""
    layers, skipped = find_layers(model, include=include, exclude=exclude)
    originals, _ = find_layers(reference)
    pairs = []
    for layer, target in zip(
        layers, match_targets(model, layers, reference, originals), strict=True
    ):
        if isinstance(target, str):
            skipped.append(Skipped(STEP, node_name(layer.node), "no-target", target))
        elif not layer.owns_weight and layer.bias_node is None:
            reason = f"its weight {layer.weight.name!r} is shared, and it has no bias"
            skipped.append(Skipped(STEP, node_name(layer.node), "shared-weight", reason))
        else:
            pairs.append((layer, target))
    nodes = [layer.node for layer, _ in pairs]
    sums = {n.outputs[0].name: n.outputs[0] for n in reference.graph if is_op(n, "Add")}
    return [
        (layer, sum_target(layer, target, sums, set(nodes[index + 1 :])))
        for index, (layer, target) in enumerate(pairs)
    ], skipped


def _reads(layer: LinearLayer, target: FitTarget) -> list[ir.Value]:
    """What the fit of a layer needs of the compressed model."""
    return [layer.data] if target.addend is None else [target.addend, layer.data]


def _draw(
    layer: LinearLayer,
    target: FitTarget,
    data: Array,
    output: Array,
    addend: Array | None,
    count: int,
    seed: tuple[int, ...],
) -> tuple[Array, Array, Array | None] | str:
    """Rows of a `fit.Block` at random output positions of one feed."""
    groups, _, channels = layer.matrix_shape
    wanted = target.channels(output, layer.geometry.channel_axis)
    *grid, found = wanted.shape
    if found != groups * channels:
        return f"its target has {found} channels and it has {groups * channels}"
    size = int(np.prod(grid))
    chosen = np.random.default_rng(seed).choice(size, min(count, size), replace=False)
    positions = np.unravel_index(chosen, grid)
    if not layer.geometry.reaches(data.shape, tuple(grid)):
        return f"its target has positions {grid}, and its data are {list(data.shape)}"
    x, y = layer.geometry.features(data, positions), wanted[positions]
    shape = (len(chosen), groups, channels)
    if addend is None:
        return x, y.reshape(shape), None
    shift = np.moveaxis(addend, layer.geometry.channel_axis, -1)[positions]
    return x, (y - shift).reshape(shape), shift.reshape(shape)
