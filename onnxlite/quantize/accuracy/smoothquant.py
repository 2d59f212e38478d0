"""Move outliers from activations into weights, where they have a scale per channel.

    y = x @ W   ==   (x / s) @ (s[:, None] * W),    s_j = max|x_j|^a / max|W_j|^(1-a)

A few channels of a transformer are ten times as large as the others and take most of the 256
steps that all of them share. Source: Xiao et al. 2023 (SmoothQuant). Here each value gets its
own `a`, the one with the least error on real rows, or none where that helps too little. The
division goes into the scale of the normalisation before it; where other nodes read the value
as well, it is a Mul of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate import Range
from onnxlite.calibrate.row_samples import RowSample, collect_row_samples
from onnxlite.graph import Names, add_initializer, const_array, const_tensor, value_names
from onnxlite.ops import Product, find_product, last_axis_affine, spec_of
from onnxlite.quantize.core.options import Smooth
from onnxlite.quantize.core.qtypes import (
    INT8,
    UINT8,
    dequantize,
    params_for_range,
    params_for_weight,
    quantize,
)
from onnxlite.quantize.core.selection import by_name
from onnxlite.records import Cell, LayerRow, Progress
from onnxlite.samples import Samples, feed_size

#: Feeds that are looked at, and the samples that must be in them.
_FEEDS, _LEAST_SAMPLES = 8, 8
#: Exponents tried: at 1 the activations are all alike, at 0 the weights.
_EXPONENTS = (0.5, 0.65, 0.8)
#: The noise that must go, in dB: a Mul of its own costs time, a changed constant does not.
_WORTH_CONSTANT_DB, _WORTH_NODE_DB = 0.5, 3.0


class SmoothOptions(Protocol):
    """The options that decide what is smoothed: those of the quantization that follows."""

    @property
    def smooth(self) -> Smooth:
        """`"auto"` where the measured error falls, True everywhere, False nowhere."""
        ...

    @property
    def include(self) -> tuple[str, ...]:
        """Patterns of names of the layers that are quantized; empty means all."""
        ...

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of names of layers that are not."""
        ...


def apply_smoothquant(
    model: ir.Model,
    samples: Samples,
    options: SmoothOptions,
    *,
    integers_before: bool,
    progress: Progress,
) -> list[LayerRow]:
    """Smooth the inputs of matrix products; the model computes the same as before.

    Args:
        model: normalised, with shapes; changed in place.
        samples: the first ones are looked at; from fewer than 8 outliers cannot be told.
        options: what is quantized afterwards, and whether to smooth.
        integers_before: what computes a value may go on integers as well; a Mul between two
            layers would part them, so there only constants are changed.
        progress: called after every feed.

    Returns:
        One row per smoothed value: the exponent, and how much less noise the layers that
        read it have on the rows looked at.

    Raises:
        SamplesError: a value is NaN or infinite on a sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    groups = {} if options.smooth is False else _groups(model, options.include, options.exclude)
    integers = _made_by_integers(model) if integers_before else set()
    groups = {
        value: products
        for value, products in groups.items()
        if value not in integers or _is_absorbed(value, products)
    }
    if not groups:
        return []
    names = [value.name or "" for value in groups]
    feeds = list(islice(samples, _FEEDS))
    if sum(feed_size(feed, samples.inputs) for feed in feeds) < _LEAST_SAMPLES:
        return []
    seen = collect_row_samples(model, names, feeds, progress=progress)
    taken = value_names(model)
    done = []
    for value, products in groups.items():
        found = _best(value, products, seen[value.name or ""], options.smooth)
        if found is not None:
            row, scale = found
            _divide(model, value, products, scale, taken)
            for product in products:
                _multiply(model, product, scale, taken)
            done.append(row)
    return done


def _groups(
    model: ir.Model, include: Sequence[str], exclude: Sequence[str]
) -> dict[ir.Value, list[Product]]:
    """The products of the main graph by the value that they read."""
    groups: dict[ir.Value, list[Product]] = {}
    for node in model.graph:
        product = find_product(node)
        if not isinstance(product, Product) or product.side == "left":
            continue
        tensor = const_tensor(product.weight)
        if tensor is not None and len(tensor.shape) == 2 and not by_name(node, include, exclude):
            groups.setdefault(product.data, []).append(product)
    return groups


def _is_absorbed(value: ir.Value, products: Sequence[Product]) -> bool:
    """Whether the node before `value` can divide it without anyone else noticing."""
    producer = value.producer()
    if producer is None or value.is_graph_output() or last_axis_affine(producer) is None:
        return False
    readers = {product.node for product in products}
    return all(use.node in readers for use in value.uses())


def _made_by_integers(model: ir.Model) -> set[ir.Value]:
    """Values that may come out of integer kernels: of layers, and of what follows those."""
    found: set[ir.Value] = set()
    for node in model.graph:
        spec = spec_of(node)
        rule = spec.quant
        if rule is not None and rule.kind == "compute":
            port = rule.weight
            made = port is not None and const_tensor(node.inputs[port]) is not None
        elif rule is not None:
            made = all(node.inputs[port] in found for port in rule.ports(node))
        else:
            made = spec.output_range is not None and node.inputs[0] in found
        if made:
            found.update(node.outputs)
    return found


def _best(
    value: ir.Value, products: Sequence[Product], seen: RowSample, mode: Smooth
) -> tuple[LayerRow, NDArray[Any]] | None:
    """The exponent with the least noise and its scale, None where none is worth it."""
    weights = [product.matrix() for product in products]
    bound = np.maximum(np.abs(seen.low), np.abs(seen.high))
    largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    before = _noise(seen, weights, np.ones_like(bound))
    trials = []
    for exponent in _EXPONENTS:
        scale = _scale(bound, largest, exponent)
        trials.append((_noise(seen, weights, scale), exponent, scale))
    noise, exponent, scale = min(trials, key=lambda trial: trial[0])
    gain = 10 * float(np.log10(before / noise)) if before and noise else 0.0
    absorbed = _is_absorbed(value, products)
    if mode == "auto" and gain < (_WORTH_CONSTANT_DB if absorbed else _WORTH_NODE_DB):
        return None
    values: dict[str, Cell] = {
        "exponent": exponent,
        "less_noise_db": round(gain, 1),
        "own_node": not absorbed,
    }
    return LayerRow(value.name or "", "smooth", values), scale


def _scale(bound: NDArray[Any], largest: NDArray[Any], exponent: float) -> NDArray[Any]:
    """float32[k], what each channel is divided by; 1 for channels that are always zero."""
    alive = (bound > 0) & (largest > 0)
    # In units of the typical channel, so that the value keeps its order of magnitude.
    x = np.where(alive, bound, 1.0).astype(np.float64)
    w = np.where(alive, largest, 1.0).astype(np.float64)
    log = exponent * np.log(x) - (1 - exponent) * np.log(w)
    middle = np.median(log[alive]) if alive.any() else 0.0
    # Within what float32 and the kernels' scales carry well.
    scale: NDArray[Any] = np.exp(np.clip(np.where(alive, log - middle, 0.0), -7, 7))
    return scale.astype(np.float32)


def _noise(seen: RowSample, weights: Sequence[NDArray[Any]], scale: NDArray[Any]) -> float:
    """Noise over signal of the products on integers, each row counted alike.

    A normalisation follows sooner or later, so a row of small numbers matters as much as one
    of large numbers.
    """
    params = params_for_range(
        UINT8, Range(float((seen.low / scale).min()), float((seen.high / scale).max()))
    )
    rows = dequantize(quantize(seen.rows / scale, params), params)
    total = 0.0
    for weight in weights:
        scaled = weight * scale[:, None]
        weight_params = params_for_weight(INT8, scaled, 1)
        exact = seen.rows @ weight
        error = rows @ dequantize(quantize(scaled, weight_params), weight_params) - exact
        power = (exact.astype(np.float64) ** 2).sum(axis=1)
        power += 1e-3 * power.mean() + np.finfo(np.float32).tiny
        total += float(((error.astype(np.float64) ** 2).sum(axis=1) / power).mean())
    return total


def _divide(
    model: ir.Model,
    value: ir.Value,
    products: Sequence[Product],
    scale: NDArray[Any],
    taken: Names,
) -> None:
    if _is_absorbed(value, products):
        producer = value.producer()
        assert producer is not None
        for port in last_axis_affine(producer) or ():
            array = const_array(producer.inputs[port])
            assert array is not None
            _replace_constant(model, producer, port, (array / scale).astype(np.float32), taken)
        return
    name = f"{value.name}_smooth"
    factor = add_initializer(
        model.graph, taken.fresh(f"{name}_scale"), (1 / scale).astype(np.float32)
    )
    node = ir.node("Mul", [value, factor], name=taken.fresh(f"{name}_node"))
    node.outputs[0].name = taken.fresh(name)
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    first = min((product.node for product in products), key=list(model.graph).index)
    model.graph.insert_before(first, node)
    for product in products:
        product.node.replace_input_with(list(product.node.inputs).index(value), node.outputs[0])


def _multiply(model: ir.Model, product: Product, scale: NDArray[Any], taken: Names) -> None:
    stored = const_array(product.weight)
    assert stored is not None
    spread = scale[None, :] if product.transposed else scale[:, None]
    port = list(product.node.inputs).index(product.weight)
    _replace_constant(model, product.node, port, (stored * spread).astype(np.float32), taken)


def _replace_constant(
    model: ir.Model, node: ir.Node, port: int, array: NDArray[Any], taken: Names
) -> None:
    """Give one input a constant of its own; others that share the old one keep it."""
    old = node.inputs[port]
    assert old is not None
    new = add_initializer(model.graph, taken.fresh(f"{old.name}_smooth"), array)
    node.replace_input_with(port, new)
    if old.is_initializer() and not old.uses() and not old.is_graph_output():
        del model.graph.initializers[old.name or ""]
