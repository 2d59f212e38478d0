"""Labellings against all labellings, on a net with every kind of neighbour."""

from __future__ import annotations

import functools
import itertools
import math

import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlite.model import load
from onnxlite.ops import spec_of
from onnxlite.quantize.core.plan import Placement, reads_integers
from onnxlite.quantize.core.prepare import prepare
from onnxlite.quantize.core.selection import place, read_by_layer, source
from onnxlite.quantize.core.targets import TARGETS
from onnxlite.quantize.placement.partition import Conversion, Costs, min_cost_partition
from tests.odd_models import parse

# A residual sum, an absorbed Relu, a Tanh in float, a value read by both sides, a Gemm.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,4] y, float[n,4,8,8] z)
    <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c, float[4,4] m, float[4] d>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) u = Conv(r, v, c) a = Add(u, r)
      h = Tanh(a) k = Conv(h, v, c) z = Tanh(k) p = GlobalAveragePool(k) f = Flatten(p)
      y = Gemm(f, m, d) }"""
NODES, VALUES = 6, 7
MICROSECONDS = st.integers(0, 20).map(lambda n: n * 1e-6)


@functools.cache
def largest() -> tuple[ir.Model, Placement]:
    model, _ = prepare(load(parse(NET)))
    assert isinstance(model, ir.Model)
    return model, place(model, TARGETS["cpu"])


def allowed(chosen: set[ir.Node]) -> bool:
    """Nodes without weights read what is made on integers, or what layers may read as such."""
    candidates = set(largest()[1].nodes)
    for node in chosen:
        rule = spec_of(node).quant
        if rule.kind != "compute" and any(
            source(node.inputs[port]) not in chosen
            and not read_by_layer(node.inputs[port], candidates)
            for port in rule.ports(node)
        ):
            return False
    return True


def total(everything: Placement, costs: Costs, chosen: set[ir.Node], weight: float) -> float:
    seconds = sum(
        (costs.on_integers if node in chosen else costs.in_float)[node] for node in everything.nodes
    )
    absorbed = {node.outputs[0] for node in everything.absorbed}
    for value, conversion in costs.conversions.items():
        made = (source(value) if value in absorbed else value.producer()) in chosen
        reads = [reads_integers(use.node, use.idx, chosen) for use in value.uses()]
        if value.is_graph_output():
            reads.append(False)
        if not made and any(reads):
            seconds += weight * conversion.to_integers
        if made and not all(reads):
            seconds += weight * conversion.to_float
    return seconds


@settings(max_examples=60, deadline=None)
@given(
    st.lists(MICROSECONDS, min_size=NODES, max_size=NODES),
    st.lists(MICROSECONDS, min_size=NODES, max_size=NODES),
    st.lists(st.tuples(MICROSECONDS, MICROSECONDS), min_size=VALUES, max_size=VALUES),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_no_labelling_costs_less(
    in_float: list[float],
    on_integers: list[float],
    conversions: list[tuple[float, float]],
    weight: float,
) -> None:
    _, everything = largest()
    assert (len(everything.nodes), len(everything.values)) == (NODES, VALUES)
    costs = Costs(
        dict(zip(everything.nodes, in_float, strict=True)),
        dict(zip(everything.nodes, on_integers, strict=True)),
        {v: Conversion(*c) for v, c in zip(everything.values, conversions, strict=True)},
    )
    chosen = min_cost_partition(everything, costs, conversion_weight=weight)
    assert allowed(chosen)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(everything.nodes, size) for size in range(NODES + 1)
    )
    least = min(
        total(everything, costs, set(subset), weight) for subset in subsets if allowed(set(subset))
    )
    assert math.isclose(total(everything, costs, chosen, weight), least, abs_tol=1e-12)


def test_of_equal_labellings_the_one_with_most_integers() -> None:
    _, everything = largest()
    same = dict.fromkeys(everything.nodes, 1e-6)
    free = dict.fromkeys(everything.values, Conversion(0.0, 0.0))
    chosen = min_cost_partition(everything, Costs(same, same, free), conversion_weight=1.0)
    assert chosen == set(everything.nodes)
