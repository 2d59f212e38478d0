"""Weights that several nodes read are stored once and fitted once in every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import onnxlite as ol
from onnxlite.calibrate.moments import Moments
from onnxlite.fidelity import worst_sqnr_db
from onnxlite.inputs import input_specs
from onnxlite.model import load, size_bytes
from onnxlite.quantize.core import emit_qdq
from onnxlite.repair.regression import rows_wanted
from onnxlite.samples import Samples
from tests.shared_nets import NETS, READERS, WIDTH, Net, tied_layers

Step = Callable[[ir.Model, Any], ol.Result]

STATIC: dict[str, Any] = {"placement": "everything", "smooth": True}
#: Steps that write weights, and the SQNR in dB that they keep on every net.
STEPS: dict[str, tuple[Step, float]] = {
    "simplify": (lambda m, _: ol.simplify(m), 90),
    "static": (lambda m, x: ol.quantize_static(m, x, **STATIC), 24),
    "equalize": (lambda m, x: ol.quantize_static(m, x, equalize=True, **STATIC), 22),
    "qoperator": (lambda m, x: ol.quantize_static(m, x, form="qoperator", **STATIC), 24),
    "dynamic": (lambda m, x: ol.quantize_dynamic(m, samples=x, kernel="integer"), 25),
    "blocks": (lambda m, x: ol.quantize_dynamic(m, samples=x, kernel="blocks"), 25),
    "gptq": (lambda m, x: ol.quantize_weights(m, samples=x, method="gptq"), 12),
    "compute": (lambda m, _: ol.quantize_weights(m, mode="compute"), 12),
    "float16": (lambda m, x: ol.to_float16(m, samples=x), 50),
    "prune": (lambda m, x: ol.prune_weights(m, samples=x, sparsity=0.2), 10),
    "repair": (lambda m, x: ol.repair(m, ol.prune_weights(m, sparsity=0.2).model, x), 10),
    "tune": (lambda m, x: ol.tune(m, ol.prune_weights(m, sparsity=0.2).model, x, steps=4), 10),
}


def feeds_of(net: Net) -> tuple[ir.Model, Samples]:
    """The model, and its samples as feeds of one."""
    model, data = load(net[0]), net[1]
    one = [
        {name: array if array.ndim == 0 else array[i : i + 1] for name, array in data.items()}
        for i in range(16)
    ]
    if "flag" in data:
        one = [feed | {"flag": np.array(i % 2 == 0)} for i, feed in enumerate(one)]
    return model, Samples(one, input_specs(model))


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all constants with two axes or more."""
    tensors = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None and len(tensor.shape) > 1)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("net", NETS)
def test_no_step_stores_a_shared_weight_twice(net: str, step: str) -> None:
    model, feeds = feeds_of(NETS[net]())
    run, least = STEPS[step]
    result = run(model, feeds).model
    assert isinstance(result, ir.Model)
    assert weight_bytes(result) <= weight_bytes(model)
    # A repair may give each layer a bias of its own.
    assert step == "repair" or size_bytes(result) <= size_bytes(model)
    assert worst_sqnr_db(model, result, Samples(list(feeds)[:4], feeds.inputs)) > least


def test_one_fit_and_one_scale_for_all_layers_of_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = feeds_of(tied_layers())
    calls: list[int] = []
    former = emit_qdq.layer_weight

    def counted(*args: Any) -> Any:
        calls.append(1)
        return former(*args)

    monkeypatch.setattr(emit_qdq, "layer_weight", counted)
    result, report = ol.quantize_static(model, feeds, equalize=False, **STATIC)
    assert len(report.layers) == 2 * READERS
    assert len(calls) == 2
    assert isinstance(result, ir.Model)
    stored = [v for v in result.graph.initializers.values() if v.const_value.size >= WIDTH**2]
    assert [v.dtype for v in stored] == [ir.DataType.INT8] * 2
    assert {s.code for s in report.skipped} >= {"shared-weight"}


def test_moments_of_a_shared_weight_are_those_of_one_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features: Counter[int] = Counter()
    former = Moments.of.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Moments], x: Any, y: Any) -> Moments:
        features[x.shape[-1]] += len(x)
        return former(cls, x, y)  # type: ignore[no-any-return]

    monkeypatch.setattr(Moments, "of", classmethod(counted))
    model = load(tied_layers(READERS, d=16)[0])
    data = np.random.default_rng(0).standard_normal((16, 1024, 16)).astype(np.float32)
    _, report = ol.prune_channels(model, samples={"x": data}, remove=0.25, repair=False, round_to=1)
    assert f"weights {4 * 16**2} -> {3 * 16**2}" in report.summary
    assert features[32] <= rows_wanted(32, 12288) + READERS
