"""Metrics of a quantized candidate: SQNR, latency and size against the float model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.fidelity import Reference
from onnxlite.inputs import Feed, InputSpec, trim
from onnxlite.model import size_bytes
from onnxlite.runtime import Session
from onnxlite.timing import time_ratios

#: Number of inputs to time.
_TIMED = 4


class CandidateMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Fidelity, latency and size of a candidate relative to the float model.

    Attributes:
        sqnr_db: SQNR of the worst output in dB; infinite without an error.
        latency_ratio: processor time of a run over the float model's, on one thread.
        size_ratio: bytes of tensors over the float model's.
    """

    sqnr_db: float
    latency_ratio: float
    size_ratio: float

    def __str__(self) -> str:
        noise = "exact" if self.sqnr_db == math.inf else f"{self.sqnr_db:.1f} dB"
        return f"{self.latency_ratio:.2f} of the latency at {noise}"


def measure_candidate(
    reference: ir.Model,
    candidate: ir.Model,
    feeds: Sequence[Feed],
    *,
    inputs: Sequence[InputSpec],
    budget_s: float,
) -> CandidateMetrics:
    """Compare a candidate with the float model in fidelity and interleaved latency.

    Args:
        reference: the float model.
        candidate: the model made from it.
        feeds: inputs to compare both on; cut to one sample each to time them.
        inputs: of the models, with the batch axis of each.
        budget_s: seconds to spend on timing.

    Raises:
        VerificationError: an output of the candidate is not finite.
        ExecutionError: ONNX Runtime cannot run one of the models.
    """
    errors = Reference(reference, feeds).errors(candidate)
    errors.check_finite("the quantized model", "exclude the layers before it and report this")
    single = [trim(feed, inputs, 1) or feed for feed in feeds[:_TIMED]]
    sessions = [Session(each, threads=1, random="drawn") for each in (reference, candidate)]
    per_feed_s = budget_s / len(single)
    ratios = [time_ratios(sessions, feed, budget_s=per_feed_s)[0] for feed in single]
    return CandidateMetrics(
        sqnr_db=errors.worst_db,
        latency_ratio=float(np.median(ratios)),
        size_ratio=size_bytes(candidate) / max(1, size_bytes(reference)),
    )
