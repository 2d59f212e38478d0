"""INT8 side by side with its peers: `python -m benchmarks.int8`.

For each model: signal to quantization noise (dB) of the logits, top-1 agreement with the float
model and accuracy where there are labels, latency ratio to the float model (processor time of
one thread, batch 1, interleaved), and file size. All quantizers get the same calibration
samples; evaluation samples are others. onnxlite simplifies first, and so do the peers' inputs:
all start from the same simplified float model. Rows "macs=..." prune channels before.
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
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks._int8_peers import peers
from benchmarks._tables import publish
from models import data
from onnxlite import prune_channels, quantize_static, simplify, tune
from onnxlite.model import disk_bytes, load
from onnxlite.records import no_progress
from onnxlite.runtime import Session
from onnxlite.save import save
from onnxlite.timing import time_ratios

Array = NDArray[Any]

#: Shares of the MACs that channel pruning leaves before INT8, by model.
CHAINED = {"residual": (0.5, 0.4), "mobilenet": (0.6, 0.4)}
#: The same, trained on the original's answers in between.
TRAINED = {"residual": (0.28,), "mobilenet": (0.3,)}
_TRAINING_IMAGES = 5000


@dataclass(frozen=True)
class Case:
    """A model with disjoint calibration and evaluation inputs; labels where there are some."""

    name: str
    path: Path
    calibration: Array
    evaluation: Array
    labels: Array | None


def cases(names: list[str]) -> Iterator[Case]:
    """The models of this benchmark, by name."""
    from models import photos, zoo

    for name in names:
        if name == "efficientnet-lite0":
            yield Case(
                name,
                zoo.efficientnet_lite0(),
                photos.photographs(128, split="calibration"),
                photos.photographs(500, split="evaluation"),
                None,
            )
        else:
            images, labels = data.test_set(full=data.has_full_set())
            path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
            yield Case(name, path, data.calibration_images(256), images, labels)


def quantizers(case: Case) -> dict[str, Callable[[Path, Path], None]]:
    """Every contestant: a function from a float model's path to a quantized one's."""
    input_name = ort.InferenceSession(case.path).get_inputs()[0].name

    def ours(source: Path, target: Path) -> None:
        save(quantize_static(source, case.calibration).model, target)

    return {"onnxlite": ours, **peers(input_name, case.calibration)}


def chained(
    case: Case, macs: float, directory: Path, *, trained: bool = False
) -> Iterator[dict[str, Any]]:
    """Channels pruned to a share of the MACs, then INT8; compared with the original."""
    source = directory / f"{case.name}.onnx"
    reference = simplify(case.path).model
    save(reference, source)
    start = time.process_time()
    pruned = prune_channels(reference, samples=case.calibration, macs=macs).model
    label = f"onnxlite, macs={macs:g} first"
    if trained:
        images = data.to_input(data.read_split("train")[0][:_TRAINING_IMAGES])
        pruned = tune(reference, pruned, images, augment=True).model
        label = f"onnxlite, macs={macs:g} and tune first"
    target = directory / f"{case.name}-pruned-int8.onnx"
    save(quantize_static(pruned, case.calibration).model, target)
    seconds = time.process_time() - start
    expected = logits(source, case.evaluation)
    yield row(case, label, source, target, expected, seconds)


def measure(case: Case, directory: Path) -> Iterator[dict[str, Any]]:
    """One row per contestant, the float model first."""
    source = directory / f"{case.name}.onnx"
    save(simplify(case.path).model, source)
    expected = logits(source, case.evaluation)
    yield row(case, "float", source, source, expected, 0.0)
    for name, quantizer in quantizers(case).items():
        target = directory / f"{case.name}-{name.replace(' ', '-')}.onnx"
        start = time.process_time()
        try:
            quantizer(source, target)
            seconds = time.process_time() - start
            yield row(case, name, source, target, expected, seconds)
        except Exception as error:  # a peer may refuse a model, and that is a result as well
            if name == "onnxlite":
                raise
            yield {"model": case.name, "quantizer": name, "error": f"{type(error).__name__}"}


def row(
    case: Case, name: str, source: Path, target: Path, expected: Array, seconds: float
) -> dict[str, Any]:
    """Measure one model against the float one."""
    got = logits(target, case.evaluation)
    noise = float(((expected - got) ** 2).sum())
    sessions = [Session(path, threads=1) for path in (source, target)]
    feed = {sessions[0].input_names[0]: case.evaluation[:1]}
    (latency,) = time_ratios(sessions, feed, budget_s=4.0, progress=no_progress)
    labels = case.labels
    return {
        "model": case.name,
        "quantizer": name,
        "sqnr_db": 10 * float(np.log10((expected**2).sum() / noise)) if noise else None,
        "agreement": float((got.argmax(1) == expected.argmax(1)).mean()),
        "accuracy": None if labels is None else float((got.argmax(1) == labels).mean()),
        "latency_ratio": latency,
        "bytes": disk_bytes(target),
        "size_ratio": disk_bytes(target) / disk_bytes(case.path),
        "quantize_cpu_s": seconds,
    }


def logits(path: Path, images: Array) -> Array:
    """The first output for all images."""
    model = load(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = model.graph.inputs[0].name
    parts = [session.run(None, {name: images[i : i + 50]})[0] for i in range(0, len(images), 50)]
    return np.concatenate(parts)


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    everything = ["residual", "mobilenet", "vit", "efficientnet-lite0"]
    parser.add_argument("models", nargs="*", default=everything)
    parser.add_argument("--chained", action="store_true", help="only what is pruned before")
    options = parser.parse_args()
    names = options.models
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        rows: list[dict[str, Any]] = []
        for case in cases(names):
            if not options.chained:
                rows += measure(case, Path(directory))
            for macs in CHAINED.get(case.name, ()):
                rows += chained(case, macs, Path(directory))
            for macs in TRAINED.get(case.name, ()) if data.has_full_set() else ():
                rows += chained(case, macs, Path(directory), trained=True)
    publish("int8", rows, title="INT8 against its peers")


if __name__ == "__main__":
    main()
