"""Shapes of values after the removal of units, computed without removing them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap
from onnxlite.ops import Ids


class PrunedShapes:
    """Shapes of a model's values without the first units of every group.

    Args:
        channels: units of the model; they are not changed.
        orders: for every group its units in order of removal; empty for groups that keep all.

    Attributes:
        removed: number of removed units of every group; the caller sets it.
    """

    def __init__(self, channels: ChannelMap, orders: Sequence[Ids]) -> None:
        self._shape_of = channels.shape_of
        self.removed = [0] * len(orders)
        group_of = np.full(len(channels.root), -1)
        rank_of = np.zeros(len(channels.root), np.int64)
        for group, order in enumerate(orders):
            group_of[order] = group
            rank_of[order] = np.arange(len(order))
        self._counts: dict[tuple[ir.Node, str], tuple[int, Ids]] = {}
        for recount in channels.recounts:
            if isinstance(recount.where, str) and recount.entry is None:
                line = _first_line(channels.root[recount.ids], recount.axis)
                self._counts[recount.node, recount.where] = (len(line), line)
        self._group_of, self._rank_of = group_of, rank_of
        # For every value: axis, group, and the number of positions of the first n units.
        self._losses: dict[ir.Value, list[tuple[int, int, NDArray[np.int64]]]] = defaultdict(list)
        for value, axis, line in _lines(channels):
            groups = group_of[line]
            for group in np.unique(groups[groups >= 0]).tolist():
                ranks = rank_of[line[groups == group]]
                counts = np.bincount(ranks, minlength=len(orders[group]))
                lost = np.concatenate([[0], np.cumsum(counts)])
                self._losses[value].append((axis, group, lost))

    def groups_of(self, value: ir.Value | None) -> set[int]:
        """Return the groups on which the shape of a value depends."""
        return set() if value is None else {group for _, group, _ in self._losses.get(value, ())}

    def varying(self, value: ir.Value) -> set[int]:
        """Return the axes of a value that lose positions with units."""
        return {axis for axis, _, _ in self._losses.get(value, ())}

    def count(self, node: ir.Node, attribute: str) -> int | None:
        """Value of an attribute that counts units without those removed, else None."""
        if (node, attribute) not in self._counts:
            return None
        total, line = self._counts[node, attribute]
        groups = self._group_of[line]
        lost = (groups >= 0) & (self._rank_of[line] < np.array(self.removed)[groups])
        return total - int(lost.sum())

    def shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Shape of a value without the removed units; None if it is unknown."""
        shape = self._shape_of(value)
        if shape is None or value is None or value not in self._losses:
            return shape
        sizes = list(shape)
        for axis, group, lost in self._losses[value]:
            sizes[axis] -= int(lost[self.removed[group]])
        return tuple(sizes)


def _first_line(ids: Ids, axis: int) -> Ids:
    return np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)[:, 0]


def _lines(channels: ChannelMap) -> Iterator[tuple[ir.Value, int, Ids]]:
    """Yield the unit of every slice of every value, for each axis with different units."""
    for value, ids in channels.values.items():
        roots = channels.root[ids]
        for axis in range(roots.ndim):
            moved = np.moveaxis(roots, axis, 0).reshape(roots.shape[axis], -1)
            if (moved != moved[:1]).any():
                yield value, axis, moved[:, 0]
    for (value, axis), line in channels.slices.items():
        # All groups of axis 0 lose the same number of slices, so the first one is enough.
        yield value, axis, channels.root[np.atleast_2d(line)[0]]
