"""Zeros in weights beside the peers: `python -m benchmarks.sparse`.

Accuracy on 10,000 labelled test images after zeros were made with 512 unlabelled training
images, and the size of the zipped file. Peers: onnxsim's SparseGPT, Wanda and magnitude
pruning, with the same images. The models are simplified already, so all start from one file.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray

from benchmarks._tables import publish
from models import data
from onnxlite import load, prune_weights, save
from onnxlite.prune.options import SparseMethod
from onnxlite.runtime import Session

Array = NDArray[Any]

#: What is asked for: a share, or a pattern.
GOALS: tuple[dict[str, Any], ...] = ({"sparsity": 0.5}, {"sparsity": 0.8}, {"pattern": "2:4"})


def pruners(goal: dict[str, Any], images: Array) -> dict[str, Callable[[Path, Path], None]]:
    """Every contestant for one goal: from a model's path to the result's."""

    def ours(method: SparseMethod) -> Callable[[Path, Path], None]:
        def prune(source: Path, target: Path) -> None:
            samples = None if method == "magnitude" else images
            model = prune_weights(load(source), samples=samples, method=method, **goal).model
            save(model, target)

        return prune

    def peer(call: Callable[..., onnx.ModelProto], **options: Any) -> Callable[[Path, Path], None]:
        def prune(source: Path, target: Path) -> None:
            if "pattern" in goal:
                n, m = map(int, goal["pattern"].split(":"))
                onnx.save(call(onnx.load(source), n=n, m=m, **options), target)
            else:
                onnx.save(call(onnx.load(source), **goal, **options), target)

        return prune

    feeds = [{"image": images[start : start + 64]} for start in range(0, len(images), 64)]
    return {
        "onnxlite obc": ours("obc"),
        "onnxlite wanda": ours("wanda"),
        "onnxlite magnitude": ours("magnitude"),
        "onnxsim sparsegpt": peer(onnxsim.apply_sparsegpt_pruning, calibration_data=feeds),
        "onnxsim wanda": peer(onnxsim.apply_wanda_pruning, calibration_data=feeds),
        "onnxsim magnitude": peer(onnxsim.apply_magnitude_pruning),
    }


def zeros(path: Path) -> float:
    """The share of zeros in all weights of two axes or more."""
    tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    weights = [t for t in tensors if t.ndim > 1 and t.dtype.kind == "f"]
    return 1 - sum(np.count_nonzero(w) for w in weights) / sum(w.size for w in weights)


def accuracy(path: Path, images: Array, labels: Array) -> float:
    """Share of right answers."""
    session = Session(path, threads=1)
    parts = [
        session.run({"image": images[start : start + 500]})["logits"].argmax(1)
        for start in range(0, len(images), 500)
    ]
    return float((np.concatenate(parts) == labels).mean())


def deflated(path: Path) -> int:
    """Bytes of the zipped file."""
    return len(zlib.compress(path.read_bytes(), 6))


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["residual", "mobilenet"])
    parser.add_argument("--images", type=int, default=512, help="unlabelled images (default 512)")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    images, labels = data.test_set(full=data.has_full_set())
    calibration = data.calibration_images(options.images)
    rows: list[dict[str, Any]] = []
    for name in options.models:
        source = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
        float_accuracy = accuracy(source, images, labels)
        for goal in GOALS:
            with tempfile.TemporaryDirectory() as directory:
                for pruner, prune in pruners(goal, calibration).items():
                    target = Path(directory) / "sparse.onnx"
                    start = time.perf_counter()
                    row: dict[str, Any] = {
                        "model": name,
                        "goal": ", ".join(f"{k}={v}" for k, v in goal.items()),
                        "pruner": pruner,
                    }
                    try:
                        prune(source, target)
                        row["seconds"] = time.perf_counter() - start
                        row["zeros"] = zeros(target)
                        row["accuracy"] = accuracy(target, images, labels)
                        row["points_lost"] = 100 * (float_accuracy - row["accuracy"])
                        row["zipped_ratio"] = deflated(target) / deflated(source)
                    # A peer may fail in any way; the row says how.
                    except Exception as error:
                        row["fault"] = " ".join(repr(error).split())[:160]
                    rows.append(row)
            title = f"Zeros in weights, {options.images} unlabelled images"
            publish("sparse", rows, title=title)


if __name__ == "__main__":
    main()
