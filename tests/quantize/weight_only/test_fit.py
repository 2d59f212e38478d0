"""Low-bit weights fitted to samples: better than rounding, on their levels, never worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from models import data
from onnxlite import quantize_weights
from onnxlite.errors import OptionError
from onnxlite.model import load
from onnxlite.quantize.weight_only.options import Bits
from onnxlite.recipe import QuantizeWeights, Recipe, run
from onnxlite.runtime import Session, tapped
from tests.odd_models import parse

RNG = np.random.default_rng(0)
NETS = {
    "products": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,32] y)
        <float[64,96] w, float[96] b, float[96,64] v, float[64] c, float[32,64] u>
        { t = MatMul(x, w) a = Add(t, b) r = Relu(a) s = Gemm(r, v, c) q = Relu(s)
          y = Gemm<transB=1, alpha=0.5>(q, u) }""",
        (64,),
    ),
    "convolutions": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8,8,8] x) => (float[n,24,8,8] y)
        <float[32,8,3,3] w, float[32] b, float[32,8,3,3] v, float[32] c, float[32,24,3,3] u>
        { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t)
          s = Conv<pads=[1,1,1,1], group=4>(r, v, c) q = Relu(s)
          y = ConvTranspose<pads=[1,1,1,1]>(q, u) }""",
        (8, 8, 8),
    ),
    "embedding": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (int64[n] x) => (float[n,32] y) <float[50,64] w, float[64,32] v, float[32] b>
        { e = Gather(w, x) r = Tanh(e) t = MatMul(r, v) y = Add(t, b) }""",
        (),
    ),
}


def inputs(name: str, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if name == "embedding":
        return rng.integers(0, 50, count)
    # Features that go together, as those of a real net do.
    shape = NETS[name][1]
    mixed = rng.standard_normal((count, 6)) @ np.random.default_rng(9).standard_normal(
        (6, int(np.prod(shape)))
    )
    noisy = mixed + 0.3 * rng.standard_normal(mixed.shape)
    return noisy.reshape(count, *shape).astype(np.float32)


def sqnr_db(proto: object, model: ir.Model, x: np.ndarray) -> float:
    want, got = (Session(load(m)).run({"x": x})["y"] for m in (proto, model))
    return float(10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()))


@pytest.mark.parametrize("bits", [6, 4, 3, 2, "ternary", "binary"])
@pytest.mark.parametrize("name", NETS)
def test_fitted_weights_are_better_and_on_their_levels(name: str, bits: Bits) -> None:
    proto, x = parse(NETS[name][0]), inputs(name, 400)
    result, report = quantize_weights(proto, samples=x, bits=bits, first_last_bits="same")
    model = load(result)
    nearest = quantize_weights(proto, bits=bits, first_last_bits="same").model
    fresh = inputs(name, 200, seed=1)
    assert sqnr_db(proto, model, fresh) > sqnr_db(proto, nearest, fresh) + 0.5
    methods = {row.method for row in report.layers}
    assert methods == ({"gptq", "rtn"} if name == "embedding" else {"gptq"})
    levels = {"ternary": 3, "binary": 2}.get(bits) or 2 ** int(bits)
    for row in report.layers:
        decoded = Session(tapped(model, [row.weight])).run({"x": fresh[:1]})
        weight = decoded[row.weight]
        assert len(np.unique(np.abs(weight))) <= levels * weight.size // row.block


def test_where_fitting_is_worse_the_nearest_stay() -> None:
    # Samples that say nothing of others.
    proto = parse(NETS["products"][0])
    x = np.zeros((64, 64), np.float32)
    x[:56, :4] = RNG.standard_normal((56, 4))
    x[56:, 4:] = RNG.standard_normal((8, 60))
    report = quantize_weights(proto, samples=x, bits=4, first_last_bits="same").report
    rows = report.layers
    assert all(row.method == "rtn" for row in rows) == any(d.what == "gptq" for d in report.skipped)


def test_gptq_without_samples_is_refused() -> None:
    with pytest.raises(OptionError, match="samples"):
        quantize_weights(parse(NETS["products"][0]), method="gptq")


def test_a_recipe_fits_to_calibration_samples_only() -> None:
    proto, x = parse(NETS["products"][0]), inputs("products", 400)
    recipe = Recipe((QuantizeWeights(bits=3, first_last_bits="same"),))
    outcome = run(proto, recipe, samples=x, benchmark=False)
    assert outcome.report.samples.calibration == 300
    assert {row.method for row in outcome.report.steps[0].layers} == {"gptq"}
    nearest = run(proto, recipe, benchmark=False)
    assert {row.method for row in nearest.report.steps[0].layers} == {"hqq"}
    kept = run(proto, recipe, evaluation=x, benchmark=False)
    assert {row.method for row in kept.report.steps[0].layers} == {"hqq"}


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "lost"), [(4, 0.002), ("ternary", 0.006)])
def test_a_trained_net_keeps_its_accuracy(bits: Bits, lost: float, residual_path: Path) -> None:
    images, labels = data.test_set()

    def accuracy(model: ir.Model) -> float:
        session = Session(model)
        parts = [
            session.run({session.input_names[0]: images[i : i + 100]})
            for i in range(0, len(images), 100)
        ]
        scores = np.concatenate([next(iter(part.values())) for part in parts])
        return float((scores.argmax(axis=1) == labels).mean())

    model = quantize_weights(residual_path, samples=data.calibration_images(256), bits=bits).model
    assert accuracy(model) >= accuracy(load(residual_path)) - lost
