"""Saves that are killed, fail or compete: the old file or a whole new one, and nothing else.

    python -m benchmarks.interruption [--count N]

A child process saves models to one target again and again, with and without external data, or
runs `optimize`; it is killed (SIGKILL) after a random time. Two processes that write one target
are killed as well. Other children save where a file may not grow beyond a random size, as on a
full disk, or into a folder that is read-only. Then the target has to be one of the models as a
whole, and the next save may leave nothing but it. The exit code is 1 if not.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, get_args

import numpy as np
import onnx

from benchmarks._tables import publish
from onnxlite.errors import OnnxliteError, SaveError
from onnxlite.model import load
from onnxlite.save import save
from tests.odd_models import parse

COUNT = 100
#: Longest time until a child is killed, once it has begun.
_SECONDS = {"save": 0.15, "save with external data": 0.15, "two writers": 0.3, "optimize": 4.0}
#: One child in so many runs `optimize`, which takes longer to begin.
_OPTIMIZE_EVERY = 10
#: The same for two writers of one target.
_TWO_EVERY = 5
#: Saves of each kind that cannot succeed.
_FAILING = 20
#: User without rights, for whom a read-only folder is one; root may write everywhere.
_NOBODY = 65534

Work = Literal["save", "save with external data", "two writers", "optimize"]
Failing = Literal["disk full", "disk full with external data", "read-only folder"]


class Row(NamedTuple):
    """What was left by one process; an empty fault is none."""

    work: Work | Failing
    saved: bool
    fault: str


def net(width: int) -> onnx.ModelProto:
    """A model whose weight has a shape of its own, so that mixed files do not load."""
    model: onnx.ModelProto = parse(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,8] y) <float[64,{width}] w, float[{width},8] v>
        {{ t = MatMul(x, w) r = Relu(t) y = MatMul(r, v) }}""",
        seed=width,
    )
    return model


#: Models that a child saves in turn.
WIDTHS = (512, 1024, 2048)


def child(work: Work, target: Path) -> None:
    """Save, or optimize, until somebody ends the process."""
    if work == "optimize":
        import onnxlite as ol

        x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
        print("begun", flush=True)
        while True:
            ol.optimize(net(WIDTHS[0]), x, max_size=0.9, output=target, time_limit_s=5, cache=False)
    nets = [net(width) for width in WIDTHS]
    external = _external(work)
    print("begun", flush=True)
    while True:
        for model in nets:
            save(model, target, external_data=external)


def _external(work: str) -> Literal["always", "never"]:
    return "never" if work in ("save", "disk full", "read-only folder") else "always"


def failing_child(work: Failing, target: Path) -> None:
    """Save where it must fail, and print the error that `save` raises."""
    rng, model = random.Random(0), net(WIDTHS[2])
    if work == "read-only folder" and os.geteuid() == 0:
        os.seteuid(_NOBODY)
    for _ in range(_FAILING):
        if work != "read-only folder":
            size = rng.randrange(model.ByteSize() - 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            save(model, target, external_data=_external(work))
            print("saved", flush=True)
        except SaveError:
            print("refused", flush=True)


def failed(work: Failing) -> Iterator[Row]:
    """Let saves fail, and look at what they leave; the target is looked at once, at the end."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        target = folder / "m.onnx"
        save(net(WIDTHS[1]), target, external_data="never")
        first = target.read_bytes()
        folder.chmod(0o555 if work == "read-only folder" else 0o755)
        command = [sys.executable, "-m", "benchmarks.interruption", "--child", work, str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())
        folder.chmod(0o755)
        found = done.stdout.split()
        fault = _target_fault(target, "save")
        if target.read_bytes() != first:
            fault = fault or "the target was replaced"
        if len(found) < _FAILING:
            fault = fault or f"the process ended: {done.stderr.strip().splitlines()[-1:]}"
        others = sorted(set(os.listdir(folder)) - {target.name})
        fault = fault or (f"left behind: {others}" if others else "") or _next_save_fault(target)
        for number in range(_FAILING):
            saved = number < len(found) and found[number] == "saved"
            yield Row(work, saved, fault or ("it was saved" if saved else ""))


def killed(work: Work, seconds: float) -> Row:
    """Kill a child after some time, and look at what it left."""
    with TemporaryDirectory() as name:
        target = Path(name) / "m.onnx"
        save(net(WIDTHS[1]), target, external_data="never")
        first = target.read_bytes()
        command = [sys.executable, "-m", "benchmarks.interruption", "--child", work, str(target)]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            for _ in range(2 if work == "two writers" else 1)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(seconds)
        for process in processes:
            process.kill()
            process.communicate()
        saved = target.read_bytes() != first
        return Row(work, saved, _target_fault(target, work) or _next_save_fault(target))


def _target_fault(target: Path, work: Work) -> str:
    """Why the target is not one of the models as a whole."""
    try:
        found = load(target).graph.initializers
    except OnnxliteError as error:
        return f"the target does not load: {error}"
    if work == "optimize" and "w" not in found:
        return ""  # a compressed model, which loads
    for width in WIDTHS:
        tensor = found["w"].const_value
        if tensor is not None and tuple(tensor.shape.numpy()) == (64, width):
            whole = onnx.numpy_helper.to_array(net(width).graph.initializer[0])
            # Of an optimized model other weights are to be expected.
            same = work == "optimize" or np.array_equal(tensor.numpy(), whole)
            return "" if same else "the weights are of another model"
    return "the weights are of no model"


def _next_save_fault(target: Path) -> str:
    """What is left beside the model that is saved after the kill."""
    save(net(8), target, external_data="never")
    left = sorted(os.listdir(target.parent))
    # A process that was killed between two renames leaves its data under the first name.
    others = [name for name in left if name not in (target.name, f"{target.name}.data")]
    return f"left behind: {others}" if others else ""


def findings(count: int, seed: int = 0) -> Iterator[Row]:
    """Kill so many processes."""
    rng = random.Random(seed)
    for number in range(count):
        work: Work = "save" if number % 2 else "save with external data"
        if number % _TWO_EVERY == _TWO_EVERY - 2:
            work = "two writers"
        if number % _OPTIMIZE_EVERY == _OPTIMIZE_EVERY - 1:
            work = "optimize"
        yield killed(work, rng.random() * _SECONDS[work])


def main() -> None:
    """Run the suite, publish its table, and end with 1 if there are faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT, help="number of processes")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work, target = options.child[0], Path(options.child[1])
        if work in get_args(Failing):
            failing_child(work, target)
            return
        child(work, target)
    rows = list(findings(options.count))
    ended = sum(row.saved for row in rows)
    for failing in get_args(Failing):
        rows += failed(failing)
    kinds = Counter((row.work, row.fault or "whole") for row in rows)
    table = [{"work": work, "found": found, "times": n} for (work, found), n in kinds.items()]
    note = f"{ended} of {options.count} killed processes had replaced the target before"
    title = "Saves that are killed, fail or compete"
    publish("interruption", table, title=title, notes=[note])
    sys.exit(any(row.fault for row in rows))


if __name__ == "__main__":
    main()
