"""Tied noise: the same on every run and in every model, with the moments of what it replaces."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlite.graph import iter_graphs
from onnxlite.model import load, to_bytes
from onnxlite.normalize import normalize
from onnxlite.ops import is_random, noise_seed, random_outputs, tie_noise
from onnxlite.runtime import Session, probe_feeds, tapped
from tests.odd_models import parse

X = np.zeros((3, 7, 100), np.float32)


def model(
    body: str, *, inputs: str = "float[a,b,c] x", outputs: str = "float[a,b,c] y"
) -> ir.Model:
    return load(parse(
        f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    ))  # fmt: skip


def run(each: ir.Model, **feed: np.ndarray) -> dict[str, np.ndarray]:
    return Session(each, threads=1).run(feed)


LIKE = model("y = RandomNormalLike(x)")


def test_every_run_of_every_session_is_the_same():
    session = Session(LIKE, threads=1)
    first = session.run({"x": X})["y"]
    assert np.array_equal(session.run({"x": X})["y"], first)
    assert np.array_equal(run(LIKE, x=X)["y"], first)
    assert first.std() > 0.9


def test_drawn_keeps_the_operator():
    session = Session(LIKE, threads=1, random="drawn")
    assert not np.array_equal(session.run({"x": X})["y"], session.run({"x": X})["y"])


def test_the_model_is_not_changed():
    before = to_bytes(LIKE)
    run(LIKE, x=X)
    assert to_bytes(LIKE) == before


def test_a_file_with_random_operators_is_tied(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(to_bytes(LIKE))
    assert np.array_equal(Session(path).run({"x": X})["y"], run(LIKE, x=X)["y"])


def test_a_model_without_random_operators_is_not_copied():
    for body in ("y = Relu(x)", "y = Dropout(x)"):
        plain = model(body)
        assert tie_noise(plain) is plain


def test_nodes_before_it_do_not_shift_the_noise():
    more = model("z = RandomNormalLike(x)  s = Add(x, z)  y = RandomNormalLike(s)")
    found = Session(tapped(more, ["z"])).run({"x": X})
    assert np.array_equal(found["y"], run(LIKE, x=X)["y"])
    # Other names give other noise.
    assert abs(np.corrcoef(found["y"].ravel(), found["z"].ravel())[0, 1]) < 0.1


def test_another_seed_gives_other_noise():
    first = run(LIKE, x=X)["y"]
    with noise_seed(1):
        assert not np.array_equal(run(LIKE, x=X)["y"], first)
    assert np.array_equal(run(LIKE, x=X)["y"], first)


@pytest.mark.parametrize(
    ("node", "mean", "std"),
    [
        ("RandomNormalLike<mean=2.0, scale=3.0>(x)", 2, 3),
        ("RandomUniformLike<low=-1.0, high=3.0>(x)", 1, 4 / 12**0.5),
        ("RandomNormal<shape=[300,100], scale=0.5>()", 0, 0.5),
        ("RandomUniform<shape=[300,100]>()", 0.5, 12**-0.5),
    ],
)
def test_moments(node, mean, std):
    y = run(model(f"y = {node}", outputs="y"), x=np.zeros((3, 100, 100), np.float32))["y"]
    assert y.mean() == pytest.approx(mean, abs=0.02 * std)
    assert y.std() == pytest.approx(std, rel=0.02)
    assert len(np.unique(y)) > 0.9 * y.size


@given(shape=st.lists(st.integers(0, 5), min_size=0, max_size=4))
@settings(max_examples=20, deadline=None)
def test_any_shape(shape):
    axes = ",".join("abcd"[: len(shape)])
    declared = f"float[{axes}]" if shape else "float"
    net = model("y = RandomNormalLike(x)", inputs=f"{declared} x", outputs=f"{declared} y")
    assert run(net, x=np.zeros(shape, np.float32))["y"].shape == tuple(shape)


@pytest.mark.parametrize(("to", "dtype"), [(10, np.float16), (11, np.float64)])
def test_types(to, dtype):
    assert run(model(f"y = RandomNormalLike<dtype={to}>(x)", outputs="y"), x=X)["y"].dtype == dtype
    inner = model(f"h = Cast<to={to}>(x) y = RandomUniformLike(h)", outputs="y")
    assert run(inner, x=X)["y"].dtype == dtype


def test_bernoulli_has_its_probabilities():
    p = np.full((3, 100, 100), 0.3, np.float32)
    y = run(model("y = Bernoulli(x)"), x=p)["y"]
    assert set(np.unique(y)) == {0, 1}
    assert y.mean() == pytest.approx(0.3, abs=0.02)


def test_multinomial_has_its_probabilities():
    logits = np.log(np.float32([[0.1, 0.2, 0.7], [0.5, 0.5, 1e-30]]))
    net = model(
        "y = Multinomial<sample_size=5000, dtype=7>(x)",
        inputs="float[n,c] x",
        outputs="int64[n,s] y",
    )
    y = run(net, x=logits)["y"]
    assert (y.shape, y.dtype) == ((2, 5000), np.int64)
    for row, want in zip(y, ([0.1, 0.2, 0.7], [0.5, 0.5, 0]), strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / 5000, want, atol=0.03)


DROPOUT = "y, m = Dropout(x, r, t)"
RATIO = "float r, bool t"


def test_dropout_that_trains():
    net = model(DROPOUT, inputs=f"float[a,b,c] x, {RATIO}", outputs="float[a,b,c] y, bool[a,b,c] m")
    feed = {
        "x": np.ones((3, 100, 100), np.float32),
        "r": np.array(0.25, np.float32),
        "t": np.array(True),
    }
    found = run(net, **feed)
    assert found["m"].mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_allclose(found["y"], found["m"] / 0.75, rtol=1e-6)
    found = run(net, **feed | {"t": np.array(False)})
    assert found["m"].all()
    assert np.array_equal(found["y"], feed["x"])


LOOP = """<ir_version: 8, opset_import: ["": 17]> g (float[n] x) => (float[n] last, float[k,n] y)
    { c = Constant<value = int64 {3}>()  go = Constant<value = bool {1}>()
      last, y = Loop(c, go, x) <body = b (int64 i, bool g_in, float[n] s) =>
        (bool g_out, float[n] s_out, float[n] drawn)
        { g_out = Identity(g_in)  r = RandomNormalLike(s)
          s_out = Add(s, r)  drawn = Identity(r) }> }"""
FUNCTION = """<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[n] x) => (float[n] y)
    { h = own.noisy(x)  y = Add(h, x) }
    <domain: "own", opset_import: ["": 17]> noisy (a) => (b)
    { n = RandomNormalLike<dtype=1>(a)  b = Add(a, n) }"""
IF = """<ir_version: 8, opset_import: ["": 17]> g (float[n] x, bool c) => (float[n] y)
    { y = If(c) <then_branch = t () => (float[n] p) { p = RandomNormalLike(x) },
                 else_branch = e () => (float[n] q) { q = RandomUniformLike(x) }> }"""


@pytest.mark.parametrize("text", [LOOP, FUNCTION, IF])
def test_inside_of_bodies_and_functions(text):
    net = load(parse(text))
    assert random_outputs(net)
    assert random_outputs(tie_noise(net)) == []
    feed = {"x": np.zeros(50, np.float32), "c": np.array(True)}
    feed = {name: feed[name] for name in Session(net).input_names}
    first, second = run(net, **feed), run(net, **feed)
    for name in first:
        assert np.array_equal(first[name], second[name])
        assert first[name].std() > 0.5


def test_every_iteration_draws_anew():
    y = run(load(parse(LOOP)), x=np.zeros(50, np.float32))["y"]
    assert abs(np.corrcoef(y)[np.triu_indices(3, 1)]).max() < 0.5


@pytest.mark.parametrize("opset", [9, 10])
def test_old_operator_sets_keep_their_operators(opset):
    net = load(parse(f'<ir_version: 4, opset_import: ["": {opset}]> g (float[n] x) => (float[n] y)'
                     " { y = RandomNormalLike(x) }"))  # fmt: skip
    assert [n.op_type for g in iter_graphs(tie_noise(net)) for n in g] == ["RandomNormalLike"]
    probe_feeds(net)


def test_dropout_of_inference_is_not_random():
    (node,) = model("y = Dropout(x)").graph
    assert not is_random(node)


def test_inlined_functions_draw_the_same():
    net = load(parse(FUNCTION.replace("y = Add(h, x)", "z = own.noisy(h)  y = Add(z, x)")))
    inlined = load(net)
    normalize(inlined)
    assert not inlined.functions
    feed = {"x": np.zeros(50, np.float32)}
    assert np.array_equal(run(inlined, **feed)["y"], run(net, **feed)["y"])
