"""Half precision beside the peers: `python -m benchmarks.half`.

Every model of the zoo, simplified first, goes through onnxlite (both modes, and bfloat16) and
through the float16 converters of onnxconverter-common, of onnxruntime.transformers and of onnxsim,
all with float32 inputs and outputs. For each result: whether ONNX Runtime loads and runs it,
signal to noise of the worst output against the original on inputs that no converter has seen, size
against the original file, and with `--latency` its latency against it (one thread, interleaved).

The light models have random weights, which makes some of them pass errors on greatly magnified.
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
import onnx
import onnxsim
from onnxruntime.transformers import float16 as ort_float16

from benchmarks._tables import publish
from models import data, light, photos, text, zoo
from onnxlite import benchmark, compare, save, simplify, to_float16
from onnxlite.errors import OnnxliteError
from onnxlite.model import disk_bytes
from onnxlite.samples import SamplesLike

FASHION = ("residual", "mobilenet", "vit")
OTHERS = ("file_type", "voice_activity", "sentence_encoder", "efficientnet_lite0")


@dataclass(frozen=True)
class Case:
    """A model, inputs to decide by, and others to compare on."""

    name: str
    path: Path
    calibration: SamplesLike
    evaluation: SamplesLike


def case(name: str) -> Case:
    """One model of the zoo, by name."""
    if name in FASHION:
        path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
        return Case(name, path, data.calibration_images(64), data.test_set()[0][:500])
    if name in light.NAMES:
        images = np.random.default_rng(0).standard_normal((6, 3, 224, 224)).astype(np.float32)
        return Case(name, zoo.light_models([name])[name], images[:2], images[2:])
    path = {
        "file_type": zoo.file_type,
        "voice_activity": zoo.voice_activity,
        "sentence_encoder": zoo.sentence_encoder,
        "efficientnet_lite0": zoo.efficientnet_lite0,
    }[name]()
    if name == "file_type":
        files = zoo.file_samples
        return Case(name, path, files(128), files(128, split="evaluation"))
    if name == "voice_activity":
        voice = zoo.voice_samples
        return Case(name, path, voice(64), voice(64, split="evaluation"))
    if name == "sentence_encoder":
        return Case(name, path, text.sentences(64), text.sentences(64, split="evaluation"))
    pictures = photos.photographs
    return Case(name, path, pictures(16), pictures(32, split="evaluation"))


def converters(calibration: SamplesLike) -> dict[str, Callable[[Path, Path], None]]:
    """Every contestant: from the simplified model's path to the result's."""

    def compute(source: Path, target: Path) -> None:
        save(to_float16(source, samples=calibration).model, target)

    def storage(source: Path, target: Path) -> None:
        save(to_float16(source, mode="storage").model, target)

    def wide(source: Path, target: Path) -> None:
        save(to_float16(source, dtype="bfloat16").model, target)

    def common(source: Path, target: Path) -> None:
        from onnxconverter_common import float16

        onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)

    def transformers(source: Path, target: Path) -> None:
        model = ort_float16.convert_float_to_float16(onnx.load(source), keep_io_types=True)
        onnx.save(model, target)

    def sim(source: Path, target: Path) -> None:
        model = onnxsim.quantize_fp16(onnx.load(source))
        onnx.save(model[0] if isinstance(model, tuple) else model, target)

    return {
        "onnxlite": compute,
        "onnxlite storage": storage,
        "onnxlite bfloat16": wide,
        "onnxconverter-common": common,
        "onnxruntime.transformers": transformers,
        "onnxsim": sim,
    }


def measure(which: Case, directory: Path, *, latency: bool) -> Iterator[dict[str, Any]]:
    """One row per contestant."""
    source = directory / "simplified.onnx"
    save(simplify(which.path).model, source)
    for name, convert in converters(which.calibration).items():
        target = directory / "half.onnx"
        target.unlink(missing_ok=True)
        row: dict[str, Any] = {"model": which.name, "converter": name, "fault": None}
        start = time.perf_counter()
        try:
            convert(source, target)
            row["seconds"] = time.perf_counter() - start
            row["size_ratio"] = disk_bytes(target) / disk_bytes(which.path)
            row["sqnr_db"] = compare(
                which.path, target, samples=which.evaluation, threads=1
            ).sqnr_db
            if latency:
                pair = benchmark(
                    which.path, target, samples=which.evaluation, threads=1, memory=False
                )
                row["latency_ratio"] = pair.ratio.median
        # A peer may fail in any way; the row says how.
        except Exception as error:
            words = str(error) if isinstance(error, OnnxliteError) else repr(error)
            row["fault"] = " ".join(words.replace(f"{directory}/", "").split())[:160]
        yield row


def main() -> None:
    """Run the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*FASHION, *OTHERS, *light.NAMES])
    parser.add_argument("--latency", action="store_true", help="also measure latency")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    rows = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as directory:
            rows += list(measure(case(name), Path(directory), latency=options.latency))
        publish("half", rows, title="Half precision, against the float32 file")


if __name__ == "__main__":
    main()
