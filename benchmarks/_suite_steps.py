"""Public steps as the suites call them, each with what its result promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import onnx

import onnxlite as ol
from onnxlite.inputs import Feed

Call = Callable[[onnx.ModelProto, Sequence[Feed]], Any]


class SuiteStep(NamedTuple):
    """A call of a public step.

    Attributes:
        call: takes a model and samples, returns a `Result`.
        floor_db: least SQNR in dB of each output, less where it names the same classes; None for
            a result that may be far from the original (zeros, removed channels, few bits),
            infinite for one that computes the same.
        original: an unchanged result computes what the original does; False for a step that is
            given a model with zeros.
        strict: the checker may infer shapes, which it cannot for sparse weights.
    """

    call: Call
    floor_db: float | None
    original: bool = True
    strict: bool = True


EXACT = float("inf")


def _pruned(model: onnx.ModelProto) -> Any:
    return ol.prune_weights(model, sparsity=0.3)


#: Every public step, with the options that lead into code of their own.
SUITE_STEPS: Mapping[str, SuiteStep] = {
    "simplify": SuiteStep(lambda m, _: ol.simplify(m, onnxsim=False), EXACT),
    "prune_weights": SuiteStep(lambda m, _: ol.prune_weights(m, sparsity=0.5), None),
    "prune_weights obc": SuiteStep(
        lambda m, x: ol.prune_weights(m, sparsity=0.5, samples=x, threads=1), None
    ),
    "sparse_storage": SuiteStep(
        lambda m, _: ol.sparse_storage(ol.prune_weights(m, sparsity=0.95)),
        None,
        original=False,
        strict=False,
    ),
    "prune_channels": SuiteStep(
        lambda m, _: ol.prune_channels(m, remove=0.5, round_to=1, threads=1), None
    ),
    "prune_channels macs": SuiteStep(
        lambda m, x: ol.prune_channels(m, macs=0.6, samples=x, round_to=1, threads=1), None
    ),
    "quantize_static": SuiteStep(
        lambda m, x: ol.quantize_static(
            m, x, placement="everything", rounding="nearest", threads=1
        ),
        10.0,
    ),
    "quantize_static gptq": SuiteStep(
        lambda m, x: ol.quantize_static(m, x, placement="everything", smooth=True, threads=1),
        10.0,
    ),
    "quantize_static qoperator": SuiteStep(
        lambda m, x: ol.quantize_static(
            m, x, placement="everything", rounding="nearest", form="qoperator", threads=1
        ),
        10.0,
    ),
    "quantize_static int16": SuiteStep(
        lambda m, x: ol.quantize_static(
            m, x, target="generic", int16=["*"], rounding="nearest", threads=1
        ),
        10.0,
    ),
    "quantize_dynamic": SuiteStep(
        lambda m, x: ol.quantize_dynamic(m, samples=x, kernel="integer"), 10.0
    ),
    "quantize_dynamic blocks": SuiteStep(
        lambda m, x: ol.quantize_dynamic(m, samples=x, kernel="blocks"), 10.0
    ),
    "quantize_auto": SuiteStep(lambda m, x: ol.quantize_auto(m, x, threads=1), 10.0),
    "quantize_weights 8": SuiteStep(
        lambda m, x: ol.quantize_weights(m, bits=8, samples=x, threads=1), 10.0
    ),
    "quantize_weights 4": SuiteStep(
        lambda m, _: ol.quantize_weights(m, bits=4, threads=1), None
    ),
    "quantize_weights compute": SuiteStep(
        lambda m, x: ol.quantize_weights(m, bits=4, mode="compute", samples=x, threads=1), None
    ),
    "to_float16": SuiteStep(lambda m, x: ol.to_float16(m, samples=x, threads=1), 30.0),
    "to_float16 storage": SuiteStep(lambda m, _: ol.to_float16(m, mode="storage"), 30.0),
    "repair": SuiteStep(lambda m, x: ol.repair(m, _pruned(m), x, threads=1), None, original=False),
    "tune": SuiteStep(
        lambda m, x: ol.tune(m, _pruned(m), x, steps=2, lr=1e-3, batch_size=2, threads=1),
        None,
        original=False,
    ),
}  # fmt: skip
