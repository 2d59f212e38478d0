"""Results in OpenVINO beside ONNX Runtime: `python -m benchmarks.openvino_agreement [NAME ...]`.

Each model is simplified, quantized statically for both runtimes and pruned to 0.7 of its MACs.
The original and each result run in both runtimes on inputs that no step has seen. The table holds
the SQNR of each result against the original in ONNX Runtime, and of OpenVINO against ONNX Runtime
on the same file: they agree if what the runtimes differ by is below what the result has lost. What
OpenVINO makes of the unchanged model says how exact it is by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import openvino

from benchmarks._tables import publish
from models import data, eeg, text, vision, zoo
from models.fetch import FetchError
from onnxlite import prune_channels, quantize_static, simplify
from onnxlite.errors import OnnxliteError
from onnxlite.fidelity import sqnr_db
from onnxlite.inputs import Feed, input_specs
from onnxlite.model import load, to_bytes
from onnxlite.runtime import Outputs, Session, run_all
from onnxlite.samples import Samples

#: Samples that the steps see, and others that are compared.
_SEEN, _UNSEEN = 32, 16
#: A pruned model computes in float32 in both runtimes: they differ by rounding, as with the
#: original, and its weights are smaller in number and not in size.
_ROUNDING_DB = 60.0

Row = dict[str, Any]


class Case(NamedTuple):
    """A model with inputs by name: those that the steps see, and others."""

    model: Path
    seen: Mapping[str, Any]
    unseen: Mapping[str, Any]


def _fashion(name: str) -> Case:
    path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
    images, others = data.calibration_images(_SEEN), data.test_set()[0][:_UNSEEN]
    return Case(path, {"image": images}, {"image": others})


def _efficientnet() -> Case:
    images = (zoo.photographs(_SEEN), zoo.photographs(_UNSEEN, split="evaluation"))
    return Case(zoo.efficientnet_lite0(), *({"image": image} for image in images))


def _sentence_encoder() -> Case:
    seen = text.sentences(_SEEN, split="calibration")
    return Case(zoo.sentence_encoder(), seen, text.sentences(_UNSEEN, split="evaluation"))


def _detector() -> Case:
    images = (
        vision.unit_photographs(_SEEN),
        vision.unit_photographs(_UNSEEN, split="evaluation"),
    )
    return Case(vision.nudenet(), *({"images": image} for image in images))


def _recurrent() -> Case:
    seen, _ = eeg.spectrograms(_SEEN, burst_rate=0.3)
    unseen, _ = eeg.spectrograms(_UNSEEN, burst_rate=0.3, seed=1)
    return Case(eeg.seizure_net(), {"x": seen}, {"x": unseen})


CASES: Mapping[str, Callable[[], Case]] = {
    "residual": partial(_fashion, "residual"),
    "mobilenet": partial(_fashion, "mobilenet"),
    "vit": partial(_fashion, "vit"),
    "efficientnet-lite0": _efficientnet,
    "minilm": _sentence_encoder,
    "detector": _detector,
    "recurrent": _recurrent,
}


def compiled(model: ir.Model) -> openvino.CompiledModel:
    """Load a model in OpenVINO on one thread, with float32 where it has floats."""
    core = openvino.Core()
    # OpenVINO takes bfloat16 by itself where the processor has it.
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(to_bytes(model)), "CPU", options)


def openvino_outputs(model: ir.Model, feeds: Sequence[Feed]) -> list[Outputs]:
    """Run every feed in OpenVINO; outputs by name."""
    runtime, names = compiled(model), Session(model, threads=1).output_names
    found = []
    for feed in feeds:
        values = runtime({name: np.ascontiguousarray(array) for name, array in feed.items()})
        found.append(dict(zip(names, map(np.array, values.values()), strict=True)))
    return found


def worst_db(reference: Sequence[Outputs], other: Sequence[Outputs]) -> float:
    """SQNR in dB of the worst output over all feeds; outputs of integers are left out."""
    found = []
    for name, first in reference[0].items():
        if first.dtype.kind == "f":
            signal = sum(float((one[name].astype(float) ** 2).sum()) for one in reference)
            noise = sum(
                float(((one[name].astype(float) - two[name]) ** 2).sum())
                for one, two in zip(reference, other, strict=True)
            )
            found.append(sqnr_db(signal, noise))
    return min(found)


def rows(name: str) -> Iterator[Row]:
    """One row per result of a model."""
    model, seen, unseen = CASES[name]()
    original = simplify(load(model), samples={key: value[:2] for key, value in seen.items()}).model
    feeds = list(Samples(dict(unseen), input_specs(original), batch_size=4))
    expected = run_all(original, feeds, threads=1)
    same = worst_db(expected, openvino_outputs(original, feeds))
    yield {
        "model": name,
        "result": "original",
        "sqnr_db": None,
        "openvino_db": same,
        "agrees": None,
    }
    steps: Mapping[str, Callable[[ir.Model], Any]] = {
        "quantize_static(target='openvino')": lambda m: quantize_static(
            m, seen, target="openvino", min_sqnr_db=0, threads=1
        ),
        "quantize_static()": lambda m: quantize_static(m, seen, min_sqnr_db=0, threads=1),
        "prune_channels(macs=0.7)": lambda m: prune_channels(m, samples=seen, macs=0.7, threads=1),
    }
    for label, step in steps.items():
        try:
            result = step(original)
        except OnnxliteError as error:
            yield {"model": name, "result": label, "declined": str(error).splitlines()[0]}
            continue
        if not result.report.changed:
            yield {"model": name, "result": label, "declined": result.report.summary}
            continue
        here = run_all(result.model, feeds, threads=1)
        lost = worst_db(expected, here)
        between = worst_db(here, openvino_outputs(result.model, feeds))
        limit = min(same, _ROUNDING_DB) if label.startswith("prune") else lost
        yield {
            "model": name,
            "result": label,
            "sqnr_db": lost,
            "openvino_db": between,
            "agrees": between >= limit,
        }


def main() -> None:
    """Run the models, publish the table, and end with 1 where the runtimes do not agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; all if none is given")
    table: list[Row] = []
    for name in parser.parse_args().names or CASES:
        try:
            table += rows(name)
        except FetchError as error:
            table.append({"model": name, "declined": f"cannot be had: {error}"})
    publish(
        "openvino_agreement",
        table,
        title="OpenVINO beside ONNX Runtime",
        notes=[f"OpenVINO {openvino.__version__}; dB of the worst output on unseen inputs"],
    )
    sys.exit(any(row.get("agrees") is False for row in table))


if __name__ == "__main__":
    main()
