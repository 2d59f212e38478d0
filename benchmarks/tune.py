"""What training on the original's answers brings back: `python -m benchmarks.tune [CASE ...]`.

Compressed Fashion-MNIST nets are tuned with 5,000 unlabelled training images; accuracy is on the
10,000 test images. "before" has been repaired by its own step already. Latencies are pairs of the
tuned model and the same model before tuning. Needs torch and Debian's dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._tables import RESULTS, publish
from models import data
from onnxlite.evaluate import benchmark
from onnxlite.model import load, size_bytes
from onnxlite.prune import prune_channels, prune_weights
from onnxlite.quantize import quantize_static
from onnxlite.quantize.lowbits import quantize_weights
from onnxlite.records import StepReport
from onnxlite.runtime import Session
from onnxlite.tune import tune

Array = NDArray[Any]
FOLDER = Path(data.__file__).parent / "fashion"
IMAGES = 5000


def narrow(macs: float) -> Callable[[ir.Model, Array], ir.Model]:
    """Channels taken away until this share of the MACs is left."""
    return lambda model, images: prune_channels(model, samples=images[:512], macs=macs)


def packed(bits: Any) -> Callable[[ir.Model, Array], ir.Model]:
    """Weights of few bits, fitted to samples."""
    return lambda model, images: quantize_weights(model, bits=bits, samples=images[:256])


def sparse(model: ir.Model, images: Array) -> ir.Model:
    """Nine of ten weights are zero."""
    return prune_weights(model, sparsity=0.9, samples=images[:256])


def int8(model: ir.Model, images: Array) -> ir.Model:
    """INT8 weights and activations."""
    return quantize_static(model, images[:256])


CASES: dict[str, tuple[str, Callable[[ir.Model, Array], ir.Model], float]] = {
    "residual, 20% of the MACs": ("residual", narrow(0.2), 600.0),
    "mobilenet, 35% of the MACs": ("mobilenet", narrow(0.35), 600.0),
    "residual, 90% zeros": ("residual", sparse, 180.0),
    "residual, ternary": ("residual", packed("ternary"), 180.0),
    "residual, binary": ("residual", packed("binary"), 180.0),
    "mobilenet, int8": ("mobilenet", int8, 180.0),
}


def accuracy(model: ir.Model) -> float:
    """Share of the 10,000 test images that are classified right, in ONNX Runtime."""
    images, labels = data.test_set(full=True)
    session = Session(model, threads=1)
    parts = [session.run({"image": images[i : i + 500]})["logits"] for i in range(0, 10000, 500)]
    return float((np.concatenate(parts).argmax(1) == labels).mean())


def row(case: str, seconds: float | None) -> dict[str, Any]:
    """Tune one case."""
    name, damage, limit = CASES[case]
    images = data.to_input(data.read_split("train")[0][:IMAGES])
    original = load(FOLDER / f"{name}.onnx")
    small = damage(original, images)
    reports: list[StepReport] = []
    start = time.perf_counter()
    tuned = tune(
        small,
        original,
        images,
        time_limit=seconds or limit,
        threads=1,
        on_report=reports.append,
    )
    spent = time.perf_counter() - start
    return {
        "case": case,
        "original": accuracy(original),
        "before": accuracy(small),
        "after": accuracy(tuned),
        "latency_after_to_before": benchmark(small, tuned).ratio.median,
        "size_after_to_before": size_bytes(tuned) / size_bytes(small),
        "seconds": round(spent),
        "course": reports[0].summary,
    }


def main() -> None:
    """Tune the cases that are named, or all; rows of others stay in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="words of its name")
    parser.add_argument("--seconds", type=float, help="of training, for each case")
    options = parser.parse_args()
    file = RESULTS / "tune.json"
    rows = {r["case"]: r for r in json.loads(file.read_text())["rows"]} if file.exists() else {}
    for case in CASES:
        if not options.cases or any(word in case for word in options.cases):
            rows[case] = row(case, options.seconds)
            ordered = [rows[known] for known in CASES if known in rows]
            publish("tune", ordered, title="Tuning on the original's answers, without labels")


if __name__ == "__main__":
    main()
