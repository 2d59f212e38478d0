"""Times of single layers: measured once, with other shapes than the model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxlite.cache import Cache
from onnxlite.graph import is_op
from onnxlite.model import load
from onnxlite.normalize import normalize
from onnxlite.runtime import Session
from onnxlite.timing.layer_times import LayerTimes
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,32,8,8] x, float[1,32,8,8] z)
    => (float[1,64,8,8] y, float[1,32,8,8] d, float[1,32,8,8] m)
    <float[64,32,3,3] w, float[64] b, float[32,1,3,3] v>
    { y = Conv<pads=[1,1,1,1]>(x, w, b) d = Conv<group=32, pads=[1,1,1,1]>(x, v)
      m = MatMul(x, z) }"""


def nodes(model):
    return [node for node in model.graph if is_op(node, "Conv", "MatMul")]


def shapes(channels: int, outputs: int):
    """Shapes by the names of values, with that many channels."""
    known = {
        "x": (1, channels, 8, 8),
        "z": (1, channels, 8, 8),
        "w": (outputs, channels, 3, 3),
        "b": (outputs,),
        "v": (channels, 1, 3, 3),
    }
    return lambda value: None if value is None else known[value.name]


def test_a_time_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(parse(NET))
    normalize(model)
    times = LayerTimes(cache=Cache(tmp_path))
    conv, depthwise, product = nodes(model)
    wide = times.time(model, conv, shapes(32, 64), {})
    assert 0 < wide < 1
    assert times.time(model, depthwise, shapes(16, 64), {"group": 16}) > 0
    assert times.time(model, product, shapes(8, 64), {}) > 0
    times.keep()
    assert [path.name.split("-")[:2] for path in tmp_path.iterdir()] == [["layer", "times"]]

    def never(*_arguments: object, **_options: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Session, "__init__", never)
    again = LayerTimes(cache=Cache(tmp_path))
    assert again.time(model, conv, shapes(32, 64), {}) == wide


def test_more_work_takes_longer(tmp_path: Path) -> None:
    model = load(parse(NET))
    normalize(model)
    times, conv = LayerTimes(cache=Cache(tmp_path)), nodes(model)[0]
    narrow, wide = (times.time(model, conv, shapes(n, 8 * n), {}) for n in (16, 128))
    assert wide > 4 * narrow


def test_what_cannot_run_alone_has_no_time(tmp_path: Path) -> None:
    model = load(parse(NET))
    normalize(model)
    conv, depthwise, _ = nodes(model)
    times = LayerTimes(cache=Cache(tmp_path))
    assert times.time(model, depthwise, shapes(16, 64), {"group": 3}) is None
    assert times.time(model, conv, lambda _value: None, {}) is None
