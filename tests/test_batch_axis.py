"""Batch axes: from names, from a doubled batch or from the caller, and used in every cut."""

from __future__ import annotations

import logging
import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import onnxlite as ol
from onnxlite.batch_axis import batch_specs, bind
from onnxlite.cli import app
from onnxlite.errors import OptionError, SamplesError
from onnxlite.holdout import SampleStream
from onnxlite.inputs import InputSpec, feed_size, input_specs, join, separated, settled, trim
from onnxlite.model import load
from onnxlite.runtime import Session
from onnxlite.samples import Samples
from tests.odd_models import parse

RNG = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["": 17]> '


def recurrent(x: str, state: str, *, batch_first: bool = False) -> onnx.ModelProto:
    """An LSTM with its states, and a layer behind it; the shapes are those of the inputs."""
    perm = "<perm=[1,0,2]>" if batch_first else "<perm=[0,1,2]>"
    return parse(
        f"{HEAD} g (float[{x}] x, float[{state}] h, float[{state}] c)"
        " => (float[a,b,5] y, float[1,d,8] hn, float[1,d,8] cn)"
        " <float[1,32,4] w, float[1,32,8] r, float[8,5] v, int64[1] one = {1}>"
        f" {{ t = Transpose{perm}(x) l, hn, cn = LSTM<hidden_size=8>(t, w, r, , , h, c)"
        f" s = Squeeze(l, one) u = Transpose{perm}(s) y = MatMul(u, v) }}"
    )


def graph(nodes: str = "nodes", edges: str = "edges") -> onnx.ModelProto:
    """Two layers over the edges `[2, edges]` of a graph."""
    layer = (
        "{o} = Gather<axis=0>({x}, from) {o}m = MatMul({o}, {w}) {o}z = Mul({h}, zero)"
        ' {o}s = ScatterND<reduction="add">({o}z, to, {o}m) {o}y = Relu({o}s)'
    )
    return parse(
        f"{HEAD} g (float[{nodes},6] x, int64[2,{edges}] e) => (float[{nodes},6] y)"
        " <float[6,6] w1, float[6,6] w2, float zero = {0}, int64 i = {0}, int64 j = {1},"
        " int64[1] last = {-1}>"
        " { from = Gather<axis=0>(e, i) t = Gather<axis=0>(e, j) to = Unsqueeze(t, last) "
        + layer.format(o="a", x="x", h="x", w="w1")
        + " "
        + layer.format(o="b", x="ay", h="ay", w="w2")
        + " y = Add(by, x) }"
    )


def cached(batch: str = "batch") -> onnx.ModelProto:
    """A step of a decoder: token, its position, and the past of one layer."""
    return parse(
        f"{HEAD} g (float[{batch},T,8] x, float[T,8] p, float[2,{batch},P,8] past)"
        f" => (float[{batch},T,8] y, float[2,{batch},Q,8] now)"
        " <float[8,8] wk, float[8,8] wv, float[8,8] wq, int64[1] zero = {0}>"
        " { s = Add(x, p) k = MatMul(s, wk) v = MatMul(s, wv) q = MatMul(s, wq)"
        " ku = Unsqueeze(k, zero) vu = Unsqueeze(v, zero) new = Concat<axis=0>(ku, vu)"
        " now = Concat<axis=2>(past, new) ks, vs = Split<axis=0>(now)"
        " kk = Squeeze(ks, zero) vv = Squeeze(vs, zero) kt = Transpose<perm=[0,2,1]>(kk)"
        " d = MatMul(q, kt) a = Softmax<axis=-1>(d) y = MatMul(a, vv) }"
    )


def axes(proto: onnx.ModelProto) -> dict[str, int | None]:
    return {spec.name: spec.batch_axis for spec in batch_specs(load(proto))}


def named_axes(proto: onnx.ModelProto) -> tuple[dict[str, int | None], bool]:
    specs = input_specs(load(proto))
    return {spec.name: spec.batch_axis for spec in specs}, settled(specs)


STATES = {"x": 1, "h": 1, "c": 1}
FIRST = {"x": 0, "h": 1, "c": 1}


class TestNames:
    @pytest.mark.parametrize(
        ("x", "state", "expected"),
        [
            ("T,batch,4", "1,batch,8", STATES),
            ("batch_size,T,4", "1,batch_size,8", FIRST),
            ("N,T,4", "1,N,8", FIRST),
            ("time,n,4", "1,n,8", STATES),
            ("seq_len,bs,4", "1,bs,8", STATES),
            ("sequence,batchSize,4", "1,batchSize,8", STATES),
        ],
    )
    def test_states(self, x, state, expected):
        assert named_axes(recurrent(x, state)) == (expected, True)

    @pytest.mark.parametrize(
        ("x", "state"), [("?,?,4", "1,?,8"), ("time,?,4", "1,?,8"), ("A,B,4", "1,C,8")]
    )
    def test_not_settled(self, x, state):
        assert not named_axes(recurrent(x, state))[1]

    def test_cache(self):
        assert named_axes(cached()) == ({"x": 0, "p": None, "past": 1}, True)

    def test_graph_is_not_settled(self):
        assert not named_axes(graph())[1]
        assert not named_axes(graph("N", "E"))[1]

    def test_adjacency_is_not_settled(self):
        text = f"{HEAD} g (float[N,4] x, float[N,N] a) => (float[N,4] y) {{ y = MatMul(a, x) }}"
        assert not named_axes(parse(text))[1]

    @pytest.mark.parametrize("size", ["N", "?", "unk__7", "3", "batch"])
    def test_first_axes_cost_no_run(self, size, monkeypatch):
        text = (
            f"{HEAD} g (float[{size},4] x, float[{size},4] z, float s) => (float[{size},4] y)"
            " { a = Add(x, z) y = Mul(a, s) }"
        )
        monkeypatch.setattr("onnxlite.batch_axis.checking_session", None)
        assert axes(parse(text)) == {"x": 0, "z": 0, "s": None}

    def test_fixed_sizes(self):
        assert named_axes(recurrent("1,7,4", "1,7,8", batch_first=True)) == (
            {"x": 0, "h": 0, "c": 0},
            True,
        )


class TestRun:
    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("names", [("?,?,4", "1,?,8"), ("A,B,4", "1,C,8")])
    def test_states(self, names, batch_first):
        found = axes(recurrent(*names, batch_first=batch_first))
        assert found == (FIRST if batch_first else STATES)

    @pytest.mark.parametrize("names", [(), ("?", "?"), ("N", "E"), ("num_nodes", "num_edges")])
    def test_graph_is_one_sample(self, names):
        assert axes(graph(*names)) == {"x": None, "e": None}

    def test_adjacency_is_one_sample(self):
        text = f"{HEAD} g (float[N,4] x, float[N,N] a) => (float[N,4] y) {{ y = MatMul(a, x) }}"
        assert axes(parse(text)) == {"x": None, "a": None}

    def test_other_names_of_first_axes(self):
        text = f"{HEAD} g (float[A,4] x, float[B,4] z) => (float[A,4] y) {{ y = Add(x, z) }}"
        assert axes(parse(text)) == {"x": 0, "z": 0}

    def test_fixed_vector(self):
        text = f"{HEAD} g (float[N,4] x, float[4] z) => (float[N,4] y) {{ y = Add(x, z) }}"
        assert axes(parse(text)) == {"x": 0, "z": None}

    def test_length_that_is_a_batch(self):
        text = f"{HEAD} g (float[seq,4] x) => (float[seq,4] y) {{ y = Relu(x) }}"
        assert axes(parse(text)) == {"x": 0}

    def test_model_that_takes_no_generated_input(self, caplog):
        text = (
            f"{HEAD} g (float[A,B] x, float[C,D] z) => (float[A,B] y)"
            " <int64[2] s = {7,13}> { r = Reshape(x, s) q = Reshape(z, s) y = Add(r, q) }"
        )
        assert axes(parse(text)) == {"x": 0, "z": 0}
        assert "are not certain" in caplog.text


class TestGiven:
    def test_one_axis_for_all(self):
        specs = batch_specs(load(recurrent("?,?,4", "1,?,8")), 1)
        assert [spec.batch_axis for spec in specs] == [1, 1, 1]

    def test_by_name_others_are_derived(self):
        specs = batch_specs(load(recurrent("?,?,4", "1,?,8")), {"h": -2})
        assert [spec.batch_axis for spec in specs] == [1, 1, 1]

    def test_none(self):
        specs = batch_specs(load(cached()), {"x": None, "past": None})
        assert [spec.batch_axis for spec in specs] == [None, None, None]

    @pytest.mark.parametrize("wrong", [{"z": 0}, {"x": 3}, 7])
    def test_wrong(self, wrong):
        with pytest.raises(OptionError, match="batch_axis"):
            batch_specs(load(cached()), wrong)

    def test_holds_for_samples_of_samples(self):
        model = load(recurrent("?,?,4", "1,?,8"))
        data = bind(model, states(9), {"x": 1, "h": 1, "c": 1})
        first = Samples(data, input_specs(model), batch_size=4)
        again = Samples(SampleStream(first).between(2, 7), input_specs(model))
        assert [feed["h"].shape for feed in again] == [(1, 2, 8), (1, 3, 8)]


def states(count: int, length: int = 5) -> dict[str, np.ndarray]:
    shapes = {"x": (length, count, 4), "h": (1, count, 8), "c": (1, count, 8)}
    return {n: RNG.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def edges(nodes: int, count: int) -> dict[str, np.ndarray]:
    x = RNG.standard_normal((nodes, 6)).astype(np.float32)
    return {"x": x, "e": RNG.integers(0, nodes, (2, count))}


class TestFiles:
    def test_states_in_one_file(self, tmp_path):
        np.savez(tmp_path / "a.npz", **states(10))
        specs = input_specs(load(recurrent("T,batch,4", "1,batch,8")))
        samples = Samples(tmp_path / "a.npz", specs, batch_size=4)
        assert [feed["x"].shape for feed in samples] == [(5, 4, 4), (5, 4, 4), (5, 2, 4)]
        assert samples.count() == 10
        assert Samples(tmp_path, specs, limit=3).count() == 3

    def test_each_file_of_a_folder_is_a_feed(self, tmp_path):
        for index in range(6):
            np.savez(tmp_path / f"{index}.npz", **edges(3 + index, 2 * index))
        model = load(graph())
        samples = Samples(bind(model, tmp_path), input_specs(model))
        assert samples.count() == 6
        assert [feed["x"].shape[0] for feed in samples] == [3, 4, 5, 6, 7, 8]
        session = Session(model)
        assert [session.run(feed)["y"].shape[0] for feed in samples] == [3, 4, 5, 6, 7, 8]

    def test_lengths_differ_between_files(self, tmp_path):
        for length in (3, 9, 4):
            np.savez(tmp_path / f"{length}.npz", **states(2, length))
        samples = Samples(tmp_path, input_specs(load(recurrent("T,batch,4", "1,batch,8"))))
        assert [feed["x"].shape for feed in samples] == [(3, 2, 4), (4, 2, 4), (9, 2, 4)]

    def test_stacked_graphs(self):
        model = load(graph())
        data = {k: np.stack([v] * 3) for k, v in edges(5, 7).items()}
        samples = Samples(bind(model, data), input_specs(model))
        assert [feed["e"].shape for feed in samples] == [(2, 7)] * 3

    def test_whole_input_goes_into_every_feed(self):
        specs = input_specs(load(cached()))
        data = {"x": np.ones((5, 2, 8)), "p": np.ones((2, 8)), "past": np.ones((2, 5, 3, 8))}
        feeds = list(Samples(data, specs, batch_size=2))
        assert [feed["past"].shape for feed in feeds] == [(2, 2, 3, 8), (2, 2, 3, 8), (2, 1, 3, 8)]
        assert all(feed["p"].shape == (2, 8) for feed in feeds)

    def test_fixed_state_goes_into_every_feed(self):
        specs = [InputSpec("x", "float32", (1, 4)), InputSpec("h", "float32", (2, 1, 8), 1)]
        data = {"x": np.ones((3, 4)), "h": np.ones((2, 1, 8))}
        assert [feed["h"].shape for feed in Samples(data, specs)] == [(2, 1, 8)] * 3

    def test_numbers_that_differ_name_the_option(self):
        specs = input_specs(load(recurrent("T,batch,4", "1,batch,8")))
        with pytest.raises(SamplesError, match="batch_axis"):
            Samples({**states(4), "h": np.ones((1, 5, 8))}, specs)

    def test_unused_samples_are_named_once(self, caplog):
        proto = parse(f"{HEAD} g (float[4,6] x) => (float[4,6] y) {{ y = Relu(x) }}")
        model = load(proto)
        data = bind(model, np.ones((9, 6), np.float32))
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                Samples(data, input_specs(model)).count()
        assert caplog.text.count("do not fill a batch") == 1


SPECS = (
    InputSpec("x", "float32", ("T", "N", 3), 1),
    InputSpec("h", "float32", (2, "N"), 1),
    InputSpec("p", "float32", ("T",), None),
    InputSpec("s", "float32", (), None),
)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_cuts_partition_the_samples(count, size, first, second):
    shapes = {"x": (4, count, 3), "h": (2, count), "p": (4,), "s": ()}
    data = {n: RNG.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    stream = SampleStream(Samples(data, SPECS, batch_size=size))
    cut_at = min(first, count)
    parts = [*stream.between(0, cut_at), *stream.between(cut_at, count)]
    whole = join(parts, SPECS)
    assert all(np.array_equal(whole[name], data[name]) for name in data)
    assert [feed_size(one, SPECS) for one in separated(data, SPECS) or ()] == [1] * count
    assert feed_size(trim(data, SPECS, second) or {}, SPECS) == min(second, count)
    left = stream.without([second % count]) if count > 1 else None
    assert left is None or left.count() == count - 1


class TestSteps:
    """Steps on models whose first axes are not the batch."""

    def test_static_with_states(self):
        model = recurrent("?,?,4", "1,?,8")
        result = ol.quantize_static(model, states(24), observer="auto", threads=1)
        assert result.report.changed, result.report.summary
        found = ol.compare(model, result.model, samples=states(6))
        assert found.samples == 6
        assert found.sqnr_db > 20

    def test_static_with_graphs(self):
        data = [edges(4 + index, 9) for index in range(12)]
        result = ol.quantize_static(graph(), data, observer="auto", threads=1)
        assert result.report.changed, result.report.summary
        assert ol.compare(graph(), result.model, samples=data).samples == 12

    @pytest.mark.parametrize("batch_axis", [None, {"past": 1, "p": None}])
    def test_weights_and_float16_with_a_cache(self, batch_axis):
        data = {"x": np.ones((6, 2, 8)), "p": np.ones((2, 8)), "past": np.ones((2, 6, 3, 8))}
        data = {name: RNG.standard_normal(a.shape).astype(np.float32) for name, a in data.items()}
        model, given = cached(), {"samples": data, "batch_axis": batch_axis}
        assert ol.to_float16(model, **given).usable
        assert ol.prune_weights(model, sparsity=0.1, **given).usable
        assert ol.quantize_dynamic(model, **given).usable

    def test_benchmark_batch(self):
        model = recurrent("?,?,4", "1,?,8")
        latency = ol.benchmark(model, model, batch_size=3, rounds=2, memory=False)
        assert latency.inputs["x"][1] == latency.inputs["h"][1] == 3
        given = ol.benchmark(model, model, samples=states(9), batch_size=2, rounds=2, memory=False)
        assert given.inputs == {"x": (5, 2, 4), "h": (1, 2, 8), "c": (1, 2, 8)}

    def test_inspect(self):
        assert ol.inspect(recurrent("?,?,4", "1,?,8")).batch_axes == STATES
        assert ol.inspect(graph()).batch_axes == {"x": None, "e": None}
        assert ol.inspect(cached(), batch_axis={"x": None}).batch_axes["x"] is None


def test_command_line(tmp_path):
    onnx.save(recurrent("?,?,4", "1,?,8"), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **states(12))
    call = ["to-float16", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "--json"]
    call += ["--no-benchmark", "--batch-axis", "x=1", "--batch-axis", "h=1", "--batch-axis"]
    assert CliRunner().invoke(app, [*call, "c=1"]).exit_code == 0
    wrong = CliRunner().invoke(app, [*call, "c=none"])
    assert wrong.exit_code != 0, wrong.output
    onnx.save(cached(), tmp_path / "k.onnx")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "k.onnx")])
    assert "x 0, p none, past 1" in shown.stdout
    given = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.onnx"), "--batch-axis", "1"])
    assert re.search("batch axis +1 ", given.stdout)


class TestImageSize:
    TEXT = "g (float[{0}] x) => (float[n,4,a,b] y) <float[4,3,3,3] w> {{ y = Conv(x, w) }}"

    @pytest.mark.parametrize(
        ("dims", "imgsz", "expected"),
        [
            ("n,3,h,w", "[320, 256]", (1, 3, 320, 256)),
            ("?,3,?,?", "64", (1, 3, 64, 64)),
            ("n,3,48,w", "[320, 256]", (1, 3, 48, 256)),
        ],
    )
    def test_metadata(self, dims, imgsz, expected):
        model = load(parse(HEAD + self.TEXT.format(dims)))
        model.metadata_props["imgsz"] = imgsz
        summary = ol.inspect(model)
        assert summary.macs_inputs["x"] == expected
        assert summary.macs == (expected[2] - 2) * (expected[3] - 2) * 4 * 27
        assert any("imgsz" in note for note in summary.notes)

    def test_without_metadata_the_size_is_noted_as_made_up(self):
        summary = ol.inspect(parse(HEAD + self.TEXT.format("n,3,h,w")))
        assert any("made-up" in note for note in summary.notes)
        fixed = ol.inspect(parse(HEAD + self.TEXT.format("n,3,48,48")))
        assert fixed.notes == ()
