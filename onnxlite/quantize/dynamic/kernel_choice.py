"""Choice of the integer kernel of every layer, by the time of the layer alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.calibrate.reductions import collect_magnitudes
from onnxlite.graph import STANDARD_DOMAINS, const_tensor, iter_nodes, node_name
from onnxlite.inputs import Feed, input_specs
from onnxlite.ops import Product, ShapeOf, find_product, spec_of
from onnxlite.quantize.core.selection import by_name
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.dynamic.kernel_times import KernelTimes
from onnxlite.quantize.dynamic.kernels import BLOCKS, LSTM, Kernel, kernels_of
from onnxlite.quantize.dynamic.options import QuantizeDynamic
from onnxlite.records import Progress, Reason, Skipped
from onnxlite.samples import Samples

#: `Skipped.what` of layers that stay float.
QUANTIZE = "quantize"
#: `Skipped.code` of layers without a faster kernel.
FASTER_IN_FLOAT = "faster-in-float"

#: Largest time over float of a kernel: a smaller gain is within the measurement error.
_MAX_TIME_RATIO = 0.97
#: Largest time of a kernel over that of the preferred one to replace it.
_MAX_KERNEL_RATIO = 0.95
#: Inputs below this overflow nothing, with weights below 1e18.
_LARGE = 1e18


@dataclass(frozen=True)
class KernelChosen:
    """Kernel of a layer, and its time over float if it was measured."""

    kernel: Kernel
    ratio: float | None


@dataclass(frozen=True)
class _Unmeasured:
    """Layer with kernels that could not be timed, and the reason."""

    reason: str


@dataclass
class KernelChoice:
    """Choice of kernels for the layers of one model.

    Attributes:
        model: the float model.
        feed: one sample, which gives the shapes; None if the model accepts none.
        options: which layers, and which kernel.
        target: the target of the kernels.
        kernels: the kernel of each layer that gets one.
        skipped: layers that stay float, and why.
    """

    model: ir.Model
    feed: Feed | None
    options: QuantizeDynamic
    target: Target
    kernels: dict[ir.Node, KernelChosen] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def run(self, progress: Progress) -> None:
        """Choose the kernel of every layer."""
        layers = [node for node in iter_nodes(self.model) if _is_layer(node)]
        if not layers:
            return
        shape_of = concrete_shapes(self.model, None if self.feed is None else [self.feed])
        times = KernelTimes()
        unmeasured: list[tuple[ir.Node, str]] = []
        for number, node in enumerate(layers, 1):
            reason = by_name(node, self.options.include, self.options.exclude)
            choice = reason or _choose_kernel(self, node, shape_of, times)
            if isinstance(choice, _Unmeasured):
                unmeasured.append((node, choice.reason))
            elif isinstance(choice, Reason):
                self.skipped.append(Skipped(QUANTIZE, node_name(node), choice.code, choice.message))
            else:
                self.kernels[node] = choice
            progress("choose kernels", number, len(layers))
        times.keep()
        _copy_choices(self, unmeasured)
        _share_kernels(self)
        _keep_overflowing(self)


def _copy_choices(work: KernelChoice, unmeasured: Sequence[tuple[ir.Node, str]]) -> None:
    """Copy the kernels of equal layers to layers that could not be timed.

    Layers in branches that no sample takes often equal layers in the branches taken.
    """
    for node, message in unmeasured:
        equal = next((other for other in work.kernels if _form(other) == _form(node)), None)
        if equal is None:
            work.skipped.append(Skipped(QUANTIZE, node_name(node), "not-measured", message))
        else:
            work.kernels[node] = work.kernels[equal]


def _share_kernels(work: KernelChoice) -> None:
    """Choose the same kernel for layers that share a weight, so that it is stored once."""
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in work.kernels:
        for value in node.inputs:
            if value is not None and const_tensor(value) is not None:
                readers.setdefault(value, []).append(node)
    for nodes in readers.values():
        kernels = Counter(work.kernels[node].kernel.name for node in nodes)
        if len(kernels) < 2:
            continue
        for name, _ in kernels.most_common():
            found = [next((k for k in kernels_of(n) if k.name == name), None) for n in nodes]
            if all(
                k and k.refuses(n, work.target) is None for k, n in zip(found, nodes, strict=True)
            ):
                for node, kernel in zip(nodes, found, strict=True):
                    if kernel is not None and work.kernels[node].kernel is not kernel:
                        work.kernels[node] = KernelChosen(kernel, None)
                break


def _keep_overflowing(work: KernelChoice) -> None:
    """Keep layers in float in whose kernel of blocks a sum may exceed float32 on the feed.

    The kernel adds the sum of its inputs times the offset of the weights' codes, which is as large
    as a product in which nothing cancels.
    """
    products = [
        product
        for node, chosen in work.kernels.items()
        if chosen.kernel is BLOCKS and node.graph is work.model.graph
        if isinstance(product := find_product(node), Product)
    ]
    if work.feed is None or not products:
        return
    values = {product.data.name or "": product.data for product in products}
    floats = [name for name, value in values.items() if value.dtype == ir.DataType.FLOAT]
    samples = Samples([work.feed], input_specs(work.model))
    largest = collect_magnitudes(work.model, floats, samples, threads=1)
    for product in products:
        reached = largest.get(product.data.name or "", 0.0)
        if not reached > _LARGE:
            continue
        matrix = np.abs(product.matrix()).astype(np.float64)
        if not 2 * reached * matrix.sum(axis=-2).max() < np.finfo(np.float32).max:
            del work.kernels[product.node]
            message = (
                f"its input {product.data.name!r} reaches {reached:.3g}, and sums in the kernel "
                "of blocks exceed float32"
            )
            row = Skipped(QUANTIZE, node_name(product.node), "too-large", message)
            work.skipped.append(row)


def _form(node: ir.Node) -> tuple[object, ...]:
    """Return the operator, attributes and constant shapes of a layer."""
    attributes = sorted((name, str(attr.value)) for name, attr in node.attributes.items())
    tensors = [const_tensor(value) for value in node.inputs]
    return node.op_type, attributes, [t and tuple(t.shape.numpy()) for t in tensors]


def _is_layer(node: ir.Node) -> bool:
    """Return whether a node multiplies by weights, with or without a kernel."""
    spec = spec_of(node)
    return node.domain in STANDARD_DOMAINS and (
        bool(kernels_of(node))
        or (spec.macs is not None and any(_is_constant(node, port) for port in spec.weights))
    )


def _is_constant(node: ir.Node, port: int) -> bool:
    return port < len(node.inputs) and const_tensor(node.inputs[port]) is not None


def _choose_kernel(
    work: KernelChoice, node: ir.Node, shape_of: ShapeOf, times: KernelTimes
) -> KernelChosen | _Unmeasured | Reason:
    """Return the kernel of one layer, or the reason why it stays float."""
    target, wanted = work.target, work.options.kernel
    kernels = kernels_of(node)
    if not kernels:
        message = f"ONNX Runtime has no {node.op_type} kernel with scales computed at run time"
        return Reason("no-kernel", message)
    refusals = {kernel.name: kernel.refuses(node, target) for kernel in kernels}
    able = [kernel for kernel in kernels if refusals[kernel.name] is None]
    if not able:
        return Reason("unsupported", next(filter(None, refusals.values())))
    if wanted != "auto":
        forced = [kernel for kernel in able if kernel.name == wanted or kernel is LSTM]
        if forced:
            return KernelChosen(forced[0], None)
        return Reason("unsupported", refusals[wanted] or f"it has no kernel {wanted!r}")
    ratios = times.ratios(work.model, node, shape_of, able, target)
    if isinstance(ratios, str):
        return _Unmeasured(ratios)
    return _fastest(able, ratios)


def _fastest(kernels: Sequence[Kernel], ratios: Mapping[str, float]) -> KernelChosen | Reason:
    """Return the fastest kernel; earlier kernels win within the measurement error."""
    best = kernels[0]
    for kernel in kernels[1:]:
        if ratios[kernel.name] < _MAX_KERNEL_RATIO * ratios[best.name]:
            best = kernel
    if ratios[best.name] > _MAX_TIME_RATIO:
        found = listed({name: f"{ratio:.2f}" for name, ratio in ratios.items()})
        message = f"integers are not faster here: time over float is {found}"
        return Reason(FASTER_IN_FLOAT, message)
    return KernelChosen(best, round(ratios[best.name], 3))


def listed(entries: Mapping[str, Any]) -> str:
    """Return "name value, name value" for a summary."""
    return ", ".join(f"{name} {value}" for name, value in entries.items())
