"""What tests of quantization ask: the input is left alone, what runs, how close it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxlite.model import load
from onnxlite.runtime import Session
from tests.odd_models import parse


def applied(
    step: Callable[..., Any], model: str | onnx.ModelProto, *samples: object, **options: object
) -> tuple[ir.Model, Any]:
    """Apply a step, which must leave the model alone and return a valid one."""
    proto = parse(model) if isinstance(model, str) else model
    before = proto.SerializeToString()
    result, report = step(proto, *samples, **options)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    return load(result), report


def executed(model: ir.Model, tmp_path: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really runs."""
    path = tmp_path / "optimized.onnx"
    Session(model, threads=1, optimized_path=path)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def sqnr_db(
    reference: str | onnx.ModelProto, model: ir.Model, feed: Mapping[str, np.ndarray]
) -> float:
    """SQNR of the worst output, by its definition."""
    proto = parse(reference) if isinstance(reference, str) else reference
    want, got = Session(load(proto)).run(dict(feed)), Session(model).run(dict(feed))
    return min(array_sqnr_db(want[name], got[name]) for name in want)


def array_sqnr_db(want: np.ndarray, got: np.ndarray) -> float:
    """SQNR of one array."""
    want, got = want.astype(float), got.astype(float)
    noise = ((want - got) ** 2).sum()
    return float(10 * np.log10((want**2).sum() / noise)) if noise else np.inf
