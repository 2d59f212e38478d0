"""SmoothQuant: move outliers of activations into weights, which have a scale per channel.

    y = x @ W   ==   (x / s) @ (s[:, None] * W),    s_j = max|x_j|^a / max|W_j|^(1-a)

A few channels of a transformer are ten times as large as the others and take most of the 256
steps of their common scale. Source: Xiao et al. 2023 (SmoothQuant). Here each value gets its
own `a`, the one with the least error on rows of the samples, or none if the gain is small. The
division goes into the scale of the normalisation before it; where other nodes read the value
as well, it is a Mul of its own. Values whose products share a weight get one `s`, so that the
weight stays shared; a weight that something else reads is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder, drop_unused
from onnxlite.calibrate import Range
from onnxlite.calibrate.row_samples import RowSample, collect_row_samples
from onnxlite.fidelity import sqnr_db
from onnxlite.graph import const_array, const_tensor, describe, node_name
from onnxlite.inputs import feed_size
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
from onnxlite.records import Progress, Skipped
from onnxlite.samples import Samples

#: Feeds that are run, and the samples that must be in them.
_FEEDS, _MIN_SAMPLES = 8, 8
#: Squares of products of larger numbers overflow float32.
_MAX_MAGNITUDE = 1e15
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


@dataclass(frozen=True, eq=False)
class _Group:
    """Values that are divided by the same numbers.

    Attributes:
        products: the products that read each value.
    """

    products: Mapping[ir.Value, list[Product]]

    @cached_property
    def by_weight(self) -> dict[ir.Value, list[Product]]:
        """The products that read each weight."""
        found: dict[ir.Value, list[Product]] = {}
        for products in self.products.values():
            for product in products:
                found.setdefault(product.weight, []).append(product)
        return found

    @property
    def absorbed(self) -> bool:
        """True if the producers of all values can divide them in their constants."""
        return all(_is_absorbed(value, products) for value, products in self.products.items())

    def obstacle(self) -> Skipped | None:
        """Return why a weight cannot be multiplied without a copy of it, or None."""
        for weight, products in self.by_weight.items():
            nodes = [product.node for product in products]
            other = next((use.node for use in weight.uses() if use.node not in nodes), None)
            message = ""
            if other is not None:
                message = f"{describe(other)} reads its weight {weight.name!r} as well"
            elif weight.is_graph_output():
                message = f"its weight {weight.name!r} is an output of the graph"
            elif len({product.transposed for product in products}) > 1:
                message = f"others multiply by its weight {weight.name!r} transposed"
            if message:
                return Skipped("smooth", node_name(nodes[0]), "shared-weight", message)
        return None


def apply_smoothquant(
    model: ir.Model,
    samples: Samples,
    options: SmoothOptions,
    *,
    integers_before: bool,
    progress: Progress,
) -> tuple[list[SmoothedValue], list[Skipped]]:
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
        falls on the rows that were run; and the products whose weight is read in other ways.

    Raises:
        SamplesError: a value is NaN or infinite on a sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    if options.smooth is False:
        return [], []
    integers = _made_by_integers(model) if integers_before else set()
    groups, skipped = [], []
    for group in _groups(model, options.include, options.exclude):
        if (obstacle := group.obstacle()) is not None:
            skipped.append(obstacle)
        elif all(v not in integers or _is_absorbed(v, p) for v, p in group.products.items()):
            groups.append(group)
    feeds = list(islice(samples, _FEEDS)) if groups else []
    if sum(feed_size(feed, samples.inputs) for feed in feeds) < _MIN_SAMPLES:
        return [], skipped
    names = [value.name or "" for group in groups for value in group.products]
    seen = collect_row_samples(model, names, feeds, progress=progress)
    builder = GraphBuilder(model)
    rows: list[SmoothedValue] = []
    for group in groups:
        if (obstacle := _too_large(group, seen)) is not None:
            skipped.append(obstacle)
            continue
        found = _best(group, seen, options.smooth)
        if found is not None:
            own, scale = found
            _rescale(builder, group, scale)
            rows += own
    return rows, skipped


def _groups(model: ir.Model, include: Sequence[str], exclude: Sequence[str]) -> list[_Group]:
    """Group the values that products of the main graph read, in its order.

    Values are in one group if their products share a weight.
    """
    values: dict[ir.Value, list[Product]] = {}
    for node in model.graph:
        product = find_product(node)
        if not isinstance(product, Product) or product.side == "left":
            continue
        tensor = const_tensor(product.weight)
        if tensor is not None and len(tensor.shape) == 2 and not by_name(node, include, exclude):
            values.setdefault(product.data, []).append(product)
    group_of: dict[ir.Value, int] = {}
    groups: dict[int, dict[ir.Value, list[Product]]] = {}
    for number, (value, products) in enumerate(values.items()):
        own = {value: products}
        for other in {group_of[p.weight] for p in products if p.weight in group_of}:
            own = groups.pop(other) | own
        groups[number] = own
        group_of |= {p.weight: number for members in own.values() for p in members}
    order = {value: number for number, value in enumerate(values)}
    found = [
        _Group(dict(sorted(own.items(), key=lambda m: order[m[0]]))) for own in groups.values()
    ]
    return sorted(found, key=lambda group: order[next(iter(group.products))])


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
    group: _Group, seen: Mapping[str, RowSample], mode: Smooth
) -> tuple[list[SmoothedValue], NDArray[Any]] | None:
    """Choose the exponent with the least noise; None if the gain is too small."""
    rows = {value: seen[value.name or ""] for value in group.products}
    matrices = {weight: products[0].matrix() for weight, products in group.by_weight.items()}
    bound = _bound(list(rows.values()))
    largest = np.max([np.abs(matrix).max(axis=1) for matrix in matrices.values()], axis=0)
    before = _noise(group, rows, matrices, np.ones_like(bound))
    trials = []
    for exponent in _EXPONENTS:
        scale = _scale(bound, largest, exponent)
        trials.append((_noise(group, rows, matrices, scale), exponent, scale))
    noise, exponent, scale = min(trials, key=lambda trial: trial[0])
    gain = sqnr_db(before, noise) if before and noise else 0.0
    if mode == "auto" and gain < (_MIN_GAIN_CONSTANT_DB if group.absorbed else _MIN_GAIN_NODE_DB):
        return None
    return [
        SmoothedValue(
            name=value.name or "",
            op_type="" if (producer := value.producer()) is None else producer.op_type,
            exponent=exponent,
            less_noise_db=gain,
            own_node=not _is_absorbed(value, products),
        )
        for value, products in group.products.items()
    ], scale


def _too_large(group: _Group, seen: Mapping[str, RowSample]) -> Skipped | None:
    """Find a value or weight whose products overflow float32, like a mask that reaches a layer."""
    for weight, products in group.by_weight.items():
        if not np.abs(products[0].matrix()).max() <= _MAX_MAGNITUDE:
            message = f"its weight {weight.name!r} holds NaN, infinite or huge numbers"
            return Skipped("smooth", node_name(products[0].node), "too-large", message)
    for value, products in group.products.items():
        rows = seen[value.name or ""]
        largest = max(float(rows.high.max()), -float(rows.low.min()))
        if largest > _MAX_MAGNITUDE:
            message = (
                f"its input {value.name!r} reaches {largest:.3g}: mask with a number like -1e4 "
                "instead, or exclude it"
            )
            return Skipped("smooth", node_name(products[0].node), "too-large", message)
    return None


def _bound(samples: Sequence[RowSample]) -> NDArray[Any]:
    """Largest magnitudes of the channels, of several values in units of each one's median."""
    bounds = [np.maximum(np.abs(seen.low), np.abs(seen.high)) for seen in samples]
    if len(bounds) > 1:
        bounds = [b / np.median(b[b > 0]) if (b > 0).any() else b for b in bounds]
    largest: NDArray[Any] = np.max(bounds, axis=0)
    return largest


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


def _noise(
    group: _Group,
    seen: Mapping[ir.Value, RowSample],
    matrices: Mapping[ir.Value, NDArray[Any]],
    scale: NDArray[Any],
) -> float:
    """Noise over signal of the products on integers, with equal weight for each row.

    A normalisation follows sooner or later, so a row of small numbers matters as much as one
    of large numbers.
    """
    rounded = {weight: _rounded(matrix * scale[:, None]) for weight, matrix in matrices.items()}
    total = 0.0
    for value, products in group.products.items():
        own = seen[value]
        params = params_for_range(
            UINT8, Range(float((own.low / scale).min()), float((own.high / scale).max()))
        )
        rows = dequantize(quantize(own.rows / scale, params), params)
        for weight in dict.fromkeys(product.weight for product in products):
            exact = own.rows @ matrices[weight]
            error = rows @ rounded[weight] - exact
            power = (exact.astype(np.float64) ** 2).sum(axis=1)
            power += 1e-3 * power.mean() + np.finfo(np.float32).tiny
            total += float(((error.astype(np.float64) ** 2).sum(axis=1) / power).mean())
    return total


def _rounded(matrix: NDArray[Any]) -> NDArray[Any]:
    """A weight on int8 with a scale per column."""
    params = params_for_weight(INT8, matrix, 1)
    return dequantize(quantize(matrix, params), params)


def _rescale(builder: GraphBuilder, group: _Group, scale: NDArray[Any]) -> None:
    """Divide the values of a group, and multiply the rows of their weights.

    Values are divided in their producers' constants, or by a Mul for the products alone.
    """
    constants: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    for value, products in group.products.items():
        producer = value.producer()
        if producer is None or not _is_absorbed(value, products):
            _divide(builder, value, products, scale)
            continue
        for port in last_axis_affine(producer) or ():
            old = producer.inputs[port]
            assert old is not None
            constants.setdefault(old, []).append((producer, port))
    for old, uses in constants.items():
        array = const_array(old)
        assert array is not None
        _replace_constant(builder, old, uses, array / scale)
    for weight, products in group.by_weight.items():
        stored = const_array(weight)
        assert stored is not None
        spread = scale[None, :] if products[0].transposed else scale[:, None]
        ports = [(p.node, list(p.node.inputs).index(weight)) for p in products]
        _replace_constant(builder, weight, ports, stored * spread)


def _divide(
    builder: GraphBuilder, value: ir.Value, products: Sequence[Product], scale: NDArray[Any]
) -> None:
    """Divide what `products` read of `value` by a Mul."""
    name = f"{value.name}_smooth"
    place = builder.before(products[0].node)
    factor = place.constant(f"{name}_scale", (1 / scale).astype(np.float32))
    smoothed = place.op("Mul", [value, factor], name=name)
    smoothed.type, smoothed.shape = value.type, value.shape
    for product in products:
        product.node.replace_input_with(list(product.node.inputs).index(value), smoothed)


def _replace_constant(
    builder: GraphBuilder,
    old: ir.Value,
    uses: Sequence[tuple[ir.Node, int]],
    array: NDArray[Any],
) -> None:
    """Give some readers of a constant another one; the rest keep the old one."""
    place = builder.before(uses[0][0])
    new = place.initializer(f"{old.name}_smooth", array.astype(np.float32))
    for node, port in uses:
        node.replace_input_with(port, new)
    drop_unused([old])
