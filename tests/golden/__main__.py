"""Record or compare the golden hashes.

    python -m tests.golden                 compare with hashes.json; exit code 1 if one differs
    python -m tests.golden residual dense  the same, for these nets only
    python -m tests.golden --step 'int8*'  these steps only
    python -m tests.golden --record        write hashes.json anew (say in the commit why)

Nothing that a clock decides takes part. Least squares differ in their last bits between
processors, so `hashes.json` names the machine that it was recorded on, and is compared there.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from itertools import repeat
from pathlib import Path

import numpy as np
import onnx

FILE = Path(__file__).with_name("hashes.json")


def fingerprint(model: onnx.ModelProto) -> dict[str, str]:
    """Two hashes: of all bytes but the producer's, and of what is computed, whatever the names."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    for field in ("producer_name", "producer_version"):
        proto.ClearField(field)
    whole = proto.SerializeToString(deterministic=True)
    return {"bytes": _digest(whole), "computation": _computation(proto.graph, {})}


def _digest(*content: object) -> str:
    total = hashlib.sha256()
    for part in content:
        total.update(part if isinstance(part, bytes) else repr(part).encode())
        total.update(b";")
    return total.hexdigest()[:16]


def _computation(graph: onnx.GraphProto, outer: dict[str, str]) -> str:
    """Hash of nodes and outputs, each by the operators, attributes and constants behind it."""
    known = dict(outer)
    for value in graph.input:
        known[value.name] = _digest("input", value.name)
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        known[tensor.name] = _digest(tensor.data_type, array.shape, array.tobytes())
    nodes = []
    for node in graph.node:
        attributes = [
            (a.name, _computation(a.g, known) if a.HasField("g") else a.SerializeToString())
            for a in sorted(node.attribute, key=lambda a: a.name)
        ]
        inputs = [known.get(name, "") for name in node.input]
        nodes.append(_digest(node.domain, node.op_type, inputs, attributes))
        known |= {name: _digest(nodes[-1], i) for i, name in enumerate(node.output)}
    return _digest(sorted(nodes), [known.get(value.name, "") for value in graph.output])


def hashes_of(net: str, pattern: str = "*") -> dict[str, dict[str, str] | str]:
    """The hashes of what every step makes of a net; a step that refuses has its error's type."""
    logging.disable(logging.WARNING)
    with contextlib.suppress(AttributeError, OSError):  # ONNX Runtime takes a thread per processor
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})
    from onnxlite.errors import OnnxliteError
    from onnxlite.timing import use_timer
    from tests.golden.nets import NETS
    from tests.golden.steps import simplified, steps_of

    with use_timer(None):
        golden = NETS[net]()
        start = time.process_time()
        model = simplified(golden)
        found: dict[str, dict[str, str] | str] = {"simplify": fingerprint(model)}
        for name, step in steps_of(net).items():
            if not fnmatch(name, pattern):
                continue
            try:
                found[name] = fingerprint(step(model, golden.samples).model)
            except OnnxliteError as error:
                found[name] = type(error).__name__
            spent, start = time.process_time() - start, time.process_time()
            print(f"{net} {name}: {spent:.1f} s", file=sys.stderr, flush=True)
    return found


def _machine() -> str:
    from onnxlite.machine import machine

    return f"{machine()}, numpy {np.__version__}"


def main() -> int:
    """Compute, then record or compare."""
    from tests.golden.nets import NETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(NETS))
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--step", default="*", metavar="PATTERN", help="only these steps: 'int8*'")
    options = parser.parse_args()
    nets = options.nets or list(NETS)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        new = dict(zip(nets, pool.map(hashes_of, nets, repeat(options.step)), strict=True))
    old = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"machine": "", "nets": {}}
    if options.record:
        merged = {net: old["nets"].get(net, {}) | steps for net, steps in new.items()}
        content = {"machine": _machine(), "nets": old["nets"] | merged}
        FILE.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
        return 0
    differences = [
        f"{net} {step}: {old['nets'].get(net, {}).get(step)} -> {now}"
        for net, steps in new.items()
        for step, now in steps.items()
        if old["nets"].get(net, {}).get(step) != now
    ]
    print("\n".join(differences) or f"{sum(map(len, new.values()))} hashes are equal")
    if differences and old["machine"] != _machine():
        print(f"recorded on another machine: {old['machine']}, this one is {_machine()}")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
