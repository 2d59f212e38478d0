"""Cost of calibration: `python -m benchmarks.calibration`.

CPU time of one calibration pass over 200 samples against plain float inference of the
same samples in the same batches, alternating; and the peak memory of a whole
`quantize_static` in a child process at 50 and at 800 samples, which are made one by one.
`onnxruntime.quantization` runs beside it, on 50 samples: at 200 it does not fit everywhere.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._tables import publish
from onnxlite import quantize_static
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate import collect_ranges
from onnxlite.inputs import InputSpec, input_specs
from onnxlite.model import load
from onnxlite.normalize import normalize
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.core.targets import target_named
from onnxlite.runtime import Session
from onnxlite.samples import Samples

MODELS = ("residual", "mobilenet", "vit", "efficientnet-lite0")
ROUNDS = 3


class Noise:
    """Seeded images, made when they are asked for: as many as wanted, none kept."""

    def __init__(self, spec: InputSpec, count: int, batch: int = 8) -> None:
        self._shape = [d for d in spec.shape or () if isinstance(d, int)]
        self._name, self._count, self._batch = spec.name, count, batch

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        rng = np.random.default_rng(0)
        for _ in range(0, self._count, self._batch):
            yield {self._name: rng.standard_normal((self._batch, *self._shape), np.float32)}


def model_path(name: str) -> str:
    """Path of a model of this benchmark."""
    from models import zoo
    from models.data import EXCERPT

    if name == "efficientnet-lite0":
        return str(zoo.efficientnet_lite0())
    return str(EXCERPT.parent.parent / "fashion" / f"{name}.onnx")


def cpu_ratio(name: str, count: int = 200) -> dict[str, Any]:
    """CPU seconds of plain inference and of calibration, medians of alternating rounds."""
    model = load(model_path(name))
    normalize(model)
    infer_shapes(model)
    specs = input_specs(model)
    samples = Samples(list(Noise(specs[0], count)), specs)
    names = [value.name for value in place(model, target_named("cpu")).values if value.name]
    plain, calibration = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        session = Session(model)
        for feed in samples:
            session.run(feed)
        plain.append(time.process_time() - start)
        start = time.process_time()
        collect_ranges(model, names, samples)
        calibration.append(time.process_time() - start)
    return {
        "values": len(names),
        "plain_cpu_s": statistics.median(plain),
        "calibrate_cpu_s": statistics.median(calibration),
        "cpu_ratio": statistics.median(c / p for c, p in zip(calibration, plain, strict=True)),
    }


def peak_bytes(name: str, count: int, tool: str = "onnxlite") -> int | None:
    """Peak memory of one quantization in a child process; None if it failed."""
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.calibration", "--child", tool, name, str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(json.loads(child.stdout)) if child.returncode == 0 else None


def child(tool: str, name: str, count: int) -> None:
    """Quantize once and print the peak resident memory in bytes."""
    path = model_path(name)
    model = load(path)
    noise = Noise(input_specs(model)[0], count)
    if tool == "onnxlite":
        quantize_static(model, noise)
    else:
        _peer(path, noise)
    sys.stdout.write(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def _peer(path: str, noise: Noise) -> None:
    from onnxruntime import quantization as ortq

    class Reader(ortq.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(noise)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._feeds, None)

    ortq.quantize_static(path, "/dev/null", Reader())


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--child", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.child:
        tool, name, count = args.models
        child(tool, name, int(count))
        return
    rows = []
    for name in args.models:
        few, many = peak_bytes(name, 50), peak_bytes(name, 800)
        rows.append(
            {
                "model": name,
                **cpu_ratio(name),
                "peak_bytes_50": few,
                "peak_bytes_800": many,
                "peak_ratio": many / few if few and many else None,
                "ort_peak_bytes_50": peak_bytes(name, 50, "onnxruntime"),
            }
        )
    publish("calibration", rows, title="Calibration: CPU time for 200 samples, peak memory")


if __name__ == "__main__":
    main()
