"""Profiler: times of a model's nodes, from ONNX Runtime's own profile.

A profile names kernels, not nodes: graph optimization fuses nodes and names what it makes
after one of them. `Kernels.behind` finds that node again by the ways in which ONNX Runtime
1.2x and 1.3x build such names:

    conv1_token_7             a node that a later pass made again under the same name
    relu1_nchwc               the convolution in blocked layout whose output is value `relu1`
    fused conv1               an activation went into the node `conv1`
    mm1/MatMulAddFusion       an addition went into the node `mm1`
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlite.graph import iter_nodes
from onnxlite.inputs import Feed
from onnxlite.runtime import Session

_SUFFIX = "_kernel_time"
_TOKEN = re.compile(r"_token_\d+$")
_BLOCKED = "_nchwc"
_FUSED = "fused "
#: Runs that fill the caches before those that count.
_WARM = 2
_LEAST_RUNS, _MOST_RUNS = 8, 200


@dataclass(frozen=True)
class Kernel:
    """One kernel of an optimized graph.

    Attributes:
        name: as ONNX Runtime calls it.
        op_type: of the optimized graph, which may be none of the ONNX standard.
        seconds: of all its calls in one run of the model.
    """

    name: str
    op_type: str
    seconds: float


class Kernels:
    """The kernels that ran for a model, and which of its nodes they came from."""

    def __init__(self, model: ir.Model, kernels: Sequence[Kernel]) -> None:
        self.all = tuple(kernels)
        self._nodes = {node.name: node for node in iter_nodes(model) if node.name}
        self._makers = {v.name: node for node in model.graph for v in node.outputs if v.name}

    def behind(self, kernel: Kernel) -> ir.Node | None:
        """The node of the model that `kernel` is named after, None if it is nobody's."""
        name = kernel.name
        for _ in range(4):  # a name may have been built in several steps
            if name in self._nodes:
                return self._nodes[name]
            if name.endswith(_BLOCKED):
                return self._makers.get(name.removesuffix(_BLOCKED))
            shorter = _TOKEN.sub("", name)
            if shorter == name:
                shorter = name.removeprefix(_FUSED).split("/")[0]
            if shorter == name:
                return None
            name = shorter
        return None

    def seconds(self) -> Mapping[ir.Node, float]:
        """Time of every node that a kernel is named after, of all its kernels together."""
        found: dict[ir.Node, float] = defaultdict(float)
        for kernel in self.all:
            node = self.behind(kernel)
            if node is not None:
                found[node] += kernel.seconds
        return found


def profile(
    models: Sequence[ir.Model], feed: Feed, *, threads: int | None, budget_s: float
) -> list[Kernels]:
    """Profile models in turn, run by run, in the same state of the machine.

    Args:
        models: with the same inputs.
        feed: of all of them.
        threads: of ONNX Runtime; None takes all cores.
        budget_s: seconds for the runs, from 8 to 200 of each model.

    Raises:
        ExecutionError: ONNX Runtime refuses a model or the feed.
    """
    with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
        sessions = [
            Session(
                model, threads=threads, profile=Path(directory) / f"profile{index}", random="drawn"
            )
            for index, model in enumerate(models)
        ]
        runs, deadline = 0, time.perf_counter() + budget_s
        while runs < _LEAST_RUNS or (runs < _MOST_RUNS and time.perf_counter() < deadline):
            for session in sessions:
                session.run(feed)
            runs += 1
        events = [json.loads(session.end_profiling().read_text()) for session in sessions]
    return [
        Kernels(model, _kernels(found, runs)) for model, found in zip(models, events, strict=True)
    ]


def _kernels(events: Sequence[Mapping[str, Any]], runs: int) -> list[Kernel]:
    durations: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            arguments = event["args"]
            name = event["name"].removesuffix(_SUFFIX)
            key = (name, arguments.get("op_name", ""), arguments.get("node_index", ""))
            durations[key].append(float(event["dur"]) * 1e-6)
    return [
        Kernel(name, op_type, undisturbed(spent[_WARM:] or spent) * len(spent) / runs)
        for (name, op_type, _), spent in durations.items()
    ]


def undisturbed(seconds: Sequence[float]) -> float:
    """Mean of the shortest quarter: other work only ever makes a run longer.

    The minimum alone would be as coarse as the clock of the profile, which counts whole
    microseconds.
    """
    ordered = np.sort(np.asarray(seconds, np.float64))
    return float(ordered[: max(1, len(ordered) // 4)].mean())
