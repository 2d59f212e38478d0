"""SmoothQuant: move outliers of activations into weights, which have a scale per channel.

    y = x @ W   ==   (x / s) @ (s[:, None] * W),    s_j = max|x_j|^a / max|W_j|^(1-a)

A few channels of a transformer are ten times as large as the others and take most of the 256
steps of their common scale. Source: Xiao et al. 2023 (SmoothQuant). Here each value gets its
own `a`, the one with the least error on rows of the samples, or none if the gain is small. The
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

from onnxlite.builder import GraphBuilder, drop_unused
from onnxlite.calibrate import Range
from onnxlite.calibrate.row_samples import RowSample, collect_row_samples
from onnxlite.fidelity import sqnr_db
from onnxlite.graph import const_array, const_tensor
from onnxlite.ops import Product, find_product, last_axis_affine, spec_of
from onnxlite.quantize.core.options import Smooth, SmoothedValue
from onnxlite.quantize.core.qtypes import (
    INT8,
    UINT8,
    dequantize,
    params_for_range,
    params_for_weight,
    quantize,
)
from onnxlite.quantize.core.selection import by_name
from onnxlite.records import Progress
from onnxlite.samples import Samples, feed_size

#: Feeds that are run, and the samples that must be in them.
_FEEDS, _MIN_SAMPLES = 8, 8
#: Exponents tried: at 1 the activations are all alike, at 0 the weights.
_EXPONENTS = (0.5, 0.65, 0.8)
#: Noise must fall by this much: a changed constant costs no time, a Mul of its own does.
_MIN_GAIN_CONSTANT_DB, _MIN_GAIN_NODE_DB = 0.5, 3.0


class SmoothOptions(Protocol):
    """Options of the quantization that follows, as far as smoothing depends on them."""

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
) -> list[SmoothedValue]:
    """Smooth the inputs of matrix products in place; the model computes the same as before.

    Args:
        model: normalised, with shapes; changed.
        samples: the first ones are run; fewer than 8 do not show outliers.
        options: what is quantized afterwards, and whether to smooth.
        integers_before: the producer of a value may run on integers as well; a Mul between two
            layers would part them, so there only constants are changed.
        progress: called after every feed.

    Returns:
        One row per smoothed value: the exponent, and by how much the noise of its consumers
        falls on the rows that were run.

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
    if sum(feed_size(feed, samples.inputs) for feed in feeds) < _MIN_SAMPLES:
        return []
    seen = collect_row_samples(model, names, feeds, progress=progress)
    builder = GraphBuilder(model)
    rows = []
    for value, products in groups.items():
        found = _best(value, products, seen[value.name or ""], options.smooth)
        if found is not None:
            row, scale = found
            _divide(builder, value, products, scale)
            for product in products:
                _multiply(builder, product, scale)
            rows.append(row)
    return rows


def _groups(
    model: ir.Model, include: Sequence[str], exclude: Sequence[str]
) -> dict[ir.Value, list[Product]]:
    """Group the products of the main graph, in its order, by the value that they read."""
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
    """Tell whether the producer's constants can divide `value` without any other effect."""
    producer = value.producer()
    if producer is None or value.is_graph_output() or last_axis_affine(producer) is None:
        return False
    readers = {product.node for product in products}
    return all(use.node in readers for use in value.uses())


def _made_by_integers(model: ir.Model) -> set[ir.Value]:
    """Find values that may come out of integer kernels: of layers, and of what follows those."""
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
) -> tuple[SmoothedValue, NDArray[Any]] | None:
    """Choose the exponent with the least noise; None if the gain is too small."""
    weights = [product.matrix() for product in products]
    bound = np.maximum(np.abs(seen.low), np.abs(seen.high))
    largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    before = _noise(seen, weights, np.ones_like(bound))
    trials = []
    for exponent in _EXPONENTS:
        scale = _scale(bound, largest, exponent)
        trials.append((_noise(seen, weights, scale), exponent, scale))
    noise, exponent, scale = min(trials, key=lambda trial: trial[0])
    gain = sqnr_db(before, noise) if before and noise else 0.0
    absorbed = _is_absorbed(value, products)
    if mode == "auto" and gain < (_MIN_GAIN_CONSTANT_DB if absorbed else _MIN_GAIN_NODE_DB):
        return None
    producer = value.producer()
    row = SmoothedValue(
        name=value.name or "",
        op_type="" if producer is None else producer.op_type,
        exponent=exponent,
        less_noise_db=gain,
        own_node=not absorbed,
    )
    return row, scale


def _scale(bound: NDArray[Any], largest: NDArray[Any], exponent: float) -> NDArray[Any]:
    """Divisors of the channels, float32[k]; 1 for channels that are always zero."""
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
    """Noise over signal of the products on integers, with equal weight for each row.

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
    builder: GraphBuilder, value: ir.Value, products: Sequence[Product], scale: NDArray[Any]
) -> None:
    """Divide what `products` read of `value`, in the producer's constants or by a Mul."""
    if _is_absorbed(value, products):
        producer = value.producer()
        assert producer is not None
        for port in last_axis_affine(producer) or ():
            array = const_array(producer.inputs[port])
            assert array is not None
            _replace_constant(builder, producer, port, array / scale)
        return
    name = f"{value.name}_smooth"
    place = builder.before(products[0].node)
    factor = place.initializer(f"{name}_scale", (1 / scale).astype(np.float32))
    smoothed = place.op("Mul", [value, factor], name=name)
    smoothed.type, smoothed.shape = value.type, value.shape
    for product in products:
        product.node.replace_input_with(list(product.node.inputs).index(value), smoothed)


def _multiply(builder: GraphBuilder, product: Product, scale: NDArray[Any]) -> None:
    """Multiply the rows of a product's weight."""
    stored = const_array(product.weight)
    assert stored is not None
    spread = scale[None, :] if product.transposed else scale[:, None]
    port = list(product.node.inputs).index(product.weight)
    _replace_constant(builder, product.node, port, stored * spread)


def _replace_constant(builder: GraphBuilder, node: ir.Node, port: int, array: NDArray[Any]) -> None:
    """Give one input a constant of its own; others that share the old one keep it."""
    old = node.inputs[port]
    assert old is not None
    new = builder.before(node).initializer(f"{old.name}_smooth", array.astype(np.float32))
    node.replace_input_with(port, new)
    drop_unused([old])
