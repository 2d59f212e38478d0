"""Second moments of what layers read: what the loss of a channel costs, before it is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.moments import Moments
from onnxlite.ops.linear_layer import LinearLayer
from onnxlite.records import Progress, no_progress
from onnxlite.repair.activation_store import ActivationStore, ExecutionPlan, plan_memory
from onnxlite.repair.fit import rows_wanted
from onnxlite.samples import Samples

Array = NDArray[Any]

_BLOCK_ROWS = 2048


def input_moments(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    samples: Samples,
    *,
    max_rows: int = 12288,
    cache_bytes: int = 1 << 29,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Iterator[Moments | None]:
    """Run the model once and yield for every layer the moments of its features.

    Args:
        model: normalised, its nodes in topological order.
        layers: of the model, in that order.
        samples: of which as many are used as `cache_bytes` allow.
        max_rows: output positions per layer, at random.
        cache_bytes: of values held between layers.
        seed: of the choice of positions.
        threads: of ONNX Runtime; None takes all cores.
        progress: called as layers are done.

    Yields:
        Moments whose targets are empty; None for a layer whose values are not finite.
    """
    if not layers:
        return
    route = ExecutionPlan(model, [layer.data for layer in layers])
    chosen = plan_memory(samples, (route,), cache_bytes)
    store = ActivationStore(route, chosen.feeds, threads=threads)
    for index, layer in enumerate(layers):
        progress("measure layers", index, len(layers))
        per_feed = -(-rows_wanted(layer.matrix_shape[1], max_rows) // len(chosen.feeds))
        rows = (
            _rows(layer, data, per_feed, np.random.default_rng((seed, index, feed)))
            for feed, data in enumerate(store.visit(index, hold=chosen.hold[0][index]))
        )
        yield _moments(rows)
    progress("measure layers", len(layers), len(layers))


def _rows(layer: LinearLayer, data: Array, count: int, rng: np.random.Generator) -> Array:
    grid = layer.geometry.grid(data.shape)
    size = int(np.prod(grid))
    drawn = rng.choice(size, min(count, size), replace=False)
    x = layer.geometry.features(data, np.unravel_index(drawn, grid))
    return np.asarray(x, np.result_type(x.dtype, np.float32))


def _moments(rows: Iterable[Array]) -> Moments | None:
    """The moments of all rows, in blocks: a block costs a matrix of all features squared."""
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
        if sum(map(len, waiting)) >= _BLOCK_ROWS:
            yield np.concatenate(waiting)
            waiting.clear()
    if waiting and sum(map(len, waiting)):
        yield np.concatenate(waiting)
