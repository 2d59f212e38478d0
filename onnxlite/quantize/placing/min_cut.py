"""Minimum s-t cut of a small directed graph (Dinitz 1970, on real capacities)."""

from __future__ import annotations

import math
from collections import deque

#: What is left of a capacity below this share of the largest one is rounding.
_ROUNDING = 1e-12


class CutGraph:
    """A directed graph between a source (vertex 0) and a sink (vertex 1)."""

    SOURCE, SINK = 0, 1

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # of every vertex, the edges that leave it
        self._head: list[int] = []
        self._room: list[float] = []  # of edge i; i ^ 1 is the way back
        self._largest = 0.0

    def vertex(self) -> int:
        """Add a vertex."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, tail: int, head: int, capacity: float) -> None:
        """Add an edge: its capacity is the cost of `tail` on the source's side without `head`.

        An infinite one says that `head` is on the source's side wherever `tail` is.
        """
        if capacity <= 0:
            return
        if math.isfinite(capacity):
            self._largest = max(self._largest, capacity)
        for start, end, room in ((tail, head, capacity), (head, tail, 0.0)):
            self._edges[start].append(len(self._head))
            self._head.append(end)
            self._room.append(room)

    def source_side(self) -> set[int]:
        """The source's side of a minimum cut, the largest one if there are several."""
        while (levels := self._levels())[self.SINK] is not None:
            self._saturate(levels)
        # Whatever cannot reach the sink any more may be on the source's side.
        reaching, queue = {self.SINK}, deque([self.SINK])
        while queue:
            for edge in self._edges[queue.popleft()]:
                tail = self._head[edge]
                if tail not in reaching and self._open(edge ^ 1):
                    reaching.add(tail)
                    queue.append(tail)
        return set(range(len(self._edges))) - reaching

    def _open(self, edge: int) -> bool:
        return self._room[edge] > self._largest * _ROUNDING

    def _levels(self) -> list[int | None]:
        """Of every vertex the number of open edges from the source, None if out of reach."""
        levels: list[int | None] = [None] * len(self._edges)
        levels[self.SOURCE] = 0
        queue = deque([self.SOURCE])
        while queue:
            vertex = queue.popleft()
            below = levels[vertex]
            assert below is not None
            for edge in self._edges[vertex]:
                if self._open(edge) and levels[self._head[edge]] is None:
                    levels[self._head[edge]] = below + 1
                    queue.append(self._head[edge])
        return levels

    def _saturate(self, levels: list[int | None]) -> None:
        """Fill paths along rising levels until none is left."""
        following = [0] * len(self._edges)
        path: list[int] = []
        vertex = self.SOURCE
        while True:
            if vertex == self.SINK:
                flow = min(self._room[edge] for edge in path)
                for edge in path:
                    self._room[edge] -= flow
                    self._room[edge ^ 1] += flow
                full = next(i for i, edge in enumerate(path) if not self._open(edge))
                vertex = self._head[path[full] ^ 1]
                del path[full:]
            level = levels[vertex]
            while following[vertex] < len(self._edges[vertex]):
                edge = self._edges[vertex][following[vertex]]
                if self._open(edge) and level is not None and levels[self._head[edge]] == level + 1:
                    break
                following[vertex] += 1
            else:
                if not path:
                    return
                vertex = self._head[path.pop() ^ 1]
                following[vertex] += 1
                continue
            path.append(edge)
            vertex = self._head[edge]
