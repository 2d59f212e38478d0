"""Layers of one model, with rows of what they read, from a single run of each model.

`Engine` goes through the layers of a compressed model in topological order and regresses each
on its target in the reference; `input_moments` looks at the inputs of one model's layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.moments import Moments
from onnxlite.inputs import Feed
from onnxlite.ops import LinearLayer
from onnxlite.records import HoldOut, Progress, no_progress
from onnxlite.repair.activation_store import ActivationStore, ExecutionPlan, plan_memory
from onnxlite.repair.fit import Fit, fit_layer
from onnxlite.repair.grid import Grid
from onnxlite.repair.mask import Mask
from onnxlite.repair.options import Repair
from onnxlite.repair.regression import (
    BLOCK_ROWS,
    HOLD_OUT,
    LayerState,
    RegressionRows,
    rows_held_out,
    rows_wanted,
)
from onnxlite.repair.targets import FitPair
from onnxlite.samples import Samples

Array = NDArray[Any]

_DEFAULTS = Repair()
_NO_GRIDS: Mapping[str, Grid | Mask] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of the fits of layers, inside of whatever step.

    Attributes:
        repair: options of the repair; `include` and `exclude` choose layers in `repair_ir` only.
        cache_bytes: bytes of activations kept between layers; it bounds the number of samples.
        passes: fits of a layer, after the first, with regard to the activation behind it.
        threads: of ONNX Runtime; None takes all cores.
    """

    repair: Repair = _DEFAULTS
    cache_bytes: int = 1 << 29
    passes: int = 1
    threads: int | None = None


class Engine:
    """The layers of a model, their targets in a reference, and the feeds to fit them on.

    Args:
        reference: with its shapes inferred.
        candidate: the same; fitted layers may be written to between fits.
        pairs: layers of the candidate and their targets; see `match_layers`.
        samples: as many of them are used as the memory allows.
        options: of the fits.
        grids: of layers whose new weights must lie on one, by the node's name.

    Attributes:
        feeds: the feeds used.
        complete: there are no more samples than these.
    """

    def __init__(
        self,
        reference: ir.Model,
        candidate: ir.Model,
        pairs: Sequence[FitPair],
        samples: Samples,
        options: FitOptions,
        grids: Mapping[str, Grid | Mask] = _NO_GRIDS,
    ) -> None:
        self.pairs, self._options, self._grids = pairs, options, grids
        inputs = ExecutionPlan(candidate, [value for pair in pairs for value in pair.reads])
        outputs = ExecutionPlan(reference, [pair.target.value for pair in pairs])
        memory = plan_memory(samples, (inputs, outputs), options.cache_bytes)
        self.feeds: Sequence[Feed] = memory.feeds
        self.complete = memory.complete
        threads = options.threads
        self._inputs = ActivationStore(inputs, memory.feeds, memory.keep[0], threads=threads)
        self._outputs = ActivationStore(outputs, memory.feeds, memory.keep[1], threads=threads)

    @property
    def held_out(self) -> list[Feed]:
        """Feeds that no fit uses; all of them where there are too few to hold one back."""
        mask = HOLD_OUT.mask(len(self.feeds))
        return [feed for feed, held in zip(self.feeds, mask, strict=True) if held or not mask.any()]

    @property
    def hold_out(self) -> HoldOut:
        """Record of `held_out`."""
        shared = not HOLD_OUT.enough(len(self.feeds))
        return HoldOut(rule=str(HOLD_OUT), feeds=len(self.held_out), shared=shared)

    def fits(self) -> Iterator[tuple[Fit | str, int]]:
        """Yield each layer's fit and number of rows; layers before it must have been written."""
        for rows in self.collected():
            if isinstance(rows, str):
                yield rows, 0
            else:
                yield fit_layer(rows, self._options.repair.ridge), rows.count

    def collected(self) -> Iterator[RegressionRows | str]:
        """Yield the rows of every layer, or why there are none."""
        stop = 0
        for index, pair in enumerate(self.pairs):
            reads = [self._inputs.visit(stop + i) for i in range(len(pair.reads))]
            stop += len(reads)
            yield self._collect(index, reads)

    def _collect(self, index: int, reads: Sequence[Iterator[Array]]) -> RegressionRows | str:
        """Draw rows of one layer from its input, its target and the addend of every feed."""
        pair, feeds = self.pairs[index], len(self.feeds)
        state = self._state(pair)
        rows = RegressionRows(state)
        # Where only the output is fitted, a channel has one unknown besides its bias.
        features = 1 if state.per_channel else pair.layer.features
        wanted = rows_wanted(features, self._options.repair.max_rows)
        # The addend comes first and is computed for all feeds: the data may depend on it.
        addends: Sequence[Array | None] = list(reads[0]) if len(reads) > 1 else [None] * feeds
        values = zip(reads[-1], self._outputs.visit(index), addends, strict=True)
        problem = ""
        for feed, (data, output, addend) in enumerate(values):
            positions = _Positions(-(-wanted // feeds), (self._options.repair.seed, index, feed))
            drawn = _draw(pair, data, output, addend, positions)
            if isinstance(drawn, str):
                problem = drawn
            elif not problem:
                rows.add(*drawn, held_out=rows_held_out(len(drawn[0]), feed, feeds))
        return problem or rows

    def _state(self, pair: FitPair) -> LayerState:
        layer = pair.layer
        return LayerState(
            weight=layer.matrix,
            bias=layer.bias,
            method=self._options.repair.method,
            fixed_weight=not layer.owns_weight,
            has_bias=layer.bias_node is not None,
            clip=pair.clip,
            passes=self._options.passes,
            grid=self._grids.get(layer.name) if layer.owns_weight else None,
        )


@dataclass(frozen=True)
class _Positions:
    """A random choice of output positions: at most `count`."""

    count: int
    seed: tuple[int, ...]

    def of(self, grid: Sequence[int]) -> tuple[NDArray[np.intp], ...]:
        """Draw positions of an output of shape `grid` without its channel axis."""
        size = int(np.prod(grid))
        rng = np.random.default_rng(self.seed)
        chosen = rng.choice(size, min(self.count, size), replace=False)
        return np.unravel_index(chosen, tuple(grid))


def _draw(
    pair: FitPair, data: Array, output: Array, addend: Array | None, positions: _Positions
) -> tuple[Array, Array, Array | None] | str:
    """Draw rows of a `regression.Block` from one feed, or say why its shapes do not fit."""
    layer, axis = pair.layer, pair.layer.geometry.channel_axis
    groups, _, channels = layer.matrix_shape
    wanted = pair.target.channels(output, axis)
    *grid, found = wanted.shape
    if found != groups * channels:
        return f"its target has {found} channels and it has {groups * channels}"
    if not layer.geometry.reaches(data.shape, tuple(grid)):
        return f"its target has positions {grid}, and its data are {list(data.shape)}"
    chosen = positions.of(grid)
    x, y = layer.geometry.features(data, chosen), wanted[chosen]
    shape = (len(y), groups, channels)
    if addend is None:
        return x, y.reshape(shape), None
    shift = np.moveaxis(addend, axis, -1)[chosen]
    return x, (y - shift).reshape(shape), shift.reshape(shape)


def input_moments(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    samples: Samples,
    options: FitOptions,
    *,
    progress: Progress = no_progress,
) -> Iterator[Moments | None]:
    """Run the model once and yield for every layer the moments of its features.

    From them follows what the loss of a channel costs. Layers that share a weight share the
    number of rows that one layer would have.

    Args:
        model: normalized, its nodes in topological order.
        layers: of the model, in that order.
        samples: of which as many are used as the memory allows.
        options: rows, memory, seed and threads.
        progress: called as layers are done.

    Yields:
        Moments whose targets are zero; None for a layer whose values are not finite.
    """
    if not layers:
        return
    plan = ExecutionPlan(model, [layer.data for layer in layers])
    memory = plan_memory(samples, (plan,), options.cache_bytes)
    feeds = len(memory.feeds)
    store = ActivationStore(plan, memory.feeds, memory.keep[0], threads=options.threads)
    readers = Counter(layer.weight for layer in layers)
    for index, layer in enumerate(layers):
        progress("measure layers", index, len(layers))
        wanted = rows_wanted(layer.features, options.repair.max_rows)
        per_feed = -(-wanted // (feeds * readers[layer.weight]))
        rows = (
            _features(layer, data, _Positions(per_feed, (options.repair.seed, index, feed)))
            for feed, data in enumerate(store.visit(index))
        )
        yield _moments(rows)
    progress("measure layers", len(layers), len(layers))


def _features(layer: LinearLayer, data: Array, positions: _Positions) -> Array:
    x = layer.geometry.features(data, positions.of(layer.geometry.grid(data.shape)))
    return np.asarray(x, np.result_type(x.dtype, np.float32))


def _moments(rows: Iterable[Array]) -> Moments | None:
    """Moments of all rows, in blocks: a block costs a matrix of all features squared."""
    total: Moments | None = None
    finite = True
    for block in _blocks(rows):
        finite = finite and bool(np.isfinite(block).all())
        if finite:
            own = Moments.of(block, np.zeros((*block.shape[:2], 1), block.dtype))
            total = own if total is None else total.merge(own)
    return total if finite else None


def _blocks(rows: Iterable[Array]) -> Iterator[Array]:
    waiting: list[Array] = []
    for block in rows:
        waiting.append(block)
        if sum(map(len, waiting)) >= BLOCK_ROWS:
            yield np.concatenate(waiting)
            waiting.clear()
    if waiting and sum(map(len, waiting)):
        yield np.concatenate(waiting)
