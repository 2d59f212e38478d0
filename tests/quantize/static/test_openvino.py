"""The `openvino` row in the real OpenVINO runtime: it loads, runs on integers, and agrees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import openvino
import pytest

from models import data as fashion
from onnxlite.graph import const_array
from onnxlite.model import load, to_bytes
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Session
from onnxlite.save import save
from tests.odd_models import parse
from tests.quantize.checks import array_sqnr_db


def compiled(model: bytes) -> openvino.CompiledModel:
    core = openvino.Core()
    # OpenVINO takes bfloat16 by itself where the processor has it.
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(model), "CPU", options)


def precisions(model: openvino.CompiledModel) -> Counter[tuple[str, str]]:
    """What OpenVINO runs: layers by type and by the type of numbers they compute with."""
    infos = [node.get_rt_info() for node in model.get_runtime_model().get_ordered_ops()]
    return Counter((i["layerType"].value, i["runtimePrecision"].value) for i in infos)


@pytest.mark.parametrize(
    "rounding", ["nearest", pytest.param("compensated", marks=pytest.mark.slow)]
)
def test_residual_net_runs_on_integers_in_openvino(rounding: str, residual_path: Path) -> None:
    images = fashion.test_set()[0][:200]
    model = quantize_static(
        load(residual_path), fashion.calibration_images(48), target="openvino", rounding=rounding
    ).model
    float_run = Session(load(residual_path)).run({"image": images})["logits"]
    runtime = compiled(to_bytes(model))
    got = runtime({"image": images})["logits"]
    assert array_sqnr_db(float_run, got) > 33
    # The same arithmetic as in ONNX Runtime, but for the rounding between layers.
    assert array_sqnr_db(Session(model).run({"image": images})["logits"], got) > 35
    ran = precisions(runtime)
    layers = {
        key: count for key, count in ran.items() if key[0] in ("Convolution", "FullyConnected")
    }
    assert layers == {("Convolution", "u8"): 15, ("FullyConnected", "u8"): 1}


def test_weights_of_an_odd_number_of_channels_have_half_of_the_range() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,4,4,4] y)
        <float[4,3,3,3] w, float[4,4,3,3] v> { t = Conv(x, w) y = Conv(t, v) }""")
    data = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    for rounding in ("nearest", "compensated"):
        model = load(quantize_static(proto, data, target="openvino", rounding=rounding).model)
        largest = [
            np.abs(const_array(node.inputs[1].producer().inputs[0]).astype(int)).max()
            for node in model.graph
            if node.op_type == "Conv"
        ]
        assert largest[0] <= 63 < largest[1]


@pytest.mark.parametrize("kernels", ["AVX2", "AVX512_CORE"])
def test_kernels_without_vnni_do_not_saturate(
    kernels: str, residual_path: Path, tmp_path: Path
) -> None:
    """Compute outputs in a process of its own, because oneDNN reads the variable once."""
    images = fashion.test_set()[0][:100]
    model = quantize_static(
        load(residual_path), fashion.calibration_images(32), target="openvino", rounding="nearest"
    ).model
    save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import numpy, openvino\n"
        "hint = {'INFERENCE_PRECISION_HINT': 'f32'}\n"
        "model = openvino.Core().compile_model('model.onnx', 'CPU', hint)\n"
        "numpy.save('logits.npy', model([numpy.load('images.npy')])[0])\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": kernels}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    want = Session(load(residual_path)).run({"image": images})["logits"]
    assert array_sqnr_db(want, np.load(tmp_path / "logits.npy")) > 32


def test_operators_between_layers_agree_with_onnx_runtime() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,6] y)
        <float[8,4,3,3] w, float[8] b, float[8,1,3,3] v, float[8] c, float[6,16] m, float[6] d>
        { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t)
          p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
          u = Conv<pads=[1,1,1,1], group=8>(p, v, c) s = Sigmoid(u) k = Mul(u, s)
          j = Concat<axis=1>(k, p) g = GlobalAveragePool(j) f = Flatten(g)
          y = Gemm<transB=1>(f, m, d) }""")
    data = np.random.default_rng(0).standard_normal((24, 4, 8, 8)).astype(np.float32)
    model = quantize_static(load(proto), data[:16], target="openvino", rounding="nearest").model
    want = Session(load(proto)).run({"x": data})["y"]
    got = compiled(to_bytes(model))({"x": data})["y"]
    assert array_sqnr_db(want, got) > 28
