"""Which branches may end, and that a model without them is the one that has them silenced."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.analysis.branches import branches_of
from onnxlite.analysis.shapes import generated_feed
from tests.odd_models import parse
from tests.topologies.oracle import check_pruned, mapped


def net(body: str, weights: str = "") -> str:
    """A graph on the rows x[n,6]; `body` makes z[n,6] of them, which then is multiplied."""
    return f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,6] x) => (float[n,4] y)
        <float[6,6] s, float[6,8] a, float[8,6] b, float[6,4] e, float[6] f{weights}>
        {{ p = MatMul(x, s) {body} y = MatMul(z, e) }}"""


ENDING = {
    "feed forward": net("h = MatMul(p, a) r = Relu(h) o = MatMul(r, b) z = Add(p, o)"),
    "constant on the left": net("h = MatMul(p, a) o = MatMul(h, b) z = Add(o, p)"),
    "bias and scale": net(
        "h = MatMul(p, a) o = MatMul(h, b) q = Add(o, f) t = Mul(f, q) u = Relu(t) z = Add(p, u)"
    ),
    "sum of three": net("h = MatMul(p, a) o = MatMul(h, b) k = Relu(p) z = Sum(p, o, k)"),
    "two readers": net(
        "h = MatMul(p, a) o = MatMul(h, b) q = MatMul(h, c) t = Add(o, q) z = Add(p, t)",
        ", float[8,6] c",
    ),
    "gate on the branch": net(
        """h = MatMul(p, a) i = MatMul(h, c) d = Sigmoid(i) k = MatMul(d, g) m = Mul(h, k)
        o = MatMul(m, b) z = Add(p, o)""",
        ", float[8,3] c, float[3,8] g",
    ),
    "activation on both sides": net(
        "v = Relu(p) h = MatMul(v, a) o = MatMul(h, b) t = Add(v, o) z = Relu(t)"
    ),
    "clip within": net(
        """v = Clip(p, l, u) h = MatMul(v, a) o = MatMul(h, b) t = Add(v, o) z = Relu(t)""",
        ", float l = {0.0}, float u = {1.0}",
    ),
    "clip closer than the one before": net(
        """v = Relu(p) h = MatMul(v, a) o = MatMul(h, b) t = Add(v, o) z = Clip(t, l, u)""",
        ", float l = {0.0}, float u = {0.1}",
    ),
}
STAYING = {
    "read elsewhere": net("h = MatMul(p, a) o = MatMul(h, b) t = Add(p, o) z = Mul(t, o)"),
    "no sum": net("h = MatMul(p, a) z = MatMul(h, b)"),
    "gates the stream": net("h = MatMul(p, a) o = MatMul(h, b) q = Sigmoid(o) z = Mul(p, q)"),
    "part of a concat": net(
        "h = MatMul(p, a) i = Concat<axis=1>(h, p) o = MatMul(i, c) z = Add(p, o)",
        ", float[14,6] c",
    ),
    "other side is smaller": net("h = MatMul(p, a) o = MatMul(h, b) z = Add(o, f)"),
    "other side has one row": net(
        "k = ReduceMean<axes=[0]>(p) h = MatMul(p, a) o = MatMul(h, b) z = Add(k, o)"
    ),
}


@pytest.mark.parametrize("name", ENDING)
def test_removed_is_silenced(name: str) -> None:
    proto = parse(ENDING[name])
    model, channels = mapped(proto)
    branches = branches_of(model, channels)
    assert [len(channels.groups[group].units) for group in branches] == [8] or "gate" in name
    group = next(g for g in branches if len(channels.groups[g].units) == 8)
    feed = generated_feed(model, batch=3)
    pruned = check_pruned(proto, channels.groups[group].units.tolist(), [feed])
    (branch,) = (b for b in branches.values() if b.group == group)
    names = {node.name for node in pruned.graph}
    ended = {node.name for node in branch.nodes}
    assert ended.isdisjoint(names) or name == "sum of three"
    assert not {"a", "b", "c"} & set(pruned.graph.initializers)


@pytest.mark.parametrize("name", STAYING)
def test_what_is_needed_stays(name: str) -> None:
    assert not branches_of(*mapped(parse(STAYING[name])))


def test_an_activation_that_repeats_goes_too() -> None:
    for name, kept in (
        ("activation on both sides", 1),
        ("clip within", 1),
        ("clip closer than the one before", 2),
    ):
        proto = parse(ENDING[name])
        model, channels = mapped(proto)
        (group,) = branches_of(model, channels)
        pruned = check_pruned(
            proto, channels.groups[group].units.tolist(), [generated_feed(model, batch=3)]
        )
        assert sum(node.op_type in ("Relu", "Clip") for node in pruned.graph) == kept


def test_what_stands_in_its_place_has_the_name() -> None:
    proto = parse(ENDING["activation on both sides"])
    model, channels = mapped(proto)
    (group,) = branches_of(model, channels)
    units = channels.groups[group].units.tolist()
    pruned = check_pruned(proto, units, [generated_feed(model, batch=3)])
    assert [node.outputs[0].name for node in pruned.graph] == ["t", "z", "y"]


def test_of_two_branches_of_one_sum_one_stays() -> None:
    text = net(
        "h = MatMul(p, a) o = MatMul(h, b) i = MatMul(p, c) q = MatMul(i, d) z = Add(o, q)",
        ", float[6,8] c, float[8,6] d",
    )
    model, channels = mapped(parse(text))
    assert len(branches_of(model, channels)) == 1


def test_all_branches_of_a_chain_end_together() -> None:
    text = net(
        """h = MatMul(p, a) o = MatMul(h, b) k = Add(p, o) r = Relu(k)
        i = MatMul(r, c) q = MatMul(i, d) m = Add(r, q) z = Relu(m)""",
        ", float[6,8] c, float[8,6] d",
    )
    model, channels = mapped(parse(text))
    branches = branches_of(model, channels)
    assert len(branches) == 2
    units = np.concatenate([channels.groups[group].units for group in branches]).tolist()
    pruned = check_pruned(parse(text), units, [generated_feed(model, batch=3)])
    assert [node.op_type for node in pruned.graph] == ["MatMul", "Relu", "MatMul"]
    assert pruned.graph[1].outputs[0].name == "z"
