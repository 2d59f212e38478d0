"""Channel pruning side by side with its peers: `python -m benchmarks.prune`.

The Fashion-MNIST nets are pruned with 512 unlabelled training images and no fine-tuning;
accuracy is on the 10,000 test images where Debian's `dataset-fashion-mnist` is installed, else
on the committed 2,000. MACs are counted alike for all; latency is one thread, batch 1,
interleaved with the original. Peers: Torch-Pruning 1.6.1 without and with BatchNorm
recalibration, and onnxsim, each with the best of several of its settings (chosen by agreement
on the calibration images; see `benchmarks/_prune_peers.py`). `--no-peers` leaves them out.

EfficientNet-Lite0 goes to 70% of its MACs with 128 photographs; agreement is on others.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._prune_peers import onnxsim_pruned, torch_pruned
from benchmarks._tables import publish
from benchmarks.repair import accuracy, logits, sqnr_db
from models import data
from onnxlite import prune_channels, simplify
from onnxlite.analysis.summary import inspect
from onnxlite.evaluate import benchmark
from onnxlite.model import ModelLike, load

Array = NDArray[Any]
Contestant = Callable[[], ModelLike]

FOLDER = Path(data.__file__).parent / "fashion"
GOALS: dict[str, tuple[dict[str, Any], ...]] = {
    "residual": ({"macs": 0.5}, {"macs": 0.3}, {"macs": 0.2}, {"latency": 0.5}),
    "mobilenet": ({"macs": 0.5},),
    "vit": ({"macs": 0.7},),
}

#: Below this share of the MACs whole branches end, so that the same without is of interest.
_BRANCHES_END = 0.3


def contestants(
    name: str, goal: dict[str, Any], images: Array, *, peers: bool
) -> Iterator[tuple[str, Contestant]]:
    """Yield onnxlite in multiples of this machine's block and finer, then the peers."""
    simple = simplify(load(FOLDER / f"{name}.onnx")).model
    yield "onnxlite", lambda: prune_channels(simple, samples=images, **goal).model
    if "macs" not in goal:
        return
    macs = goal["macs"]
    if macs < _BRANCHES_END:
        yield (
            "onnxlite, no branch ends",
            lambda: prune_channels(simple, samples=images, macs=macs, branches=False).model,
        )
    yield (
        "onnxlite, multiples of 4",
        lambda: prune_channels(simple, samples=images, macs=macs, round_to=4).model,
    )
    if peers:
        yield "Torch-Pruning", lambda: torch_pruned(name, macs, images, recalibrate=False)
        if name != "vit":
            yield (
                "Torch-Pruning, BN recalibrated",
                lambda: torch_pruned(name, macs, images, recalibrate=True),
            )
        yield "onnxsim", lambda: onnxsim_pruned(name, macs, images)


def measure(name: str, *, peers: bool) -> Iterator[dict[str, Any]]:
    """One row per goal and contestant of a Fashion-MNIST net."""
    images, labels = data.test_set(full=data.has_full_set())
    calibration = data.calibration_images(512)
    reference = load(FOLDER / f"{name}.onnx")
    expected = logits(reference, images)
    yield {"model": name, "goal": "", "tool": "original", "accuracy": accuracy(expected, labels)}
    for goal in GOALS[name]:
        text = " ".join(f"{key}={value}" for key, value in goal.items())
        for tool, prune in contestants(name, goal, calibration, peers=peers):
            row: dict[str, Any] = {"model": name, "goal": text, "tool": tool}
            start = time.perf_counter()
            # A peer's failure, of whatever type, is a row of the table.
            try:
                result = load(prune())
            except Exception as error:
                yield {**row, "note": f"{type(error).__name__}: {error}"[:200]}
                continue
            seconds = time.perf_counter() - start
            got = logits(result, images)
            yield {
                **row,
                "accuracy": accuracy(got, labels),
                "lost_points": 100 * (accuracy(expected, labels) - accuracy(got, labels)),
                "agreement": float((got.argmax(1) == expected.argmax(1)).mean()),
                **sizes(reference, result, images[:1]),
                "seconds": seconds,
            }


def sizes(reference: ir.Model, result: ir.Model, sample: Array) -> dict[str, Any]:
    """MACs, parameters and latency relative to the original."""
    before, after = inspect(reference), inspect(result)
    latency = benchmark(reference, result, samples=sample, memory=False, time_limit_s=6)
    return {
        "macs": (after.macs or 0) / (before.macs or 1),
        "parameters": after.parameters / before.parameters,
        "latency": latency.ratio.median,
    }


def efficientnet() -> Iterator[dict[str, Any]]:
    """EfficientNet-Lite0 at 70% of its MACs."""
    from models import photos, zoo

    reference = simplify(load(zoo.efficientnet_lite0())).model
    calibration = photos.photographs(128, split="calibration")
    evaluation = photos.photographs(300, split="evaluation")
    start = time.perf_counter()
    result = prune_channels(reference, samples=calibration, macs=0.7).model
    seconds = time.perf_counter() - start
    expected, got = logits(reference, evaluation), logits(result, evaluation)
    yield {
        "model": "efficientnet-lite0",
        "goal": "macs=0.7",
        "tool": "onnxlite",
        "agreement": float(np.mean(got.argmax(1) == expected.argmax(1))),
        "sqnr_db": sqnr_db(expected, got),
        **sizes(reference, result, evaluation[:1]),
        "seconds": seconds,
    }


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*GOALS, "efficientnet-lite0"])
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        found = efficientnet() if name == "efficientnet-lite0" else None
        for row in found or measure(name, peers=not arguments.no_peers):
            rows.append(row)
            print(row, flush=True)
    publish("prune", rows, title="Channel pruning without labels or fine-tuning")


if __name__ == "__main__":
    main()
