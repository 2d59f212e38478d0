"""ONNX Runtime behind one door: sessions, taps on inner values, probes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onnxlite import runtime as runtime_module
from onnxlite.errors import ExecutionError
from onnxlite.model import load, to_bytes
from onnxlite.runtime import Session, check_loads, probe_feeds, run_all, tapped, version
from tests.odd_models import NOT_RUNNABLE, ODD, odd, parse

SMALL = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,2] x) => (float[n,2] z) <float[2,2] w = {1, 2, 3, 4}>
    { m = MatMul(x, w)  y = Relu(m)  z = Neg(y) }"""
X = np.float32([[1, -1], [0, 1]])


class TestSession:
    def test_runs(self):
        session = Session(load(parse(SMALL)), threads=1)
        assert (session.input_names, session.output_names) == (("x",), ("z",))
        assert session.run({"x": X})["z"].tolist() == [[0, 0], [-3, -4]]

    def test_runs_a_path(self, tmp_path):
        (tmp_path / "m.onnx").write_bytes(parse(SMALL).SerializeToString())
        assert Session(tmp_path / "m.onnx").run({"x": X})["z"].tolist() == [[0, 0], [-3, -4]]

    def test_runs_a_model_with_external_data(self, external_model):
        feed = {"x": np.ones((3, 32), np.float32)}
        model = load(external_model)
        np.testing.assert_array_equal(
            Session(model).run(feed)["y"], Session(external_model).run(feed)["y"]
        )

    @pytest.mark.parametrize(
        "outputs", ["float[n,4] y, float[4] m, float[4] v", "float[4] m", "float[n,4] y"]
    )
    def test_a_run_leaves_its_inputs_alone(self, outputs):
        net = f"""<ir_version: 8, opset_import: ["": 15]>
            g (float[n,4] x, float[4] s, float[4] b, float[4] mean, float[4] var)
            => ({outputs})
            {{ y, m, v = BatchNormalization<training_mode=1>(x, s, b, mean, var) }}"""
        session = Session(load(parse(net)), threads=1)
        feed = {name: np.ones(4, np.float32) for name in ("s", "b", "mean", "var")}
        feed["x"] = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
        before = {name: array.copy() for name, array in feed.items()}
        for _ in range(2):
            session.run(feed)
        assert all(np.array_equal(feed[name], before[name]) for name in feed)

    def test_a_large_model_goes_through_a_file(self, external_model, monkeypatch, tmp_path):
        monkeypatch.setattr(runtime_module, "PROTO_LIMIT_BYTES", 1000)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        output = Session(load(external_model)).run({"x": np.ones((1, 32), np.float32)})["y"]
        assert output.shape == (1, 16)
        assert list((tmp_path / "temporary").iterdir()) == []

    @pytest.mark.parametrize("level", ["all", "extended", "basic", "none"])
    def test_optimization_levels_agree(self, level):
        (output,) = run_all(load(parse(SMALL)), [{"x": X}], optimization=level)
        assert output["z"].tolist() == [[0, 0], [-3, -4]]

    def test_profile_and_optimized_model(self, tmp_path):
        session = Session(
            load(parse(SMALL)),
            profile=tmp_path / "profile",
            optimized_path=tmp_path / "optimized.onnx",
            optimization="basic",
        )
        session.run({"x": X})
        profile = session.end_profiling()
        assert profile.parent == tmp_path
        assert any(event.get("cat") == "Node" for event in json.loads(profile.read_text()))
        assert [node.op_type for node in load(tmp_path / "optimized.onnx").graph] == [
            "MatMul", "Relu", "Neg",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("feed", "message"),
        [
            ({}, "x"),
            ({"x": X.astype(np.float64)}, r"x: float64\[2, 2\]"),
            ({"x": X[0]}, r"x: float32\[2\]"),
            ({"x": X, "y": X}, "y: float32"),
        ],
    )
    def test_wrong_feed(self, feed, message):
        with pytest.raises(ExecutionError, match=f"cannot run the model.*{message}"):
            Session(load(parse(SMALL))).run(feed)

    @pytest.mark.parametrize("name", sorted(NOT_RUNNABLE - {"no outputs"}))
    def test_refused_model(self, name):
        with pytest.raises(ExecutionError, match="ONNX Runtime cannot load the model: "):
            check_loads(load(odd(name)))

    def test_missing_path(self, tmp_path):
        with pytest.raises(ExecutionError, match="cannot load the model"):
            Session(tmp_path / "no.onnx")

    @pytest.mark.parametrize("name", ["plain", "If", "Loop", "function"])
    def test_loads(self, name):
        check_loads(load(odd(name)))


class TestTaps:
    def test_inner_values(self):
        model = load(parse(SMALL))
        before = to_bytes(model)
        copy = tapped(model, ["m", "z", "no such value", "m", "x", "w"])
        assert [value.name for value in copy.graph.outputs] == ["z", "m"]
        assert run_all(copy, [{"x": X}], optimization="none")[0]["m"].tolist() == [[-2, -2], [3, 4]]
        assert to_bytes(model) == before

    def test_value_without_a_type(self):
        """onnx_ir writes an output without its type; ONNX Runtime infers it."""
        copy = tapped(load(parse(SMALL)), ["y"])
        assert run_all(copy, [{"x": X}])[0]["y"].tolist() == [[0, 0], [3, 4]]


class TestProbe:
    @pytest.mark.parametrize("name", [n for n in ODD if n not in NOT_RUNNABLE | {"no shapes"}])
    def test_finds_feeds(self, name):
        feeds = probe_feeds(load(odd(name)), count=2)
        assert len(feeds) == 2
        run_all(load(odd(name)), feeds)

    def test_tries_sizes(self):
        text = """<ir_version: 8, opset_import: ["": 17]>
            g (float[n,1,h,w] x) => (float[n,1,a,b] y) <float[1,1,30,30] k> { y = Conv(x, k) }"""
        assert probe_feeds(load(parse(text)))[0]["x"].shape[2:] == (32, 32)

    @pytest.mark.parametrize("names", ["?,?|1,?", "n,len|1,?", "n,len|1,n", "?,3|1,?"])
    def test_axes_without_names(self, names):
        """A state whose batch axis is the second one and, in some exports, has no name."""
        data, state = names.split("|")
        text = f"""<ir_version: 8, opset_import: ["": 17]>
            g (float[{data}] x, float[{state}, 1] h) => (float[] y) <int64[1] a = {{0}}>
            {{ s = Squeeze(h, a)  y = Concat<axis=1>(x, s) }}"""
        feed = probe_feeds(load(parse(text)))[0]
        assert feed["x"].shape[0] == feed["h"].shape[1]

    def test_makes_no_huge_input(self):
        text = """<ir_version: 8, opset_import: ["": 17]>
            g (float[a,b,c,d,e] x, float[?,?,?,?,?] z) => (float[] y) <float[1,7] w>
            { s = Concat<axis=4>(x, z)  y = MatMul(s, w) }"""
        with pytest.raises(ExecutionError, match="no generated input is accepted, give samples"):
            probe_feeds(load(parse(text)))

    def test_gives_up_with_a_request(self):
        text = """<ir_version: 8, opset_import: ["": 17]>
            g (float[?,?] x) => (float[?,?] y) <float[7,7] w> { y = MatMul(x, w) }"""
        with pytest.raises(ExecutionError, match="no generated input is accepted, give samples"):
            probe_feeds(load(parse(text)))

    def test_is_repeatable(self):
        model = load(parse(SMALL))
        first, second = probe_feeds(model, seed=3), probe_feeds(model, seed=3)
        np.testing.assert_array_equal(first[1]["x"], second[1]["x"])


def test_version():
    assert tuple(int(part) for part in version().split(".")[:2]) >= (1, 22)
