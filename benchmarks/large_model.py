"""A model of 3 GiB through load, simplify, prune and save: `python -m benchmarks.large_model`.

The work is done in a child process, whose memory is read from `/proc` every 20 ms:

- *peak resident* is the kernel's own high-water mark (VmHWM). It counts pages of mapped
  files too, which the kernel can drop at any time.
- *peak anonymous* is the largest RssAnon seen: memory that cannot be dropped.

The model is a residual MLP with float32 weights as external data (`models/generate.py`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks._tables import publish
from models.generate import large_model
from onnxlite.model import disk_bytes

LIMIT_BYTES = 1 << 30
_POLL_S = 0.02

#: What the child does; it prints the seconds of every stage and the two reports.
_WORK = """
import json, sys, time
from onnxlite import load, prune_weights, save, simplify
source, target = sys.argv[1:]
seconds, reports = {}, {}
def timed(stage, call):
    start = time.perf_counter()
    result = call()
    seconds[stage] = time.perf_counter() - start
    return result
def made(result):
    reports[result.report.step] = result.report.summary
    return result.model
model = timed("load", lambda: load(source))
nodes = len(model.graph)
model = timed("simplify", lambda: made(simplify(model)))
pruned = timed("prune", lambda: made(prune_weights(model, sparsity=0.5)))
timed("save", lambda: save(pruned, target))
counts = {"nodes_before": nodes, "nodes_after": len(pruned.graph)}
print(json.dumps({"seconds": seconds, "reports": reports, **counts}))
"""


class Peaks(msgspec.Struct):
    """Highest memory of a process and its children, in bytes."""

    resident: int = 0
    anonymous: int = 0


def processes(pid: int) -> Iterator[int]:
    """A process and everything it started."""
    yield pid
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listing.read_text(encoding="ascii").split():
            yield from processes(int(child))


def memory_of(pid: int) -> tuple[int, int]:
    """High-water mark and present anonymous memory of one process."""
    fields = dict.fromkeys(("VmHWM", "RssAnon"), 0)
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key in fields:
            fields[key] = int(value.split()[0]) * 1024
    return fields["VmHWM"], fields["RssAnon"]


def watched(command: list[str]) -> tuple[str, Peaks]:
    """Run a command; return what it printed and the peaks of it and its children together."""
    peaks = Peaks()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            try:
                now = [memory_of(pid) for pid in processes(child.pid)]
            except OSError:  # a process ended while it was looked at
                continue
            peaks.resident = max(peaks.resident, sum(high for high, _ in now))
            peaks.anonymous = max(peaks.anonymous, sum(anonymous for _, anonymous in now))
            time.sleep(_POLL_S)
        assert child.stdout is not None
        output = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"the child failed with exit code {child.returncode}")
    return output, peaks


def main() -> None:
    """Generate, measure, publish; exit code 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=3.0, help="size of the weights (default 3)")
    parser.add_argument("--directory", type=Path, help="where the files go (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onnxlite-", dir=options.directory) as directory:
        source, target = Path(directory) / "large.onnx", Path(directory) / "small.onnx"
        large_model(source, gib=options.gib)
        output, peaks = watched([sys.executable, "-c", _WORK, str(source), str(target)])
        done = msgspec.json.decode(output)
        row: dict[str, Any] = {
            "input_mib": round(disk_bytes(source) / 2**20),
            "output_mib": round(disk_bytes(target) / 2**20),
            "nodes": f"{done['nodes_before']} -> {done['nodes_after']}",
            "peak_resident_mib": round(peaks.resident / 2**20),
            "peak_anonymous_mib": round(peaks.anonymous / 2**20),
            **{f"{stage}_s": round(value, 1) for stage, value in done["seconds"].items()},
        }
    notes = [f"{step}: {summary}" for step, summary in done["reports"].items()]
    notes.append("resident memory includes pages of mapped files, anonymous memory does not")
    title = f"{options.gib:g} GiB of weights, limit {LIMIT_BYTES >> 20} MiB resident"
    publish("large_model", [row], title=title, notes=notes)
    if peaks.resident > LIMIT_BYTES:
        raise SystemExit(f"above the limit of {LIMIT_BYTES >> 20} MiB")


if __name__ == "__main__":
    main()
