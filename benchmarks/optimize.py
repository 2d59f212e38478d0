"""Search within a budget, checked on unseen data: `python -m benchmarks.optimize`.

For each model: a budget, latency (interleaved pairs, one thread, batch 1) and size of the result
relative to the original, quality before and after on samples that the search never saw, the
seconds of the search, and those of the same call with a warm cache. `--zoo` searches models of
many structures with default options for little more than a minute each: none may crash, and no
result may be slower, larger or broken.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._tables import kept_rows, publish
from onnxlite.errors import OnnxliteError
from onnxlite.evaluate import benchmark, compare
from onnxlite.model import disk_bytes
from onnxlite.samples import SamplesLike
from onnxlite.save import save
from onnxlite.search import Budget, Trial, optimize

MINUTES = 60.0
ZOO_SECONDS = 75.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, its data in three parts that share nothing, and a budget.

    Attributes:
        name: of the row.
        path: of the model.
        samples: calibration samples.
        evaluation: samples for selection and final check within the search.
        labels: of `evaluation`.
        unseen: samples that the search never sees.
        unseen_labels: of `unseen`.
        budget: limits of the result.
        seconds: time limit of the search.
    """

    name: str
    path: Path
    samples: SamplesLike
    unseen: SamplesLike
    budget: Budget
    evaluation: SamplesLike | None = None
    labels: Any = None
    unseen_labels: Any = None
    seconds: float = 10 * MINUTES


def fashion(name: str) -> Case:
    """A classifier of 28x28 images: 5,000 unlabelled, 6,000 and 4,000 labelled ones."""
    from models import data

    full = data.has_full_set()
    images, labels = data.test_set(full=full)
    unlabelled = data.calibration_images()
    if full:
        unlabelled = data.to_input(data.read_split("train")[0][:5000])
    cut = len(images) * 3 // 5
    return Case(
        name=name,
        path=Path(data.__file__).parent / "fashion" / f"{name}.onnx",
        samples=unlabelled,
        evaluation=images[:cut],
        labels=labels[:cut],
        unseen=images[cut:],
        unseen_labels=labels[cut:],
        budget=Budget(max_drop=0.01),
    )


def efficientnet() -> Case:
    """EfficientNet-Lite0: photographs whose scenes the two splits do not share."""
    from models import photos, zoo

    photographs = photos.photographs(500, split="evaluation")
    return Case(
        name="efficientnet-lite0",
        path=zoo.efficientnet_lite0(),
        samples=photos.photographs(128, split="calibration"),
        evaluation=photographs[:250],
        unseen=photographs[250:],
        budget=Budget(min_agreement=0.9),
        seconds=20 * MINUTES,
    )


def sentence_encoder() -> Case:
    """A sentence encoder on real sentences."""
    from models import zoo

    return Case(
        name="sentence encoder",
        path=zoo.sentence_encoder(),
        samples=zoo.sentences(256),
        unseen=zoo.sentences(128, split="evaluation"),
        budget=Budget(min_cosine=0.99),
    )


def voice() -> Case:
    """Voice activity on synthetic speech, voices not shared."""
    from models import zoo

    return Case(
        name="voice activity",
        path=zoo.voice_activity(),
        samples=zoo.voice_samples(128),
        unseen=zoo.voice_samples(128, split="evaluation"),
        budget=Budget(max_drop=0.01),
    )


def file_type() -> Case:
    """File types on the files of this machine."""
    from models import zoo

    return Case(
        name="file type",
        path=zoo.file_type(),
        samples=zoo.file_samples(256),
        unseen=zoo.file_samples(256, split="evaluation"),
        budget=Budget(max_drop=0.01),
    )


CASES: dict[str, Callable[[], Case]] = {
    "residual": lambda: fashion("residual"),
    "mobilenet": lambda: fashion("mobilenet"),
    "vit": lambda: fashion("vit"),
    "efficientnet-lite0": efficientnet,
    "sentence": sentence_encoder,
    "voice": voice,
    "file-type": file_type,
}


def measure(case: Case, cache: Path, *, warm: bool) -> dict[str, Any]:
    """Search one case, and measure the result."""

    def search() -> Any:
        return optimize(
            case.path,
            case.samples,
            evaluation=case.evaluation,
            labels=case.labels,
            budget=case.budget,
            time_limit_s=case.seconds,
            cache=cache,
            on_trial=print_trial,
        )

    def print_trial(trial: Trial) -> None:
        ratio = "-" if trial.latency is None else f"{trial.latency.median:.3f}"
        print(f"{time.perf_counter() - start:6.0f} s  {ratio:>6}  {trial.label}", flush=True)

    start = time.perf_counter()
    outcome = search()
    seconds = time.perf_counter() - start
    again = None
    # A search that ended by its time limit would continue.
    if warm and outcome.report.search.stopped == "finished":
        start = time.perf_counter()
        search()
        again = time.perf_counter() - start
    record = outcome.report.search
    chosen = next((t for t in record.trials if t.number == record.chosen), None)
    row: dict[str, Any] = {
        "model": case.name,
        "budget": ", ".join(f"{k}={v:g}" for k, v in case.budget.limits().items()),
        "result": "original" if chosen is None else chosen.label,
        "trials": len(record.trials),
        "stopped": record.stopped,
        "seconds": round(seconds, 1),
        "warm_seconds": None if again is None else round(again, 1),
    }
    return row | unseen(case, outcome.model)


def unseen(case: Case, model: Any) -> dict[str, Any]:
    """Measure fidelity on unseen data, latency and size."""
    fidelity = compare(case.path, model, samples=case.unseen, labels=case.unseen_labels)
    with tempfile.TemporaryDirectory() as directory:
        target = save(model, Path(directory) / "result.onnx")
        latency = benchmark(case.path, target, samples=case.unseen, memory=False)
        size = disk_bytes(target) / disk_bytes(case.path)
    accuracy = fidelity.metrics[0] if fidelity.metrics else None
    cosines = [row.cosine for row in fidelity.outputs if row.cosine is not None]
    return {
        "unseen_samples": fidelity.samples,
        "accuracy_before": None if accuracy is None else accuracy.reference,
        "accuracy_after": None if accuracy is None else accuracy.candidate,
        "agreement": fidelity.agreement,
        "least_cosine": min(cosines, default=None),
        "sqnr_db": fidelity.sqnr_db,
        "latency_ratio": latency.ratio.median,
        "latency_low": latency.ratio.low,
        "latency_high": latency.ratio.high,
        "size_ratio": size,
    }


def zoo_cases() -> Iterator[Case]:
    """Yield models of many structures, with default options."""
    from models import photos, zoo

    for make in CASES.values():
        case = make()
        yield Case(
            name=case.name,
            path=case.path,
            samples=case.samples,
            unseen=case.unseen,
            budget=Budget(max_drop=0.01),
            seconds=ZOO_SECONDS,
        )
    images = photos.photographs(48, split="calibration")
    others = photos.photographs(16, split="evaluation")
    for name in ("squeezenet", "shufflenet", "inception_v1", "resnet50", "densenet121"):
        yield Case(
            name=name,
            path=zoo.light_models([name])[name],
            samples=images,
            unseen=others,
            budget=Budget(max_drop=0.01),
            seconds=ZOO_SECONDS,
        )


def main() -> None:
    """Run the models named on the command line, or all; keep the rows of others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(CASES))
    parser.add_argument("--zoo", action="store_true", help="many structures, defaults only")
    parser.add_argument("--no-warm", action="store_true", help="do not search a second time")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    cases = zoo_cases() if options.zoo else (CASES[name]() for name in options.models)
    file = "optimize_zoo" if options.zoo else "optimize"
    rows = kept_rows(file, "model")
    with tempfile.TemporaryDirectory() as directory:
        for case in cases:
            try:
                row = measure(case, Path(directory), warm=not (options.zoo or options.no_warm))
            except OnnxliteError as error:
                row = {"model": case.name, "result": f"CRASHED: {error}"}
            rows[case.name,] = {k: _rounded(v) for k, v in row.items()}
            print(case.name, row["result"], flush=True)
            publish(
                file,
                list(rows.values()),
                title="The smallest and fastest model within a budget",
            )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else str(value)
    return value


if __name__ == "__main__":
    main()
