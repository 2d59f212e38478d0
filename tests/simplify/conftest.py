from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnxlite import SimplifyReport
from onnxlite.graph import iter_nodes
from onnxlite.inputs import input_specs
from onnxlite.model import clone, load
from onnxlite.runtime import Session
from onnxlite.samples import generate
from onnxlite.simplify import simplify
from onnxlite.simplify.verify import relative_difference


def build(text: str, *, opset: int = 21, seed: int = 0) -> ir.Model:
    """A model from the text of a graph.

    Inputs whose names start with `x` stay inputs; the others become random weights, those
    starting with `v` (variances) positive, and `w` standard normal.
    """
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    rng = np.random.default_rng(seed)
    for value in [v for v in proto.graph.input if not v.name.startswith("x")]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = rng.standard_normal(shape).astype(np.float32)
        if value.name.startswith("v"):
            array = np.abs(array) + np.float32(0.5)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        proto.graph.input.remove(value)
    onnx.checker.check_model(proto, full_check=True)
    return load(proto)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in iter_nodes(model))


@dataclass(frozen=True)
class Simplified:
    """A model after `simplify`, with its report and how much its outputs moved."""

    model: ir.Model
    report: SimplifyReport
    difference: float

    @property
    def operators(self) -> Counter[str]:
        return operators(self.model)


@pytest.fixture
def simplified() -> Callable[..., Simplified]:
    """Build a model from text, simplify it with our rules, and run both on the same feeds."""

    def run(text: str, *, opset: int = 21, onnxsim: bool = False) -> Simplified:
        model = build(text, opset=opset)
        result, report = simplify(clone(model), onnxsim=onnxsim)
        onnx.checker.check_model(ir.to_proto(result), full_check=True)
        return Simplified(result, report, difference(model, result))

    return run


def difference(original: ir.Model, result: ir.Model) -> float:
    """Largest relative difference of any output, over two batch sizes."""
    worst = 0.0
    before, after = Session(original, threads=1), Session(result, threads=1)
    assert before.output_names == after.output_names
    for batch in (1, 3):
        dims = {
            d: batch for s in input_specs(original) for d in s.shape or () if isinstance(d, str)
        }
        (feed,) = generate(input_specs(original), count=1, seed=batch, dims=dims)
        expected, found = before.run(feed), after.run(feed)
        for name, value in expected.items():
            assert value.shape == found[name].shape
            assert value.dtype == found[name].dtype
            worst = max(worst, relative_difference(value, found[name]))
    return worst
