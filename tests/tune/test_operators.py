"""Every operator that torch computes, against ONNX Runtime on onnx's backend test suite."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxlite.errors import ExecutionError, ModelError, UnsupportedError
from onnxlite.model import load
from onnxlite.runtime import Session
from tests.odd_models import parse
from tests.simplify.test_backend_models import cases

torch = pytest.importorskip("torch")

from onnxlite.tune.torch_graph import TorchGraph, torch_feed  # noqa: E402


def fault(proto: Any, inputs: list[Any]) -> str | None:
    """What torch computes otherwise than ONNX Runtime; raises where one of them refuses."""
    if any(isinstance(value, list) or value is None for value in inputs):
        raise UnsupportedError("sequences and optionals")
    model = load(proto)
    session = Session(model, threads=1)
    feed = dict(zip(session.input_names, inputs, strict=False))
    expected = session.run(feed)
    with torch.no_grad():
        found = TorchGraph(model)(torch_feed(feed))
    for name, want in expected.items():
        have = found[name].to(torch.float64).numpy()
        if have.shape != want.shape:
            return f"{name}: shape {have.shape}, not {want.shape}"
        near = 2e-3 if want.dtype == np.float16 else 1e-4
        if not np.allclose(want.astype(np.float64), have, near, near / 10, equal_nan=True):
            return f"{name}: {want.reshape(-1)[:4]} is {have.reshape(-1)[:4]}"
    return None


def check(step: int, *, minimum: int) -> None:
    right, wrong = 0, []
    for index, (name, proto, inputs) in enumerate(cases()):
        if index % step:
            continue
        try:
            text = fault(proto, inputs)
        except (ModelError, ExecutionError):
            continue
        right += text is None
        wrong += [] if text is None else [f"{name}: {text}"]
    assert wrong == []
    assert right >= minimum


def test_every_eighth_case():
    check(8, minimum=120)


@pytest.mark.slow
def test_all_cases():
    check(1, minimum=1190)


@pytest.mark.parametrize("zero", [0, 117])
def test_pair_of_q_and_dq_has_the_gradients_of_both(zero: int):
    nodes = "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)"
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[n,6] x) => '
    constants = f"<float s = {{0.02}}, uint8 z = {{{zero}}}>"
    pair = parse(f"{head} (float[n,6] y) {constants} {{ {nodes} }}")
    # Where something else reads the integers, the two stay apart.
    two = parse(f"{head} (float[n,6] y, uint8[n,6] q) {constants} {{ {nodes} }}")
    values = np.random.default_rng(0).standard_normal((5, 6), np.float32) * 2
    found = []
    for model in (pair, two):
        x = torch.tensor(values, requires_grad=True)
        s = torch.tensor(0.02, requires_grad=True)
        y = TorchGraph(load(model), tuned=["s"])({"x": x}, tuned={"s": s})["y"]
        (y * torch.arange(30.0).reshape(5, 6)).sum().backward()
        found.append((y.detach(), x.grad, s.grad))
    assert (found[0][1] != 0).any()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("data", ["2,8", "2,8,3", "2,8,3,3"])
@pytest.mark.parametrize("computed", ["mean", "var", "mean var"])
def test_computed_statistics_have_gradients(data: str, computed: str) -> None:
    nodes = " ".join(f"{name} = Mul({name}_given, w)" for name in computed.split())
    given = [f"{n}_given" if n in computed else n for n in ("mean", "var")]
    shape = [int(size) for size in data.split(",")]
    proto = parse(f"""<ir_version: 8, opset_import: ["": 15]>
        g (float[{data}] x, float[8] {given[0]}, float[8] {given[1]}) => (float[{data}] y)
        <float[8] w, float[8] s, float[8] b>
        {{ {nodes} y = BatchNormalization(x, s, b, mean, var) }}""")
    w = onnx.numpy_helper.from_array(np.full(8, 0.5, np.float32), "w")
    next(t for t in proto.graph.initializer if t.name == "w").CopyFrom(w)
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(1, 2, size).astype(np.float32) for size in (shape, [8], [8])]
    assert fault(proto, inputs) is None
    feed = dict(zip(("x", *given), inputs, strict=True))
    torch_inputs = {name: value.requires_grad_() for name, value in torch_feed(feed).items()}
    TorchGraph(load(proto))(torch_inputs)["y"].sum().backward()
    gradients = [torch_inputs[name].grad for name in ("x", *given)]
    assert all(g is not None and g.abs().max() > 0 for g in gradients[1:])
