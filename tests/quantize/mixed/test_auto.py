"""Static, dynamic or float: what is taken, and why the others are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from onnxlite import quantize_auto
from onnxlite.errors import OptionError
from onnxlite.fidelity import worst_sqnr_db
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.quantize.core.options import QuantizedLayer, QuantizeStaticReport
from onnxlite.quantize.dynamic.kernel_times import KernelTimes
from onnxlite.quantize.dynamic.options import DynamicLayer, QuantizeDynamicReport
from onnxlite.quantize.mixed import auto as choice
from onnxlite.quantize.mixed import dynamic_layers
from onnxlite.quantize.mixed.candidate_metrics import (
    CandidateMetrics,
    measure_candidate,
)
from onnxlite.quantize.mixed.dynamic_layers import faster_dynamic
from onnxlite.quantize.mixed.options import QuantizeAutoReport
from onnxlite.records import LayerRow
from tests.odd_models import parse

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,128] x) => (float[n,64] y) <float[128,128] w, float[128,64] v>
    { t = MatMul(x, w) r = Relu(t) y = MatMul(r, v) }"""


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 128)).astype(np.float32)


def verdict(sqnr_db: float, latency_ratio: float) -> CandidateMetrics:
    return CandidateMetrics(sqnr_db=sqnr_db, latency_ratio=latency_ratio, size_ratio=0.3)


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    dynamic: CandidateMetrics,
    static: CandidateMetrics,
    fitted: CandidateMetrics | None = None,
    **options: object,
) -> tuple[str, QuantizeAutoReport, list[str]]:
    """What is taken where the candidates measure like this, and how static was rounded."""
    roundings: list[str] = []

    def made(way: str) -> object:
        real = getattr(choice, f"quantize_{way}_ir")

        def run(model, samples, opts, context):  # type: ignore[no-untyped-def]
            if way == "static":
                roundings.append(opts.rounding)
                opts = type(opts)(rounding="nearest")
            else:
                opts = type(opts)(kernel="integer")
            return real(model, samples, opts, context)

        return run

    def judged(_reference: object, candidate, _feeds, **_: object) -> CandidateMetrics:  # type: ignore[no-untyped-def]
        if any(node.op_type == "DynamicQuantizeLinear" for node in candidate.graph):
            return dynamic
        return fitted if fitted is not None and len(roundings) > 1 else static

    monkeypatch.setattr(choice, "quantize_static_ir", made("static"))
    monkeypatch.setattr(choice, "quantize_dynamic_ir", made("dynamic"))
    monkeypatch.setattr(choice, "measure_candidate", judged)
    result, report = quantize_auto(parse(TEXT), rows(32), **options)
    operators = {node.op_type for node in load(result).graph}
    kinds = {"DynamicQuantizeLinear": "dynamic", "QuantizeLinear": "static", "MatMul": "float"}
    return next(kinds[op] for op in kinds if op in operators), report, roundings


@pytest.mark.parametrize(
    ("dynamic", "static", "taken"),
    [
        (verdict(30, 0.5), verdict(40, 0.4), "static"),
        (verdict(30, 0.4), verdict(40, 0.5), "dynamic"),
        (verdict(30, 0.50), verdict(25, 0.49), "dynamic"),  # as fast, and more exact
        (verdict(25, 0.50), verdict(30, 0.51), "static"),
        (verdict(30, 0.5), verdict(19, 0.3), "dynamic"),  # the faster one is too coarse
        (verdict(30, 1.0), verdict(np.inf, 0.99), "float"),  # neither is faster than chance
        (verdict(12, 0.5), verdict(15, 0.5), "float"),
        (verdict(np.inf, 0.5), verdict(30, 0.5), "dynamic"),
    ],
)
def test_choice(
    dynamic: CandidateMetrics, static: CandidateMetrics, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, report, _ = chosen(monkeypatch, dynamic, static, rounding="nearest")
    assert kind == taken
    assert report.changed == (taken != "float")
    assert [row.way for row in report.candidates] == ["dynamic", "static"]
    steps = {"quantize-static", "quantize-dynamic"}
    assert {d.what for d in report.skipped} & steps == steps - {f"quantize-{taken}"}


def test_reasons_are_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    _, report, _ = chosen(monkeypatch, verdict(12, 0.5), verdict(30, 1.2), rounding="nearest")
    assert "12.0 dB, below min_sqnr_db=20" in report.summary
    assert "not faster than float" in report.summary
    kind, _, _ = chosen(
        monkeypatch, verdict(12, 0.5), verdict(30, 1.2), rounding="nearest", min_sqnr_db=10
    )
    assert kind == "dynamic"


def test_slow_rounding_is_for_the_fastest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kind, _, roundings = chosen(patch, verdict(30, 0.4), verdict(40, 0.5))
    assert (kind, roundings) == ("dynamic", ["nearest"])
    kind, report, roundings = chosen(
        monkeypatch, verdict(30, 0.5), verdict(15, 0.4), verdict(25, 0.4)
    )
    assert (kind, roundings) == ("static", ["nearest", "compensated"])
    assert report.candidates[1].sqnr_db == 25


def test_one_way_that_fails_leaves_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,128] x) => (float[n,n] y)
        { t = Transpose(x) y = MatMul(x, t) }"""
    report = quantize_auto(parse(text), rows(16)).report
    assert not report.changed
    assert {d.what for d in report.skipped} == {"quantize-static", "quantize-dynamic"}


def test_samples_that_judge_calibrate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[bytes]] = {"calibrated": set(), "judged": set()}

    def made(report):  # type: ignore[no-untyped-def]
        def run(model, samples, _options, _context):  # type: ignore[no-untyped-def]
            seen["calibrated"] |= {row.tobytes() for feed in samples for row in feed["x"]}
            return model, report(changed=True, summary="")

        return run

    def judged(_a: object, _b: object, feeds, **_: object) -> CandidateMetrics:  # type: ignore[no-untyped-def]
        seen["judged"] |= {row.tobytes() for feed in feeds for row in feed["x"]}
        return verdict(30, 0.5)

    monkeypatch.setattr(choice, "quantize_static_ir", made(QuantizeStaticReport))
    monkeypatch.setattr(choice, "quantize_dynamic_ir", made(QuantizeDynamicReport))
    monkeypatch.setattr(choice, "measure_candidate", judged)
    report = quantize_auto(parse(TEXT), rows(40), rounding="nearest").report
    assert report.hold_out is not None
    assert not report.hold_out.shared
    assert len(seen["calibrated"]) == 32
    assert len(seen["judged"]) == 8
    assert not seen["calibrated"] & seen["judged"]
    report = quantize_auto(parse(TEXT), rows(8), rounding="nearest").report
    assert "one batch" in report.skipped[-1].message


def test_judge_measures() -> None:
    model = load(parse(TEXT))
    feeds = [{"x": rows(8)}]
    same = measure_candidate(model, model, feeds, inputs=input_specs(model), budget_s=0.2)
    assert same.sqnr_db == float("inf")
    assert same.size_ratio == 1
    assert 0.3 < same.latency_ratio < 3
    other = load(parse(TEXT.replace("r = Relu(t)", "r = Abs(t)")))
    assert worst_sqnr_db(model, other, feeds) < 10


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="min_sqnr_db=nan: give a finite number"):
        quantize_auto(parse(TEXT), rows(8), min_sqnr_db=float("nan"))
    with pytest.raises(OptionError, match="choose one of cpu"):
        quantize_auto(parse(TEXT), rows(8), target="qnn")


CONVOLUTION_AND_LSTM = """<ir_version: 8, opset_import: ["": 13]>
    g (float[1,8,20] x) => (float[20,1,32] y)
    <float[16,8,3] c, float[1,128,16] w, float[1,128,32] r, int64[1] one>
    { t = Conv<pads=[1,1]>(x, c) u = Relu(t) v = Transpose<perm=[2,0,1]>(u)
      h = LSTM<hidden_size=32>(v, w, r) y = Squeeze(h, one) }"""


def mixed_net() -> onnx.ModelProto:
    model = parse(CONVOLUTION_AND_LSTM)
    one = next(tensor for tensor in model.graph.initializer if tensor.name == "one")
    one.CopyFrom(onnx.numpy_helper.from_array(np.array([1]), "one"))
    return model


def judged_by_operators(
    monkeypatch: pytest.MonkeyPatch, metrics: dict[str, CandidateMetrics]
) -> None:
    """Let every way pay in each layer, and candidates measure like their way."""

    def judged(_reference: object, candidate, _feeds, **_: object) -> CandidateMetrics:  # type: ignore[no-untyped-def]
        operators = {node.op_type for node in candidate.graph}
        static, dynamic = "QuantizeLinear" in operators, "DynamicQuantizeLSTM" in operators
        return metrics["mixed" if static and dynamic else "static" if static else "dynamic"]

    real = choice.quantize_static_ir

    def everything(model, samples, options, context):  # type: ignore[no-untyped-def]
        return real(model, samples, replace(options, placement="everything"), context)

    monkeypatch.setattr(choice, "quantize_static_ir", everything)
    monkeypatch.setattr(KernelTimes, "ratios", lambda *_: {"lstm": 0.5})
    monkeypatch.setattr(choice, "measure_candidate", judged)


def test_each_layer_is_quantized_the_way_that_suits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pays = {"static": verdict(40, 0.8), "dynamic": verdict(40, 0.7), "mixed": verdict(38, 0.4)}
    judged_by_operators(monkeypatch, pays)
    data = np.random.default_rng(0).standard_normal((40, 8, 20)).astype(np.float32)
    model, report = quantize_auto(mixed_net(), data, rounding="nearest")
    assert [row.way for row in report.candidates] == ["dynamic", "static", "mixed"]
    assert report.summary.startswith("mixed")
    assert report.rest is not None
    assert report.winner is not None
    assert [row.op_type for row in report.winner.layers] == ["Conv"]
    assert [row.op_type for row in report.rest.layers] == ["LSTM"]
    assert not [row for row in report.skipped if "LSTM" in row.node or "no integer" in row.message]
    assert dict(report.counts())["layers-quantized"] == 2
    assert worst_sqnr_db(load(mixed_net()), load(model), [{"x": data[:1]}]) > 20


def test_one_way_is_taken_where_both_together_gain_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    same = {"static": verdict(40, 0.4), "dynamic": verdict(40, 0.7), "mixed": verdict(38, 0.4)}
    judged_by_operators(monkeypatch, same)
    data = np.random.default_rng(0).standard_normal((40, 8, 20)).astype(np.float32)
    report = quantize_auto(mixed_net(), data, rounding="nearest").report
    assert report.rest is None
    assert [row.weight for row in report.stored_weights] == ["w", "r"]
    assert not quantize_auto(
        mixed_net(), data, rounding="nearest", storage=False
    ).report.stored_weights


def test_layers_that_are_faster_dynamic_leave_static(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,16,8] x) => (float[n,16,8] y) <float[16,16,3] c, float[8,8] w, float[16,16,3] d>
        { t = Conv<pads=[1,1]>(x, c) u = MatMul(t, w) y = Conv<pads=[1,1]>(u, d) }"""
    static, dynamic = [layer_row("a"), layer_row("b")], [dynamic_row("b", 0.5)]
    model = parse(text)
    for node, name in zip(model.graph.node, "abc", strict=True):
        node.name = name
    feed = {"x": np.zeros((2, 16, 8), np.float32)}
    for on_integers, found in ((0.6, {"b"}), (0.4, set())):
        monkeypatch.setattr(dynamic_layers, "layer_times", lambda *_, to=on_integers: (1.0, to))
        assert faster_dynamic(load(model), feed, static, dynamic, "cpu") == found
    assert not faster_dynamic(load(model), feed, static, [], "cpu")


def layer_row(name: str) -> LayerRow:
    return QuantizedLayer(name=name, op_type="MatMul", weights=64, channels=8, weight_sqnr_db=40.0)


def dynamic_row(name: str, ratio: float) -> DynamicLayer:
    return DynamicLayer(
        name=name,
        op_type="MatMul",
        kernel="integer",
        time_over_float=ratio,
        weights=64,
        weight_sqnr_db=40.0,
    )


def test_graphs_are_not_cut_to_time_them() -> None:
    """Nodes and edges of a graph are no batch: a cut would leave edges without nodes."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[nodes,64] feat, int64[2,edges] edge) => (float[nodes,64] y)
        <float[64,64] w, float[64,64] v>
        { t = MatMul(feat, w) zero = Constant<value_ints=[0]>() one = Constant<value_ints=[1]>()
          a = Gather<axis=0>(edge, zero) s = Squeeze(a, zero) g = Gather<axis=0>(t, s)
          b = Gather<axis=0>(edge, one) d = Squeeze(b, zero) i = Unsqueeze(d, one)
          u = ScatterND<reduction="add">(t, i, g) y = MatMul(u, v) }"""
    rng = np.random.default_rng(0)
    feeds = [
        {
            "feat": rng.standard_normal((nodes, 64)).astype(np.float32),
            "edge": rng.integers(1, nodes, (2, 2 * nodes)),
        }
        for nodes in rng.integers(8, 20, 16)
    ]
    report = quantize_auto(parse(text), feeds).report
    assert not [row for row in report.skipped if "run the model" in row.message]
    assert report.candidates or "faster" in report.summary
