"""How processor time grows with depth: `python -m benchmarks.chains [STEP ...]`.

Each step runs on chains of 100, 1,000 and 5,000 residual convolutions (`models/chains.py`), each
in a process of its own whose processor time, children included, is taken. The exponent is the
slope of a least-squares line through the logarithms: 1 is time proportional to depth.
"""

from __future__ import annotations

import argparse
import logging
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np

from models.chains import residual_chain

LAYERS = (100, 1_000, 5_000)
#: Steps are allowed to grow no faster than this.
LIMIT = 1.2


def _samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((16, 8, 4, 4)).astype(np.float32)}


def _simplify(layers: int) -> Callable[[], object]:
    from onnxlite import simplify

    model = residual_chain(layers, batchnorm=True)
    return lambda: simplify(model, onnxsim=False)


def _quantize_weights(layers: int) -> Callable[[], object]:
    from onnxlite import quantize_weights

    model = residual_chain(layers)
    return lambda: quantize_weights(model, bits=4)


def _quantize_static(layers: int) -> Callable[[], object]:
    from onnxlite import quantize_static

    model = residual_chain(layers)
    return lambda: quantize_static(model, _samples(), placement="everything")


def _explain_channels(layers: int) -> Callable[[], object]:
    from onnxlite import explain_channels

    model = residual_chain(layers)
    return lambda: explain_channels(model)


def _repair(layers: int) -> Callable[[], object]:
    from onnxlite import prune_weights, repair

    model = residual_chain(layers)
    pruned = prune_weights(model, sparsity=0.5).model
    return lambda: repair(model, pruned, _samples(), max_rows=256)


def _calibrate(layers: int) -> Callable[[], object]:
    from onnxlite.analysis.shapes import infer_shapes
    from onnxlite.calibrate import OBSERVERS, Levels, collect_statistics
    from onnxlite.inputs import input_specs
    from onnxlite.model import load
    from onnxlite.samples import Samples

    model = load(residual_chain(layers))
    infer_shapes(model)
    names = [value.name or "" for node in model.graph for value in node.outputs]
    samples = Samples(_samples(), input_specs(model))

    def work() -> object:
        found = collect_statistics(model, names, samples)
        levels = Levels(0, 255, symmetric=False)
        return [
            observer(seen, levels) for observer in OBSERVERS.values() for seen in found.values()
        ]

    return work


STEPS: dict[str, Callable[[int], Callable[[], object]]] = {
    "simplify": _simplify,
    "quantize_weights": _quantize_weights,
    "quantize_static": _quantize_static,
    "explain_channels": _explain_channels,
    "repair": _repair,
    "calibrate": _calibrate,
}


def exponent(layers: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of the logarithm of `seconds` over that of `layers`, by least squares."""
    return float(np.polyfit(np.log(layers), np.log(seconds), 1)[0])


def spent_s() -> float:
    """Processor seconds of this process and of the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(step: str, layers: int) -> float:
    """Processor seconds of one step on one chain, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.chains", step, "--child", str(layers)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print seconds and exponent for each step; exit code 1 if one grows too fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--layers", nargs="+", type=int, default=LAYERS, metavar="N")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        logging.disable(logging.WARNING)
        work = STEPS[options.steps[0]](options.child)
        start = spent_s()
        work()
        print(spent_s() - start)
        return
    print("| step | " + " | ".join(f"{n:,} layers" for n in options.layers) + " | exponent |")
    print("|---|" + "--:|" * (len(options.layers) + 1))
    failed = False
    for step in options.steps or STEPS:
        seconds = [measure(step, layers) for layers in options.layers]
        slope = exponent(options.layers, seconds)
        failed |= slope > LIMIT
        cells = " | ".join(f"{s:.2f} s" for s in seconds)
        print(f"| {step} | {cells} | {slope:.2f} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
