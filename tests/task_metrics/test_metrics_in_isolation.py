"""Each metric on outputs whose loss is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlite.errors import OptionError, SamplesError
from onnxlite.task_metrics import (
    Accuracy,
    Agreement,
    ClassHead,
    Cosine,
    Ctc,
    Detection,
    DetectionLayout,
    Embedding,
    MaxError,
    MetricRun,
    Regression,
    SampleLosses,
    Segmentation,
    Sqnr,
    TaskMetric,
    Tokens,
    UserFunction,
)
from onnxlite.task_metrics.boxes import Detections, pairwise_iou, suppressed
from onnxlite.task_metrics.sequences import edit_distance

RNG = np.random.default_rng(0)
TOP = Agreement((ClassHead("y", "top"),))


def result(metric: TaskMetric, one, two, samples: int | None = None) -> SampleLosses:
    one, two = np.asarray(one), np.asarray(two)
    run = MetricRun(metric)
    run.add({"y": one}, {"y": two}, len(one) if samples is None else samples)
    return run.result()


def drop(metric: TaskMetric, one, two, samples: int | None = None) -> float:
    value = result(metric, one, two, samples).drop.value
    assert value is not None
    return value


def test_agreement_counts_samples_tokens_and_labels() -> None:
    scores = np.eye(4)[[0, 1, 2, 3]]
    assert drop(TOP, scores, scores[[0, 1, 3, 3]]) == 0.25
    tokens = Agreement((ClassHead("y", "top", axis=2),))
    assert drop(tokens, scores[None], scores[None, [0, 1, 3, 3]], 1) == 0.25
    labels = Agreement((ClassHead("y", "threshold"),))
    assert drop(labels, [[0.9, 0.8, 0.1]], [[0.9, 0.2, 0.1]]) == 0.5  # 1 of 2 labels in common
    decision = Agreement((ClassHead("y", "threshold"),))
    assert drop(decision, [[0.9], [0.1]], [[0.4], [0.1]]) == 0.5


def test_zeroed_scores_agree_with_no_class() -> None:
    first = np.eye(3)[[0, 0]]
    assert drop(TOP, first, np.zeros((2, 3))) == 1


def test_time_first_outputs_have_their_samples_on_the_second_axis() -> None:
    steps = RNG.standard_normal((7, 2, 5))
    metric = Agreement((ClassHead("y", "top", axis=2, batch_axis=1),))
    other = steps.copy()
    other[:, 0] *= -1
    assert result(metric, steps, other, 2).drop.total[1] == 0
    assert drop(metric, steps, other, 2) == 0.5


def test_accuracy() -> None:
    metric = Accuracy(ClassHead("y", "top"), labels=np.array([0, 1, 1, 0]))
    one, two = np.eye(2)[[0, 1, 0, 0]], np.eye(2)[[0, 0, 0, 0]]
    found = result(metric, one, two)
    assert (found.reference_value, found.drop.value) == (0.75, 0.25)
    with pytest.raises(SamplesError, match=r"labels of shape \[3\] for 4"):
        result(metric.with_labels(np.zeros(3)), one, two)
    with pytest.raises(OptionError, match="needs labels"):
        result(metric.with_labels(None), one, two)


def test_segmentation() -> None:
    areas = np.zeros((1, 2, 10, 10))
    areas[0, 1, :, 5:] = 2
    areas[0, 0] = 1
    other = areas.copy()
    other[0, 1, :, 4] = 2  # one column more
    expected = 1 - (40 / 50 + 50 / 60) / 2
    assert drop(Segmentation("y", "top"), areas, other) == pytest.approx(expected)
    classes = areas.argmax(1)
    assert drop(Segmentation("y", "class"), classes, other.argmax(1)) == pytest.approx(expected)
    mask = areas[:, 1:] / 2
    assert drop(Segmentation("y", "mask"), mask, other[:, 1:] / 2) == pytest.approx(1 - 50 / 60)
    assert drop(Segmentation("y", "mask"), mask, np.zeros_like(mask)) == 1
    assert not result(Segmentation("y", "mask"), np.zeros_like(mask), np.zeros_like(mask)).decided


def path(*symbols: int) -> np.ndarray:
    return np.eye(6)[list(symbols)][:, None]


def test_ctc_compares_texts_and_not_steps() -> None:
    metric = Ctc("y", blank=0, batch_axis=1)
    text = path(0, 3, 3, 0, 3, 5, 0)  # "3 3 5"
    assert drop(metric, text, path(3, 0, 0, 3, 3, 5, 5), 1) == 0
    assert drop(metric, text, path(3, 0, 0, 4, 4, 5, 5), 1) == pytest.approx(1 / 3)
    assert drop(metric, text, np.zeros_like(text), 1) == 1


def test_tokens() -> None:
    metric = Tokens("y")
    assert drop(metric, [[1, 2, 3, 4]], [[1, 2, 4, 4]]) == 0.25
    assert drop(metric, [[1, 2, 3, 4]], [[2, 3, 4, 9]]) == 0.5


@given(st.lists(st.integers(0, 3), max_size=9), st.lists(st.integers(0, 3), max_size=9))
def test_edit_distance(one: list[int], two: list[int]) -> None:
    table = np.add.outer(np.arange(len(one) + 1), np.arange(len(two) + 1))
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            table[i + 1, j + 1] = min(
                table[i, j] + (a != b), table[i, j + 1] + 1, table[i + 1, j] + 1
            )
    first, second = np.array(one, np.int64), np.array(two, np.int64)
    assert edit_distance(first, second) == table[-1, -1]
    assert edit_distance(second, first) == table[-1, -1]


def test_embedding_sees_a_constant_vector_in_a_narrow_cone() -> None:
    cone = np.ones(64) + 0.05 * RNG.standard_normal((40, 64))
    constant = np.broadcast_to(cone.mean(0), cone.shape)
    found = result(Embedding("y"), cone, constant)
    assert found.figures["cosine"].value > 0.99
    assert found.drop.value > 0.3  # ties count half
    near = cone + 1e-4 * RNG.standard_normal(cone.shape)
    assert drop(Embedding("y"), cone, near) < 0.01
    assert drop(Embedding("y"), cone, cone) == 0


def test_equal_samples_are_neighbours_in_any_order() -> None:
    twice = np.repeat(RNG.standard_normal((6, 16)), 3, axis=0)
    assert drop(Embedding("y"), twice, twice) == 0


def test_embedding_does_not_depend_on_the_length_of_vectors() -> None:
    rows = RNG.standard_normal((9, 16))
    assert drop(Embedding("y"), rows, rows * RNG.uniform(1, 5, (9, 1))) == pytest.approx(
        0, abs=1e-9
    )


def test_regression_is_one_minus_r_squared() -> None:
    rows = RNG.standard_normal((50, 3)) * [1, 100, 1e4] + [0, 5e3, -1e6]
    noisy = rows + 0.1 * rows.std(0) * np.where(np.arange(50) % 2, 1, -1)[:, None]
    assert drop(Regression(("y",)), rows, noisy) == pytest.approx(0.01)
    assert drop(Regression(("y",)), rows, np.broadcast_to(rows.mean(0), rows.shape)) == (
        pytest.approx(1)
    )
    assert not result(Regression(("y",)), rows[:1], rows[:1]).decided


def test_values() -> None:
    rows = RNG.standard_normal((20, 30))
    assert drop(Sqnr(("y",)), rows, rows * 0.9) == pytest.approx(0.01)
    assert drop(Cosine(("y",)), rows, rows * 0.9) == pytest.approx(0, abs=1e-12)
    assert drop(Cosine(("y",)), rows, -rows) == pytest.approx(2)
    worst = rows.copy()
    worst[3, 4] += 0.5
    assert drop(MaxError(("y",)), rows, worst) == pytest.approx(0.5 / np.abs(rows).max())


def test_the_worst_output_counts_for_noise() -> None:
    run = MetricRun(Sqnr(("big", "small")))
    one = {"big": np.full((4, 2), 1e3), "small": np.ones((4, 2))}
    run.add(one, {**one, "small": one["small"] * 0.5}, 4)
    assert run.result().drop.value == pytest.approx(0.25)


def test_a_function_gives_one_number_or_one_per_sample() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    total = UserFunction(lambda outputs: float(outputs["y"].sum()))
    assert drop(total, rows, rows - 1) == pytest.approx(6)
    each = UserFunction(lambda outputs, labels: -abs(outputs["y"][:, 0] - labels), np.zeros(3))
    found = result(each, rows, rows + 1)
    assert found.drop.total.tolist() == [1, 1, 1]
    assert found.reference_value == -2
    with pytest.raises(OptionError, match="must return a number"):
        result(UserFunction(lambda outputs: "good"), rows, rows)  # type: ignore[arg-type]


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array([rows])


DETECTOR = Detection(DetectionLayout("YOLOv10", ("y",), ("y",), "corners", first=4, labelled=5))
TWO = boxes((0, 0, 10, 10, 0.75, 1), (20, 20, 30, 30, 0.75, 2))


def test_detection_loses_boxes_classes_places_and_scores() -> None:
    assert drop(DETECTOR, TWO, TWO) == 0
    lost = boxes((0, 0, 10, 10, 0.75, 1), (20, 20, 30, 30, 0.1, 2))
    assert drop(DETECTOR, TWO, lost) == pytest.approx(1 - 0.5 / 0.75)
    other_class = boxes((0, 0, 10, 10, 0.75, 1), (20, 20, 30, 30, 0.75, 3))
    assert drop(DETECTOR, TWO, other_class) == pytest.approx(0.5)
    moved = boxes((0, 0, 10, 10, 0.75, 1), (22, 20, 32, 30, 0.75, 2))  # IoU 2/3: 4 of 10 thresholds
    assert drop(DETECTOR, TWO, moved) == pytest.approx(0.3)
    weaker = boxes((0, 0, 10, 10, 0.75, 1), (20, 20, 30, 30, 0.5, 2))
    assert drop(DETECTOR, TWO, weaker) == pytest.approx(1 - 0.75 / 0.875)
    added = boxes(*map(tuple, TWO[0]), (50, 50, 60, 60, 0.75, 1))
    assert drop(DETECTOR, TWO, added) == pytest.approx(1 - 1 / 1.25)
    figures = result(DETECTOR, TWO, moved).figures
    assert figures["recall"].value == 1
    assert figures["iou"].value == pytest.approx((1 + 8 / 12) / 2)
    assert result(DETECTOR, TWO, weaker).figures["score_error"].value == pytest.approx(0.125)


def test_scores_of_zero_lose_everything() -> None:
    dead = TWO * [1, 1, 1, 1, 0, 1]
    assert drop(DETECTOR, TWO, dead) == 1
    nan = TWO * [1, 1, 1, 1, np.nan, 1]
    assert drop(DETECTOR, TWO, nan) == 1


def test_suppression_keeps_the_best_of_overlapping_boxes_of_a_class() -> None:
    rows = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [40, 40, 50, 50]], float)
    found = Detections(rows, np.array([0.8, 0.9, 0.7, 0.1]), np.array([1, 1, 2, 1]))
    kept = suppressed(found, min_score=0.25, max_iou=0.6)
    assert kept.scores.tolist() == [0.9, 0.7]


@given(st.integers(0, 2**32 - 1))
def test_iou_is_symmetric_and_bounded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 20, (5, 2)), rng.uniform(0, 10, (5, 2))
    rows = np.concatenate([corner, corner + size], axis=1)
    iou = pairwise_iou(rows, rows)
    np.testing.assert_allclose(iou, iou.T)
    assert iou.min() >= 0
    assert iou.max() <= 1 + 1e-12
    np.testing.assert_allclose(np.diag(iou), 1)


@given(st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_more_noise_is_never_free(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, 16))
    other = rows + scale * rng.standard_normal(rows.shape)
    for metric in (TOP, Embedding("y"), Regression(("y",)), Sqnr(("y",)), MaxError(("y",))):
        assert drop(metric, rows, other) >= 0
        assert drop(metric, rows, rows) == 0
