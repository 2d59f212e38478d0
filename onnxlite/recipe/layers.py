"""Layer by layer: what each layer of the original has become."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Container

import msgspec
import onnx_ir as ir

from onnxlite.analysis.cost import LayerCost
from onnxlite.analysis.lineage import origin_of
from onnxlite.analysis.summary import Summary
from onnxlite.errors import OnnxliteError
from onnxlite.inputs import Feed
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.timing import current_timer
from onnxlite.timing.profiler import Kernels, profile

logger = logging.getLogger(__name__)

_PROFILE_S = 2.0
_THREADS = 1
#: So many nodes at most are looked through for the one that a fused kernel is about.
_FUSED = 4


class LayerState(msgspec.Struct, frozen=True, kw_only=True):
    """One layer at one time.

    Attributes:
        name: of the node.
        op_type: its operator.
        precision: type of its stored weight, None without one.
        channels: output channels, None where they are not known.
        macs: multiply-accumulates of one run.
        size_bytes: of its constants.
        latency_us: microseconds in its kernel in one run, with what was fused into it; None
            if it was not measured or runs in another node's kernel.
    """

    name: str
    op_type: str
    precision: str | None = None
    channels: int | None = None
    macs: int | None = None
    size_bytes: int = 0
    latency_us: float | None = None


class LayerPair(msgspec.Struct, frozen=True, kw_only=True):
    """A layer before and after; None where there is none: folded away, or made anew."""

    before: LayerState | None = None
    after: LayerState | None = None

    @property
    def name(self) -> str:
        """The original's name, or else the present one."""
        state = self.before or self.after
        return "" if state is None else state.name


def layer_pairs(
    original: ir.Model, result: ir.Model, before: Summary, after: Summary, feed: Feed | None
) -> tuple[LayerPair, ...]:
    """Line the layers up by their lineage, in the order of the original.

    Args:
        original: the input model.
        result: what came of it, with its lineage.
        before: summary of the input.
        after: summary of the result.
        feed: to profile both models with; None leaves times out, as does `use_timer(None)`.
    """
    times: list[dict[str, float]] = [{}, {}]
    if feed is not None and current_timer() is not None:
        try:
            models = [_named(original), _named(result)]
            found = profile(models, feed, threads=_THREADS, budget_s=_PROFILE_S)
            times = [_times(kernels) for kernels in found]
        except (OnnxliteError, OSError) as error:
            logger.info("layers are not timed: %s", error)
    news: dict[str, LayerCost] = {}
    # Of several nodes that do a layer's work, the heaviest stands for it.
    for layer in sorted(after.layers, key=lambda layer: layer.macs or 0):
        news[origin_of(result, layer.name).source] = layer
    known = {layer.name for layer in before.layers}
    pairs = [
        LayerPair(
            before=_state(layer, times[0]),
            after=_state(news[layer.name], times[1]) if layer.name in news else None,
        )
        for layer in before.layers
    ]
    shown = {layer.name for origin, layer in news.items() if origin in known}
    pairs += [
        LayerPair(after=_state(layer, times[1]))
        for layer in after.layers
        if layer.name not in shown
    ]
    return tuple(pairs)


def _named(model: ir.Model) -> ir.Model:
    """A copy in which every node has its name, as `inspect` sees it."""
    copy = clone(model)
    normalize(copy)
    return copy


def _times(kernels: Kernels) -> dict[str, float]:
    """Seconds by the name of the node that does the work of a kernel."""
    times: dict[str, float] = defaultdict(float)
    fused = []
    for kernel in kernels.all:
        node = kernels.behind(kernel)
        if node is not None and node.op_type in kernel.op_type:
            times[node.name or ""] += kernel.seconds
        elif node is not None:
            fused.append((kernel, node))
    for kernel, node in fused:
        worker = _worker(node, kernel.op_type, times)
        times[(worker or node).name or ""] += kernel.seconds
    return times


def _worker(node: ir.Node, op_type: str, known: Container[str]) -> ir.Node | None:
    """The node whose kernel is named after `node`, which was fused into it.

    Like the convolution before a sum and its activation: the nearest such node that has no
    kernel of its own name.
    """
    level = [node]
    for _ in range(_FUSED):
        level = [
            producer
            for one in level
            for value in one.inputs
            if value is not None and (producer := value.producer()) is not None
        ]
        for found in level:
            if found.op_type in op_type and found.name not in known:
                return found
    return None


def _state(layer: LayerCost, times: dict[str, float]) -> LayerState:
    seconds = times.get(layer.name)
    return LayerState(
        name=layer.name,
        op_type=layer.op_type,
        precision=layer.weight_type,
        channels=_channels(layer),
        macs=layer.macs,
        size_bytes=layer.size_bytes,
        latency_us=None if seconds is None else seconds * 1e6,
    )


def _channels(layer: LayerCost) -> int | None:
    """The size of the output's channel axis: behind the batch for images, else the last one."""
    shape = layer.output_shape
    if not shape or layer.weight_shape is None:
        return None
    spatial = len(layer.weight_shape) > 2 and len(shape) > 2
    return shape[1] if spatial else shape[-1]
