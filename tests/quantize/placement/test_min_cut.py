"""Minimum cuts against all cuts, on random graphs."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlite.quantize.placement.partition import MinCutGraph

VERTICES = 6
Edges = list[tuple[int, int, float]]
EDGES = st.lists(
    st.tuples(
        st.integers(0, VERTICES - 1),
        st.integers(0, VERTICES - 1),
        st.sampled_from([0.0, 1.0, 2.0, 2.5, 7.0, 1e-6, math.inf]),
    ),
    max_size=16,
)


def cost(edges: Edges, side: set[int]) -> float:
    return sum(room for tail, head, room in edges if tail in side and head not in side)


def all_sides() -> list[set[int]]:
    inner = range(2, VERTICES)
    return [
        {0, *chosen}
        for size in range(VERTICES - 1)
        for chosen in itertools.combinations(inner, size)
    ]


@settings(deadline=None)
@given(EDGES)
def test_no_cut_costs_less_and_none_of_equal_cost_is_larger(edges: Edges) -> None:
    # Between source and sink themselves only finite edges, or every cut is infinite.
    edges = [(a, b, c) for a, b, c in edges if a != b and not (c == math.inf and {a, b} & {0, 1})]
    graph = MinCutGraph()
    for _ in range(2, VERTICES):
        graph.vertex()
    for edge in edges:
        graph.edge(*edge)
    side = graph.source_side()
    least = min(cost(edges, other) for other in all_sides())
    assert 0 in side
    assert 1 not in side
    assert math.isclose(cost(edges, side), least, abs_tol=1e-9)
    assert all(other <= side for other in all_sides() if cost(edges, other) <= least)


def test_a_long_chain_is_cut_at_its_cheapest_edge() -> None:
    graph = MinCutGraph()
    chain = [graph.SOURCE, *(graph.vertex() for _ in range(3000)), graph.SINK]
    for index, (tail, head) in enumerate(itertools.pairwise(chain)):
        graph.edge(tail, head, 0.5 if index == 1700 else 1.0)
    assert graph.source_side() == set(chain[:1701])
