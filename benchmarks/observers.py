"""What each observer costs and gives: `python -m benchmarks.observers`.

For each model and observer: SQNR (dB) at the output on evaluation samples, with weights rounded
to the nearest integers (so that activations are what differs), and with `--compensated` also
with weights fitted to the integer activations; CPU time of the calibration over plain float
inference of the same samples, one thread, medians of alternating rounds; peak memory of a child
process that calibrates on 50 and on 800 generated samples, made one batch at a time.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._tables import kept_rows, publish
from onnxlite import simplify
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.evaluate.peak_memory import high_water_bytes
from onnxlite.inputs import InputSpec, input_specs
from onnxlite.model import load
from onnxlite.normalize import normalize
from onnxlite.quantize import quantize_static
from onnxlite.quantize.core.options import ObserverChoice, Rounding
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.core.targets import target_named
from onnxlite.quantize.static.ranges import calibrate_ranges
from onnxlite.runtime import Session
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext

MODELS = ("residual", "mobilenet", "vit", "efficientnet-lite0", "sentence-encoder")
OBSERVERS: tuple[ObserverChoice, ...] = get_args(ObserverChoice)
ROUNDS = 3
#: Observers whose memory is measured: those between keep what `"auto"` keeps.
PEAKS = ("minmax", "auto")
#: Length of the sentences, in tokens.
TOKENS = 32


@dataclass(frozen=True)
class Case:
    """A model, its output that counts, and disjoint calibration and evaluation samples."""

    path: Path
    output: str
    calibration: SamplesLike
    evaluation: SamplesLike


def case(name: str) -> Case:
    """A model of this benchmark by name."""
    from models import data, photos, zoo

    if name == "efficientnet-lite0":
        return Case(
            zoo.efficientnet_lite0(),
            "logits",
            photos.photographs(128, split="calibration"),
            photos.photographs(500, split="evaluation"),
        )
    if name == "sentence-encoder":
        return Case(
            zoo.sentence_encoder(),
            "461",
            zoo.sentences(256, TOKENS),
            zoo.sentences(512, TOKENS, split="evaluation"),
        )
    path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
    return Case(path, "logits", data.calibration_images(1024), data.test_set()[0])


class Generated:
    """Seeded inputs made when they are asked for: as many as wanted, none kept."""

    def __init__(self, specs: tuple[InputSpec, ...], count: int, batch: int = 8) -> None:
        self._specs, self._count, self._batch = specs, count, batch

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        rng = np.random.default_rng(0)
        for _ in range(0, self._count, self._batch):
            yield {spec.name: self._array(spec, rng) for spec in self._specs}

    def _array(self, spec: InputSpec, rng: np.random.Generator) -> NDArray[Any]:
        dims = [d if isinstance(d, int) else TOKENS for d in (spec.shape or ())[1:]]
        shape = (self._batch, *dims)
        if spec.dtype == "float32":
            return rng.standard_normal(shape, np.float32)
        if "mask" in spec.name or "type" in spec.name:
            return np.full(shape, "mask" in spec.name, spec.dtype)
        # Token ids that every vocabulary has.
        return rng.integers(1, 1000, shape).astype(spec.dtype)


def calibrate(model: ir.Model, samples: SamplesLike, observer: ObserverChoice) -> None:
    """The calibration of `quantize_static` alone, one thread."""
    row = target_named("cpu")
    feeds = Samples(samples, input_specs(model))
    plan = QuantPlan(model, place(model, row), row)
    calibrate_ranges(plan, feeds, observer, StepContext(threads=1))


def ready(path: Path) -> ir.Model:
    """A model as `quantize_static` calibrates it."""
    model = simplify(load(path)).model
    normalize(model)
    infer_shapes(model)
    return model


def cpu_ratio(model: ir.Model, samples: SamplesLike, observer: ObserverChoice) -> float:
    """CPU time of the calibration over that of plain inference.

    The garbage collector waits meanwhile, as `timeit` has it: what it takes depends on all else
    that the process holds, and is as much as half of the inference of the smallest model.
    """
    feeds = Samples(samples, input_specs(model))
    ratios = []
    gc.collect()
    gc.disable()
    for _ in range(ROUNDS):
        start = time.process_time()
        session = Session(model, threads=1)
        for feed in feeds:
            session.run(feed)
        plain = time.process_time() - start
        start = time.process_time()
        calibrate(model, samples, observer)
        ratios.append((time.process_time() - start) / plain)
    gc.enable()
    return statistics.median(ratios)


def outputs(case_: Case, model: ir.Model) -> NDArray[np.float64]:
    """The output that counts, for all evaluation samples."""
    session = Session(model, threads=1)
    feeds = Samples(case_.evaluation, input_specs(model), batch_size=25)
    return np.concatenate([session.run(feed)[case_.output] for feed in feeds]).astype(np.float64)


def sqnr_db(
    case_: Case,
    model: ir.Model,
    expected: NDArray[np.float64],
    observer: ObserverChoice,
    rounding: Rounding,
) -> float:
    """Of the quantized model's output, on the evaluation samples."""
    quantized = quantize_static(
        model,
        case_.calibration,
        observer=observer,
        rounding=rounding,
        placement="everything",
        smooth=False,
        threads=1,
    ).model
    noise = ((outputs(case_, quantized) - expected) ** 2).sum()
    return 10 * float(np.log10((expected**2).sum() / noise))


def peak_bytes(name: str, observer: str, count: int) -> int:
    """Peak memory of a child process that calibrates once."""
    command = [sys.executable, "-m", "benchmarks.observers", "--child", name, observer, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, *, compensated: bool) -> Iterator[dict[str, Any]]:
    """One row per observer."""
    this = case(name)
    model = ready(this.path)
    expected = outputs(this, model)
    for observer in OBSERVERS:
        row: dict[str, Any] = {"model": name, "observer": observer}
        row["nearest_sqnr_db"] = sqnr_db(this, model, expected, observer, "nearest")
        if compensated:
            row["compensated_sqnr_db"] = sqnr_db(this, model, expected, observer, "compensated")
        row["cpu_ratio"] = cpu_ratio(model, this.calibration, observer)
        if observer in PEAKS:
            row["peak_bytes_50"] = peak_bytes(name, observer, 50)
            row["peak_bytes_800"] = peak_bytes(name, observer, 800)
            row["peak_ratio"] = row["peak_bytes_800"] / row["peak_bytes_50"]
        yield row


def main() -> None:
    """Run the models named on the command line, or all; rows of others stay in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--compensated", action="store_true", help="fit weights as well: slow")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.child:
        name, observer, count = args.models
        model = ready(case_path(name))
        calibrate(model, Generated(input_specs(model), int(count)), observer)
        sys.stdout.write(json.dumps(high_water_bytes()))
        return
    rows = kept_rows("observers", "model", "observer")
    for name in args.models:
        for row in measure(name, compensated=args.compensated):
            rows[name, row["observer"]] = row
        ordered = [row for model in MODELS for (of, _), row in rows.items() if of == model]
        publish("observers", ordered, title="Observers: accuracy, CPU time and memory")


def case_path(name: str) -> Path:
    """Where a model is; its samples are not loaded."""
    from models import data, zoo

    if name == "efficientnet-lite0":
        return zoo.efficientnet_lite0()
    if name == "sentence-encoder":
        return zoo.sentence_encoder()
    return Path(data.__file__).parent / "fashion" / f"{name}.onnx"


if __name__ == "__main__":
    main()
