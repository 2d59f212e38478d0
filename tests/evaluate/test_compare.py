"""`compare` on pairs of small models whose difference is known."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from models.tasks import task_net, task_samples
from onnxlite.errors import ExecutionError, OptionError, SamplesError, VerificationError
from onnxlite.evaluate import Fidelity, compare
from onnxlite.model import load
from onnxlite.task_metrics import Segmentation
from tests.odd_models import NOT_RUNNABLE, ODD, feeds, odd, parse

X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)


def scaled(
    factor: float, *, source: str = "x", result: str = "y", batch: str = "n"
) -> onnx.ModelProto:
    return parse(f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[{batch},4] {source}) => (float[{batch},4] {result}) <float k = {{{factor}}}>
        {{ {result} = Mul({source}, k) }}""")


@pytest.mark.parametrize("name", sorted(set(ODD) - NOT_RUNNABLE))
def test_a_model_is_identical_to_itself(name: str) -> None:
    fidelity = compare(odd(name), odd(name), samples=feeds(name))
    assert fidelity.sqnr_db == math.inf
    assert all(row.equal == 1.0 for row in fidelity.outputs)
    assert "identical" in str(fidelity)


def test_a_known_error() -> None:
    fidelity = compare(scaled(1.0), scaled(1.1), samples=X)
    assert fidelity.samples == 20
    assert fidelity.sqnr_db == pytest.approx(20.0, abs=1e-4)
    assert fidelity.agreement == 1.0
    (row,) = fidelity.outputs
    assert row.max_abs == pytest.approx(0.1 * np.abs(X).max(), rel=1e-5)
    assert row.cosine == pytest.approx(1.0)
    assert str(fidelity) == "SQNR 20.0 dB, regression 1 -> 0.9896 on 20 samples"
    assert msgspec.json.decode(msgspec.json.encode(fidelity), type=Fidelity) == fidelity


def test_new_nan_is_worse_than_any_error() -> None:
    root = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) { y = Sqrt(x) }""")
    fidelity = compare(scaled(1.0), root, samples=X)
    assert fidelity.outputs[0].broken == int((X < 0).sum())
    assert fidelity.sqnr_db == -math.inf


def test_labels_give_the_accuracy_of_both() -> None:
    labels = X.argmax(1)
    fidelity = compare(scaled(1.0), scaled(-1.0), samples=X, labels=labels.tolist())
    (metric,) = fidelity.metrics
    assert (metric.name, metric.reference) == ("accuracy", 1.0)
    assert metric.candidate == (X.argmin(1) == labels).mean()
    assert fidelity.agreement == metric.candidate
    assert "accuracy 1 -> 0" in str(fidelity)


def test_a_metric_sees_all_outputs_in_order() -> None:
    def total(outputs: dict[str, np.ndarray]) -> float:
        np.testing.assert_allclose(np.abs(outputs["y"]), np.abs(X))
        return float(outputs["y"].sum())

    fidelity = compare(scaled(1.0), scaled(-1.0), samples=X, metric=total)
    (metric,) = fidelity.metrics
    assert metric.name == "total"
    assert metric.reference == pytest.approx(X.sum(), rel=1e-5)
    assert metric.candidate == pytest.approx(-metric.reference)


def test_names_may_differ_and_it_says_so() -> None:
    fidelity = compare(scaled(1.0), scaled(1.0, source="input", result="output"), samples=X)
    assert fidelity.sqnr_db == math.inf
    assert fidelity.outputs[0].name == "y"
    assert len(fidelity.notes) == 2
    assert all("by position" in note for note in fidelity.notes)


def test_a_fixed_batch_of_one_model_holds_for_both() -> None:
    assert compare(scaled(1.0), scaled(1.0, batch="5"), samples=X).samples == 20


def test_generated_inputs_without_samples() -> None:
    fidelity = compare(scaled(1.0), scaled(1.0))
    assert fidelity.notes == ("compared on generated inputs",)
    assert fidelity.samples > 0


def test_limit_and_progress() -> None:
    seen: list[tuple[str, int, int]] = []
    fidelity = compare(
        scaled(1.0), scaled(1.0), samples=X, limit=12, progress=lambda *step: seen.append(step)
    )
    assert fidelity.samples == 12
    assert seen == [("compare", 1, 0), ("compare", 2, 0)]


def test_files_and_integer_outputs(tmp_path: Path) -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (int64[n] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }""")
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    fidelity = compare(path, str(path), samples=X, labels=X.argmax(1))
    assert fidelity.metrics[0].candidate == 1.0
    assert fidelity.outputs[0].sqnr_db is None
    assert fidelity.sqnr_db == math.inf


def noisy(output: str) -> onnx.ModelProto:
    return parse(f"""<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y)
        {{ {output} = RandomNormalLike(x)  y = Add(x, {output}) }}""")


def test_random_nodes_draw_the_same_where_names_agree() -> None:
    fidelity = compare(noisy("noise"), noisy("noise"), samples=X)
    assert fidelity.sqnr_db == math.inf
    assert fidelity.notes == ()


def test_random_nodes_of_other_names_are_noted() -> None:
    fidelity = compare(noisy("noise"), noisy("other"), samples=X)
    assert fidelity.sqnr_db < 6
    (note,) = fidelity.notes
    assert "random nodes have other names" in note


def test_a_sequence_is_left_out() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y, seq(float[n,4]) s)
        { y = Relu(x)  s = SequenceConstruct(x, y) }""")
    fidelity = compare(proto, proto, samples=X)
    assert [row.name for row in fidelity.outputs] == ["y"]
    assert fidelity.notes == ("'s' is no tensor: not compared",)


OTHER = {
    "another input shape": (
        "(float[n,5] x) => (float[n,5] y) { y = Relu(x) }",
        OptionError,
        r"x: float32\[n, 4\].*x: float32\[n, 5\]",
    ),
    "another number of inputs": (
        "(float[n,4] x, float[n,4] z) => (float[n,4] y) { y = Add(x, z) }",
        OptionError,
        "cannot be compared",
    ),
    "another number of outputs": (
        "(float[n,4] x) => (float[n,4] a, float[n,4] b) { a = Relu(x) b = Relu(x) }",
        OptionError,
        "outputs are",
    ),
    "another output shape": (
        "(float[n,4] x) => (float[n] y) { y = ReduceMax<axes = [1], keepdims = 0>(x) }",
        VerificationError,
        r"'y' is \[8\].*\[8, 4\]",
    ),
    "does not run": (
        "(float[n,4] x) => (float[n,4] y) { y = NoSuchOperator(x) }",
        ExecutionError,
        "cannot load",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_models_that_cannot_be_compared(name: str) -> None:
    text, error, message = OTHER[name]
    other = parse(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    with pytest.raises(error, match=message):
        compare(scaled(1.0), other, samples=X)


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(SamplesError, match="20 samples"):
        compare(scaled(1.0), scaled(1.0), samples=X, labels=[1, 2])
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4,1] y) <int64[1] a = {2}> { y = Unsqueeze(x, a) }""")
    with pytest.raises(OptionError, match="do not fit the metric 'accuracy'"):
        compare(proto, proto, samples=X, labels=X.argmax(1))


def test_a_metric_needs_outputs_of_one_size() -> None:
    ragged = [{"x": np.ones((2, 4), np.float32)}, {"x": np.ones((3, 4), np.float32)}]
    flat = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[4,n] y) { y = Transpose<perm = [1,0]>(x) }""")
    with pytest.raises(OptionError, match="samples of one size"):
        compare(flat, flat, samples=ragged, metric=lambda outputs: float(outputs["y"].sum()))


def test_the_task_metric_is_proposed_on_real_inputs_and_says_why() -> None:
    model, samples = load(task_net("YOLOv8")), task_samples("YOLOv8", 40)
    fidelity = compare(model, model, samples=samples)
    (metric,) = fidelity.metrics
    assert (metric.name, metric.drop, metric.candidate) == ("detection", 0, 1)
    assert "as YOLOv8 has them" in metric.reason
    assert "1% of the detections" in metric.meaning
    assert metric.details["recall"] == 1
    assert fidelity.agreement is None
    assert compare(model, model).metrics == ()


def test_a_metric_by_name_beside_labels() -> None:
    fidelity = compare(scaled(1.0), scaled(-1.0), samples=X, metric="sqnr", labels=X.argmax(1))
    noise, accuracy = fidelity.metrics
    assert (noise.name, noise.drop) == ("sqnr", pytest.approx(4))
    assert (accuracy.name, accuracy.reference) == ("accuracy", 1.0)


def test_samples_without_anything_to_lose_are_undecided() -> None:
    metric = Segmentation("y", "mask", threshold=99.0)
    fidelity = compare(scaled(1.0), scaled(1.0), samples=X, metric=metric)
    assert fidelity.metrics[0].drop is None
    assert "segmentation undecided" in str(fidelity)
