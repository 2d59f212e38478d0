"""What repair restores, without labels or gradients: `python -m benchmarks.repair`.

Each Fashion-MNIST net is damaged in several ways and repaired with 256 unlabelled training
images; accuracy is on the committed 2,000 test images. The damage is crude on purpose: the
weights, or channels, of smallest norm, rounding to nearest on a grid per output channel, channel
scales and biases that are off. Rounded weights are repaired by a factor and a bias per
channel only (`method="affine"`), so that they stay on their grid.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._tables import publish
from models import data
from onnxlite.analysis.summary import inspect
from onnxlite.graph import const_array, is_op
from onnxlite.model import load
from onnxlite.ops import iter_parameters
from onnxlite.prune import prune_channels, prune_weights
from onnxlite.records import StepReport
from onnxlite.repair import repair
from onnxlite.repair.options import Method
from onnxlite.runtime import Session

Array = NDArray[Any]
Damage = Callable[[ir.Model], ir.Model]

FOLDER = Path(data.__file__).parent / "fashion"


def every_weight(model: ir.Model, change: Callable[[Array], Array]) -> ir.Model:
    """Apply `change` to the weight `[out, ...]` of every layer but the first and the last."""
    result = load(model)
    layers = list(iter_parameters(result))
    for parameter in layers[1:-1]:
        array = const_array(parameter.value)
        assert array is not None
        swap = is_op(parameter.node, "MatMul") and parameter.port == 1 and array.ndim == 2
        changed = change(array.T).T if swap else change(array)
        new = np.ascontiguousarray(changed.astype(array.dtype))
        parameter.value.const_value = ir.tensor(new, name=parameter.value.name)
    return result


def to_bits(weight: Array, bits: int) -> Array:
    """Round to nearest, symmetric, one scale per output channel from the largest weight."""
    flat = weight.reshape(len(weight), -1)
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(flat).max(axis=1, keepdims=True), 1e-12) / top
    rounded: Array = np.clip(np.rint(flat / scale), -top, top) * scale
    return rounded.reshape(weight.shape)


def to_ternary(weight: Array) -> Array:
    """Threshold 0.7 times the mean magnitude, one scale per channel (Li et al. 2016)."""
    flat = weight.reshape(len(weight), -1)
    size = np.abs(flat)
    large = size > 0.7 * size.mean(axis=1, keepdims=True)
    scale = (size * large).sum(axis=1, keepdims=True) / np.maximum(large.sum(1, keepdims=True), 1)
    ternary: Array = np.sign(flat) * large * scale
    return ternary.reshape(weight.shape)


def off_scale(weight: Array) -> Array:
    """Every output channel times a random factor from 0.5 to 2."""
    rng = np.random.default_rng(len(weight))
    factor = 2 ** rng.uniform(-1, 1, len(weight))
    scaled: Array = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    return scaled


def damages() -> Iterator[tuple[str, Damage, Method]]:
    """Name, damage, and how it is repaired."""
    yield "50% smallest weights", lambda m: prune_weights(m, sparsity=0.5).model, "auto"
    yield "80% smallest weights", lambda m: prune_weights(m, sparsity=0.8).model, "auto"
    yield "30% of channels", lambda m: prune_channels(m, remove=0.3, round_to=1).model, "auto"
    yield "4 bits per channel", lambda m: every_weight(m, lambda w: to_bits(w, 4)), "affine"
    yield "3 bits per channel", lambda m: every_weight(m, lambda w: to_bits(w, 3)), "affine"
    yield "ternary per channel", lambda m: every_weight(m, to_ternary), "affine"
    yield "channel scales off", lambda m: every_weight(m, off_scale), "auto"


def measure(name: str, images: Array, labels: Array, calibration: Array) -> Iterator[Any]:
    """One row per damage of one net."""
    reference = load(FOLDER / f"{name}.onnx")
    expected = logits(reference, images)
    for damage, apply, method in damages():
        damaged = apply(reference)
        reports: list[StepReport] = []
        repaired, report = repair(reference, damaged, calibration, method=method)
        reports.append(report)
        before, after = logits(damaged, images), logits(repaired, images)
        yield {
            "model": name,
            "damage": damage,
            "macs": (inspect(damaged).macs or 0) / (inspect(reference).macs or 1),
            "method": method,
            "float_accuracy": accuracy(expected, labels),
            "damaged_accuracy": accuracy(before, labels),
            "repaired_accuracy": accuracy(after, labels),
            "damaged_db": sqnr_db(expected, before),
            "repaired_db": sqnr_db(expected, after),
            "repair_s": reports[0].seconds,
        }


def logits(model: ir.Model, images: Array) -> Array:
    """The first output for all images."""
    session = Session(model)
    name = session.input_names[0]
    parts = [session.run({name: images[i : i + 100]}) for i in range(0, len(images), 100)]
    return np.concatenate([next(iter(part.values())) for part in parts])


def accuracy(scores: Array, labels: Array) -> float:
    """Share of images whose largest score is that of their label."""
    return float((scores.argmax(axis=1) == labels).mean())


def sqnr_db(expected: Array, got: Array) -> float:
    """Signal to noise of the logits."""
    return float(10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum()))


def main() -> None:
    """Run the nets named on the command line, both convolutional ones by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["residual", "mobilenet"])
    names = parser.parse_args().models
    logging.getLogger().setLevel(logging.ERROR)
    images, labels = data.test_set()
    calibration = data.calibration_images(256)
    rows = [row for name in names for row in measure(name, images, labels, calibration)]
    publish("repair", rows, title="Accuracy restored by repair, 256 unlabelled images")


if __name__ == "__main__":
    main()
