"""Which layer costs how much: found, ranked, timed, drawn."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from models import data
from onnxlite import sensitivity
from onnxlite.cli import app
from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.quantize.mixed.sensitivity import Sensitivity
from onnxlite.report import from_json, sensitivity_plot
from onnxlite.timing import InterleavedTimer, use_timer
from tests.odd_models import parse

#: Two like layers; the channels of the second one's input differ by a factor of 300.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,4,8,8] y)
    <float[4,4,3,3] w, float[4] b, float[4,1,1,1] s, float[4,4,3,3] v, float[4] c>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Conv<group=4>(t, s)
      y = Conv<pads=[1,1,1,1]>(r, v, c) }"""


def uneven() -> tuple[onnx.ModelProto, np.ndarray]:
    proto = parse(NET)
    scale = np.array([300, 1, 1, 1], np.float32).reshape(4, 1, 1, 1)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if tensor.name == "s":
            tensor.CopyFrom(onnx.numpy_helper.from_array(scale, "s"))
        if tensor.name == "v":
            new = (array / scale.reshape(1, 4, 1, 1)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(new, "v"))
    for node, name in zip(proto.graph.node, ("even", "spread", "gather"), strict=True):
        node.name = name
    images = np.random.default_rng(0).standard_normal((32, 4, 8, 8)).astype(np.float32)
    return proto, images


def test_the_layers_around_uneven_channels_are_found_and_confirmed() -> None:
    proto, images = uneven()
    before = proto.SerializeToString()
    found = sensitivity(proto, images, confirm=3, times=False, threads=1)
    assert proto.SerializeToString() == before
    by_name = {layer.name: layer for layer in found.layers}
    assert [layer.name for layer in found.layers] == ["even", "spread", "gather"]
    # One value is what breaks it: it lies between the two.
    assert by_name["even"].alone_db > found.sqnr_db + 10
    assert abs(by_name["spread"].alone_db - found.sqnr_db) < 3
    assert abs(found.confirmed_db - found.sqnr_db) < 2
    for layer in found.layers:
        assert layer.confirmed_db == pytest.approx(layer.float_db, abs=2)


def test_times_are_of_both_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    proto, images = uneven()
    with use_timer(InterleavedTimer()):
        found = sensitivity(proto, images[:8], per_layer=1, confirm=0, threads=1)
    for layer in found.layers:
        assert layer.float_us > 0
        assert layer.int_us > 0
        assert layer.gain_us == layer.float_us - layer.int_us
    assert list(tmp_path.rglob("layer-times*"))


def test_without_a_timer_layers_have_no_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    proto, images = uneven()
    found = sensitivity(proto, images[:8], per_layer=1, confirm=0, threads=1)
    assert {(layer.float_us, layer.int_us, layer.gain_us) for layer in found.layers} == {
        (None, None, None)
    }
    assert not list(tmp_path.rglob("layer-times*"))


def test_residual_net_is_confirmed(residual_path: Path) -> None:
    found = sensitivity(residual_path, data.calibration_images(64), confirm=1, times=False)
    assert found.output == "logits"
    assert len(found.layers) == 16
    assert found.confirmed_db == pytest.approx(found.sqnr_db, abs=3)
    assert all(layer.alone_db > found.sqnr_db - 1 for layer in found.layers)
    assert found.ranked[0].confirmed_db is not None
    assert found.ranked[0].noise_fraction == max(layer.noise_fraction for layer in found.layers)


def test_what_cannot_be_told_is_refused() -> None:
    proto = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y) {y = Relu(x)}'
    )
    with pytest.raises(UnsupportedError, match="no layer can be quantized"):
        sensitivity(proto, np.ones((4, 4), np.float32))
    with pytest.raises(OptionError, match="per_layer"):
        sensitivity(uneven()[0], uneven()[1], per_layer=0)
    with pytest.raises(OptionError, match="target"):
        sensitivity(uneven()[0], uneven()[1], target="abacus")


def test_command_shows_a_table_json_and_a_plot(tmp_path: Path) -> None:
    proto, images = uneven()
    model, feeds, plot = tmp_path / "m.onnx", tmp_path / "x.npy", tmp_path / "layers.svg"
    onnx.save(proto, model)
    np.save(feeds, images)
    options = [str(model), "--data", str(feeds), "--per-layer", "2", "--confirm", "1"]
    options += ["--no-times", "--no-simplify"]
    shown = CliRunner().invoke(app, ["sensitivity", *options, "--plot", str(plot)])
    assert shown.exit_code == 0, shown.output
    assert "spread" in shown.output
    assert "noise fraction" in shown.output
    drawn = xml.etree.ElementTree.fromstring(plot.read_text())
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert "spread (Conv)" in texts
    written = CliRunner().invoke(app, ["sensitivity", *options, "--json"])
    record = from_json(written.stdout, "sensitivity", Sensitivity)
    assert len(record.layers) == 3
    assert sensitivity_plot(record).startswith("<svg")
