"""Averages of what is learned."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from onnxlite.model import load
from onnxlite.tune.optimizer import WeightAverage
from onnxlite.tune.student import Student
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,4] x) => (float[n,2] y)
    <float[4,2] w, float[2] b> { t = MatMul(x, w)  y = Add(t, b) }"""


def test_lies_between_the_states_and_leaves_the_student_alone():
    student = Student(load(parse(NET)))
    start = student.state()
    average = WeightAverage(start, steps=100)
    for _ in range(400):
        with torch.no_grad():
            for item in student.tensors:
                item.tensor.add_(1.0)
        average.add(student)
    last = student.state()
    for tensor, first, end in zip(average.state, start, last, strict=True):
        # Of a value that grows by 1 a step the average is as far behind as it is long: 5 steps.
        assert torch.allclose(end - tensor, torch.full_like(end, 4.0), atol=0.01)
        assert (tensor > first).all()
    with average.applied_to(student):
        assert all(torch.equal(a, b) for a, b in zip(student.state(), average.state, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(student.state(), last, strict=True))


def test_of_few_steps_is_the_last_state():
    student = Student(load(parse(NET)))
    average = WeightAverage(student.state(), steps=10)
    with torch.no_grad():
        for item in student.tensors:
            item.tensor.add_(1.0)
    average.add(student)
    assert all(torch.equal(a, b) for a, b in zip(student.state(), average.state, strict=True))
