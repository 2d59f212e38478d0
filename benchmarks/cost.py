"""What static quantization costs and gives: `python -m benchmarks.cost`.

For each model the steps of onnxlite and the quantizer of ONNX Runtime (`quantize_static`, uint8
activations and a scale per channel, one sample at a time as its examples do), on the same
simplified model and the same calibration samples, each in a process of its own with an empty
cache: processor time of all its threads (`cpu_s`) and that over ONNX Runtime's (`cost`), peak
memory of the process, SQNR of the worst part on evaluation samples (disjoint), latency over float
(one thread, interleaved, processor time) and size over float.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from benchmarks._tables import kept_rows, publish
from onnxlite.evaluate import benchmark, compare
from onnxlite.inputs import Feed
from onnxlite.model import load, size_bytes
from onnxlite.opset import upgrade_opset
from onnxlite.quantize import quantize_static
from onnxlite.save import save
from onnxlite.simplify import simplify

Row = dict[str, Any]

PEER = "ort per-channel uint8"
_TIMED_S = 3.0
_OPSET = 13


class Case(NamedTuple):
    """A model, and samples of two disjoint sets."""

    path: Path
    calibration: Feed
    evaluation: Feed


def _fashion(name: str) -> Case:
    from models import data

    path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
    images, unseen = data.calibration_images(256), data.test_set()[0][:500]
    return Case(path, {"image": images}, {"image": unseen})


def _photographs(path: Path, name: str, count: int) -> Case:
    from models import photos

    seen = photos.photographs(count, split="calibration")
    unseen = photos.photographs(100, split="evaluation")
    return Case(path, {name: seen}, {name: unseen})


def _efficientnet() -> Case:
    from models import zoo

    return _photographs(zoo.efficientnet_lite0(), "image", 64)


def _encoder() -> Case:
    from models import zoo

    return Case(
        zoo.sentence_encoder(),
        zoo.sentences(128, 32),
        zoo.sentences(100, 32, split="evaluation"),
    )


def _yolo() -> Case:
    from models import vision

    seen, unseen = vision.unit_photographs(64), vision.unit_photographs(48, split="evaluation")
    return Case(vision.nudenet(), {"images": seen}, {"images": unseen})


def _nsfw() -> Case:
    from models import vision

    seen, unseen = vision.bgr_photographs(64), vision.bgr_photographs(64, split="evaluation")
    return Case(vision.open_nsfw(), {"input:0": seen}, {"input:0": unseen})


def _pages() -> Case:
    from models import packages, vision

    seen = vision.text_pictures(64, 480, 480, split="calibration")
    unseen = vision.text_pictures(16, 480, 480, split="evaluation")
    return Case(packages.packaged("PP-OCRv5 text detector"), {"x": seen}, {"x": unseen})


def _eeg() -> Case:
    from models import eeg

    return Case(
        eeg.seizure_net(),
        {"x": eeg.spectrograms(64, seed=0)[0]},
        {"x": eeg.spectrograms(200, seed=1)[0]},
    )


CASES: Mapping[str, Callable[[], Case]] = {
    "residual": lambda: _fashion("residual"),
    "mobilenet": lambda: _fashion("mobilenet"),
    "vision transformer": lambda: _fashion("vit"),
    "EfficientNet-Lite0": _efficientnet,
    "MiniLM encoder": _encoder,
    "YOLOv8n": _yolo,
    "PP-OCRv5 detector": _pages,
    "Open-NSFW": _nsfw,
    "EEG": _eeg,
}


def _onnxlite(case: Case, model: ir.Model, **options: Any) -> ir.Model:
    quantized: ir.Model = quantize_static(model, case.calibration, **options).model
    return quantized


def _peer(case: Case, model: ir.Model) -> ir.Model:
    from onnxruntime import quantization as ortq

    count = len(next(iter(case.calibration.values())))

    class Reader(ortq.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._number = 0

        def get_next(self) -> Feed | None:
            self._number += 1
            rows = slice(self._number - 1, self._number)
            return {n: v[rows] for n, v in case.calibration.items()} if rows.start < count else None

    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        save(model, source)
        ortq.quantize_static(
            source,
            target,
            Reader(),
            per_channel=True,
            activation_type=ortq.QuantType.QUInt8,
            weight_type=ortq.QuantType.QInt8,
        )
        return load(target)


TOOLS: Mapping[str, Callable[[Case, ir.Model], ir.Model]] = {
    PEER: _peer,
    "fast": partial(_onnxlite, effort="fast"),
    "default": _onnxlite,
}


def measured(name: str, tool: str) -> Row:
    """One row, in a process that does nothing else."""
    logging.getLogger("onnxlite").setLevel(logging.ERROR)
    case = CASES[name]()
    # ONNX Runtime's quantizer writes a scale per channel for this opset on, and does not upgrade.
    model = upgrade_opset(simplify(load(case.path)).model, _OPSET)
    assert isinstance(model, ir.Model)
    with TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        start, wall = _processor_s(), time.perf_counter()
        candidate = TOOLS[tool](case, model)
        spent, waited = _processor_s() - start, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        fidelity = compare(model, candidate, samples=case.evaluation)
        one = {name: array[:1] for name, array in case.evaluation.items()}
        latency = benchmark(model, candidate, samples=one, threads=1, time_limit_s=_TIMED_S)
    return {
        "model": name,
        "tool": tool,
        "cpu_s": round(spent, 1),
        "wall_s": round(waited, 1),
        "peak_mb": round(peak / 1e6),
        "sqnr_db": fidelity.sqnr_db,
        "latency": latency.ratio.median,
        "size": size_bytes(candidate) / size_bytes(model),
    }


def _processor_s() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _mean(values: list[float]) -> float:
    return math.exp(float(np.mean(np.log(values))))


def main() -> None:
    """Measure the models and tools asked for; other rows are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=list(TOOLS))
    chosen = parser.parse_args()
    rows = kept_rows("cost", "model", "tool")
    for name in chosen.models or CASES:
        for tool in chosen.tools:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                row = pool.submit(measured, name, tool).result()
            rows[name, tool] = row
            peer = rows.get((name, PEER))
            if peer is not None:
                row["cost"] = row["cpu_s"] / peer["cpu_s"]
                row["memory"] = row["peak_mb"] / peer["peak_mb"]
            publish("cost", list(rows.values()), title="Cost of static quantization")
    for tool in TOOLS:
        costs = [row["cost"] for row in rows.values() if row["tool"] == tool and "cost" in row]
        if costs:
            print(f"{tool}: {_mean(costs):.2f} times the peer's time, {max(costs):.2f} at most")


if __name__ == "__main__":
    main()
