"""What single mechanisms give: `python -m benchmarks.ablation`.

INT8, everything on integers, weights fitted, SQNR (dB) of the worst output on evaluation samples:
the default, one option changed at a time (`observer`, `equalize`), and effective ranges. These
have no option. A value that is an output of the model as well has to keep its whole range, so
the row without effective ranges is of a model with all such values as further outputs, which
are not compared. Outputs can be neither equalized nor left out of the choice of an observer, so
both rows of that pair have `equalize=False, observer="minmax"`.

Simplification: nodes left and processor time (with that of child processes) by the choice of
`onnxsim`.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._tables import kept_rows, publish
from models import data, light, vision, zoo
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate.effective_range import effective_range
from onnxlite.fidelity import Reference
from onnxlite.inputs import input_specs
from onnxlite.model import clone, load
from onnxlite.quantize import quantize_static
from onnxlite.samples import Samples
from onnxlite.simplify import simplify

Images = NDArray[Any]
#: A model, calibration inputs, and evaluation inputs that are others.
Case = tuple[Path, Images, Images]

_VERIFIED = 4
WITHOUT_EFFECTIVE = "observer=minmax, equalize=False, no effective ranges"
#: Options of the variants, the default first.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "observer=minmax": {"observer": "minmax"},
    "observer=mse": {"observer": "mse"},
    "equalize=False": {"equalize": False},
    "observer=minmax, equalize=False": {"observer": "minmax", "equalize": False},
    WITHOUT_EFFECTIVE: {"observer": "minmax", "equalize": False},
}


def _fashion(name: str, count: int) -> Case:
    path = Path(data.__file__).parent / "fashion" / f"{name}.onnx"
    return path, data.calibration_images(count), data.test_set()[0]


def _photographs(
    model: Callable[[], Path], photographs: Callable[..., Images], count: int, evaluation: int
) -> Case:
    return model(), photographs(count), photographs(evaluation, split="evaluation")


def _ocr(part: vision.OcrPart, height: int, width: int, count: int) -> Case:
    pictures = partial(vision.text_pictures, height=height, width=width)
    return vision.pp_ocr(part), pictures(count), pictures(2 * count, split="evaluation")


def _light(name: str) -> Path:
    return light.light_models([name])[name]


MODELS: Mapping[str, Callable[[], Case]] = {
    **{name: partial(_fashion, name, 256) for name in ("residual", "mobilenet", "vit")},
    "ppocr-direction": partial(_ocr, "direction", 48, 192, 64),
    "ppocr-detector": partial(_ocr, "detector", 160, 160, 24),
    "open-nsfw": partial(_photographs, vision.open_nsfw, vision.bgr_photographs, 32, 48),
    "efficientnet-lite0": partial(_photographs, zoo.efficientnet_lite0, zoo.photographs, 128, 200),
    "nudenet": partial(_photographs, vision.nudenet, vision.unit_photographs, 24, 24),
}
#: Further models that only simplification is measured on.
SIMPLIFIED: Mapping[str, Callable[[], Path]] = {
    "ppocr-recognizer": partial(vision.pp_ocr, "recognizer"),
    "sentence-encoder": zoo.sentence_encoder,
    "voice-activity": zoo.voice_activity,
    "file-type": zoo.file_type,
    **{name: partial(_light, name) for name in light.NAMES},
}


def quantization(name: str) -> Iterator[dict[str, Any]]:
    """One row per variant."""
    path, calibration, evaluation = MODELS[name]()
    model = simplify(load(path), samples=calibration[:_VERIFIED]).model
    reference = Reference(model, Samples(evaluation, input_specs(model)), threads=1)
    exposed, count = with_outputs(model)
    default = None
    for variant, options in VARIANTS.items():
        if variant == WITHOUT_EFFECTIVE and not count:
            continue
        start = time.process_time()
        made = quantize_static(
            exposed if variant == WITHOUT_EFFECTIVE else model,
            calibration,
            placement="everything",
            threads=1,
            **options,
        )
        seconds = time.process_time() - start
        sqnr_db = reference.sqnr_db(made.model)
        default = sqnr_db if default is None else default
        yield {
            "model": name,
            "variant": variant,
            "sqnr_db": sqnr_db,
            "above_default_db": sqnr_db - default,
            "effective_ranges": 0 if variant == WITHOUT_EFFECTIVE else count,
            "layers": made.report.changes.layers_quantized,
            "quantize_cpu_s": seconds,
        }


def with_outputs(model: ir.Model) -> tuple[ir.Model, int]:
    """Return a copy in which every value with an effective range is an output as well."""
    copy = clone(model)
    infer_shapes(copy)
    found = [out for node in copy.graph for out in node.outputs if effective_range(out)]
    copy.graph.outputs.extend(found)
    return copy, len(found)


def simplification(name: str) -> Iterator[dict[str, Any]]:
    """One row per choice of `onnxsim`."""
    path = MODELS[name]()[0] if name in MODELS else SIMPLIFIED[name]()
    before = sum(1 for _ in load(path).graph.all_nodes())
    for choice in ("auto", True, False):
        start = _cpu_s()
        made = simplify(load(path), onnxsim=choice)
        yield {
            "model": name,
            "onnxsim": str(choice),
            "nodes_before": before,
            "nodes": sum(1 for _ in made.model.graph.all_nodes()),
            "cpu_s": _cpu_s() - start,
        }


def _cpu_s() -> float:
    """Processor time of this process and of the child processes that have ended."""
    return sum(os.times()[:4])


def main() -> None:
    """Measure the models named on the command line, all by default; others keep their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*MODELS, *SIMPLIFIED])
    names = parser.parse_args().models
    logging.disable(logging.WARNING)
    quantized = kept_rows("ablation", "model", "variant")
    simplified = kept_rows("ablation_onnxsim", "model", "onnxsim")
    for name in names:
        rows = {(name, row["onnxsim"]): row for row in simplification(name)}
        simplified |= rows
        publish("ablation_onnxsim", list(simplified.values()), title="Nodes and time of onnxsim")
        if name in MODELS:
            quantized = {key: row for key, row in quantized.items() if key[0] != name}
            quantized |= {(name, row["variant"]): row for row in quantization(name)}
            publish("ablation", list(quantized.values()), title="INT8 without single mechanisms")


if __name__ == "__main__":
    main()
