"""INT8 against float on every model, at batch 1 and 8: `python -m benchmarks.placement`.

For each model of the zoo, and for tiny nets made to lose: how long everything on integers and
the measured placement take against the float model, how many layers stay float and why, and
the signal to quantization noise of both. One thread; processor time of the thread that runs
the model, so that other work on the machine counts little; models take turns. Models whose
batch axis is fixed have one size only. Weights are rounded to the nearest integers, which
takes less time to do and does not change the time of a run.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._tables import RESULTS, publish
from models import data, light, tiny, zoo
from onnxlite.inputs import input_specs, trim
from onnxlite.model import load, size_bytes
from onnxlite.quantize import quantize_static
from onnxlite.records import no_progress
from onnxlite.runtime import Session
from onnxlite.samples import Samples, SamplesLike
from onnxlite.simplify import simplify
from onnxlite.timing import time_ratios

_CALIBRATION, _EVALUATION = 32, 32
_RACE_S = 4.0
#: What two timings of one model differ by on a machine that does other work, too.
_NOISE = 0.03

#: A float model, calibration samples, and evaluation samples that are others.
Case = tuple[ir.Model, SamplesLike, SamplesLike]


def _fashion(name: str) -> Case:
    path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
    images, _ = data.test_set()
    return load(path), data.calibration_images(_CALIBRATION), images[:_EVALUATION]


def _efficientnet() -> Case:
    return (
        load(zoo.efficientnet_lite0()),
        zoo.photographs(_CALIBRATION),
        zoo.photographs(_EVALUATION, split="evaluation"),
    )


def _sentences(length: int) -> Case:
    return (
        load(zoo.sentence_encoder()),
        zoo.sentences(_CALIBRATION, length=length),
        zoo.sentences(_EVALUATION, length=length, split="evaluation"),
    )


def _voice() -> Case:
    return (
        load(zoo.voice_activity()),
        zoo.voice_samples(_CALIBRATION),
        zoo.voice_samples(_EVALUATION, split="evaluation"),
    )


def _files() -> Case:
    return (
        load(zoo.file_type()),
        zoo.file_samples(_CALIBRATION),
        zoo.file_samples(_EVALUATION, split="evaluation"),
    )


def _light(name: str) -> Case:
    """Random weights; a few images are enough for times, and noise is all they see."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, 3, 224, 224)).astype(np.float32)
    return load(light.light_models([name])[name]), images[:4], images[4:]


def _tiny(make: Callable[[], Any]) -> Case:
    model = load(make())
    shape = [dim for dim in model.graph.inputs[0].shape or () if isinstance(dim, int)]
    values = np.random.default_rng(0).standard_normal((64, *shape)).astype(np.float32)
    return model, values[:_CALIBRATION], values[_CALIBRATION:]


MODELS: Mapping[str, Callable[[], Case]] = {
    **{name: partial(_fashion, name) for name in ("residual", "mobilenet", "vit")},
    "efficientnet-lite0": _efficientnet,
    "sentence-encoder-16": partial(_sentences, 16),
    "sentence-encoder-128": partial(_sentences, 128),
    "voice-activity": _voice,
    "file-type": _files,
    **{name: partial(_light, name) for name in light.NAMES},
    "tiny-convolutions": partial(_tiny, tiny.tiny_convolutions),
    "tiny-perceptron": partial(_tiny, tiny.tiny_perceptron),
    "wide-convolutions": partial(_tiny, tiny.wide_convolutions),
}


def measure(name: str) -> Iterator[dict[str, Any]]:
    """A row for every batch size of a model."""
    source, calibration, evaluation = MODELS[name]()
    model = simplify(source).model
    made = [
        quantize_static(model, calibration, placement=placement, rounding="nearest")
        for placement in ("everything", "measured")
    ]
    models = [model, *(each.model for each in made)]
    sessions = [Session(each, threads=1) for each in models]
    feeds = Samples(evaluation, input_specs(model))
    noise = [_sqnr_db(sessions[0], session, feeds) for session in sessions[1:]]
    report = made[1].report
    reasons = [d.message for d in report.skipped if d.message.startswith("measured")]
    first = next(iter(feeds))
    for batch in (1, 8):
        feed = trim(first, feeds.inputs, batch)
        if feed is None and batch > 1:
            continue
        everything, measured = time_ratios(
            sessions, feed or first, budget_s=_RACE_S, progress=no_progress
        )
        yield {
            "model": name,
            "batch": batch,
            "everything": everything,
            "measured": measured,
            "never_slower": measured <= 1 + _NOISE,
            "layers_quantized": report.changes.layers_quantized,
            "layers_float_by_time": len(reasons),
            "everything_sqnr_db": noise[0],
            "measured_sqnr_db": noise[1],
            "size_ratio": size_bytes(models[2]) / size_bytes(models[0]),
            "reason": report.summary if not report.changed else reasons[0] if reasons else "",
        }


def _sqnr_db(reference: Session, candidate: Session, feeds: Samples) -> float | None:
    """Signal to noise of the worst output, over all feeds; None without noise."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for feed in feeds:
        got = candidate.run(feed)
        for name, want in reference.run(feed).items():
            if want.dtype.kind == "f":
                signal[name] = signal.get(name, 0.0) + _power(want)
                noise[name] = noise.get(name, 0.0) + _power(want - got[name])
    found = [10 * float(np.log10(signal[n] / noise[n])) for n in signal if signal[n] and noise[n]]
    return min(found, default=None)


def _power(values: NDArray[Any]) -> float:
    return float((np.asarray(values, np.float64) ** 2).sum())


def main() -> None:
    """Measure the models named on the command line, all by default.

    What was measured is written model by model; models not named keep their rows.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    names = parser.parse_args().models
    logging.getLogger().setLevel(logging.ERROR)
    rows = _kept()
    for name in names:
        rows[name] = list(measure(name))
        publish(
            "placement",
            [row for each in MODELS for row in rows.get(each, [])],
            title="Measured placement of INT8 against float",
            notes=["times are shares of the float model's, one thread"],
        )


def _kept() -> dict[str, list[dict[str, Any]]]:
    """The rows of an earlier run, by model."""
    rows: dict[str, list[dict[str, Any]]] = {}
    file = RESULTS / "placement.json"
    if file.is_file():
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            rows.setdefault(row["model"], []).append(row)
    return rows


if __name__ == "__main__":
    main()
