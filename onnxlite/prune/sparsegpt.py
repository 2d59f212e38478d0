"""SparseGPT and Wanda: prune weights by second moments of their layers' inputs.

Allocate sparsities to layers; layer by layer, select zeros and fit the remaining weights; then
compare the result with magnitude pruning on held-out samples. Weights that cannot be fitted
(shared ones, recurrent cells, embeddings, bodies of control flow) are pruned by magnitude.
(Frantar & Alistarh 2022, 2023; Wanda: Sun et al. 2023)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.fidelity import Reference, ReferenceOutputs
from onnxlite.graph import const_tensor, iter_nodes, node_name, value_names
from onnxlite.inputs import Feed
from onnxlite.model import clone
from onnxlite.ops import Parameter, value_lengths
from onnxlite.ops.linear_layer import LinearLayer, find_layers
from onnxlite.prune.magnitude import kth_magnitude, zeroed
from onnxlite.prune.nm_pattern import Pattern, axis_order, summed_axis
from onnxlite.prune.sparsity_allocation import (
    LEVELS,
    LayerCurve,
    allocate_observed,
    energy_curve,
    magnitude_sparsities,
    probed,
    schedule,
)
from onnxlite.prune.sparsity_task import SparsityTask
from onnxlite.records import Skipped
from onnxlite.repair.engine import Engine, FitOptions
from onnxlite.repair.layerwise_rounding import round_layers
from onnxlite.repair.mask import Mask, Masker
from onnxlite.repair.regression import MAX_FEATURES, RegressionRows
from onnxlite.repair.targets import match_layers
from onnxlite.runtime import run_all
from onnxlite.samples import Samples

Array = NDArray[Any]

_CACHE_BYTES = 1 << 28
#: Feeds to run for every probed layer.
_PROBED_FEEDS = 8


def prune_sparsegpt(task: SparsityTask) -> list[Skipped]:
    """Rewrite in place: zero weights and fit the remaining ones to compensate.

    Args:
        task: a task with samples.

    Returns:
        The weights that could not be fitted and were pruned by magnitude.
    """
    model = task.model
    untyped = [value for value in _computed(model) if value.type is None]
    shapeless = [value for value in _computed(model) if value.shape is None]
    infer_shapes(model)
    _make_names_unique(model, task.layers)
    skipped = _prune(task)
    # Shapes inferred here must not appear in the saved model.
    for value in shapeless:
        value.shape = None
    for value in untyped:
        value.type = None
    return skipped


def _computed(model: ir.Model) -> Iterator[ir.Value]:
    outputs = set(model.graph.outputs)
    for node in iter_nodes(model):
        yield from (value for value in node.outputs if value not in outputs)


def _prune(task: SparsityTask) -> list[Skipped]:
    model, samples, progress = task.model, task.samples, task.context.progress
    assert samples is not None
    reference = clone(model)
    named = {parameter.value.name or "": parameter for parameter in task.layers}
    fitted = {
        layer.weight.name or "": layer
        for layer in find_layers(model)[0]
        if layer.owns_weight and (layer.weight.name or "") in named
    }
    sparsities, unobserved = _allocate(task, named, fitted)
    masks = {name: _mask(layer, sparsities[name], task) for name, layer in fitted.items()}
    plain = clone(model)
    _prune_by_magnitude(plain, dict(named), sparsities, task.pattern)
    rest = {name: parameter for name, parameter in named.items() if name not in fitted}
    _prune_by_magnitude(model, rest, sparsities, task.pattern)
    fits = FitOptions(cache_bytes=_CACHE_BYTES, threads=task.context.threads)
    if task.method == "wanda":
        done = _prune_wanda(model, reference, fitted, masks, samples, fits)
        missing = {name: named[name] for name in fitted if name not in done}
        _prune_by_magnitude(model, missing, sparsities, task.pattern)
        return [*unobserved, *(_not_fitted(named[name]) for name in named if name not in done)]
    done = set()
    held_out: list[Feed] = []
    schedules = {name: schedule(mask.sparsity, task.options.rounds) for name, mask in masks.items()}
    for step in range(task.options.rounds if task.pattern is None else 1):
        grids = {
            fitted[name].node.name or "": replace(mask, sparsity=schedules[name][step])
            for name, mask in masks.items()
        }
        rounded, held_out = round_layers(reference, model, samples, grids, fits, progress=progress)
        done = {name for name, layer in fitted.items() if (layer.node.name or "") in rounded}
    missing = {name: named[name] for name in fitted if name not in done}
    _prune_by_magnitude(model, missing, sparsities, task.pattern)
    skipped = [*unobserved, *(_not_fitted(named[name]) for name in named if name not in done)]
    if held_out:
        wanted = Reference(reference, held_out, threads=task.context.threads)
        plain_db, fitted_db = (wanted.sqnr_db(side) for side in (plain, model))
        if not fitted_db >= plain_db:
            _copy_weights(model, plain)
            skipped.append(_not_better(plain_db, fitted_db))
    return skipped


def _make_names_unique(model: ir.Model, parameters: Sequence[Parameter]) -> None:
    """Rename weights of different subgraphs that have the same name."""
    seen: set[str] = set()
    for parameter in parameters:
        value = parameter.value
        if value.name in seen:
            value.name = value_names(model).fresh(value.name or "weight")
        seen.add(value.name or "")


def _not_better(plain_db: float, fitted_db: float) -> Skipped:
    return Skipped(
        "compensate",
        "",
        "no-gain",
        f"on held-out samples magnitude pruning gives {plain_db:.1f} dB and compensation "
        f"{fitted_db:.1f} dB, so magnitude pruning is used: give more samples",
    )


def _not_fitted(parameter: Parameter) -> Skipped:
    message = "it cannot be fitted to the samples: it is pruned by magnitude, without compensation"
    return Skipped("compensate", node_name(parameter.node), "not-fitted", message)


def _unobserved(parameter: Parameter) -> Skipped:
    reason = "its zeros change no output on the samples: it gets the overall sparsity"
    return Skipped("probe", node_name(parameter.node), "not-reached", reason)


def _copy_weights(model: ir.Model, other: ir.Model) -> None:
    for name, value in other.graph.initializers.items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = value.const_value


def _mask(layer: LinearLayer, sparsity: float, task: SparsityTask) -> Mask:
    assert task.method != "magnitude"
    if task.pattern is None:
        return Mask(sparsity=sparsity, method=task.method)
    tensor = const_tensor(layer.weight)
    assert tensor is not None
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    places = layer.geometry.arranged(np.arange(tensor.size).reshape(shape))[0, :, 0]
    port = next(use.idx for use in layer.weight.uses())
    axis = summed_axis(Parameter(layer.node, port, layer.weight, tensor))
    assert axis is not None
    return Mask(
        keep=task.pattern.keep,
        block=task.pattern.block,
        order=axis_order(places, shape, axis),
        method=task.method,
    )


def _allocate(
    task: SparsityTask, named: Mapping[str, Parameter], fitted: Mapping[str, LinearLayer]
) -> tuple[dict[str, float], list[Skipped]]:
    """Allocate a sparsity to every weight, by name; list those without any effect."""
    if task.scope == "global":
        arrays = {name: parameter.tensor.numpy() for name, parameter in named.items()}
        return magnitude_sparsities(arrays, task.fraction), []
    if task.scope != "sensitivity" or len(named) < 2:
        return dict.fromkeys(named, task.fraction), []
    assert task.samples is not None
    curves, weights = _local_curves(task, named, fitted)
    model, progress = task.model, task.context.progress
    trial = clone(model)
    feeds = list(itertools.islice(task.samples, _PROBED_FEEDS))
    outputs = run_all(model, feeds, threads=task.context.threads)
    wanted = ReferenceOutputs(outputs, varying=bool(value_lengths(model)))
    values = {
        name: value
        for graph in trial.graphs()
        for name, value in graph.initializers.items()
        if name in named
    }

    def distance(name: str, level: int) -> float:
        value = values[name]
        old = value.const_value
        assert old is not None
        array = weights[name][level].astype(old.dtype.numpy())
        value.const_value = ir.Tensor(array, dtype=old.dtype, name=old.name)
        found = run_all(trial, feeds, threads=task.context.threads)
        value.const_value = old
        return wanted.errors(found).noise_ratio

    weighed = probed(curves, task.fraction, distance, lambda i, n: progress("probe layers", i, n))
    sparsities, unobserved = allocate_observed(weighed, task.fraction)
    return sparsities, [_unobserved(named[name]) for name in named if name in unobserved]


def _local_curves(
    task: SparsityTask, named: Mapping[str, Parameter], fitted: Mapping[str, LinearLayer]
) -> tuple[dict[str, LayerCurve], dict[str, dict[int, Array]]]:
    """Compute the damage at every layer's output, and its weight at each level."""
    curves: dict[str, LayerCurve] = {}
    weights: dict[str, dict[int, Array]] = {}
    model, reference = task.model, clone(task.model)
    assert task.samples is not None
    pairs = [p for p in match_layers(reference, model)[0] if (p.layer.weight.name or "") in fitted]
    fits = FitOptions(cache_bytes=_CACHE_BYTES, threads=task.context.threads, passes=0)
    collected = Engine(reference, model, pairs, task.samples, fits).collected() if pairs else ()
    for pair, rows in zip(pairs, collected, strict=True):
        layer = pair.layer
        name = layer.weight.name or ""
        found = _moment_curve(layer, rows)
        if found is not None:
            curves[name], weights[name] = found
    for name, parameter in named.items():
        if name not in curves:
            array = parameter.tensor.numpy()
            curves[name] = energy_curve(array)
            weights[name] = {i: _smallest_zeroed(array, s) for i, s in enumerate(LEVELS)}
    return {name: curves[name] for name in named}, weights


def _moment_curve(
    layer: LinearLayer, rows: RegressionRows | str
) -> tuple[LayerCurve, dict[int, Array]] | None:
    if isinstance(rows, str) or layer.matrix_shape[1] > MAX_FEATURES:
        return None
    moments = rows.moments()
    if moments is None:
        return None
    weight = layer.matrix
    power = float(moments.power.sum()) or 1.0
    damage, weights = [], {}
    for index, level in enumerate(LEVELS):
        masked, lost = Masker(moments, Mask(sparsity=level)).quick(weight)
        damage.append(lost / power if level else 0.0)
        weights[index] = layer.geometry.tensor(masked)
    return LayerCurve(weight.size, tuple(damage)), weights


def _prune_wanda(
    model: ir.Model,
    reference: ir.Model,
    fitted: Mapping[str, LinearLayer],
    masks: Mapping[str, Mask],
    samples: Samples,
    options: FitOptions,
) -> set[str]:
    """Rewrite in place: zero weights by Wanda's criterion and fit nothing."""
    pairs = [p for p in match_layers(reference, model)[0] if (p.layer.weight.name or "") in fitted]
    fits = replace(options, passes=0)
    collected = Engine(reference, model, pairs, samples, fits).collected() if pairs else ()
    done = set()
    for pair, rows in zip(pairs, collected, strict=True):
        layer = pair.layer
        moments = None if isinstance(rows, str) else rows.moments()
        if moments is None or moments.gram.shape[-1] != layer.matrix_shape[1]:
            continue
        name = layer.weight.name or ""
        ((masked, _),) = Masker(moments.about_zero(), masks[name]).ways(layer.matrix)
        layer.write(masked, layer.bias)
        done.add(name)
    return done


def _prune_by_magnitude(
    model: ir.Model,
    named: Mapping[str, Parameter],
    sparsities: Mapping[str, float],
    pattern: Pattern | None,
) -> None:
    """Rewrite in place: zero the smallest weights of `named` in `model`."""
    values = {name: value for graph in model.graphs() for name, value in graph.initializers.items()}
    for name, parameter in named.items():
        old = values[name].const_value
        assert old is not None
        if pattern is None:
            array = _smallest_zeroed(old.numpy(), sparsities[name])
        else:
            axis = summed_axis(parameter)
            assert axis is not None
            array = pattern.zeroed(old.numpy(), axis)
        values[name].const_value = ir.Tensor(array, dtype=old.dtype, name=old.name)


def _smallest_zeroed(array: Array, sparsity: float) -> Array:
    count = round(sparsity * array.size)
    if not count:
        return array
    limit, ties = kth_magnitude(lambda: [array], count)
    return zeroed(array, limit, ties)
