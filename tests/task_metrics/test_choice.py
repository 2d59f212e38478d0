"""Choice of the metric: every kind of output gets the one of its task, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.fastspeech import fastspeech
from models.tasks import NETS, task_net, task_samples
from onnxlite.errors import OptionError
from onnxlite.model import load
from onnxlite.runtime import Session
from onnxlite.task_metrics import (
    METRICS,
    Agreement,
    ChosenMetric,
    Detection,
    MetricRun,
    Observation,
    Sqnr,
    UserFunction,
    choose_metric,
    observe,
    observe_model,
)
from tests.odd_models import parse

#: The metric of each net of `models.tasks`, and a part of the reason.
EXPECTED = {
    "embedding of unit length": ("embedding", "last op Div, vectors of unit length"),
    "tags": ("agreement", "labels of a sample"),
    "landmarks": ("regression", "spread"),
    "age": ("regression", "[n, 1]"),
    "classes of no declared shape": ("agreement", "last op Softmax, probabilities that sum to 1"),
    "classes of pixels": ("segmentation", "5 classes per pixel"),
    "mask": ("segmentation", "near 0 or 1"),
    "super-resolution": ("sqnr", "noise over signal"),
    "heat maps": ("sqnr", "noise over signal"),
    "YOLOv8": ("detection", "as YOLOv8 has them"),
    "YOLOv5": ("detection", "as YOLOv5 has them"),
    "YOLOX": ("detection", "as YOLOX has them"),
    "YOLOv10": ("detection", "as YOLOv10 has them"),
    "SSD": ("detection", "as SSD has them"),
    "DETR": ("detection", "as DETR has them"),
    "classes of tokens": ("agreement", "per token"),
    "generated tokens": ("tokens", "edit distance"),
}


def seen(proto, samples) -> Observation:
    model, feed = load(proto), {"x": samples}
    return observe(model, [(feed, Session(model, threads=1).run(feed), len(samples))])


def chosen(name: str) -> tuple[ChosenMetric, Observation]:
    observed = seen(task_net(name), task_samples(name))
    return choose_metric(None, lambda: observed, labelled=False), observed


def loss(choice: ChosenMetric, observed: Observation, damage) -> float | None:
    run = MetricRun(choice.metric)
    for outputs, samples in observed.runs():
        run.add(outputs, {name: damage(a) for name, a in outputs.items()}, samples)
    return run.result().drop.value


def test_every_net_is_expected() -> None:
    assert EXPECTED.keys() == NETS.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_the_metric_of_a_task(name: str) -> None:
    choice, observed = chosen(name)
    metric, reason = EXPECTED[name]
    assert choice.name == metric
    assert reason in choice.reason
    assert "'" in choice.reason  # names the output
    assert loss(choice, observed, lambda a: a) == 0


@pytest.mark.parametrize("name", EXPECTED)
def test_a_dead_model_fails(name: str) -> None:
    choice, observed = chosen(name)
    assert (loss(choice, observed, np.zeros_like) or 0) > 0.5


@pytest.mark.parametrize("name", sorted(METRICS))
def test_each_metric_says_what_one_percent_means(name: str) -> None:
    assert METRICS[name].name == name
    assert METRICS[name].meaning
    assert "\n" not in METRICS[name].meaning


def vectors(tail: str, weights: str, samples: int = 32):
    proto = parse(f"""<ir_version: 8, opset_import: ["": 17]> g (float[n,8] x) => (float[n,m] y)
        <{weights}> {{ {tail} }}""")
    rows = np.random.default_rng(0).standard_normal((samples, 8)).astype(np.float32)
    return seen(proto, rows)


@pytest.mark.parametrize(
    ("tail", "weights", "metric"),
    [
        ("y = MatMul(x, w)", "float[8,10] w", "agreement"),
        ("t = MatMul(x, w)  y = Add(t, b)", "float[8,10] w, float[10] b", "agreement"),
        ("t = MatMul(x, w)  y = Softmax(t)", "float[8,3] w", "agreement"),
        ("t = MatMul(x, w)  y = LogSoftmax(t)", "float[8,3] w", "agreement"),
        ("t = MatMul(x, w)  e = Exp(t)  s = ReduceSum(e, i)  y = Div(e, s)",
         "float[8,3] w, int64[1] i = {1}", "agreement"),
        ("t = MatMul(x, w)  y = MatMul(t, c)",
         "float[8,3] w, float[3,3] c = {2,-1,-1, -1,2,-1, -1,-1,2}", "agreement"),
        ("t = MatMul(x, w)  y = LayerNormalization(t, g)",
         "float[8,16] w, float[16] g", "embedding"),
        ("y = MatMul(x, w)", "float[8,64] w", "embedding"),
        ("y = MatMul(x, w)", "float[8,1] w", "regression"),
        ("t = MatMul(x, w)  y = Sigmoid(t)", "float[8,1] w", "agreement"),
        ("t = MatMul(x, w)  y = Tanh(t)", "float[8,2] w", "regression"),
    ],
)  # fmt: skip
def test_vectors(tail: str, weights: str, metric: str) -> None:
    observed = vectors(tail, weights)
    assert choose_metric(None, lambda: observed, labelled=False).name == metric


def test_what_is_made_of_a_text_is_no_recognized_text(tmp_path: Path) -> None:
    model = load(fastspeech(tmp_path / "speech.onnx"))
    rng = np.random.default_rng(0)
    observed = observe_model(model, [{"ids": rng.integers(1, 64, (1, 24))} for _ in range(8)])
    choice = choose_metric(None, lambda: observed, labelled=False)
    assert choice.name == "sqnr"
    assert "'spectrogram'" in choice.reason


def test_boxes_without_a_batch_axis_may_be_one_or_many() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[k,5] x) => (float[k,4] boxes, float[k] scores)
        { boxes, s = Split<axis=1>(x, sizes) scores = Squeeze(s, one)
          sizes = Constant<value = int64[2] {4, 1}>() one = Constant<value = int64[1] {1}>() }"""
    proto = parse(text)
    proto.graph.node.sort(key=lambda node: node.op_type != "Constant")
    model, session = load(proto), Session(load(proto), threads=1)
    rng = np.random.default_rng(0)
    feeds = [{"x": np.sort(rng.random((k, 5)).astype(np.float32), axis=1)} for k in (5, 1, 3)]
    single = observe(model, [(feed, session.run(feed), 1) for feed in feeds])
    choice = choose_metric(None, lambda: single, labelled=False)
    assert choice.name == "detection"
    assert loss(choice, single, lambda a: a) == 0
    several = observe(model, [(feed, session.run(feed), len(feed["x"])) for feed in feeds])
    assert choose_metric(None, lambda: several, labelled=False).name != "detection"


def test_labels_call_for_accuracy() -> None:
    observed = vectors("y = MatMul(x, w)", "float[8,10] w")
    assert choose_metric(None, lambda: observed, labelled=True).name == "accuracy"


def test_one_class_on_all_samples_is_said() -> None:
    observed = vectors(
        "t = MatMul(x, w)  u = Add(t, b) y = Softmax(u)", "float[8,2] w, float[2] b = {40, 0}"
    )
    choice = choose_metric(None, lambda: observed, labelled=False)
    assert "have one class" in choice.reason


def test_a_name_is_fitted_to_outputs_that_do_not_propose_it() -> None:
    observed = vectors("y = MatMul(x, w)", "float[8,64] w")
    choice = choose_metric("agreement", lambda: observed, labelled=False)
    assert isinstance(choice.metric, Agreement)
    assert "'y'" in choice.reason
    choice = choose_metric("sqnr", lambda: observed, labelled=False)
    assert isinstance(choice.metric, Sqnr)


def test_objects_and_functions_are_taken_as_they_are() -> None:
    def never() -> Observation:
        raise AssertionError

    metric = Sqnr(("y",))
    assert choose_metric(metric, never, labelled=False).metric is metric

    def mine(outputs):
        return float(outputs["y"].sum())

    choice = choose_metric(mine, never, labelled=False)
    assert isinstance(choice.metric, UserFunction)
    assert (choice.name, choice.metric.cache_name) == ("mine", None)


def test_a_wrong_choice_is_refused() -> None:
    observed = vectors("y = MatMul(x, w)", "float[8,10] w")
    with pytest.raises(OptionError, match="no metric 'f1'"):
        choose_metric("f1", lambda: observed, labelled=False)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="needs labels"):
        choose_metric("accuracy", lambda: observed, labelled=False)
    with pytest.raises(
        OptionError, match=r"do not fit the metric 'detection'.*Detection\(decoder\)"
    ):
        choose_metric("detection", lambda: observed, labelled=False)


def test_states_and_masks_that_are_passed_through_are_not_judged() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8] x, int64[n,5] mask) => (float[n,8] state, int64[n,5] kept, float[n,1] y)
        <float[8,1] w> { state = Tanh(x) kept = Identity(mask) t = MatMul(x, w) y = Sigmoid(t) }""")
    model = load(proto)
    rng = np.random.default_rng(0)
    feed = {
        "x": rng.standard_normal((32, 8)).astype(np.float32),
        "mask": rng.integers(0, 2, (32, 5)),
    }
    observed = observe(model, [(feed, Session(model, threads=1).run(feed), 32)])
    choice = choose_metric(None, lambda: observed, labelled=False)
    assert choice.name == "agreement"
    assert "'y'" in choice.reason


def test_detection_takes_a_decoder() -> None:
    def decoder(outputs):
        return [np.array([[0, 0, 8, 8, score, 1.0]]) for score in outputs["y"]]

    metric = Detection(decoder)
    assert metric.cache_name is None
    run = MetricRun(metric)
    run.add({"y": np.array([0.75, 0.75])}, {"y": np.array([0.75, 0.5])}, 2)
    # F1 over confidence thresholds from 0.25: weights 0.5 and 0.5 against 0.5 and 0.25.
    assert run.result().drop.value == pytest.approx(1 - 0.75 / 0.875)
