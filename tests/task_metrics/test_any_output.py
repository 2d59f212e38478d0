"""Properties: whatever a model returns gets a metric, in which it loses nothing against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxlite.errors import OptionError, VerificationError
from onnxlite.model import load
from onnxlite.task_metrics import METRICS, MetricRun, Observation, choose_metric, observe
from tests.odd_models import parse

MODEL = load(
    parse("""<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3] x) => (float y, float z) { y = Relu(x) z = Softmax(y) }""")
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)
FLOATS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, np.nan, np.inf])
ARRAYS = SHAPES.flatmap(
    lambda shape: st.one_of(
        hnp.arrays(np.float32, shape, elements=FLOATS),
        hnp.arrays(np.float16, shape, elements=st.floats(0, 1, width=16)),
        hnp.arrays(np.int64, shape, elements=st.integers(0, 5)),
    )
)


def observed(y: np.ndarray, z: np.ndarray, samples: int) -> Observation:
    feed = {"x": np.zeros((samples, 3), np.float32)}
    return observe(MODEL, [(feed, {"y": y, "z": z}, samples)])


@settings(max_examples=150)
@given(ARRAYS, ARRAYS, st.integers(1, 4), st.sampled_from([None, *sorted(METRICS)]))
def test_any_output_has_a_metric_without_loss_against_itself(y, z, samples, name) -> None:
    seen = observed(y, z, samples)
    try:
        choice = choose_metric(name, lambda: seen, labelled=name == "accuracy")
    except OptionError:
        return
    run = MetricRun(choice.metric.with_labels(np.zeros(samples, np.int64)))
    if name == "accuracy":
        return
    run.add({"y": y, "z": z}, {"y": y, "z": z}, samples)
    result = run.result()
    assert not result.decided or result.drop.value == pytest.approx(0, abs=1e-9)
    assert choice.reason
    assert choice.metric.meaning


@settings(max_examples=60)
@given(ARRAYS, ARRAYS, st.integers(1, 4))
def test_another_shape_of_the_candidate_is_a_loss(y, z, samples) -> None:
    seen = observed(y, y, samples)
    try:
        choice = choose_metric(None, lambda: seen, labelled=False)
    except OptionError:
        return
    if z.ndim != y.ndim or z.dtype.kind != y.dtype.kind:
        return
    run = MetricRun(choice.metric)
    try:
        run.add({"y": y, "z": y}, {"y": z, "z": z}, samples)
    except VerificationError:  # another number of samples
        return
    assert run.result().drop.total.min() >= -1e-9
