"""Repair: damage is undone exactly where it can be, structure stays, nothing gets worse."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import RepairReport
from onnxlite.analysis.lineage import record_kept, record_renamed
from onnxlite.errors import OnnxliteError, OptionError
from onnxlite.model import load
from onnxlite.repair import Repair, regression, repair, repair_ir
from onnxlite.repair.engine import FitOptions
from onnxlite.runtime import Session
from tests.odd_models import ODD, feeds, odd, parse
from tests.repair.nets import (
    HEADER,
    LAYERS,
    NET,
    changed,
    images,
    noise,
    noisy,
    outputs,
    pruned,
    weights,
)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_perturbed_layer_is_recovered(kind: str) -> None:
    text, shape = LAYERS[kind]
    reference = parse(f"{HEADER} g ({text}")
    damaged = noisy(reference)
    result = repair(reference, damaged, images(*shape), ridge=1e-9).model
    for name, array in weights(reference).items():
        found = weights(result)[name]
        assert found.shape == array.shape
        np.testing.assert_allclose(found, array, atol=1e-4, err_msg=name)
    x = images(3, *shape[1:], seed=9)
    np.testing.assert_allclose(outputs(result, x), outputs(reference, x), atol=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
def test_affine_undoes_a_factor_per_channel(kind: str) -> None:
    text, shape = LAYERS[kind]
    reference = parse(f"{HEADER} g ({text}")
    damaged = changed(reference, lambda name, a: a * 1.5 if name == "w" else a)
    result = repair(reference, damaged, images(*shape), method="affine", ridge=0).model
    np.testing.assert_allclose(weights(result)["w"], weights(reference)["w"], atol=1e-4)


def test_a_layer_without_bias_gets_one_where_it_costs_nothing() -> None:
    reference = parse(f"{HEADER} g ({LAYERS['Conv'][0]}")
    damaged = onnx.ModelProto()
    damaged.CopyFrom(reference)
    del damaged.graph.node[0].input[2]
    del damaged.graph.initializer[1]
    x = images(16, 3, 6, 6)
    assert noise(damaged, reference, x) > 0.01
    assert noise(repair(reference, damaged, x, ridge=1e-9).model, reference, x) < 1e-8


def test_zeros_stay_and_the_rest_makes_up_for_them() -> None:
    reference = parse(NET)
    damaged = pruned(reference)
    result = repair(reference, damaged, images(64, 3, 8, 8)).model
    for name, array in weights(damaged).items():
        if array.ndim > 1:
            assert (array == 0).mean() > 0.3
            assert np.array_equal(weights(result)[name] == 0, array == 0), name
    x = images(64, 3, 8, 8, seed=1)
    assert noise(result, reference, x) < 0.5 * noise(damaged, reference, x)


def test_dead_channels_stay_dead() -> None:
    reference = parse(NET)

    def kill(name: str, array: np.ndarray) -> np.ndarray:
        dead = array.copy()
        if name in ("w", "b"):
            dead[2] = 0
        return dead

    result = repair(reference, changed(reference, kill), images(64, 3, 8, 8)).model
    assert not weights(result)["w"][2].any()
    assert weights(result)["b"][2] == 0


def test_removed_channels_are_lined_up_by_the_lineage() -> None:
    reference = parse(NET.replace("q = Add(s, r)  p = Relu(q)", "p = Relu(s)"))
    kept = [0, 1, 3, 5]
    axis = {"w": 0, "b": 0, "v": 1}

    def cut(name: str, array: np.ndarray) -> np.ndarray:
        return np.take(array, kept, axis[name]) if name in axis else array

    small = load(changed(reference, cut))
    node = next(node for node in small.graph if node.op_type == "Conv")
    for value in (node.outputs[0], next(iter(node.outputs[0].uses())).node.outputs[0]):
        value.shape = None
    x = images(128, 3, 8, 8)
    reports: list[RepairReport] = []
    unknown, report = repair(reference, small, x)
    reports.append(report)
    assert "6 channels" in reports[0].skipped[0].message or "kept" in reports[0].skipped[0].message
    node.name = "first"
    small.graph.sort()
    original = next(n for n in load(reference).graph if n.op_type == "Conv")
    record_renamed(small, original.name or "", "first")
    record_kept(small, "first", kept)
    result, report = repair(reference, small, x)
    reports.append(report)
    assert not reports[1].skipped
    fresh = images(64, 3, 8, 8, seed=1)
    assert noise(result, reference, fresh) < 0.7 * noise(small, reference, fresh)
    assert noise(unknown, reference, fresh) < noise(small, reference, fresh)


def test_a_model_that_needs_no_repair_stays(caplog: pytest.LogCaptureFixture) -> None:
    reference = parse(NET)
    with caplog.at_level(logging.WARNING):
        result = repair(reference, reference, images(32, 3, 8, 8)).model
    assert "changed nothing" in caplog.text
    assert result == onnx.load_from_string(result.SerializeToString())
    x = images(4, 3, 8, 8)
    assert np.array_equal(outputs(result, x), outputs(reference, x))


def test_a_repair_that_would_make_the_model_worse_is_undone() -> None:
    # The reference's inner values are wrong on purpose: every layer comes closer to its
    # target, and the output, which the Add takes from elsewhere, further from its own.
    text = f"""{HEADER} g (float[n,4] x) => (float[n,4] y) <float[4,4] w, float[4] b, float k>
        {{ t = Gemm(x, w, b)  m = Mul(t, k)  y = Add(m, x) }}"""
    model = changed(parse(text), lambda name, a: np.float32(1) if name == "k" else a)
    reference = changed(
        model, lambda name, a: a * -10 if name in ("w", "b") else np.float32(-0.099)
    )
    result, report = repair(reference, model, images(64, 4))
    assert not report.changed
    assert "undone" in report.summary
    assert np.array_equal(weights(result)["w"], weights(model)["w"])


def test_random_targets_change_nothing() -> None:
    """What does not hold on other samples is chance, and is not learnt."""
    reference = parse(f"{HEADER} g (float[n,40] x) => (float[n,3] y) <float[40,3] w>"
                      "{ y = MatMul(x, w) }")  # fmt: skip
    model = changed(reference, lambda _, a: a + 1e-3 * images(*a.shape, seed=3))
    report = repair(reference, model, images(16, 40)).report
    (row,) = report.layers
    assert row.error <= row.error_before


def test_shared_weights_keep_their_values() -> None:
    reference = parse(
        f"""{HEADER} g (float[n,4] x) => (float[n,4] y) <float[4,4] w, float[4] b>
        {{ t = Gemm(x, w, b)  r = Relu(t)  y = Gemm(r, w, b) }}"""
    )
    damaged = changed(reference, lambda _, a: a + 0.5)
    reports: list[RepairReport] = []
    result, report = repair(reference, damaged, images(64, 4))
    reports.append(report)
    assert np.array_equal(weights(result)["w"], weights(damaged)["w"])
    assert {row.method for row in reports[0].layers} == {"bias"}
    assert len(weights(result)) == 3
    x = images(32, 4, seed=2)
    assert noise(result, reference, x) < noise(damaged, reference, x)
    bare = odd("shared weight")
    reports.append(repair(bare, noisy(bare), images(32, 4)).report)
    assert "shared" in reports[1].skipped[0].message


def test_what_has_no_counterpart_is_skipped() -> None:
    reference = parse(NET)
    other = parse(NET.replace("s = Conv", "zz = Conv").replace("Add(s", "Add(zz"))
    model = load(noisy(other))
    for number, node in enumerate(model.graph):
        node.name = f"new{number}"
    result, report = repair(reference, model, images(32, 3, 8, 8))
    assert ["'zz'" in d.message for d in report.skipped] == [True]
    assert len(report.layers) == 2
    assert isinstance(result, ir.Model)


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_models_survive(name: str) -> None:
    reference = odd(name)
    try:
        Session(load(reference)).run(feeds(name)[0])
    except OnnxliteError:
        pytest.skip("ONNX Runtime does not run it")
    result, report = repair(reference, reference, feeds(name))
    Session(load(result)).run(feeds(name)[0])
    assert not report.changed


def test_bodies_of_control_flow_are_skipped_and_carried_along() -> None:
    text = f"""{HEADER} g (bool flag, float[n,4] x) => (float[n,4] y)
        <float[4,4] w, float[4] b, float[4,4] v>
        {{ t = Gemm(x, w, b)
           y = If(flag) <then_branch = yes () => (float[n,4] a) {{ a = MatMul(t, v) }},
                         else_branch = no () => (float[n,4] c) {{ c = Relu(t) }}> }}"""
    reference = parse(text)
    mixed = [{"flag": np.array(True), "x": images(8, 4, seed=i)} for i in range(16)]
    result, report = repair(reference, noisy(reference), mixed, ridge=1e-9)
    assert "control-flow" in report.skipped[0].message
    np.testing.assert_allclose(weights(result)["w"], weights(reference)["w"], atol=1e-4)


def test_any_batch_and_any_size() -> None:
    text = NET.replace("[n,3,8,8]", "[n,3,h,k]")
    reference = parse(text)
    batches = [images(1 + i % 3, 3, 6 + i % 4, 9, seed=i) for i in range(24)]
    result = repair(reference, noisy(reference, 0.1), batches, ridge=1e-9).model
    x = images(5, 3, 12, 7)
    assert noise(result, reference, x) < 1e-6
    assert [d.dim_param for d in result.graph.input[0].type.tensor_type.shape.dim] == [
        "n", "", "h", "k"]  # fmt: skip


def test_names_select_layers_and_the_report_has_their_errors() -> None:
    reference = parse(NET)
    result, report = repair(reference, noisy(reference), images(32, 3, 8, 8), exclude=["v"])
    report = report
    assert report.step == "repair"
    assert report.changes.layers_repaired == 2
    assert [d.message for d in report.skipped] == ["excluded by name"]
    assert all(row.error < row.error_before for row in report.layers)
    assert np.array_equal(weights(result)["v"], weights(noisy(reference))["v"])


def test_same_seed_same_result() -> None:
    reference = parse(NET)
    x = images(64, 3, 8, 8)
    twice = [
        repair_ir(
            load(reference),
            load(noisy(reference)),
            x,
            FitOptions(repair=Repair(max_rows=300, seed=7)),
        )[0]
        for _ in range(2)
    ]
    assert all(np.array_equal(weights(twice[0])[k], weights(twice[1])[k]) for k in "wvu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "method"),
        ({"ridge": -1.0}, "ridge"),
        ({"max_rows": 0}, "max_rows"),
        ({"include": ["nothing*"]}, "matches 'nothing"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        repair(parse(NET), parse(NET), images(4, 3, 8, 8), **options)


def test_a_reference_with_other_inputs_is_refused() -> None:
    with pytest.raises(OptionError, match="made from"):
        repair(parse(ODD["plain"].replace("x", "z")), parse(NET), images(4, 3, 8, 8))


@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_other_float_types(kind: str) -> None:
    text = (
        f"{HEADER} g (float[n,5] x) => (float[n,4] y) <{kind}[5,4] w, {kind}[4] b>"
        f"{{ a = Cast<to={int(getattr(onnx.TensorProto, kind.upper()))}>(x)"
        "  y2 = Gemm(a, w, b)  y = Cast<to=1>(y2) }"
    )
    reference = parse(text)
    damaged = noisy(reference)
    x = images(256, 5)
    try:
        Session(load(reference)).run({"x": x})
    except OnnxliteError:
        pytest.skip(f"ONNX Runtime has no {kind} Gemm")
    result = repair(reference, damaged, x, ridge=1e-9).model
    assert noise(result, reference, x) < 1e-4 * noise(damaged, reference, x)
    assert result.graph.initializer[0].data_type == reference.graph.initializer[0].data_type


def test_a_very_wide_layer_gets_a_factor_and_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "MAX_FEATURES", 20)
    reference = parse(NET)
    damaged = changed(reference, lambda name, a: a * 1.4 if name in ("w", "v") else a)
    result, report = repair(reference, damaged, images(64, 3, 8, 8), ridge=0)
    assert [row.method for row in report.layers][:2] == ["affine", "affine"]
    np.testing.assert_allclose(weights(result)["v"], weights(reference)["v"], atol=1e-4)


def test_few_samples_are_held_back_row_by_row() -> None:
    reference = parse(NET)
    x = images(6, 3, 8, 8)
    result = repair(reference, noisy(reference), x, include=["w"]).model
    fresh = images(32, 3, 8, 8, seed=4)
    assert noise(result, reference, fresh) < noise(noisy(reference), reference, fresh)


def test_infinite_values_are_skipped() -> None:
    reference = parse(
        f"""{HEADER} g (float[n,4] x) => (float[n,4] y) <float[4,4] w>
        {{ z = Sub(x, x)  i = Div(x, z)  t = MatMul(i, w)  m = IsInf(t)  k = Cast<to=1>(m)
           y = Add(k, x) }}"""
    )
    report = repair(reference, noisy(reference), images(16, 4)).report
    assert "NaN or infinite" in report.skipped[0].message


def test_progress_is_told_and_can_stop_the_work() -> None:
    reference = parse(NET)
    seen: list[tuple[int, int]] = []
    repair(
        reference,
        noisy(reference),
        images(8, 3, 8, 8),
        progress=lambda stage, done, total: seen.append((done, total)),
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_samples_that_do_not_fit_into_memory_are_left_out_and_counted() -> None:
    reference = parse(NET)
    fewer, report = repair_ir(
        load(reference),
        load(noisy(reference)),
        images(400, 3, 8, 8),
        FitOptions(cache_bytes=1 << 18),
    )
    assert "only the first" in report.skipped[0].message
    assert report.layers[-1].rows < 400
    fresh = images(32, 3, 8, 8, seed=4)
    assert noise(fewer, reference, fresh) < noise(noisy(reference), reference, fresh)
