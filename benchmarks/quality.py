"""Figures that mean what the user means: `python -m benchmarks.quality`.

`detector`: NudeNet 320n (YOLOv8n, one output of boxes in pixels beside scores in 0..1) on
photographs, calibration and evaluation of other pictures: every step's SQNR by parts, and how much
of the original's detections is kept. "dead" is the model with all scores multiplied by zero.

`voice`, `durations`: a VITS voice with random operators and a duration model whose output's length
depends on values, both with random weights. `other_seed_db` is the difference of the SQNR if it is
measured with tied noise of another seed.

`eeg`: a net on spectrograms with rare bursts, every observer on windows that it has not seen.
`outlier`: one pixel of 1e4 in one of 256 calibration images; figures are of ordinary images.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._int8_peers import peers
from benchmarks._tables import kept_rows, publish
from models import data, vision
from models.eeg import seizure_net, spectrograms
from models.fastspeech import fastspeech
from models.vits import vits
from onnxlite.builder import GraphBuilder
from onnxlite.evaluate import benchmark, compare
from onnxlite.model import clone, load
from onnxlite.ops import noise_seed
from onnxlite.prune import prune_channels
from onnxlite.quantize import (
    quantize_auto,
    quantize_dynamic,
    quantize_static,
    quantize_weights,
    to_float16,
)
from onnxlite.save import save
from onnxlite.simplify import simplify

Row = dict[str, Any]
Step = Callable[[ir.Model], Any]

_CALIBRATION, _EVALUATION = 96, 96
_TOKENS, _SENTENCES = 24, 16
_WINDOWS = 200
_OBSERVERS = ("auto", "minmax", "moving-average", "percentile", "mse")


def detector() -> Iterator[Row]:
    """One row per step."""
    seen = vision.unit_photographs(_CALIBRATION)
    unseen = vision.unit_photographs(_EVALUATION, split="evaluation")
    model = simplify(load(vision.nudenet()), samples=seen[:4]).model
    steps: Mapping[str, Step] = {
        "dead": _without_scores,
        "prune_channels(macs=0.8)": lambda m: prune_channels(m, samples=seen, macs=0.8),
        "quantize_static": lambda m: quantize_static(m, seen),
        "quantize_static(min_sqnr_db=0)": lambda m: quantize_static(m, seen, min_sqnr_db=0),
        "quantize_weights(bits=8)": lambda m: quantize_weights(m, bits=8),
        "to_float16": lambda m: to_float16(m, samples=seen),
        "ort per-channel uint8": partial(_peer, images=seen),
    }
    for name, step in steps.items():
        yield {"case": "detector", "step": name, **_detections(model, step, unseen)}


def _detections(model: ir.Model, step: Step, unseen: NDArray[np.float32]) -> Row:
    candidate, row = _made(step, model)
    fidelity = compare(model, candidate, samples=unseen, metric="detection")
    (metric,) = fidelity.metrics
    parts = {f"{part.kind}_db": part.sqnr_db for part in fidelity.outputs[0].parts}
    return row | {
        "worst_part": fidelity.worst_part,
        "sqnr_db": fidelity.sqnr_db,
        **parts,
        "detection": metric.candidate,
        **metric.details,
        "latency": benchmark(model, candidate, samples=unseen[:1], threads=1).ratio.median,
    }


def _without_scores(model: ir.Model) -> ir.Model:
    dead = clone(model)
    output = dead.graph.outputs[0]
    assert output.shape is not None
    channels = output.shape[1]
    assert isinstance(channels, int)
    mask = np.ones((1, channels, 1), np.float32)
    mask[:, 4:] = 0
    builder = GraphBuilder(dead)
    at = builder.behind(output)
    result = at.op("Mul", [output, builder.initializer(dead.graph, "mask", mask)], name="dead")
    result.type, result.shape = output.type, output.shape
    dead.graph.outputs[0] = result
    result.name, output.name = output.name, f"{output.name}_alive"
    return dead


def _peer(model: ir.Model, images: NDArray[np.float32]) -> ir.Model:
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        save(model, source)
        name = model.graph.inputs[0].name
        assert name is not None
        peers(name, images)["ort per-channel uint8"](source, target)
        return load(target)


def speech(case: str) -> Iterator[Row]:
    """One row per step of a voice or a duration model."""
    rng = np.random.default_rng(0)
    feeds = [_sentence(rng, scales=case == "voice") for _ in range(2 * _SENTENCES)]
    seen, unseen = feeds[:_SENTENCES], feeds[_SENTENCES:]
    with TemporaryDirectory() as folder:
        path = (vits if case == "voice" else fastspeech)(Path(folder) / "speech.onnx")
        model = simplify(load(path), samples=seen[:2]).model
    steps: Mapping[str, Step] = {
        "quantize_static": lambda m: quantize_static(m, seen),
        "quantize_dynamic": lambda m: quantize_dynamic(m, samples=seen),
        "quantize_auto": lambda m: quantize_auto(m, seen),
        "quantize_weights(bits=4)": lambda m: quantize_weights(m, bits=4, samples=seen),
        "prune_channels(params=0.9)": lambda m: prune_channels(m, samples=seen, params=0.9),
        "to_float16": lambda m: to_float16(m, samples=seen),
    }
    for name, step in steps.items():
        candidate, row = _made(step, model)
        figures = [_with_seed(seed, model, candidate, unseen) for seed in (0, 1)]
        yield {
            "case": case,
            "step": name,
            **row,
            "sqnr_db": figures[0].sqnr_db,
            "other_seed_db": figures[1].sqnr_db - figures[0].sqnr_db,
            "length_agreement": figures[0].length_agreement,
        }


def _with_seed(seed: int, model: ir.Model, candidate: ir.Model, unseen: Any) -> Any:
    with noise_seed(seed):
        return compare(model, candidate, samples=unseen)


def _sentence(rng: np.random.Generator, *, scales: bool) -> dict[str, NDArray[Any]]:
    feed: dict[str, NDArray[Any]] = {"ids": rng.integers(1, 64, (1, _TOKENS))}
    if scales:
        feed["scales"] = np.array([0.667, 1.0, 0.8], np.float32)
    return feed


def _made(step: Step, model: ir.Model) -> tuple[ir.Model, Row]:
    """A step's model, its own words on whether it can be used, and what it cost."""
    start = time.process_time()
    made = step(model)
    seconds = time.process_time() - start
    if isinstance(made, ir.Model):
        return made, {"cpu_s": seconds}
    return made.model, {"usable": made.usable, "cpu_s": seconds}


def eeg() -> Iterator[Row]:
    """One row per observer."""
    seen, _ = spectrograms(_WINDOWS, seed=1)
    unseen, bursts = spectrograms(_WINDOWS, seed=2)
    model = simplify(load(seizure_net()), samples=seen[:4]).model
    steps: dict[str, Step] = {
        name: partial(quantize_static, samples=seen, observer=name) for name in _OBSERVERS
    }
    steps["ort per-channel uint8"] = partial(_peer, images=seen)
    for name, step in steps.items():
        candidate, row = _made(step, model)
        ordinary, burst = (
            compare(model, candidate, samples=unseen[which]).sqnr_db for which in (~bursts, bursts)
        )
        yield {
            "case": "eeg",
            "step": name,
            **row,
            "sqnr_db": compare(model, candidate, samples=unseen).sqnr_db,
            "ordinary_db": ordinary,
            "burst_db": burst,
            "latency": benchmark(model, candidate, samples=unseen[:1], threads=1).ratio.median,
        }


def outlier() -> Iterator[Row]:
    """One row per net and observer."""
    seen = data.calibration_images(256).copy()
    seen[100, 0, 10, 10] = 1e4
    unseen = data.test_set()[0][:400]
    for net in ("residual", "mobilenet"):
        model = simplify(
            load(Path(data.__file__).parent / "fashion" / f"{net}.onnx"), samples=unseen[:4]
        ).model
        for observer in _OBSERVERS:
            step = partial(quantize_static, samples=seen, observer=observer)
            candidate, row = _made(step, model)
            fidelity = compare(model, candidate, samples=unseen)
            agreement = fidelity.outputs[0].agreement
            figures = {"ordinary_db": fidelity.sqnr_db, "agreement": agreement}
            yield {"case": "outlier", "step": f"{net}, {observer}", **row, **figures}


CASES: Mapping[str, Callable[[], Iterator[Row]]] = {
    "detector": detector,
    "voice": partial(speech, "voice"),
    "durations": partial(speech, "durations"),
    "eeg": eeg,
    "outlier": outlier,
}


def main() -> None:
    """Run the cases asked for; rows of the others are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    chosen = parser.parse_args().cases or list(CASES)
    logging.getLogger("onnxlite").setLevel(logging.ERROR)
    rows = kept_rows("quality", "case", "step")
    rows = {key: row for key, row in rows.items() if key[0] not in chosen}
    for case in chosen:
        for row in CASES[case]():
            rows[row["case"], row["step"]] = row
            publish("quality", list(rows.values()), title="Quality on unseen inputs")


if __name__ == "__main__":
    main()
