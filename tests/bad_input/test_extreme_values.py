"""Every step on numbers near the limits of float32, infinite masks, and nets without numbers.

A step is done, declines, or raises an error of its own; NumPy's warnings are errors here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import onnxlite as ol
from onnxlite.errors import OnnxliteError, SamplesError, VerificationError
from onnxlite.samples import Feed
from tests.odd_models import parse
from tests.test_validity import STEPS as VALID_STEPS

SMALLEST = float(np.finfo(np.float32).min)
HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'
STEPS: dict[str, Callable[..., object]] = {
    **{name: step for name, step in VALID_STEPS.items() if name not in ("tune", "bfloat16")},
    "prune-macs": lambda m, x: ol.prune_channels(m, samples=x, macs=0.7, round_to=1),
    "prune-macs-made-up": lambda m, _: ol.prune_channels(m, macs=0.7),
    "prune-params": lambda m, x: ol.prune_channels(m, samples=x, params=0.7, round_to=1),
    "prune-weights-obc": lambda m, x: ol.prune_weights(m, sparsity=0.5, samples=x),
    "quantize-smooth": lambda m, x: ol.quantize_static(m, x, smooth=True, placement="everything"),
    "quantize-mse": lambda m, x: ol.quantize_static(m, x, observer="mse"),
    "quantize-auto": lambda m, x: ol.quantize_auto(m, x),
    "quantize-weights-4": lambda m, x: ol.quantize_weights(m, samples=x),
    "float16-storage": lambda m, _: ol.to_float16(m, mode="storage"),
    "inspect": lambda m, x: ol.inspect(m, samples=x),
}
LAYERS = "h = MatMul(a, w)  r = Relu(h)  t = MatMul(r, v)"
MASKED = f"""g (float[n,4] x, float[n,4] mask) => (float[n,4] t) <float[4,24] w, float[24,4] v>
    {{ a = Add(x, mask)  {LAYERS} }}"""
SCALED = """g (float[n,4] x) => (float[n,4] t) <float[4,24] w, float[24,4] v, float k = {SCALE}>
    { a = Mul(x, k)  LAYERS }""".replace("LAYERS", LAYERS)
ATTENTION = """g (float[n,6,4] x, float[n,6] mask) => (float[n,6,4] y)
    <float[4,4] wq, float[4,4] wk, float[4,4] wv, float[4,4] wo, int64[1] ax = {1}>
    { q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)  kt = Transpose<perm=[0,2,1]>(k)
      s = MatMul(q, kt)  m = Unsqueeze(mask, ax)  a = Add(s, m)  p = Softmax(a)
      c = MatMul(p, v)  y = MatMul(c, wo) }"""


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def masked(value: float, *, every: int) -> list[Feed]:
    """Samples of which some are masked as a whole."""
    rows = noise(16, 1, 4)
    masks = [np.full((1, 4), 0 if i % every else value, np.float32) for i in range(16)]
    return [{"x": x, "mask": mask} for x, mask in zip(rows, masks, strict=True)]


def padded(value: float, *, whole: bool) -> list[Feed]:
    """Sequences with masked ends; `whole` masks all of some."""
    masks = np.zeros((16, 1, 6), np.float32)
    for i, mask in enumerate(masks):
        mask[:, 6 - i % 4 if not (whole and i % 5 == 0) else 0 :] = value
    return [{"x": x, "mask": m} for x, m in zip(noise(16, 1, 6, 4), masks, strict=True)]


def scaled(by: float) -> tuple[str, list[Feed]]:
    return SCALED.replace("SCALE", f"{by:g}"), [{"x": x} for x in noise(16, 1, 4)]


EXTREME = {
    "rows of the smallest float": (MASKED, masked(SMALLEST, every=5)),
    "rows near the smallest float": (MASKED, masked(SMALLEST / 8, every=5)),
    "all near the smallest float": (MASKED, masked(SMALLEST / 8, every=1)),
    "scores of the smallest float": (ATTENTION, padded(SMALLEST, whole=True)),
    "1e19": scaled(1e19),
    "1e22": scaled(1e22),
    "1e36": scaled(1e36),
    "overflow": scaled(3e38),
    "1e-38": scaled(1e-38),
    "zeros": (SCALED.replace("SCALE", "1"), [{"x": np.zeros((1, 4), np.float32)}] * 16),
}


def attempt(step: str, model: onnx.ModelProto, feeds: list[Feed]) -> str:
    """Run a step; return `"done"` or the text of its own error."""
    try:
        STEPS[step](model, feeds)
    except OnnxliteError as error:
        return str(error)
    return "done"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", EXTREME)
def test_extreme_values(step, name):
    text, feeds = EXTREME[name]
    attempt(step, parse(HEAD + text), feeds)


@pytest.mark.parametrize("step", STEPS)
def test_masks_of_minus_infinity_are_taken(step):
    model, feeds = parse(HEAD + ATTENTION), padded(-np.inf, whole=False)
    told = attempt(step, model, feeds)
    # Integers hold no infinity: whole graphs of them need another mask.
    assert told == "done" or "mask with a number like -1e4" in told


@pytest.mark.parametrize("step", ["float16", "quantize-dynamic", "repair"])
def test_infinite_masks_that_make_outputs_nan_are_refused(step):
    model, feeds = parse(HEAD + ATTENTION), padded(-np.inf, whole=True)
    with pytest.raises(SamplesError, match=r"'mask' has infinite.*'y' is not finite.*-1e4"):
        STEPS[step](model, feeds)


def test_smoothing_names_what_is_too_large():
    model, feeds = parse(HEAD + MASKED), masked(SMALLEST / 8, every=5)
    report = ol.quantize_static(model, feeds, placement="everything").report
    assert any(s.code == "too-large" and "'a' reaches" in s.message for s in report.skipped)


def test_what_float16_cannot_hold_is_its_largest_number():
    """A caller of the result would mask with it."""
    model, feeds = parse(HEAD + ATTENTION), padded(SMALLEST, whole=False)
    assert ol.to_float16(model, samples=feeds, io="float16").usable


#: Graphs in which there is nothing to multiply, to store or to compare.
BARE = {
    "no weights": ("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }", (2, 4)),
    "no float output": ("g (float[n,4] x) => (int64[n] y) { y = ArgMax<axis=1, keepdims=0>(x) }",
                        (2, 4)),
    "empty output": (
        "g (float[n,4] x) => (float[n,k] y) <int64[1] a = {0}, int64[1] b = {0}, int64[1] c = {1}>"
        " { y = Slice(x, a, b, c) }",
        (2, 4),
    ),
    "constant output": (
        "g (float[n,4] x) => (float[4] y, float[n,4] z) <float[4] w>"
        " { y = Neg(w)  z = Identity(x) }",
        (2, 4),
    ),
    "EyeLike": ("g (float[n,4] x) => (float[n,4] y) { y = EyeLike(x) }", (2, 4)),
    "MeanVarianceNormalization": (
        "g (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = MeanVarianceNormalization(x) }",
        (2, 3, 4, 4),
    ),
    "ScatterElements": (
        "g (float[n,4] x) => (float[n,4] y) <int64[1,2] i = {0, 1}, float[1,2] u = {1, 2}>"
        " { y = ScatterElements<axis=1>(x, i, u) }",
        (2, 4),
    ),
    "MelWeightMatrix": (
        "g (float[n,4] x) => (float[9,4] y) <int64 bins = {4}, int64 size = {16},"
        " int64 rate = {8000}, float low = {0}, float high = {4000}>"
        " { y = MelWeightMatrix(bins, size, rate, low, high) }",
        (2, 4),
    ),
    "only scalings": (
        "g (float[n,4,2,2] x) => (float[n,4,2,2] y) <float[4] s = {1, 2, 1, 1}, float[4] b ="
        " {0, 1, 0, 0}> { y = BatchNormalization(x, s, b, b, s) }",
        (2, 4, 2, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", BARE)
def test_nothing_to_work_on(step, name):
    text, shape = BARE[name]
    attempt(step, parse(HEAD + text), [{"x": noise(*shape)} for _ in range(4)])


def test_macs_of_a_model_that_multiplies_nothing():
    text, shape = BARE["only scalings"]
    report = ol.prune_channels(parse(HEAD + text), samples=[{"x": noise(*shape)}], macs=0.7).report
    assert not report.changed
    assert report.summary


def test_overflow_of_the_model_itself_is_an_error_with_advice():
    text, feeds = EXTREME["overflow"]
    with pytest.raises((SamplesError, VerificationError), match="-1e4"):
        ol.quantize_static(parse(HEAD + text), feeds, placement="everything")
