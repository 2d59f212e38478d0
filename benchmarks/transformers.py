"""INT8 of transformers and recurrent nets: `python -m benchmarks.transformers`.

For each model and each way to quantize it: signal to quantization noise and cosine of the
outputs, accuracy where there are labels, latency ratio to the float model (one thread, batch
1, interleaved, processor time), and file size. Calibration and evaluation inputs are disjoint;
all start from the same simplified float model. The peer is
`onnxruntime.quantization.quantize_dynamic`.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import quantization as ortq

from benchmarks._tables import publish
from onnxlite import Result, quantize_auto, quantize_dynamic, quantize_static, simplify
from onnxlite.evaluate import compare
from onnxlite.inputs import Feed
from onnxlite.model import disk_bytes, load
from onnxlite.records import no_progress
from onnxlite.runtime import Session
from onnxlite.save import save
from onnxlite.timing import time_ratios

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A model with disjoint calibration and evaluation inputs, and the sizes to time.

    Attributes:
        name: of the model.
        path: of its file.
        calibration: unlabelled inputs.
        evaluation: others.
        labels: classes of the evaluation inputs, if there are some.
        outputs: names of the outputs that count; empty means all.
        timed: one feed per size, by the size's name.
    """

    name: str
    path: Path
    calibration: Any
    evaluation: Any
    labels: Array | None
    outputs: tuple[str, ...]
    timed: Mapping[str, Feed]


def cases(names: list[str]) -> Iterator[Case]:
    """The models of this benchmark, by name."""
    from models import data, zoo

    for name in names:
        if name == "sentence-encoder":
            yield Case(
                name,
                zoo.sentence_encoder(),
                zoo.sentences(64, 32),
                zoo.sentences(500, 64, split="evaluation"),
                None,
                ("461",),
                {
                    f"{length} tokens": zoo.sentences(1, length, split="evaluation")
                    for length in (16, 128)
                },
            )
        elif name == "voice-activity":
            feeds = zoo.voice_samples(128, split="evaluation")
            calibration = zoo.voice_samples(64)
            yield Case(name, zoo.voice_activity(), calibration, feeds, None, (), {"": feeds[40]})
        elif name == "file-type":
            files = zoo.file_samples(128, split="evaluation")
            one = {key: array[:1] for key, array in files.items()}
            yield Case(name, zoo.file_type(), zoo.file_samples(64), files, None, (), {"": one})
        else:
            images, labels = data.test_set(full=data.has_full_set())
            path = Path(data.__file__).parent / "fashion" / "vit.onnx"
            image: Feed = {"image": images[:1]}
            yield Case(name, path, data.calibration_images(256), images, labels, (), {"": image})


def quantizers(case: Case) -> dict[str, Callable[[Path, Path], None]]:
    """Every contestant: a function from a float model's path to a quantized one's."""

    def ours(
        quantize: Callable[..., Result[Any, Any]], **options: Any
    ) -> Callable[[Path, Path], None]:
        def run(source: Path, target: Path) -> None:
            quantize(source, samples=case.calibration, **options).save(target)

        return run

    def peer(source: Path, target: Path) -> None:
        ortq.quantize_dynamic(source, target, per_channel=True)

    return {
        "dynamic": ours(quantize_dynamic),
        "dynamic, not smoothed": ours(quantize_dynamic, smooth=False),
        "static": ours(quantize_static),
        "static, not smoothed": ours(quantize_static, smooth=False),
        "auto": ours(quantize_auto),
        "ort dynamic per-channel": peer,
    }


def measure(case: Case, directory: Path) -> Iterator[dict[str, Any]]:
    """One row per contestant and timed size, the float model first."""
    source = directory / f"{case.name}.onnx"
    save(simplify(case.path).model, source)
    yield from rows(case, "float", source, source, 0.0)
    for name, quantizer in quantizers(case).items():
        target = directory / f"{case.name}-{name.replace(' ', '-')}.onnx"
        start = time.process_time()
        quantizer(source, target)
        yield from rows(case, name, source, target, time.process_time() - start)


def rows(
    case: Case, name: str, source: Path, target: Path, seconds: float
) -> Iterator[dict[str, Any]]:
    """Measure one model against the float one."""
    found = compare(source, target, samples=case.evaluation)
    outputs = [o for o in found.outputs if not case.outputs or o.name in case.outputs]
    noise = [o.sqnr_db for o in outputs if o.sqnr_db is not None]
    cosines = [o.cosine for o in outputs if o.cosine is not None]
    sessions = [Session(source, threads=1), Session(target, threads=1)]
    for size, feed in case.timed.items():
        (ratio,) = time_ratios(sessions, feed, budget_s=4.0, progress=no_progress)
        yield {
            "model": case.name,
            "quantizer": name,
            "size": size,
            "latency_ratio": ratio,
            "sqnr_db": min(noise, default=None),
            "cosine": min(cosines, default=None),
            "accuracy": accuracy(target, case),
            "size_ratio": disk_bytes(target) / disk_bytes(case.path),
            "quantize_cpu_s": seconds,
        }


def accuracy(path: Path, case: Case) -> float | None:
    """Share of the evaluation inputs whose largest output is their label."""
    if case.labels is None:
        return None
    (name,) = (value.name or "" for value in load(path).graph.inputs)
    session = Session(path)
    images = case.evaluation
    parts = [next(iter(session.run({name: images[i : i + 100]}).values())).argmax(1)
             for i in range(0, len(images), 100)]  # fmt: skip
    return float((np.concatenate(parts) == case.labels).mean())


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    everything = ["sentence-encoder", "vision-transformer", "voice-activity", "file-type"]
    parser.add_argument("models", nargs="*", default=everything)
    names = parser.parse_args().models
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        found = [row for case in cases(names) for row in measure(case, Path(directory))]
    publish("transformers", found, title="INT8 of transformers and recurrent nets")


if __name__ == "__main__":
    main()
