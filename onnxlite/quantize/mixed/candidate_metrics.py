"""Metrics of a quantized candidate: SQNR, latency and size against the float model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.errors import VerificationError
from onnxlite.model import size_bytes
from onnxlite.runtime import Session
from onnxlite.samples import Feed, input_specs, trim
from onnxlite.timing import time_ratios

#: Inputs that are timed in turn.
_TIMED = 4


def worst_sqnr_db(
    reference: ir.Model,
    candidate: ir.Model,
    feeds: Iterable[Feed],
    *,
    threads: int | None = None,
) -> float | None:
    """Signal to quantization noise of the output that suffers most, over all feeds, in dB.

    Returns:
        10 log10(sum(ref^2) / sum((ref - cand)^2)); None where no output differs, or where none
        is a float. Values that are not finite in the reference are left out.

    Raises:
        VerificationError: an output is not finite where the reference is.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    first, second = Session(reference, threads=threads), Session(candidate, threads=threads)
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for feed in feeds:
        expected, got = first.run(feed), second.run(feed)
        for name, want in expected.items():
            if not isinstance(want, np.ndarray) or want.dtype.kind != "f":
                continue
            finite = np.isfinite(want)
            have = got[name]
            if have.shape != want.shape or not np.isfinite(have[finite]).all():
                raise VerificationError(
                    f"output {name!r} of the quantized model is NaN or infinite, or of another "
                    "shape than the original's: exclude the layers before it and report this"
                )
            exact = want[finite].astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float((exact**2).sum())
            error = float(((exact - have[finite]) ** 2).sum())
            noise[name] = noise.get(name, 0.0) + error
    return min(
        (
            10 * math.log10(power / noise[name])
            for name, power in signal.items()
            if power and noise[name]
        ),
        default=None,
    )


class CandidateMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate is against the float model.

    Attributes:
        sqnr_db: of the output that suffers most; None without any error.
        latency_ratio: processor time of a run over the float model's, on one thread.
        size_ratio: bytes of tensors over the float model's.
    """

    sqnr_db: float | None
    latency_ratio: float
    size_ratio: float

    def __str__(self) -> str:
        noise = "exact" if self.sqnr_db is None else f"{self.sqnr_db:.1f} dB"
        return f"{self.latency_ratio:.2f} of the latency at {noise}"


def measure_candidate(
    reference: ir.Model, candidate: ir.Model, feeds: Sequence[Feed], *, budget_s: float
) -> CandidateMetrics:
    """Compare a candidate with the float model in fidelity and interleaved latency.

    Args:
        reference: the float model.
        candidate: the model made from it.
        feeds: what both are compared on, and, cut to one sample each, timed on.
        budget_s: seconds spent on times.

    Raises:
        VerificationError: an output of the candidate is not finite.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    sqnr = worst_sqnr_db(reference, candidate, feeds)
    specs = input_specs(reference)
    single = [trim(feed, specs, 1) or feed for feed in feeds[:_TIMED]]
    sessions = (Session(reference, threads=1), Session(candidate, threads=1))
    share = budget_s / len(single)
    ratios = [time_ratios(sessions, feed, budget_s=share)[0] for feed in single]
    return CandidateMetrics(
        sqnr_db=sqnr,
        latency_ratio=float(np.median(ratios)),
        size_ratio=size_bytes(candidate) / max(1, size_bytes(reference)),
    )
