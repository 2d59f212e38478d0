"""Units: a union-find over integer ids, with bindings to weights and pins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.ops import Ids


class UnionFind:
    """Disjoint sets of ids; the smallest id of a set is its root. Id 0 is never joined."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._count = 1

    def mint(self, count: int) -> Ids:
        """Create `count` new ids, each in a set of its own."""
        start, self._count = self._count, self._count + count
        while self._count > len(self._parent):
            old = len(self._parent)
            self._parent = np.concatenate([self._parent, np.arange(old, 2 * old)])
        return np.arange(start, self._count)

    def roots(self, ids: Ids) -> Ids:
        """Return the root of every id, with path compression."""
        parent = self._parent
        roots = parent[ids]
        while not ((above := parent[roots]) == roots).all():
            parent[roots] = parent[above]
            roots = above
        parent[ids] = roots
        return roots

    def all_roots(self) -> Ids:
        """Return the roots of all ids, indexed by id."""
        return self.roots(np.arange(self._count))

    def join(self, a: Ids, b: Ids) -> None:
        """Join the sets at the same positions of two arrays of one shape."""
        pairs = np.unique(np.stack([a.reshape(-1), b.reshape(-1)], 1), axis=0)
        for left, right in pairs[pairs[:, 0] != pairs[:, 1]].tolist():
            x, y = self._root(left), self._root(right)
            self._parent[max(x, y)] = min(x, y)

    def _root(self, x: int) -> int:
        parent = self._parent
        while (above := int(parent[x])) != x:
            parent[x] = parent[above]
            x = above
        return x


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Units that cannot be removed, the reason, and the node (`where`)."""

    ids: Ids
    reason: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Slices of an initializer along one axis that belong to units.

    Attributes:
        value: the initializer.
        uses: (node, port) pairs of this binding. A matrix has one binding for all its uses; a
            vector has one per use, because exporters share equal vectors between unrelated
            layers.
        axis: axis of the initializer.
        line: unit of every slice, 0 for slices that are never removed; two-dimensional if
            axis 0 is in groups, see `Tracker.bind`.
        fill: see `Tracker.bind`.
    """

    value: ir.Value
    uses: Sequence[tuple[ir.Node, int]]
    axis: int
    line: Ids
    fill: float | None


@dataclass(frozen=True, kw_only=True)
class Recount:
    """A constant number of positions of `ids` along `axis`; see `Tracker.recount`."""

    node: ir.Node
    where: int | str
    entry: int | None
    ids: Ids
    axis: int


@dataclass(frozen=True, kw_only=True)
class Reindex:
    """A constant list of indices into an axis whose units are `line`."""

    node: ir.Node
    port: int
    line: Ids


def in_groups(
    array: NDArray[Any], line: NDArray[Any]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Split an array by the groups of `line`; yield views, each with its line."""
    lines = np.atleast_2d(line)
    return zip(np.split(array, len(lines)), lines, strict=True)
