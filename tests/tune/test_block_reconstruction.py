"""Training block by block: inner values come closer, and what does not help is not kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxlite.evaluate import compare
from onnxlite.tune import tune

torch = pytest.importorskip("torch")

from onnxlite.model import load  # noqa: E402
from onnxlite.tune.student import Student  # noqa: E402


def test_parts_of_a_student(net):
    student = Student(load(net))
    inputs, constants = student.part(["x", "t"], "s")
    assert inputs == ("t",)
    assert {name for item in constants for name in item.names} == {"u", "c"}
    # The skip is computed again from what is known before it.
    inputs, constants = student.part(["x", "s"], "a")
    assert inputs == ("x", "s")
    assert {name for item in constants for name in item.names} == {"w", "b"}


def test_value_of_a_part_is_that_of_the_whole(net, images):
    student = Student(load(net))
    x = torch.tensor(images[:4])
    with torch.no_grad():
        whole = student({"x": x}, ["t", "a"])
        part = student.between({"x": x, "t": whole["t"]}, ["a", "y"])
    torch.testing.assert_close(part["a"], whole["a"])
    torch.testing.assert_close(part["y"], whole["y"])


def test_a_short_course_goes_further(net, images, fresh):
    small = noisy(net)
    found = [
        compare(
            net, tune(net, small, images, steps=40, lr=0.003, blocks=blocks).model, samples=fresh
        ).sqnr_db
        for blocks in (False, True)
    ]
    assert found[1] > found[0] + 0.3


def noisy(net: onnx.ModelProto) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    damaged = onnx.ModelProto.FromString(net.SerializeToString())
    for tensor in damaged.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        noise = 0.5 * array.std() * rng.standard_normal(array.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array((array + noise).astype("f4"), tensor.name))
    return damaged


def test_what_does_not_help_is_not_kept(net, images):
    same = tune(net, net, images[:32], steps=10).model
    assert compare(net, same, samples=images[:8]).sqnr_db == np.inf
