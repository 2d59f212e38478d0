"""Weights in few bits: size, accuracy and latency: `python -m benchmarks.low_bits`.

Fashion-MNIST nets: accuracy on the 10,000 test images, weights fitted to 512 unlabelled training
images. EfficientNet-Lite0: top-1 agreement and SQNR of the logits on 500 photographs, fitted to
others. The sentence encoder: cosine of embeddings of 256 sentences, fitted to others, beside
onnxruntime's matmul_nbits_quantizer. `nearest` rounds only. Latency is a ratio to the float model,
one thread, batch 1, interleaved runs.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from benchmarks._tables import publish
from models import data, photos, text, zoo
from onnxlite import simplify
from onnxlite.apply import run_step
from onnxlite.evaluate import benchmark
from onnxlite.model import disk_bytes, load
from onnxlite.quantize import QuantizeWeights
from onnxlite.quantize.weight_only.options import QuantizeWeightsReport
from onnxlite.runtime import Session
from onnxlite.save import save
from onnxlite.step import StepContext

Array = NDArray[Any]
Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class Case:
    """A float model, disjoint inputs to fit to and to measure on, and labels if there are any."""

    name: str
    path: Path
    calibration: Inputs
    evaluation: Inputs
    labels: Array | None
    settings: Mapping[str, QuantizeWeights]


FASHION = {
    "8": QuantizeWeights(bits=8),
    "4": QuantizeWeights(bits=4, block_size=0),
    "4 nearest": QuantizeWeights(bits=4, block_size=0, method="rtn"),
    "size 0.16": QuantizeWeights(max_size=0.16),
    "3": QuantizeWeights(bits=3, block_size=0),
    "2": QuantizeWeights(bits=2, block_size=0),
    "ternary": QuantizeWeights(bits="ternary"),
    "ternary nearest": QuantizeWeights(bits="ternary", method="rtn"),
    "binary": QuantizeWeights(bits="binary"),
}
PHOTOS = {
    "8": QuantizeWeights(bits=8),
    "size 0.17": QuantizeWeights(max_size=0.17),
    "4": QuantizeWeights(bits=4),
    "4 nearest": QuantizeWeights(bits=4, method="rtn"),
}
SENTENCES = {
    "4 compute": QuantizeWeights(bits=4, mode="compute"),
    "4 compute hqq": QuantizeWeights(bits=4, mode="compute", method="hqq"),
    "4 storage": QuantizeWeights(bits=4),
    "8 compute": QuantizeWeights(bits=8, mode="compute"),
}


def cases(names: list[str]) -> Iterator[Case]:
    """The models of this benchmark, by name."""
    for name in names:
        if name == "efficientnet-lite0":
            yield Case(
                name,
                zoo.efficientnet_lite0(),
                {"image": photos.photographs(128, split="calibration")},
                {"image": photos.photographs(500, split="evaluation")},
                None,
                PHOTOS,
            )
        elif name == "sentence-encoder":
            yield Case(
                name,
                zoo.sentence_encoder(),
                text.sentences(256, split="calibration"),
                text.sentences(256, split="evaluation"),
                None,
                SENTENCES,
            )
        else:
            images, labels = data.test_set(full=data.has_full_set())
            path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
            key = load(path).graph.inputs[0].name or ""
            fit = {key: data.calibration_images(512)}
            yield Case(name, path, fit, {key: images}, labels, FASHION)


def measure(case: Case, directory: Path, only: list[str]) -> Iterator[dict[str, Any]]:
    """One row per setting, the float model first."""
    source = save(simplify(case.path).model, directory / f"{case.name}.onnx")
    expected = outputs(source, case.evaluation)
    yield row(case, "float", source, source, expected, None)
    for name, options in case.settings.items():
        if only and name not in only:
            continue
        samples = None if options.method in ("rtn", "hqq") else case.calibration
        model, report = run_step(options, source, samples, StepContext())
        yield row(case, name, source, save(model, directory / "small.onnx"), expected, report)
    if case.name == "sentence-encoder" and not only:
        peer = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=32, accuracy_level=4)
        peer.process()
        target = directory / "peer.onnx"
        onnx.save(peer.model.model, target)
        yield row(case, "4 onnxruntime", source, target, expected, None)


def row(
    case: Case,
    name: str,
    source: Path,
    target: Path,
    expected: Array,
    report: QuantizeWeightsReport | None,
) -> dict[str, Any]:
    """Measure one model against the float one."""
    got = outputs(target, case.evaluation)
    noise = float(((expected - got) ** 2).sum())
    one = {key: array[:1] for key, array in case.evaluation.items()}
    latency = benchmark(source, target, samples=one, threads=1, memory=False)
    widths = Counter(layer.bits for layer in report.layers) if report else Counter()
    labels, classes = case.labels, case.name != "sentence-encoder"
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(got, axis=1)
    return {
        "model": case.name,
        "setting": name,
        "accuracy": None if labels is None else float((got.argmax(1) == labels).mean()),
        "lost_points": None
        if labels is None
        else 100 * float((expected.argmax(1) == labels).mean() - (got.argmax(1) == labels).mean()),
        "agreement": float((got.argmax(1) == expected.argmax(1)).mean()) if classes else None,
        "cosine": None if classes else float(((expected * got).sum(axis=1) / norms).mean()),
        "sqnr_db": 10 * float(np.log10((expected**2).sum() / noise)) if noise else None,
        "size_ratio": disk_bytes(target) / disk_bytes(case.path),
        "latency_ratio": latency.ratio.median,
        "layers_by_bits": " ".join(f"{count}x{bits}" for bits, count in sorted(widths.items())),
        "seconds": report.seconds if report else None,
    }


def outputs(path: Path, inputs: Inputs) -> Array:
    """The last output for all inputs, flat per sample."""
    session = Session(path)
    count = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, count, 50):
        feed = {key: array[start : start + 50] for key, array in inputs.items()}
        parts.append(session.run(feed)[session.output_names[-1]])
    joined = np.concatenate(parts)
    return joined.reshape(count, -1).astype(np.float64)


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    everything = ["residual", "mobilenet", "vit", "efficientnet-lite0", "sentence-encoder"]
    parser.add_argument("models", nargs="*", default=everything)
    parser.add_argument("--only", action="append", default=[], help="only this setting")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        rows = []
        for case in cases(options.models):
            for row in measure(case, Path(directory), options.only):
                # Hours may pass on a busy machine.
                print(row, file=sys.stderr, flush=True)
                rows.append(row)
    publish("low_bits", rows, title="Weights in few bits, fitted to unlabelled samples")


if __name__ == "__main__":
    main()
