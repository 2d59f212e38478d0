"""The contract of rewrites: one that works in place gives back no model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxlite.model import load
from onnxlite.quantize.core.prepare import prepare
from tests.odd_models import parse

ROOT = Path(__file__).parent.parent / "onnxlite"


def faults(source: str) -> Iterator[str]:
    """Functions that change the model they get and return a model."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            summary = (ast.get_docstring(node) or "").split("\n")[0]
            gives = ast.unparse(node.returns) if node.returns else ""
            if "in place" in summary and ("ir.Model" in gives or "ModelProto" in gives):
                yield f"{node.name}: rewrites in place and returns {gives}"


def test_no_rewrite_in_place_returns_a_model() -> None:
    found = {path.name: list(faults(path.read_text("utf-8"))) for path in ROOT.rglob("*.py")}
    assert {name: rows for name, rows in found.items() if rows} == {}


def test_the_check_can_fail() -> None:
    text = 'def f(m: ir.Model) -> {}:\n    """Rewrite in place: more."""'
    assert list(faults(text.format("ir.Model")))
    assert not list(faults(text.format("int")))


def described(model: ir.Model) -> object:
    """Nodes with their names, constants, shapes and opsets; tensors are shared by copies."""
    nodes = [(node.op_type, node.name, [o.name for o in node.outputs]) for node in model.graph]
    shapes = [str(output.shape) for node in model.graph for output in node.outputs]
    return nodes, shapes, list(model.graph.initializers), dict(model.opset_imports)


@pytest.mark.parametrize("opset", [12, 17])
def test_preparing_a_model_leaves_it_alone(opset: int) -> None:
    model = load(
        parse(
            f"""<ir_version: 8, opset_import: ["": {opset}]>
            g (float[n,2] x) => (float[n,2] y)
            {{ w = Constant<value = float[2,2] {{1.0, 2.0, 3.0, 4.0}}>() y = MatMul(x, w) }}"""
        )
    )
    before = described(model)
    prepare(model)
    assert described(model) == before
