"""The graph that ONNX Runtime really runs, after its own optimizations."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx_ir as ir

from onnxlite.graph import iter_nodes
from onnxlite.model import load
from onnxlite.runtime import Optimization, Session


def executed_operators(model: ir.Model, *, optimization: Optimization = "all") -> Counter[str]:
    """How many nodes of each operator type ONNX Runtime is left with once it has loaded a model.

    Raises:
        ExecutionError: ONNX Runtime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
        path = Path(directory) / "optimized.onnx"
        Session(model, threads=1, optimization=optimization, optimized_path=path)
        return Counter(node.op_type for node in iter_nodes(load(path)))
