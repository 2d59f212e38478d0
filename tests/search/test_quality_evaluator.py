"""Quality of candidates: known figures, and every kind of metric."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from models.tasks import task_net, task_samples
from onnxlite.errors import OptionError, SamplesError, VerificationError
from onnxlite.model import load
from onnxlite.search.quality_evaluator import QualityEvaluator
from onnxlite.task_metrics import Segmentation
from tests.odd_models import parse

LINEAR = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3] x) => (float[n,3] y) <float[3,3] w = {1,0,0, 0,1,0, 0,0,1}>
    { y = MatMul(x, w) }"""
X = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]] + 0.1


def linear(weight=None, text=LINEAR):
    proto = parse(text)
    if weight is not None:
        proto.graph.initializer[0].CopyFrom(
            onnx.numpy_helper.from_array(np.asarray(weight, np.float32), "w")
        )
    return load(proto)


def quality_of(weight, metric, **options):
    return QualityEvaluator(linear(), X, metric, **options).evaluate(linear(weight))


def test_the_original_loses_nothing():
    quality = quality_of(np.eye(3), "agreement")
    assert (quality.drop, quality.candidate, quality.samples) == (0, 1, 10)
    assert quality.figures["sqnr_db"].value == math.inf
    assert quality.figures["cosine"].value == pytest.approx(1)
    assert quality.figures["max_error"].value == 0
    assert quality.figures["drop"].high > 0.2  # ten samples prove little


def test_agreement_and_accuracy():
    swapped = np.eye(3)[[1, 0, 2]]  # classes 0 and 1 change places, 2 stays
    quality = quality_of(swapped, "agreement")
    assert quality.candidate == pytest.approx(0.3)
    assert quality.drop == pytest.approx(0.7)
    labels = np.array([1, 0, 2, 1, 0, 2, 1, 0, 2, 1])
    quality = quality_of(swapped, "accuracy", labels=labels)
    assert (quality.reference, quality.candidate) == pytest.approx((0.3, 1.0))
    assert quality.drop == pytest.approx(-0.7)


def test_noise_cosine_and_largest_error():
    quality = quality_of(np.eye(3) * 0.9, "sqnr")
    assert quality.figures["sqnr_db"].value == pytest.approx(20, abs=1e-4)
    assert quality.drop == pytest.approx(0.01, abs=1e-6)
    assert quality.figures["cosine"].value == pytest.approx(1)
    quality = quality_of(np.eye(3) * 0.9, "max-error")
    assert quality.figures["max_error"].value == pytest.approx(0.11)
    assert quality.drop == pytest.approx(0.1)
    assert quality_of(np.eye(3)[[1, 0, 2]], "cosine").drop > 0.2


def test_a_metric_that_gives_one_number_has_no_interval():
    quality = quality_of(np.eye(3) * 0.9, lambda outputs: float(outputs["y"].sum()))
    assert quality.drop == pytest.approx(0.1 * X.sum(), rel=1e-5)
    assert quality.figures["drop"].low is None
    assert quality.metric == "metric"


def test_a_metric_per_sample_has_an_interval_and_gets_the_labels():
    def distance(outputs, labels):
        return -np.abs(outputs["y"].max(axis=1) - labels)

    quality = quality_of(np.eye(3) * 0.9, distance, labels=np.full(10, 1.1))
    assert quality.drop == pytest.approx(0.11, rel=1e-4)
    assert quality.figures["drop"].low <= 0.11 + 1e-6
    assert quality.metric == "distance"


def test_outputs_that_cannot_be_compared_are_errors():
    with pytest.raises(VerificationError, match="NaN or infinite"):
        quality_of(np.full((3, 3), np.nan), "sqnr")
    wide = LINEAR.replace("float[n,3] y", "float[n,4] y").replace(
        "float[3,3] w = {", "float[3,4] w = {0,0,0,"
    )
    with pytest.raises(VerificationError, match="it was"):
        QualityEvaluator(linear(), X, "sqnr").evaluate(linear(text=wide))
    with pytest.raises(SamplesError, match="9 labels for 10"):
        QualityEvaluator(linear(), X, "accuracy", labels=np.zeros(9))
    with pytest.raises(OptionError, match="must return a number"):
        quality_of(np.eye(3), lambda outputs: "good")


def test_quality_does_not_depend_on_kept_outputs(monkeypatch):
    kept = quality_of(np.eye(3) * 0.9, "sqnr")
    monkeypatch.setattr("onnxlite.search.quality_evaluator.MAX_KEPT_BYTES", 1)
    assert quality_of(np.eye(3) * 0.9, "sqnr") == kept


def test_the_metric_that_fits_is_proposed():
    evaluator = QualityEvaluator(linear(), X, None)
    assert evaluator.metric.name == "agreement"
    assert "'y'" in evaluator.metric.reason
    evaluator = QualityEvaluator(linear(), X, None, labels=np.arange(10) % 3)
    assert evaluator.metric.name == "accuracy"


def test_a_dead_detector_loses_everything_and_the_figures_say_how():
    model, samples = load(task_net("YOLOv8")), task_samples("YOLOv8")
    evaluator = QualityEvaluator(model, samples, None)
    assert evaluator.metric.name == "detection"
    same = evaluator.evaluate(model)
    assert same.drop == 0
    assert same.details == {"recall": 1, "iou": pytest.approx(1), "score_error": 0}
    dead = task_net("YOLOv8")
    (bias,) = [t for t in dead.graph.initializer if t.name == "bs"]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(336, -99, np.float32), "bs"))
    quality = evaluator.evaluate(load(dead))
    assert quality.drop == 1
    assert quality.details["recall"] == 0
    assert quality.figures["cosine"].value < 0.1
    for metric in ("cosine", "max-error", "sqnr"):
        assert QualityEvaluator(model, samples, metric).evaluate(load(dead)).drop > 0.9


def test_a_drop_of_something_that_is_not_there_is_undecided():
    metric = Segmentation("y", "mask", threshold=9.0)
    quality = QualityEvaluator(linear(), X, metric).evaluate(linear())
    drop = quality.figures["drop"]
    assert (drop.value, drop.low, drop.high) == (0, 0, 1)
