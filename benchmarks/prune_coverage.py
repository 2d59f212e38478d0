"""Channel pruning on many topologies: `python -m benchmarks.prune_coverage`.

Every model goes to half of its MACs (data-free, except where samples are at hand) or says what
pins it. Each result passes the strict checker and strict shape inference, loads in ONNX
Runtime with its batch axis as dynamic as before, and equals the original with the same
channels silenced in place (`prune_channels` checks that itself and raises otherwise).
Latency is one thread, batch 1, interleaved with the simplified original.

`python -m benchmarks.prune_coverage MODEL...` runs some models, `--large` adds the three light
models above 200 MB.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from typing import Any

import onnx

from benchmarks._tables import publish
from onnxlite import prune_channels, simplify
from onnxlite.analysis.summary import inspect
from onnxlite.errors import OnnxliteError
from onnxlite.evaluate import benchmark
from onnxlite.model import ModelLike, load, size_bytes, to_proto
from onnxlite.samples import SamplesLike

_LIGHT = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")
_LARGE = ("bvlc_alexnet", "zfnet512", "vgg19")
_SHARE = 0.5


def cases(names: list[str], *, large: bool) -> Iterator[tuple[str, ModelLike, SamplesLike | None]]:
    """Name, model and unlabelled samples; the light models have random weights and get none."""
    from models import photos, text, zoo

    if not names or "efficientnet-lite0" in names:
        photographs = photos.photographs(64, split="calibration")
        yield "efficientnet-lite0", zoo.efficientnet_lite0(), photographs
    if not names or "minilm" in names:
        yield "minilm", zoo.sentence_encoder(), text.sentences(64, split="calibration")
    if not names or "silero-vad" in names:
        yield "silero-vad", zoo.voice_activity(), None
    if not names or "magika" in names:
        yield "magika", zoo.file_type(), dict(zoo.file_samples(64))
    light = [n for n in (*_LIGHT, *(_LARGE if large else ())) if not names or n in names]
    for name, path in zoo.light_models(light).items():
        yield name, path, None


def measure(name: str, source: ModelLike, samples: SamplesLike | None) -> dict[str, Any]:
    """One row: what is left, and what kept the rest."""
    simple = simplify(load(source)).model
    start = time.perf_counter()
    row: dict[str, Any] = {"model": name, "samples": samples is not None}
    try:
        pruned, report = prune_channels(simple, samples=samples, macs=_SHARE)
    except OnnxliteError as error:
        return {**row, "macs": None, "note": str(error)}
    row["seconds"] = time.perf_counter() - start
    before, after = inspect(simple), inspect(pruned)
    row["macs"] = None if not before.macs else (after.macs or 0) / before.macs
    row["parameters"] = after.parameters / before.parameters
    row["size"] = size_bytes(pruned) / size_bytes(simple)
    row["strict"] = _is_strict(pruned)
    row["batch"] = _batch(simple) == _batch(pruned)
    row["latency"] = benchmark(simple, pruned, memory=False).ratio.median if report.changed else 1.0
    short = [d for d in report.skipped if d.code == "goal-not-reached"]
    row["note"] = short[0].message if short else "" if report.changed else report.summary
    return row


def _is_strict(model: ModelLike) -> bool:
    proto = to_proto(load(model))
    if proto.ByteSize() > 2**31 - 1:
        return False
    try:
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _batch(model: ModelLike) -> list[str]:
    return [str(v.shape[0]) if v.shape else "" for v in load(model).graph.inputs]


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    rows = []
    for case in cases(arguments.models, large=arguments.large):
        rows.append(measure(*case))
        print(rows[-1], flush=True)
    publish("prune_coverage", rows, title="Channel pruning to half of the MACs")


if __name__ == "__main__":
    main()
