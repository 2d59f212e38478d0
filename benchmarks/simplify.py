"""Simplification side by side with its peers: `python -m benchmarks.simplify`.

For each model and tool: nodes (subgraphs included), the largest relative difference of
any output from the original on real inputs, whether that makes the result correct
(at most 1e-4, integers equal, the file loads), and ONNX Runtime's session start time
relative to the original (interleaved, median). Every tool runs in a child process, so
that a crash is a row in the table.

`python -m benchmarks.simplify MODEL...` runs some models, `--large` adds the three light
models above 200 MB.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks._tables import publish
from onnxlite import simplify
from onnxlite.errors import OnnxliteError
from onnxlite.inputs import Feed, input_specs
from onnxlite.model import load
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import generate
from onnxlite.save import save
from onnxlite.simplify.pipeline import count_nodes
from onnxlite.simplify.verify import TOLERANCE, relative_difference

TOOLS = ("onnxlite", "onnxsim", "onnxslim", "onnxscript")
_LIGHT = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")
_LARGE = ("bvlc_alexnet", "zfnet512", "vgg19")
_STARTS = 15
_TIME_LIMIT = 600.0


@dataclass(frozen=True)
class Case:
    """A model and real inputs for it."""

    name: str
    path: Path
    feeds: list[Feed]


def cases(names: list[str], *, large: bool) -> Iterator[Case]:
    """The models of this benchmark; all of them if no name is given."""
    from models import data, photos, text, zoo

    fashion = Path(__file__).parent.parent / "models" / "fashion"
    wanted = set(names)

    def asked(name: str) -> bool:
        return not wanted or name in wanted

    for name in ("residual", "mobilenet", "vit"):
        if asked(name) and (path := fashion / f"{name}.onnx").is_file():
            yield Case(name, path, [{"image": data.calibration_images(8)}])
    if asked("efficientnet-lite0"):
        pictures = photos.photographs(4, split="calibration")
        yield Case("efficientnet-lite0", zoo.efficientnet_lite0(), [{"image": pictures}])
    if asked("minilm"):
        tokens = text.sentences(8, split="calibration")
        yield Case("minilm", zoo.sentence_encoder(), [tokens])
    if asked("silero-vad"):
        yield Case("silero-vad", zoo.voice_activity(), zoo.voice_samples(8)[4:])
    if asked("magika"):
        yield Case("magika", zoo.file_type(), [dict(zoo.file_samples(8))])
    light = (*_LIGHT, *(_LARGE if large else ()))
    for name, path in zoo.light_models([name for name in light if asked(name)]).items():
        yield Case(name, path, generate(input_specs(load(path)), count=1))


def run_tool(tool: str, source: Path, target: Path) -> None:
    """Simplify `source` into `target` with one tool and its defaults."""
    if tool == "onnxlite":
        save(simplify(source).model, target)
        return
    model = onnx.load(source)
    if tool == "onnxsim":
        import onnxsim

        result, _ = onnxsim.simplify(model)
    elif tool == "onnxslim":
        import onnxslim

        result = onnxslim.slim(model)
    else:
        from onnxscript import optimizer

        result = optimizer.optimize(model)
    onnx.save(result, target)


def measure(case: Case, tool: str, directory: Path) -> dict[str, Any]:
    """One row: what `tool` makes of a model."""
    target = directory / f"{case.name}-{tool}.onnx"
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.simplify", "--child", tool]
    try:
        child = subprocess.run(
            [*command, str(case.path), str(target)],
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT,
            check=False,
        )
        error = (child.stderr.strip().splitlines() or [""])[-1] if child.returncode else ""
    except subprocess.TimeoutExpired:
        error = f"no result within {_TIME_LIMIT:.0f} s"
    seconds = time.perf_counter() - started
    row: dict[str, Any] = {"model": case.name, "tool": tool}
    original = load(case.path)
    row["nodes_before"] = count_nodes(original)
    if error or not target.exists():
        return {**row, "correct": False, "seconds": seconds, "error": error[:100]}
    result = load(target)
    row["nodes"] = count_nodes(result)
    try:
        row["difference"] = max_difference(case, result)
    except OnnxliteError as failure:
        return {**row, "correct": False, "seconds": seconds, "error": str(failure)[:100]}
    row["correct"] = row["difference"] <= TOLERANCE
    row["start_ratio"] = start_ratio(case.path, target)
    row["size_ratio"] = target.stat().st_size / case.path.stat().st_size
    row["seconds"] = seconds
    return row


def max_difference(case: Case, result: Any) -> float:
    """Largest relative difference of any output on any feed; infinite if integers differ."""
    before, after = Session(case.path, threads=1), Session(result, threads=1)
    worst = 0.0
    for feed in case.feeds:
        expected, found = before.run(feed), after.run(feed)
        worst = max(worst, *(_difference(expected, found, name) for name in expected))
    return worst


def _difference(expected: Outputs, found: Outputs, name: str) -> float:
    a, b = expected[name], found.get(name)
    if b is None or a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    return relative_difference(a, b)


def start_ratio(before: Path, after: Path) -> float:
    """Session start of `after` relative to `before`: median of interleaved pairs."""
    ratios = []
    for _ in range(_STARTS):
        times = []
        for path in (before, after):
            started = time.perf_counter()
            Session(path, threads=1)
            times.append(time.perf_counter() - started)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """Per model: our node count against the best correct peer's."""
    notes = []
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = next(r for r in rows if r["model"] == name and r["tool"] == "onnxlite")
        peers = [r for r in rows if r["model"] == name and r is not mine and r["correct"]]
        best = min((r["nodes"] for r in peers), default=None)
        if not mine["correct"]:
            notes.append(f"{name}: onnxlite's own result is not correct")
        elif best is not None and mine["nodes"] > best:
            notes.append(f"{name}: {mine['nodes']} nodes, the best correct peer has {best}")
    return notes or ["On every model at most as many nodes as the best correct peer."]


def main() -> None:
    """Run the benchmark, or (`--child`) one tool on one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names; default: all")
    parser.add_argument("--large", action="store_true", help="add the largest light models")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        tool, source, target = options.models
        run_tool(tool, Path(source), Path(target))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        for case in cases(options.models, large=options.large):
            rows += [measure(case, tool, Path(directory)) for tool in TOOLS]
    publish("simplify", rows, title="Simplification", notes=verdicts(rows))


if __name__ == "__main__":
    main()
