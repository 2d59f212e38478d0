"""Size and speed of the forms that integers can have, and of every target's model.

    python -m benchmarks.forms [MODEL...]

Weights are only rounded and everything possible is on integers, so that the forms differ in
nothing but their form. OpenVINO runs its
row's model on the kernels of three kinds of processor, as far as this one has them.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._tables import publish
from onnxlite import quantize_static, simplify
from onnxlite.evaluate import benchmark
from onnxlite.model import disk_bytes, load
from onnxlite.quantize import TARGETS
from onnxlite.runtime import Session
from onnxlite.save import save

Array = NDArray[Any]
#: Kernels by the name that oneDNN's variable ONEDNN_MAX_CPU_ISA gives them.
ONEDNN_KERNELS = ("AVX2", "AVX512_CORE", "AVX512_CORE_VNNI")
NETS = ("residual", "mobilenet", "vit")


@dataclass(frozen=True)
class Case:
    """A model with inputs to calibrate on and others to compare on."""

    name: str
    path: Path
    calibration: Array
    evaluation: Array


def cases(names: list[str]) -> Iterator[Case]:
    """The models of this benchmark, by name."""
    from models import data, photos, zoo

    for name in names:
        if name == "efficientnet-lite0":
            calibration = photos.photographs(48, split="calibration")
            evaluation = photos.photographs(100, split="evaluation")
            yield Case(name, zoo.efficientnet_lite0(), calibration, evaluation)
        else:
            path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
            yield Case(name, path, data.calibration_images(128), data.test_set()[0])


def outputs(path: Path, inputs: Array) -> Array:
    """The first output for all inputs."""
    session = Session(path)
    name = session.input_names[0]
    parts = [session.run({name: inputs[i : i + 50]}) for i in range(0, len(inputs), 50)]
    return np.concatenate([part[session.output_names[0]] for part in parts])


def sqnr_db(want: Array, got: Array) -> float:
    """Signal to quantization noise ratio."""
    return 10 * float(np.log10((want**2).sum() / ((want - got) ** 2).sum()))


def in_openvino(path: Path, inputs: Path, kernels: str) -> Array | None:
    """What OpenVINO computes with one kind of kernels, None where it is not installed."""
    code = (
        "import sys, numpy, openvino\n"
        "core = openvino.Core()\n"
        "model = core.compile_model(sys.argv[1], 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})\n"
        "x = numpy.load(sys.argv[2])\n"
        "parts = [model([x[i:i+50]])[0] for i in range(0, len(x), 50)]\n"
        "numpy.save(sys.argv[2] + '.out.npy', numpy.concatenate(parts))\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": kernels}
    command = [sys.executable, "-c", code, str(path), str(inputs)]
    if subprocess.run(command, env=environment, check=False, capture_output=True).returncode:
        return None
    result: Array = np.load(f"{inputs}.out.npy")
    return result


def measure(case: Case, directory: Path) -> Iterator[dict[str, Any]]:
    """One row per form and target."""
    source = directory / f"{case.name}.onnx"
    save(simplify(case.path).model, source)
    want = outputs(source, case.evaluation)
    model = load(source)
    inputs = directory / "inputs.npy"
    np.save(inputs, case.evaluation)
    for target, row in TARGETS.items():
        qdq_outputs = None
        for form in row.forms:
            path = directory / f"{case.name}-{target}-{form}.onnx"
            save(
                quantize_static(
                    model,
                    case.calibration,
                    target=target,
                    form=form,
                    rounding="nearest",
                    placement="everything",
                ).model,
                path,
            )
            got = outputs(path, case.evaluation)
            qdq_outputs = got if qdq_outputs is None else qdq_outputs
            latency = benchmark(source, path, samples=case.evaluation[:1], threads=1, memory=False)
            result: dict[str, Any] = {
                "model": case.name,
                "target": target,
                "form": form,
                "size_ratio": disk_bytes(path) / disk_bytes(source),
                "sqnr_db": sqnr_db(want, got),
                "latency_ratio": latency.ratio.median,
                "same_as_qdq": float((qdq_outputs == got).mean()),
            }
            if target == "openvino":
                for kernels in ONEDNN_KERNELS:
                    computed = in_openvino(path, inputs, kernels)
                    key = f"openvino_{kernels.lower()}_db"
                    result[key] = None if computed is None else sqnr_db(want, computed)
            yield result


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*NETS, "efficientnet-lite0"])
    names = parser.parse_args().models
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        rows = [r for case in cases(names) for r in measure(case, Path(directory))]
    publish("forms", rows, title="Forms and targets")


if __name__ == "__main__":
    main()
