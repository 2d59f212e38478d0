"""Label-free repair: layer after layer is fitted to what the original model computes there.

In topological order each layer of the compressed model gets the weights that, applied to
the input it has *now*, come closest to the original layer's output: so that a layer also
makes up for what was lost before it. Sources: He et al. 2017 (channel pruning by
reconstruction), Nagel et al. 2019 (bias correction).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.errors import OptionError
from onnxlite.graph import describe
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.records import Declined, LayerRow, Progress, StepReport, silent
from onnxlite.repair.fit import (
    METHODS,
    Fit,
    Method,
    Rows,
    held_out_feeds,
    rows_wanted,
    split,
)
from onnxlite.repair.frontier import Frontier, Route
from onnxlite.repair.layers import STEP, Layer, find_layers
from onnxlite.repair.memory import plan
from onnxlite.repair.targets import Target, clip_behind, sum_target, targets_of
from onnxlite.repair.verify import verify
from onnxlite.samples import Samples, SamplesLike, input_specs

Array = NDArray[Any]


def repair_ir(
    model: ir.Model,
    reference: ir.Model,
    samples: SamplesLike,
    *,
    method: Method = "auto",
    ridge: float = 1e-3,
    max_rows: int = 12288,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    cache_bytes: int = 1 << 29,
    passes: int = 1,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> tuple[ir.Model, StepReport]:
    """Repair a private copy of a model; see `onnxlite.repair`.

    Args:
        cache_bytes: bytes of values held between layers; it bounds the number of samples.
        passes: fits of a layer, after the first, that heed the activation behind it.
        seed: of the choice of rows.
        threads: of ONNX Runtime; None takes all cores.
        limit: use at most this many samples.
    """
    start = time.perf_counter()
    _check_options(method, ridge, max_rows)
    source, reference = clone(model), clone(reference)
    feeds = Samples(samples, input_specs(reference), limit=limit)
    _check_inputs(model, reference)
    for side in (model, reference):
        normalize(side)
        infer_shapes(side)
    pairs, declined = _pairs(model, reference, include, exclude)
    if not pairs:
        return source, _report("no layer can be repaired", 0, declined, (), start)
    route = Route(model, [value for pair in pairs for value in _reads(*pair)])
    wanted = Route(reference, [target.value for _, target in pairs])
    chosen = plan(feeds, (route, wanted), cache_bytes)
    if not chosen.complete:
        reason = f"only the first {len(chosen.feeds)} feeds are used, to bound the memory"
        declined.append(Declined(STEP, "the samples", reason))
    fits = _fits(
        pairs,
        (Frontier(route, chosen.feeds, threads=threads), chosen.hold[0]),
        (Frontier(wanted, chosen.feeds, threads=threads), chosen.hold[1]),
        feeds=len(chosen.feeds),
        method=method,
        ridge=ridge,
        max_rows=max_rows,
        passes=passes,
        seed=seed,
    )
    rows: list[LayerRow] = []
    for index, ((layer, target), (fit, count)) in enumerate(zip(pairs, fits, strict=True)):
        progress(STEP, index, len(pairs))
        if isinstance(fit, str):
            declined.append(Declined(STEP, describe(layer.node), fit))
            continue
        if fit.method != "none":
            layer.write(fit.weight, fit.bias)
        rows.append(_row(layer, target, fit, count))
    progress(STEP, len(pairs), len(pairs))
    repaired = sum(row.values["method"] != "none" for row in rows)
    if not repaired:
        return source, _report("no layer's error falls", 0, declined, rows, start)
    checked = [chosen.feeds[index] for index in held_out_feeds(len(chosen.feeds))]
    verdict = verify(reference, source, model, checked, threads=threads)
    change = (
        f"{verdict.before_db:.1f} -> {verdict.after_db:.1f} dB on {len(checked)} feeds held out"
    )
    if verdict.worse:
        return source, _report(f"the repair was undone: {change}", 0, declined, rows, start)
    summary = f"{repaired} of {len(rows)} layers repaired, {change}"
    return model, _report(summary, repaired, declined, rows, start)


def _row(layer: Layer, target: Target, fit: Fit, count: int) -> LayerRow:
    return LayerRow(
        layer.node.name or "",
        layer.node.op_type,
        {
            "target": target.value.name,
            "method": fit.method,
            "rows": count,
            "features": layer.matrix_shape[1],
            "error_before": fit.error_before,
            "error": fit.error,
        },
    )


def _report(
    summary: str,
    repaired: int,
    declined: Sequence[Declined],
    rows: Sequence[LayerRow],
    start: float,
) -> StepReport:
    return StepReport(
        step=STEP,
        changed=repaired > 0,
        summary=summary,
        changes={"layers-repaired": repaired} if repaired else {},
        declined=tuple(declined),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _check_options(method: str, ridge: float, max_rows: int) -> None:
    if method not in METHODS:
        raise OptionError(f"method is one of {', '.join(METHODS)}, given was {method!r}")
    if not (ridge >= 0 and np.isfinite(ridge)):
        raise OptionError(f"ridge is a finite number from 0 on, given was {ridge}")
    if max_rows < 1:
        raise OptionError(f"max_rows counts rows per layer, from 1 on, given was {max_rows}")


def _check_inputs(model: ir.Model, reference: ir.Model) -> None:
    names = [{spec.name for spec in input_specs(side)} for side in (model, reference)]
    if names[0] != names[1]:
        raise OptionError(
            f"the model takes {sorted(names[0])} and the reference {sorted(names[1])}: repair "
            "needs the model that this one was made from"
        )


def _pairs(
    model: ir.Model, reference: ir.Model, include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[tuple[Layer, Target]], list[Declined]]:
    layers, declined = find_layers(model, include=include, exclude=exclude)
    originals, _ = find_layers(reference)
    pairs = []
    for layer, target in zip(layers, targets_of(model, layers, reference, originals), strict=True):
        if isinstance(target, str):
            declined.append(Declined(STEP, describe(layer.node), target))
        elif not layer.weight_free and layer.biased is None:
            reason = f"its weight {layer.weight.name!r} is shared, and it has no bias"
            declined.append(Declined(STEP, describe(layer.node), reason))
        else:
            pairs.append((layer, target))
    nodes = [layer.node for layer, _ in pairs]
    return [
        (layer, sum_target(layer, target, set(nodes[index + 1 :])))
        for index, (layer, target) in enumerate(pairs)
    ], declined


def _reads(layer: Layer, target: Target) -> list[ir.Value]:
    """What the fit of a layer needs of the compressed model."""
    return [layer.data] if target.addend is None else [target.addend, layer.data]


def _fits(
    pairs: Sequence[tuple[Layer, Target]],
    have: tuple[Frontier, Sequence[bool]],
    want: tuple[Frontier, Sequence[bool]],
    *,
    feeds: int,
    method: Method,
    ridge: float,
    max_rows: int,
    passes: int,
    seed: int,
) -> Iterator[tuple[Fit | str, int]]:
    """The fit of every layer and its number of rows; the layers before it must be written."""
    stop = 0
    for index, (layer, target) in enumerate(pairs):
        weight = layer.matrix
        rows = Rows(
            weight,
            layer.bias,
            method=method,
            fixed=not layer.weight_free,
            has_bias=layer.biased is not None,
            clip=clip_behind(layer, target),
            passes=passes,
        )
        per_feed = -(-rows_wanted(weight.shape[1], max_rows) // feeds)
        addends: list[Array | None] = [None] * feeds
        if target.addend is not None:
            addends = list(have[0].visit(stop, hold=have[1][stop]))
            stop += 1
        inputs = have[0].visit(stop, hold=have[1][stop])
        stop += 1
        outputs = want[0].visit(index, hold=want[1][index])
        problem = ""
        for feed, values in enumerate(zip(inputs, outputs, addends, strict=True)):
            drawn = _draw(layer, target, *values, per_feed, (seed, index, feed))
            if isinstance(drawn, str):
                problem = drawn
            elif not problem:
                rows.add(*drawn, held_out=split(len(drawn[0]), feed, feeds))
        yield problem or rows.solve(ridge), rows.count


def _draw(
    layer: Layer,
    target: Target,
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
