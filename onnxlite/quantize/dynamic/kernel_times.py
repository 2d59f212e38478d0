"""Time of integer kernels relative to the float layer, measured per layer and cached.

A model of the layer alone runs on one thread, with the shapes that it has in the full model, in
float and on every kernel in turn. The cache stores ratios of processor times, which depend little
on the load of the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxlite.cache import Cache, CacheKey, NumberTable
from onnxlite.errors import ExecutionError
from onnxlite.graph import const_tensor
from onnxlite.inputs import Feed
from onnxlite.machine import machine
from onnxlite.model import clone
from onnxlite.ops import ShapeOf
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.dynamic.kernels import Kernel, LayerWriter
from onnxlite.runtime import Session
from onnxlite.timing import time_ratios
from onnxlite.timing.layer_times import one_layer

logger = logging.getLogger(__name__)

_BUDGET_S = 0.25


class KernelTimes:
    """Time of kernels relative to the float layer, cached or measured.

    Args:
        cache: store of ratios between processes; None takes the user's cache.
    """

    def __init__(self, *, cache: Cache | None = None) -> None:
        modules = ("onnxlite.quantize.dynamic", "onnxlite.timing")
        key = CacheKey("kernel-times", modules, {"machine": str(machine())})
        self._ratios = NumberTable(cache or Cache(), key)

    def ratios(
        self,
        model: ir.Model,
        node: ir.Node,
        shape_of: ShapeOf,
        kernels: Sequence[Kernel],
        target: Target,
    ) -> dict[str, float] | str:
        """Return the time of each kernel over the float layer's, by kernel name.

        Args:
            model: the model of the node; its opset versions are used.
            node: the float layer.
            shape_of: the shapes of its inputs.
            kernels: the kernels that support the node.
            target: the target of the kernels.

        Returns:
            The ratios, or the reason why the layer cannot be measured.
        """
        shapes = [shape_of(value) for value in node.inputs]
        if any(s is None and v is not None for s, v in zip(shapes, node.inputs, strict=True)):
            return "the shapes of its inputs are unknown: give samples that run it"
        attributes = sorted((name, str(attr.value)) for name, attr in node.attributes.items())
        constant = [const_tensor(value) is not None for value in node.inputs]
        layer = f"{node.op_type} {attributes} {shapes} {constant} {target.name}"
        keys = {kernel.name: f"{layer} {kernel.name}" for kernel in kernels}
        if any(key not in self._ratios for key in keys.values()):
            try:
                alone = one_layer(model, node, shape_of, {})
                measured = self._measure(alone, kernels, target)
            except ExecutionError as error:
                logger.info("%s cannot be measured alone: %s", node.name, error)
                return f"it cannot be measured alone: {error}"
            for name, ratio in measured.items():
                self._ratios[keys[name]] = ratio
        return {name: self._ratios[key] for name, key in keys.items()}

    def keep(self) -> None:
        """Write the measured ratios to the cache."""
        self._ratios.flush()

    @staticmethod
    def _measure(alone: ir.Model, kernels: Sequence[Kernel], target: Target) -> dict[str, float]:
        sessions = [Session(alone, threads=1)]
        for kernel in kernels:
            copy = clone(alone)
            kernel.write(LayerWriter(copy), next(iter(copy.graph)), target)
            sessions.append(Session(copy, threads=1))
        rng = np.random.default_rng(0)
        feed: Feed = {
            value.name or "": rng.standard_normal(value.shape.numpy()).astype(np.float32)
            for value in alone.graph.inputs
            if value.shape is not None
        }
        ratios = time_ratios(sessions, feed, budget_s=_BUDGET_S)
        return {kernel.name: ratio for kernel, ratio in zip(kernels, ratios, strict=True)}
