"""Nets made for one property: they run, are seeded and alive."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest

from models.tiny import tiny_convolutions, tiny_perceptron, wide_convolutions


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (tiny_convolutions, (3, 4, 4, 4)),
        (wide_convolutions, (3, 64, 14, 14)),
        (tiny_perceptron, (3, 16)),
    ],
)
def test_they_run_and_are_alive(
    make: Callable[..., onnx.ModelProto], shape: tuple[int, ...]
) -> None:
    proto = make()
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    assert len(y) == 3
    assert 0.05 < y.std() < 20
    assert make().SerializeToString() == proto.SerializeToString()
    assert make(seed=1).SerializeToString() != proto.SerializeToString()
