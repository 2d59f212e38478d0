"""Sensitivity against the truth, and what it is good for: `python -m benchmarks.sensitivity`.

The truth is one real evaluation per layer and question: the model quantized in this layer only,
and in all layers but this one, on evaluation samples that the estimate has not seen. Ranks are
compared (Spearman). The truth has noise of its own: `without_halves` is the rank correlation of
its two halves, the most that can be asked of an estimate of it.

Then `quantize_static` is asked for 3 dB more than it gives by itself: how many layers stay
float, what that reaches on the evaluation samples, and what it costs in time.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._tables import publish
from onnxlite import quantize_static, simplify
from onnxlite.evaluate import benchmark, compare
from onnxlite.inputs import Feed, input_specs
from onnxlite.model import clone, load
from onnxlite.quantize.core.options import QuantizeStaticReport
from onnxlite.quantize.core.targets import target_named
from onnxlite.quantize.mixed.baseline import Baseline, plan_everything
from onnxlite.quantize.mixed.sensitivity import Sensitivity, sensitivity
from onnxlite.records import Skipped
from onnxlite.runtime import Session
from onnxlite.samples import Samples
from onnxlite.step import StepContext

Array = NDArray[Any]
#: Decibels more than without `min_sqnr_db`.
_MORE_DB = 3.0


@dataclass(frozen=True)
class Case:
    """A float model with disjoint calibration and evaluation inputs."""

    name: str
    model: ir.Model
    calibration: Array
    evaluation: Array


def cases(names: Sequence[str]) -> Iterator[Case]:
    """The models of this benchmark, simplified."""
    from models import data, photos, zoo

    for name in names:
        if name == "efficientnet-lite0":
            model = load(simplify(zoo.efficientnet_lite0()).model)
            yield Case(
                name,
                model,
                photos.photographs(128, split="calibration"),
                photos.photographs(96, split="evaluation"),
            )
        else:
            path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
            images, _ = data.test_set()
            yield Case(name, load(simplify(path).model), data.calibration_images(256), images[:512])


def measure(case: Case) -> dict[str, Any]:
    """One model's row."""
    start = time.process_time()
    found = sensitivity(case.model, case.calibration, threads=1, confirm=0, times=False)
    seconds = time.process_time() - start
    start = time.process_time()
    truth = Truth(case)
    names = [layer.name for layer in found.layers]
    alone = truth.noise([[name] for name in names])
    without = truth.noise([[other for other in names if other != name] for name in names])
    full_seconds = time.process_time() - start
    everything = truth.noise([names])[0]
    return {
        "model": case.name,
        "layers": len(names),
        "estimate_cpu_s": seconds,
        "truth_cpu_s": full_seconds,
        "sqnr_db": -10 * float(np.log10(everything.sum())),
        "estimated_sqnr_db": found.sqnr_db,
        "alone": spearman([-layer.alone_db for layer in found.layers], alone.sum(1)),
        "without": spearman([layer.noise_fraction for layer in found.layers], -without.sum(1)),
        "without_halves": spearman(without[:, 0], without[:, 1]),
        **heaviest(found, alone.sum(1), everything.sum()),
        **mixed(case),
    }


class Truth:
    """Real evaluations of models that are quantized in part."""

    def __init__(self, case: Case) -> None:
        target = target_named("cpu")
        planned = plan_everything(clone(case.model), target, include=(), exclude=())
        assert not isinstance(planned, Skipped)
        specs = input_specs(case.model)
        samples = Samples(case.calibration, specs)
        self._baseline = Baseline(planned[0], samples, StepContext(threads=1))
        self._feeds = list(Samples(case.evaluation, specs))
        session = Session(self._baseline.plan.model, threads=1)
        self._want = [_joined(session, feed) for feed in self._feeds]
        self._signal = float(sum((want**2).sum() for want in self._want))

    def noise(self, choices: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Noise over signal by choice of layers, on every other feed: `float64[choices, 2]`."""
        rows = []
        for layers in choices:
            session = Session(self._baseline.quantized(layers), threads=1)
            halves = [0.0, 0.0]
            for index, (feed, want) in enumerate(zip(self._feeds, self._want, strict=True)):
                halves[index % 2] += float(((_joined(session, feed) - want) ** 2).sum())
            rows.append(halves)
        return np.array(rows) / self._signal


def _joined(session: Session, feed: Feed) -> Array:
    outputs = session.run(feed).values()
    return np.concatenate([output.astype(np.float64).ravel() for output in outputs])


def heaviest(found: Sensitivity, alone: Array, everything: float) -> dict[str, Any]:
    """The layer whose noise weighs most alone, and its part in the sum of all."""
    index = int(np.argmin([layer.alone_db for layer in found.layers]))
    return {
        "heaviest": found.layers[index].name,
        "its_noise_alone": float(alone[index] / everything),
        "truly_heaviest": found.layers[int(np.argmax(alone))].name,
    }


def mixed(case: Case) -> dict[str, Any]:
    """What `min_sqnr_db` reaches and costs."""
    baseline, _ = _quantized(case, None)
    before = compare(case.model, baseline, samples=case.evaluation).sqnr_db
    better, report = _quantized(case, before + _MORE_DB)
    kept = report.changes.layers_kept_for_sqnr
    after = compare(case.model, better, samples=case.evaluation).sqnr_db
    one = case.evaluation[:1]
    ratios = [
        benchmark(case.model, model, samples=one, threads=1, memory=False).ratio.median
        for model in (baseline, better)
    ]
    return {
        "int8_db": before,
        "wanted_db": before + _MORE_DB,
        "kept_float": kept,
        "reached_db": after,
        "int8_latency": ratios[0],
        "mixed_latency": ratios[1],
        "mixed_s": report.seconds,
    }


def _quantized(case: Case, min_sqnr_db: float | None) -> tuple[ir.Model, QuantizeStaticReport]:
    model, report = quantize_static(
        case.model,
        case.calibration,
        placement="everything",
        min_sqnr_db=min_sqnr_db,
        threads=1,
    )
    return model, report


def spearman(one: Sequence[float] | Array, two: Sequence[float] | Array) -> float:
    """Rank correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, two)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    everything = ["residual", "mobilenet", "vit", "efficientnet-lite0"]
    parser.add_argument("models", nargs="*", default=everything)
    names = parser.parse_args().models
    logging.getLogger().setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    for case in cases(names):
        rows.append(measure(case))
        publish(  # after every model: the last one takes the longest
            "sensitivity",
            rows,
            title="Sensitivity of layers to INT8 against one evaluation per layer",
            notes=[
                "alone, without: rank correlation (Spearman) of estimate and truth; "
                "without_halves: of the truth's two halves",
            ],
        )


if __name__ == "__main__":
    main()
