"""What training on the original's answers brings back: `python -m benchmarks.tune [CASE ...]`.

Compressed Fashion-MNIST nets are tuned with 5,000 unlabelled training images; accuracy is on the
10,000 test images, in ONNX Runtime and in torch. "before" has been repaired by its own step
already. Latencies are pairs of the tuned model and the same model before tuning. Courses are
counted in steps and their processor time is given, because others may use this machine, too.
EfficientNet-Lite0 in INT8 has no labels here: the SQNR of its logits is on 500 photographs of
subjects that none of the 128 photographs shows which it was quantized and tuned with.
Needs torch and Debian's dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._tables import RESULTS, publish
from models import data
from onnxlite import (
    prune_channels,
    prune_weights,
    quantize_static,
    quantize_weights,
    simplify,
    tune,
)
from onnxlite.evaluate import benchmark
from onnxlite.model import load, size_bytes
from onnxlite.runtime import Session

Array = NDArray[Any]
FOLDER = Path(data.__file__).parent / "fashion"
IMAGES = 5000


def narrow(macs: float) -> Callable[[ir.Model, Array], ir.Model]:
    """Channels taken away until this share of the MACs is left."""
    return lambda model, images: prune_channels(model, samples=images[:512], macs=macs).model


def packed(bits: Any) -> Callable[[ir.Model, Array], ir.Model]:
    """Weights of few bits, fitted to samples."""
    return lambda model, images: quantize_weights(model, bits=bits, samples=images[:256]).model


def sparse(model: ir.Model, images: Array) -> ir.Model:
    """Nine of ten weights are zero."""
    return prune_weights(model, sparsity=0.9, samples=images[:256]).model


def integers(bits: Any) -> Callable[[ir.Model, Array], ir.Model]:
    """Integer weights of some bits, and activations of 8."""
    return lambda model, images: quantize_static(model, images[:256], weight_bits=bits).model


@dataclass(frozen=True)
class Case:
    """A damaged net, and how long it is tuned."""

    net: str
    damage: Callable[[ir.Model, Array], ir.Model]
    steps: int
    vary: bool = False


CASES = {
    "residual, 20% of the MACs": Case("residual", narrow(0.2), 16000, vary=True),
    "mobilenet, 35% of the MACs": Case("mobilenet", narrow(0.35), 3000, vary=True),
    "residual, 90% zeros": Case("residual", sparse, 500),
    "residual, ternary": Case("residual", packed("ternary"), 400),
    "residual, binary": Case("residual", packed("binary"), 1000),
    "mobilenet, 4-bit weights, 8-bit activations": Case("mobilenet", integers(4), 300),
    "mobilenet, int8": Case("mobilenet", integers(8), 300),
}


PHOTOGRAPHS = "EfficientNet-Lite0, INT8"
#: Its steps are of 8 photographs, at the least rate: trials as short as this course allows do not
#: tell rates apart.
PHOTOGRAPH_STEPS, PHOTOGRAPH_BATCH, PHOTOGRAPH_RATE = 250, 8, 1e-4


def fidelity(original: ir.Model, small: ir.Model, tuned: ir.Model) -> dict[str, float]:
    """On the 10,000 test images, in ONNX Runtime: share that is right; agreement with the original.

    Where nothing of the accuracy is lost, agreement and SQNR (dB) tell whether training brought the
    model closer to the original.
    """
    images, labels = data.test_set(full=True)
    want, before, after = (_logits(model, images) for model in (original, small, tuned))
    return {
        "original": float((want.argmax(1) == labels).mean()),
        "before": float((before.argmax(1) == labels).mean()),
        "after": float((after.argmax(1) == labels).mean()),
        "agreement_before": float((want.argmax(1) == before.argmax(1)).mean()),
        "agreement_after": float((want.argmax(1) == after.argmax(1)).mean()),
        "sqnr_db_before": _sqnr_db(want, before),
        "sqnr_db_after": _sqnr_db(want, after),
    }


def accuracy_in_torch(model: ir.Model) -> float:
    """The same, as the model was trained."""
    import torch

    from onnxlite.tune.torch_graph import TorchGraph

    images, labels = data.test_set(full=True)
    graph = TorchGraph(model)
    with torch.no_grad():
        feeds = (torch.from_numpy(images[i : i + 500]) for i in range(0, 10000, 500))
        found = torch.cat([graph({"image": feed})["logits"] for feed in feeds]).argmax(1)
    return float((found.numpy() == labels).mean())


def row(name: str, steps: int | None) -> dict[str, Any]:
    """Tune one case."""
    case = CASES[name]
    images = data.to_input(data.read_split("train")[0][:IMAGES])
    original = load(FOLDER / f"{case.net}.onnx")
    small = case.damage(original, images)
    start = time.process_time()
    tuned, report = tune(
        original,
        small,
        images,
        steps=steps or case.steps,
        augment=case.vary,
        threads=1,
    )
    spent = time.process_time() - start
    return {
        "case": name,
        **fidelity(original, small, tuned),
        "after_in_torch": accuracy_in_torch(tuned),
        **_cost(small, tuned, spent),
        "varied_inputs": case.vary,
        "course": report.summary,
    }


def photograph_row(steps: int | None) -> dict[str, Any]:
    """Tune EfficientNet-Lite0 in INT8, on 128 photographs and variants of them."""
    from models import photos, zoo

    seen = photos.photographs(128, split="calibration")
    original = simplify(load(zoo.efficientnet_lite0())).model
    small = quantize_static(original, seen, threads=1).model
    start = time.process_time()
    tuned, report = tune(
        original,
        small,
        seen,
        steps=steps or PHOTOGRAPH_STEPS,
        batch_size=PHOTOGRAPH_BATCH,
        lr=PHOTOGRAPH_RATE,
        loss="mse",
        blocks=False,
        augment=True,
        threads=1,
    )
    spent = time.process_time() - start
    unseen = photos.photographs(500, split="evaluation")
    want, before, after = (_logits(model, unseen) for model in (original, small, tuned))
    return {
        "case": PHOTOGRAPHS,
        "sqnr_db_before": _sqnr_db(want, before),
        "sqnr_db_after": _sqnr_db(want, after),
        "agreement_before": float((want.argmax(1) == before.argmax(1)).mean()),
        "agreement_after": float((want.argmax(1) == after.argmax(1)).mean()),
        **_cost(small, tuned, spent),
        "varied_inputs": True,
        "course": report.summary,
    }


def _cost(before: ir.Model, after: ir.Model, spent: float) -> dict[str, Any]:
    """What tuning took, and what it changed at run time."""
    return {
        "latency_after_to_before": benchmark(before, after).ratio.median,
        "size_after_to_before": size_bytes(after) / size_bytes(before),
        "cpu_seconds": round(spent),
    }


def _logits(model: ir.Model, images: Array) -> Array:
    session = Session(model, threads=1)
    (name,) = session.input_names
    parts = [session.run({name: images[i : i + 50]}) for i in range(0, len(images), 50)]
    return np.concatenate([next(iter(part.values())) for part in parts]).astype(np.float64)


def _sqnr_db(want: Array, have: Array) -> float:
    return 10 * float(np.log10((want**2).sum() / ((want - have) ** 2).sum()))


def main() -> None:
    """Tune the cases that are named, or all; rows of others stay in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="words of its name")
    parser.add_argument("--steps", type=int, help="of training, for each case")
    options = parser.parse_args()
    file = RESULTS / "tune.json"
    rows = {r["case"]: r for r in json.loads(file.read_text())["rows"]} if file.exists() else {}
    known = [*CASES, PHOTOGRAPHS]
    for case in known:
        if not options.cases or any(word in case for word in options.cases):
            found = photograph_row(options.steps) if case == PHOTOGRAPHS else None
            rows[case] = found or row(case, options.steps)
            ordered = [rows[name] for name in known if name in rows]
            publish("tune", ordered, title="Tuning on the original's answers, without labels")


if __name__ == "__main__":
    main()
