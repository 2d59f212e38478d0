"""Ranges computed inside ONNX Runtime against NumPy on the tapped tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxlite.calibrate import Range, collect_ranges
from onnxlite.errors import SamplesError
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.runtime import Session, tapped
from onnxlite.samples import Samples

MODEL = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] x) => (float[n,4] y)
    { a = Sub(x, x) r = Relu(x) l = Log(r) e = Exp(x) y = Add(e, a) }"""


def ranges(data: np.ndarray, names: list[str], **options) -> dict[str, Range]:
    model = load(onnx.parser.parse_model(MODEL))
    return collect_ranges(model, names, Samples(data, input_specs(model), **options))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_equal_to_numpy_whatever_the_batch(batch: int) -> None:
    data = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    got = ranges(data, ["x", "e", "y"], batch_size=batch)
    model = load(onnx.parser.parse_model(MODEL))
    outputs = Session(tapped(model, ["e", "y"])).run({"x": data})
    for name, array in {"x": data, **{k: outputs[k] for k in ("e", "y")}}.items():
        assert got[name].low == pytest.approx(array.min(), abs=1e-6)
        assert got[name].high == pytest.approx(array.max(), abs=1e-6)


def test_relu_lower_bound_is_known() -> None:
    assert ranges(np.full((2, 4), 3, np.float32), ["r"])["r"] == Range(0.0, 3.0)


def test_shards_merge_to_the_whole() -> None:
    data = np.random.default_rng(1).standard_normal((12, 4)).astype(np.float32)
    whole = ranges(data, ["e"])["e"]
    assert ranges(data[:5], ["e"])["e"].merge(ranges(data[5:], ["e"])["e"]) == whole


def test_nan_inside_names_the_node() -> None:
    with pytest.raises(SamplesError, match=r"'l'.*Log node"):
        ranges(np.full((2, 4), -1, np.float32), ["l"])
