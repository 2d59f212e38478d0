"""Where integers start from: next to a boundary where the reference has the weight there.

Rounding took a part of a step from each weight. Integers that start at what was rounded are the
same, and those that rounding could as well have moved the other way cross the boundary first;
from whole numbers all of them are half a step away from the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import const_array, iter_nodes

#: How far from a whole number they may start: less than half, so that they stay.
_WITHIN = 0.45
#: Where the reference is a step of many away, the weight was changed for another reason than
#: rounding.
ONE_STEP = 1.0


class Originals:
    """The constants of a reference; None where there is none.

    Args:
        reference: normalised, as the student is; None leaves every constant unknown.
    """

    def __init__(self, reference: ir.Model | None) -> None:
        self._constants = {} if reference is None else reference.graph.initializers
        nodes = [] if reference is None else list(iter_nodes(reference))
        self._nodes = {node.name: node for node in nodes if node.name}

    def named(self, value: ir.Value) -> NDArray[Any] | None:
        """The constant with the name of a value."""
        return const_array(self._constants.get(value.name or ""))

    def read_by(self, node: ir.Node, port: int) -> NDArray[Any] | None:
        """What the node of the same name and operator reads there."""
        found = self._nodes.get(node.name or "")
        if found is None or found.op_type != node.op_type or port >= len(found.inputs):
            return None
        return const_array(found.inputs[port])


def rest(
    original: NDArray[Any] | None, now: NDArray[Any], step: NDArray[Any], most: float = np.inf
) -> NDArray[np.float32]:
    """What rounding took from a weight, in steps; zero where that is not known.

    Args:
        original: what was rounded.
        now: the rounded weight.
        step: of its integers, spread to the shape of `now` or to be broadcast to it.
        most: steps; what is further off counts as unknown.
    """
    if original is None or original.shape != now.shape:
        return np.zeros(now.shape, np.float32)
    found = (original - now) / np.where(step == 0, 1, step)
    near = np.where(np.abs(found) < most, found, 0)
    return near.clip(-_WITHIN, _WITHIN).astype(np.float32)


def spread_step(source: ir.Node, rank: int) -> NDArray[Any] | None:
    """The scale of a DQ node along its axis; None for one in blocks."""
    scale = const_array(source.inputs[1])
    if scale is None or (scale.ndim > 1 and scale.size > 1):
        return None
    shape = [1] * rank
    attribute = source.attributes.get("axis")
    if scale.size > 1:
        shape[attribute.as_int() if attribute is not None else 1] = -1
    spread: NDArray[Any] = scale.reshape(shape)
    return spread
