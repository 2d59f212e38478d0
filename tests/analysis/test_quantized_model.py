"""Quantized models are recognised, and every step that cannot use one says what comes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxlite as ol
from models.data import calibration_images
from onnxlite.analysis.quantized_model import already_quantized, computed_weights
from onnxlite.errors import UnsupportedError
from onnxlite.fidelity import worst_sqnr_db
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.samples import Samples
from tests.conftest import FASHION
from tests.odd_models import ODD, odd, parse

HEAD = '<ir_version: 10, opset_import: ["": 21]> g (float[n,4] x) => (float[n,6] y)'
DECLINES = "quantized already"
PACKED = "decoded from packed integers"


class Net(NamedTuple):
    """A float model, its samples, and the same model in one quantized form."""

    reference: onnx.ModelProto
    quantized: onnx.ModelProto
    samples: np.ndarray


def model_of(text: str) -> ir.Model:
    return load(parse(f"{HEAD} {text}"))


@pytest.mark.parametrize(
    ("text", "quantized", "computed"),
    [
        ("<float[4,6] w> { y = MatMul(x, w) }", None, None),
        (
            "<int8[4,6] w, float s = {0.1}> { d = DequantizeLinear(w, s) y = MatMul(x, d) }",
            DECLINES,
            PACKED,
        ),
        (
            "<uint8[4,6] w, float s = {0.1}> { c = Cast<to=1>(w) d = Mul(c, s) y = MatMul(x, d) }",
            None,
            PACKED,
        ),
        (
            "<uint8[4,6] w, float[256,1] t, int64[2] r = {4, 6}>"
            "{ i = Cast<to=7>(w) g = Gather(t, i) d = Reshape(g, r) y = MatMul(x, d) }",
            None,
            PACKED,
        ),
        ("<float16[4,6] w> { d = Cast<to=1>(w) y = MatMul(x, d) }", None, "simplify the model"),
        (
            "<float[24] w, int64[2] r = {4, 6}> { d = Reshape(w, r) y = MatMul(x, d) }",
            None,
            "simplify the model",
        ),
        ("<float[4,6] w> { t = Transpose(x) g = MatMul(t, x) u = MatMul(x, g) y = MatMul(u, w) }",
         None, None),
        ("<float[4,6] w, float s = {0.1}, uint8 z = {3}>"
         "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }",
         DECLINES, None),
    ],
)  # fmt: skip
def test_forms_are_told_apart(text: str, quantized: str | None, computed: str | None) -> None:
    model = model_of(text)
    reasons = already_quantized(model, "advice one"), computed_weights(model, "advice two")
    for reason, wanted in zip(reasons, (quantized, computed), strict=True):
        assert (reason is None) == (wanted is None)
        assert wanted is None or wanted in (reason or "")
    assert quantized is None or "advice one" in (reasons[0] or "")
    assert computed != PACKED or "advice two" in (reasons[1] or "")


def test_branches_are_searched() -> None:
    model = load(
        parse(
            """<ir_version: 8, opset_import: ["": 17]>
            g (float[n,4] x, bool b) => (float[n,4] y) <float s = {0.1}, uint8 z = {3}>
            { y = If (b) <
                then_branch = yes () => (a) { q = QuantizeLinear(x, s, z)
                                              a = DequantizeLinear(q, s, z) },
                else_branch = no () => (c) { c = Identity(x) } > }"""
        )
    )
    assert already_quantized(model, "") is not None


@pytest.mark.parametrize("name", [name for name in ODD if "quantized" not in name])
def test_float_models_are_not_taken_for_quantized(name: str) -> None:
    if name == "int4 weight":
        pytest.skip("it is quantized")
    reason = already_quantized(load(odd(name)), "")
    assert reason is None, reason


def quantized_static(model: onnx.ModelProto, x: np.ndarray, **options: Any) -> ol.Result:
    return ol.quantize_static(model, x, placement="everything", rounding="nearest", **options)


FORMS: dict[str, Callable[[onnx.ModelProto, np.ndarray], ol.Result]] = {
    "qdq": quantized_static,
    "qoperator": lambda m, x: quantized_static(m, x, form="qoperator"),
    "dynamic": lambda m, x: ol.quantize_dynamic(m, samples=x, kernel="integer", storage=False),
    "packed": lambda m, _: ol.quantize_weights(m, bits=8, first_last_bits="same"),
}


@pytest.fixture(scope="module", params=FORMS)
def net(request: pytest.FixtureRequest) -> tuple[str, Net]:
    """The committed residual net in every quantized form."""
    images = calibration_images(16)
    reference = ol.simplify(onnx.load(FASHION / "residual.onnx"), onnxsim=False).model
    return request.param, Net(reference, FORMS[request.param](reference, images).model, images)


def sqnr_db(net: Net, model: onnx.ModelProto) -> float:
    reference = load(net.reference)
    feeds = list(Samples(net.samples, input_specs(reference)))
    return worst_sqnr_db(reference, load(model), feeds)


STEPS: dict[str, Callable[[Net], ol.Result]] = {
    "prune by samples": lambda n: ol.prune_channels(n.quantized, samples=n.samples, macs=0.7),
    "prune by weights": lambda n: ol.prune_channels(n.quantized, remove=0.3, round_to=1),
    "zeros by samples": lambda n: ol.prune_weights(n.quantized, samples=n.samples, sparsity=0.5),
    "zeros by weights": lambda n: ol.prune_weights(n.quantized, sparsity=0.5),
    "static": lambda n: ol.quantize_static(n.quantized, n.samples, placement="everything"),
    "dynamic": lambda n: ol.quantize_dynamic(n.quantized, samples=n.samples),
    "weights": lambda n: ol.quantize_weights(n.quantized, bits=4),
    "repair": lambda n: ol.repair(n.reference, n.quantized, n.samples),
}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_uses_a_quantized_model_or_says_what_comes_first(
    net: tuple[str, Net], step: str
) -> None:
    form, models = net
    result = STEPS[step](models)
    # Float layers beside integer ones may be repaired, or stored in few bits.
    if (form, step) in {("dynamic", "repair"), ("dynamic", "weights")}:
        assert DECLINES not in result.report.summary
        assert sqnr_db(models, result.model) > 15
    else:
        assert not result.report.changed
        summary = result.report.summary
        assert DECLINES in summary or PACKED in summary
        order = {"prune": "prune the float model", "zeros": "prune the float model"}
        assert order.get(step.split()[0], "float model") in summary
        assert sqnr_db(models, result.model) == sqnr_db(models, models.quantized)


def test_integer_kernels_are_not_tuned(net: tuple[str, Net]) -> None:
    pytest.importorskip("torch")
    form, models = net
    if form != "qoperator":
        pytest.skip("torch computes it")
    with pytest.raises(UnsupportedError, match="QDQ form or before quantization"):
        ol.tune(models.reference, models.quantized, models.samples, steps=1)


def test_a_float16_model_has_nothing_left_to_convert() -> None:
    text = "<float[4,6] w, float[6] b> { p = MatMul(x, w) y = Add(p, b) }"
    samples = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    half = ol.to_float16(parse(f"{HEAD} {text}"), samples=samples)
    assert half.report.changed
    again = ol.to_float16(half, samples=samples)
    assert sqnr_db(Net(half.model, half.model, samples), again.model) > 50
